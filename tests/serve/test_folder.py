"""Which folders are served, and which hosts may serve them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.serve.conftest import Serve, ask, scale, version
from trt_action import evidence
from trt_action.engine import building, cache, devices, kept
from trt_action.engine.backend import Loadable, RuntimeOptions
from trt_action.engine.building import BuiltEngine
from trt_action.engine.tensorrt_options import TensorRTOptions
from trt_action.errors import BackendUnavailableError, BuildError, EvidenceError, SettingsError
from trt_action.serve import flags, folder, guard
from trt_action.serve.folder import Place, Served
from trt_action.serve.guard import Gpu, Host


def test_the_three_ways_to_name_what_is_served(tmp_path: Path) -> None:
    for model, number in (("b", "1"), ("a", "2"), ("a", "10")):
        version(tmp_path / model / number, scale(1))
    (tmp_path / "a" / "11").mkdir()  # a folder that is only being made
    (tmp_path / ".git").mkdir()
    found = folder.newest(folder.find(tmp_path))
    assert {name: place.version for name, place in found.items()} == {"a": "10", "b": "1"}
    assert folder.newest(folder.find(tmp_path / "a"))["a"].version == "10"
    assert folder.find(tmp_path / "a" / "2") == [Place("a", "2", tmp_path / "a" / "2")]
    plain = version(tmp_path / "plain" / "out", scale(1))
    assert folder.find(plain) == [Place("plain", "1", plain)]
    for path in (tmp_path / "none", tmp_path / ".git"):
        with pytest.raises(SettingsError):
            folder.find(path)


def test_what_the_builder_keeps_is_what_is_read(tmp_path: Path) -> None:
    """Two modules read and write one record: the builder's with pydantic, the server's without."""
    engine = version(tmp_path / "source" / "1", scale(2)) / "engine.onnx"
    sha = json.loads((engine.parent / "engine.json").read_text())["engine"]["sha256"]
    record = evidence.Engine(
        backend="onnxruntime", backend_version="1.32.0", precision="fp32", recipe={}, sha256=sha,
        achieved_precision=evidence.AchievedPrecision(asked="fp32", weight_share=1, nodes={}),
        bytes=engine.stat().st_size, build_seconds=1, from_cache=False,
    )  # fmt: skip
    tensors = [evidence.TensorInfo(name="x", dtype="float32", shape=["N", 3])]
    info = evidence.ModelInfo(
        name="m", path="m.onnx", sha256="0" * 64, bytes=1, opset=20, parameters=1, inputs=tensors, outputs=tensors,
        shapes={"x": evidence.ShapeRange(min=[1, 3], opt=[2, 3], max=[4, 3])},
    )  # fmt: skip
    options = RuntimeOptions(threads=3, tensorrt=TensorRTOptions(workspace="1GB"))
    kept.keep(BuiltEngine(Loadable("onnxruntime", engine, options), record, engine), info, tmp_path / "kept")
    read = folder.read(folder.find(tmp_path / "kept")[0])
    assert read.loadable == Loadable("onnxruntime", tmp_path / "kept" / "engine.onnx", options, sha256=sha)
    assert (read.profile["x"].opt, read.profile["x"].max) == ((2, 3), (4, 3))
    assert (folder.RECORD, folder.EVIDENCE, folder.SELF_TEST) == (kept.RECORD, kept.EVIDENCE, kept.SELFTEST)
    (tmp_path / "kept" / "more").write_text("x")
    several = ["engine.onnx", "more"]
    records = {name: cache.file_record(tmp_path / "kept" / name) for name in several}
    assert folder.digest(tmp_path / "kept", several) == building.digest(records, several)


DAMAGE: list[tuple[str, bytes | None, str]] = [
    ("engine.onnx", b"other bytes", "not those that were recorded"),
    ("engine.onnx", None, "does not exist"),
    ("engine.json", b"{", "not the JSON record"),
    ("engine.json", b"[]", "not the JSON record"),
    ("engine.json", b"{}", "not valid"),
    ("engine.json", b'{"engine": 1, "model": {}, "files": []}', "not valid"),
]


@pytest.mark.parametrize(("name", "content", "words"), DAMAGE, ids=range(len(DAMAGE)))
def test_damage_is_refused(name: str, content: bytes | None, words: str, tmp_path: Path) -> None:
    place = Place("m", "1", version(tmp_path / "m" / "1", scale(1)))
    if content is None:
        (place.path / name).unlink()
    else:
        (place.path / name).write_bytes(content)
    with pytest.raises(BuildError, match=words):
        folder.read(place)


def test_a_record_does_not_lead_out_of_its_folder(tmp_path: Path) -> None:
    place = Place("m", "1", version(tmp_path / "m" / "1", scale(1)))
    record = json.loads((place.path / "engine.json").read_text())
    for names in (["../engine.onnx"], ["/etc/passwd"], [""], []):
        (place.path / "engine.json").write_text(json.dumps({**record, "files": names}))
        with pytest.raises(BuildError, match="not valid"):
            folder.read(place)


def test_evidence_of_another_engine_is_refused(tmp_path: Path) -> None:
    path = version(tmp_path / "m" / "1", scale(1), evidence={"head": {"engine": {"sha256": "1" * 64}}})
    with pytest.raises(EvidenceError, match="another engine"):
        folder.read(Place("m", "1", path))


def served(tmp_path: Path, hardware: Mapping[str, Any], backend: str = "onnxruntime", **tensorrt: Any) -> Served:
    read = folder.read(Place("m", "1", version(tmp_path / "m" / "1", scale(1))))
    options = RuntimeOptions(tensorrt=TensorRTOptions(**tensorrt))
    return replace(
        read,
        loadable=replace(read.loadable, backend=backend, options=options),
        engine={**read.engine, "backend": backend, "backend_version": "10.13.3.9"},
        evidence={"fingerprint": {"hardware": hardware}},
    )


CPU = Host("x86_64", frozenset({"avx2", "fma"}), "10.13.3.9")
A100 = {"name": "NVIDIA A100-SXM4-80GB", "capability": "8.0", "cuda_driver": "12.4"}


def gpu(**changes: str) -> Host:
    return replace(CPU, gpu=Gpu(**{**A100, **changes}))


GUARDED: list[tuple[dict[str, Any], dict[str, Any], Host, str]] = [
    ({}, {}, CPU, ""),
    ({"machine": "aarch64"}, {}, CPU, "built for aarch64"),
    ({"instruction_sets": ["avx2"]}, {}, CPU, ""),
    ({"instruction_sets": ["avx2", "avx512f"]}, {}, CPU, "avx512f"),
    ({"instruction_sets": ["avx512f"]}, {}, replace(CPU, instruction_sets=frozenset()), ""),
    ({}, {}, replace(CPU, backend_version="10.13.4.1"), ""),  # onnxruntime: the minor version decides
    ({}, {}, replace(CPU, backend_version="10.14.0"), "here is 10.14.0"),
    ({}, {"backend": "tensorrt"}, replace(gpu(), backend_version="10.13.4.1"), "here is 10.13.4.1"),
    ({}, {"backend": "tensorrt", "version_compatible": "with-lean"}, replace(gpu(), backend_version="10.14.0"), ""),
    ({}, {"backend": "tensorrt", "version_compatible": "with-lean"}, replace(gpu(), backend_version="10.9"), "here is"),
    ({"gpu": A100}, {"backend": "tensorrt"}, gpu(), ""),
    ({"gpu": A100}, {"backend": "tensorrt"}, gpu(name="NVIDIA A30"), "this is NVIDIA A30"),
    ({"gpu": A100}, {"backend": "tensorrt", "hardware_compatibility": "same-compute-capability"}, gpu(name="NVIDIA A30"), ""),
    ({"gpu": A100}, {"backend": "tensorrt"}, gpu(capability="8.6"), "capability 8.0"),
    ({"gpu": A100}, {"backend": "tensorrt", "hardware_compatibility": "ampere-plus"}, gpu(capability="9.0"), ""),
    ({"gpu": A100}, {"backend": "tensorrt", "hardware_compatibility": "ampere-plus"}, gpu(capability="7.5"), "8.0 and above"),
    ({"gpu": A100}, {"backend": "tensorrt-rtx"}, gpu(capability="8.9", name="RTX"), ""),
    ({"gpu": A100}, {"backend": "tensorrt"}, gpu(cuda_driver="12.2"), "knew CUDA 12.4"),
    ({"gpu": A100}, {"backend": "tensorrt"}, gpu(cuda_driver="13.0"), ""),
    ({"gpu": A100}, {}, gpu(capability="9.0"), "capability 8.0"),
]  # fmt: skip


@pytest.mark.parametrize(("hardware", "built", "host", "words"), GUARDED, ids=range(len(GUARDED)))
def test_the_guard(hardware: dict[str, Any], built: dict[str, Any], host: Host, words: str, tmp_path: Path) -> None:
    one = served(tmp_path, hardware, **built)
    assert bool(guard.check(one, host, refuse=False)) == bool(words)
    if words:
        with pytest.raises(BackendUnavailableError, match=words) as caught:
            guard.check(one, host, refuse=True)
        assert "--other-hardware warn" in caught.value.fix
        assert ("trt-action select IMAGE" in caught.value.fix) == (host.gpu is not None)


def test_this_host_is_known(tmp_path: Path) -> None:
    read = folder.read(Place("m", "1", version(tmp_path / "m" / "1", scale(1))))
    host = guard.here(read)
    assert host.gpu is None
    assert host.backend_version == read.engine["backend_version"]
    assert guard.check(read, host, refuse=True) == []


@pytest.mark.skipif(devices.visible(), reason="what is said without a GPU")
@pytest.mark.parametrize(("backend", "device"), [("tensorrt-rtx", "cpu"), ("onnxruntime", "cuda:0")])
def test_an_engine_for_a_gpu_on_a_host_without_one(backend: str, device: str, tmp_path: Path) -> None:
    """Built on a host without a GPU, an engine of TensorRT for RTX has `device: cpu` in its record: no way out here."""
    if backend == "tensorrt-rtx":
        pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx")
    one = served(tmp_path, {}, backend)
    one = replace(one, loadable=replace(one.loadable, options=RuntimeOptions(device=device)))
    with pytest.raises(
        BackendUnavailableError, match=f"engine of {backend} runs on an NVIDIA GPU, and there is none"
    ) as caught:
        guard.here(one)
    assert "`--gpus all`" in caught.value.fix
    assert "set `device: cpu`" not in caught.value.fix


def test_flags_come_from_the_command_line_then_the_environment(tmp_path: Path) -> None:
    env = {"TRT_ACTION_SERVE_PORT": "81", "TRT_ACTION_SERVE_BATCHING": "false"}
    found = flags.parse(tmp_path, {"port": "82"}, env)
    assert (found.port, found.batching, found.max_queue) == (82, False, 256)
    assert flags.parse(tmp_path, {}, {"TRT_ACTION_SERVE_PORT": "tcp://10.0.0.11:81"}).port == 8000  # of a Service
    assert {flag.attribute for flag in flags.FLAGS} | {"path"} == set(found.__dataclass_fields__)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["MAX_QUEU"], "`TRT_ACTION_SERVE_MAX_QUEU` (did you mean `TRT_ACTION_SERVE_MAX_QUEUE`?)."),
        (["TOKN"], "`TRT_ACTION_SERVE_TOKN` (did you mean `TRT_ACTION_SERVE_TOKEN`?)."),
        (["SERVICE_HOST", "PORT_80_TCP_ADDR"], "`TRT_ACTION_SERVE_PORT_80_TCP_ADDR`, `TRT_ACTION_SERVE_SERVICE_HOST`."),
        ([f"A{n}" for n in range(7)], "`TRT_ACTION_SERVE_A4` and 2 more."),
    ],
)
def test_unknown_variables_are_named_with_what_was_meant(names: list[str], words: str) -> None:
    known = {flag.variable: "" for flag in flags.FLAGS} | {flags.TOKEN: "", "PATH": "", "TRT_ACTION_PRECISION": ""}
    assert flags.unknown(known) is None
    said = flags.unknown(known | {f"TRT_ACTION_SERVE_{name}": "s3cret" for name in names})
    assert said is not None
    assert said.endswith(words)
    assert "s3cret" not in said


def test_a_misspelt_variable_is_a_warning_and_the_server_serves(tmp_path: Path, serve: Serve) -> None:
    server = serve(version(tmp_path / "m" / "1", scale(1)), env={"TRT_ACTION_SERVER_MAX_QUEUE": "1"})
    assert len([line for line in server.lines if "no such setting" in line]) == 1
    assert "did you mean `TRT_ACTION_SERVE_MAX_QUEUE`" in "".join(server.lines)
    assert ask(server, "/v2/health/ready", None, {})[0] == 200


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"port": "x"}, "--port"),
        ({"port": "70000"}, "from 0 to 65535"),
        ({"drain_seconds": "nan"}, "--drain-seconds"),
        ({"batching": "yes"}, "`true` or `false`"),
        ({"model_control_mode": "all"}, "none, explicit, poll"),
        ({"tls_key": "k.pem"}, "certificate and its key"),
    ],
)
def test_bad_flags(given: dict[str, str], words: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=words):
        flags.parse(tmp_path, given, {})


def test_links_have_their_own_names(tmp_path: Path) -> None:
    version(tmp_path / "store" / "build-77" / "1", scale(1))
    repository = tmp_path / "repository"
    repository.mkdir()
    for name in ("a", "b"):
        (repository / name).symlink_to(tmp_path / "store" / "build-77")
    (repository / "gone").symlink_to(tmp_path / "nowhere")
    (repository / "loop").symlink_to(repository / "loop")
    assert {place.model: place.version for place in folder.find(repository)} == {"a": "1", "b": "1"}
    assert folder.find(repository / "a")[0].model == "a"
    (tmp_path / "store" / "build-77" / "current").symlink_to("1")
    (place,) = folder.find(tmp_path / "store" / "build-77" / "current")
    assert (place.model, place.version) == ("build-77", "1")


def test_names_fit_into_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version(tmp_path / "my model\n(new)" / "1", scale(1))
    (place,) = folder.find(tmp_path / "my model\n(new)")
    assert place.model == "my-model-new"
    with pytest.raises(SettingsError):
        folder.find(tmp_path)  # in a repository, a name is what it is
    monkeypatch.chdir(tmp_path / "my model\n(new)")
    assert folder.find(Path())[0].model == "my-model-new"


def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    folder_ = version(tmp_path / "m" / "1", scale(1))
    root = os.geteuid() == 0
    folder_.chmod(0)
    tmp_path.chmod(0o755)
    if root:
        os.seteuid(65_534)
    try:
        with pytest.raises(SettingsError, match="cannot be read"):
            folder.find(tmp_path)
    finally:
        if root:
            os.seteuid(0)
        folder_.chmod(0o755)
