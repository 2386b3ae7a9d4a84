"""TensorRT and TensorRT for RTX, whichever are here: builds, right numbers, graphs, dynamic shapes, layers, the whole story."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import trt_action.model as models
from tests.gpu.conftest import Make, feeds
from trt_action import engine
from trt_action.data import Dataset
from trt_action.engine import devices, kept
from trt_action.engine.backend import RuntimeOptions
from trt_action.engine.building import BuiltEngine
from trt_action.engine.tensorrt.loading import JIT_CACHE
from trt_action.engine.tensorrt_options import TensorRTOptions
from trt_action.errors import BackendUnavailableError, BuildError, DataError
from trt_action.precision import Recipe

pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning")  # of the installed library, whichever it is
ROOT = Path(__file__).resolve().parents[2]
GPU = RuntimeOptions(device="cuda:0")
SHAPES = {"x": {"min": [1, 64, 32, 32], "opt": [2, 64, 32, 32], "max": [8, 64, 32, 32]}}
ERRORS = {"fp32": 5e-5, "tf32": 5e-3, "fp16": 5e-3, "bf16": 4e-2, "int8": 5e-2}
"""Relative L2. On a CPU, products rounded to TF32 give 2.3e-4 here and plain float32 4e-7: fp32 has to be fp32."""
Build = Callable[..., BuiltEngine]


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    try:
        engine.backend(name).check_host(GPU, measures=True)
    except BackendUnavailableError as error:
        pytest.skip(f"{error.what} {error.why}")
    return name


@pytest.fixture
def build(backend: str, convs: Make, tmp_path: Path) -> Build:
    """`build(precision, cache=…, **options)` of a chain of convolutions whose batch is 1 to 8."""

    def make(precision: Any = "fp32", cache: engine.Cache | None = None, **options: Any) -> BuiltEngine:
        model = models.load(convs(), label="convs", shapes=SHAPES)
        return engine.obtain(
            model,
            Recipe(precision),
            Dataset({"x": feeds(16)["x"]}, None, "0" * 64, "calibration", 16) if precision == "int8" else None,
            backend=backend,
            options=replace(GPU, tf32=precision == "tf32", **options),
            cache=cache or engine.Cache(None, 1),
            work_dir=tmp_path / f"work-{precision}-{len(list(tmp_path.iterdir()))}",
            timeout=280,
        )

    return make


def load(built: BuiltEngine, **options: Any) -> Any:
    loadable = replace(built.loadable, options=replace(built.loadable.options, **options))
    return engine.backend(loadable.backend).load(loadable)


def reference(path: Path, given: dict[str, Any]) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, given)[0]


def error(output: Any, expected: Any) -> float:
    return float(np.linalg.norm(output - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("transfers", [False, True])
def test_the_numbers_of_the_cpu_at_every_shape(build: Build, convs: Make, transfers: bool, cuda_graph: bool) -> None:
    built = build()
    session = load(built, transfers=transfers, cuda_graph=cuda_graph)
    for batch in (2, 8, 1, 2):
        session.bind(feeds(batch))
        for _ in range(3):
            session.run()
        assert error(session.fetch()["y"], reference(convs(), feeds(batch))) < ERRORS["fp32"]
    with pytest.raises(DataError, match=r"the engine was built for \[1, 64, 32, 32\] to \[8, 64, 32, 32\]"):
        session.bind(feeds(9))
    session.close()


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_serving_every_batch_size(build: Build, convs: Make, cuda_graph: bool) -> None:
    session = load(build(), cuda_graph=cuda_graph)
    for batch in (8, 3, 1, 8, 5, 3):
        given = {"x": batch * feeds(batch)["x"]}
        assert error(session.infer(given)["y"], reference(convs(), given)) < ERRORS["fp32"]
    with pytest.raises(DataError):
        session.infer(feeds(9))
    assert error(session.infer(feeds(2))["y"], reference(convs(), feeds(2))) < ERRORS["fp32"]
    session.close()


@pytest.mark.parametrize("precision", ["tf32", "fp16", "bf16", "int8"])
def test_precisions(build: Build, convs: Make, precision: str) -> None:
    if precision in ("tf32", "bf16") and float(devices.facts(0).capability) < 8:
        pytest.skip(f"{precision} needs compute capability 8.0")
    session = load(build(precision))
    session.bind(feeds())
    session.run()
    found = error(session.fetch()["y"], reference(convs(), feeds()))
    session.close()
    assert found < ERRORS[precision]
    assert precision == "tf32" or found > 0


def test_times_of_the_device(build: Build) -> None:
    session = load(build())
    session.bind(feeds(8))
    session.device_times(20)
    times = session.device_times(50)
    for part in (times.h2d_ns, times.compute_ns, times.d2h_ns, times.enqueue_ns):
        assert len(part) == 50
        assert min(part) > 0
    compute, wall = float(np.median(times.compute_ns)), float(np.median(times.wall_ns))
    assert compute < wall
    raw = session.layers(20)
    session.close()
    layers = json.loads(raw.document)["Layers"]
    assert len(layers) >= 1
    assert len(raw.runs) == 20
    assert all(run and sum(ms for _, ms in run) > 0 for run in raw.runs)
    profiled = float(np.median([sum(ms for _, ms in run) for run in raw.runs])) * 1e6
    assert 0.2 * compute < profiled < 20 * compute


def test_a_plan_is_not_loaded_without_its_record(build: Build, tmp_path: Path) -> None:
    built = build()
    with pytest.raises(BuildError, match="nothing says who built it"):
        engine.backend(built.loadable.backend).load(replace(built.loadable, sha256=None))


def test_what_was_learned_in_a_build_is_kept(build: Build, tmp_path: Path, backend: str) -> None:
    cache = engine.Cache(tmp_path / "cache", 10**10)
    first = build(cache=cache)
    assert build(cache=cache).record.from_cache
    if backend == "tensorrt":
        assert list((tmp_path / "cache" / "timing-caches").glob("*.timing"))
    else:
        assert first.loadable.path.with_name(JIT_CACHE).stat().st_size > 0
    cache.release()


def test_a_workspace_of_a_tenth_of_the_memory(build: Build) -> None:
    built = build(tensorrt=TensorRTOptions(workspace="10%", optimization_level=1, tiling="fast"))
    session = load(built)
    session.bind(feeds())
    session.run()
    session.close()


PLANS = {
    "version compatible": TensorRTOptions(version_compatible="with-lean"),
    "hardware compatible": TensorRTOptions(hardware_compatibility="same-compute-capability"),
    "weights streamed": TensorRTOptions(weight_streaming="50%"),
}


@pytest.mark.parametrize("chosen", PLANS)
def test_plans_of_other_kinds(build: Build, convs: Make, backend: str, chosen: str) -> None:
    if backend == "tensorrt-rtx" and chosen != "weights streamed":
        pytest.skip("TensorRT for RTX has no such plans")
    session = load(build(tensorrt=PLANS[chosen]))
    session.bind(feeds())
    session.run()
    assert error(session.fetch()["y"], reference(convs(), feeds())) < ERRORS["fp32"]
    session.close()


@pytest.mark.parametrize("transfers", [False, True])
def test_an_output_whose_size_depends_on_the_values(backend: str, tmp_path: Path, transfers: bool) -> None:
    """TensorRT asks for the memory while it runs."""
    path = tmp_path / "nonzero.onnx"
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 4])
    found = helper.make_tensor_value_info("y", TensorProto.INT64, [2, "n"])
    graph = helper.make_graph([helper.make_node("NonZero", ["x"], ["y"])], "nonzero", [given], [found])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), path)
    model = models.load(path, label="nonzero")
    try:
        built = engine.obtain(
            model, Recipe("fp32"), None, backend=backend, options=GPU, cache=engine.Cache(None, 1),
            work_dir=tmp_path / "work", timeout=280,
        )  # fmt: skip
    except BuildError as refused:
        if backend != "tensorrt-rtx":
            raise
        pytest.skip(f"{refused.what} {refused.why}")
    session = load(built, transfers=transfers)
    for count in (3, 16, 0, 5):
        x = np.zeros(16, np.float32)
        x[:count] = 1
        session.bind({"x": x.reshape(4, 4)})
        session.run()
        np.testing.assert_array_equal(session.fetch()["y"], np.array(np.nonzero(x.reshape(4, 4))))
    session.close()


def _driven(path: Path) -> Path:
    """`size` int64 [2] is the target of a Reshape, and its double an output; `limit` int32 [] is that of a Range."""
    tensor = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Relu", ["x"], ["positive"]),
        helper.make_node("Reshape", ["positive", "size"], ["y"]),
        helper.make_node("Add", ["size", "size"], ["twice"]),
        helper.make_node("Range", ["zero", "limit", "one"], ["counted"]),
        helper.make_node("Cast", ["counted"], ["counts"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "driven",
        [tensor("x", TensorProto.FLOAT, [24]), tensor("size", TensorProto.INT64, [2]), tensor("limit", TensorProto.INT32, [])],
        [tensor("y", TensorProto.FLOAT, ["a", "b"]), tensor("twice", TensorProto.INT64, [2]), tensor("counts", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor(name, TensorProto.INT32, [], [value]) for name, value in (("zero", 0), ("one", 1))],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), path)
    return path


@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("transfers", [False, True])
def test_inputs_whose_values_decide_shapes(backend: str, tmp_path: Path, transfers: bool, cuda_graph: bool) -> None:
    """TensorRT reads them in the host's memory, and there it writes `twice`."""
    path = _driven(tmp_path / "driven.onnx")
    ranges = {"size": ([1, 1], [4, 6], [24, 24]), "limit": ([1], [8], [64])}
    shapes = {name: {"values": dict(zip(("min", "opt", "max"), given, strict=True))} for name, given in ranges.items()}
    built = engine.obtain(
        models.load(path, label="driven", shapes=shapes), Recipe("fp32"), None, backend=backend, options=GPU,
        cache=engine.Cache(None, 1), work_dir=tmp_path / "work", timeout=280,
    )  # fmt: skip
    session = load(built, transfers=transfers, cuda_graph=cuda_graph)
    plain = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = np.linspace(-1, 1, 24, dtype=np.float32)

    def given(size: list[int], limit: int) -> dict[str, Any]:
        return {"x": x, "size": np.array(size, np.int64), "limit": np.array(limit, np.int32)}

    def check(outputs: dict[str, Any], one: dict[str, Any]) -> None:
        for name, expected in zip(("y", "twice", "counts"), plain.run(["y", "twice", "counts"], one), strict=True):
            np.testing.assert_array_equal(outputs[name], expected)

    for size, limit in (([4, 6], 8), ([24, 1], 64), ([2, 12], 1), ([2, 12], 1)):
        session.bind(given(size, limit))
        for _ in range(3):
            session.run()
        check(session.fetch(), given(size, limit))
        check(session.infer(given(size, limit)), given(size, limit))
    for size, limit in (([4, 25], 8), ([4, 6], 65), ([4, 4], 8)):  # out of range, and impossible
        with pytest.raises(DataError):
            session.bind(given(size, limit))
    check(session.infer(given([6, 4], 3)), given([6, 4], 3))
    session.bind(given([6, 4], 3))
    assert session.device_times(3) is not None
    assert len(session.layers(3).runs) == 3
    session.close()


def _cli(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "trt_action", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=290,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_whole_story(backend: str, tmp_path: Path) -> None:
    code, said = _cli(
        "run", "--config", str(ROOT / "examples/digits/.trt-action.yml"), "--backend", backend, "--precision", "fp16",
        "--base-precision", "fp32", "--output", str(tmp_path / "out"), "--cache", str(tmp_path / "cache"),
        "--measure-seconds", "1s", "--max-seconds", "20s", "--keep", str(tmp_path / "kept"),
    )  # fmt: skip
    evidence = json.loads((tmp_path / "out" / "evidence.json").read_text())
    assert evidence["error"] is None, said
    assert code in (0, 1), said
    head = evidence["head"]
    assert head["engine"]["backend"] == backend
    assert head["latency"]["device"]["compute"]["median_ms"] > 0
    assert head["layers"]["layers"]
    assert evidence["comparison"]["p50_ratio"]
    assert evidence["accuracy"]["task"]["head"]["estimate"] > 0.98
    assert evidence["speedup"]["over"].startswith("onnxruntime fp32")
    built, _ = kept.load(tmp_path / "kept")
    assert built.record.sha256 == head["engine"]["sha256"]
    assert (tmp_path / "kept" / "selftest.npz").exists()


def test_rtx_says_in_one_sentence_where_it_does_not_run(tmp_path: Path) -> None:
    trt: Any = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    found = devices.facts(0)
    if "SM" + found.capability.replace(".", "") in trt.ComputeCapability.__members__:
        pytest.skip(f"{found.name} is supported")
    digits = str(ROOT / "examples/digits/model.onnx")
    code, said = _cli("bench", digits, "--backend", "tensorrt-rtx", "--output", str(tmp_path / "out"))
    assert code == 10
    assert f"does not run on this GPU: {found.name} has compute capability {found.capability}" in " ".join(said.split())
    code, said = _cli("build", digits, "--backend", "tensorrt-rtx", "--output", str(tmp_path / "kept"))
    assert code == 0, said
    assert kept.is_kept(tmp_path / "kept")
