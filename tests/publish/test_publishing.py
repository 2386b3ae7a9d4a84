"""The order of publishing, against a real registry: nothing on red, tags last, the same again gives the same."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time as clocks
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.doubles import registry_proxy
from tests.doubles.registry import PASSWORD, USER, Running
from tests.doubles.registry_proxy import Fault, Proxy
from tests.publish import images
from tests.publish.conftest import MakeRegistry
from trt_action import errors
from trt_action.evidence import ErrorInfo, Evidence
from trt_action.publish import Options, Published, artifacts, contents, labels, layers, oci, publish, sbom, scan
from trt_action.publish import version as versions
from trt_action.publish.oci import Blob
from trt_action.publish.reference import Reference
from trt_action.publish.registry import Registry

ENGINE = b"an engine " * 2_000
TAGS = [
    images.COMMIT,
    f"digits-cpu-int8-{images.COMMIT}",
    "main",
    "digits-cpu-int8-main",
]


def runtime_base(registry: Registry, repository: str, work: Path, variant: str = "onnxruntime") -> Reference:
    """A small runtime base as `docker.build` would have pushed it."""
    (work / "root").mkdir(parents=True)
    (work / "root" / "serve").write_bytes(os.urandom(5_000))
    layer = layers.pack(work / "root", "/opt/trt-action", work / "root.tar", compression="gzip")
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "config": {
            "User": "65532:65532",
            "Labels": {labels.RUNTIME: "sha256:" + "1" * 64, labels.VARIANT: variant},
            "Entrypoint": ["trt-action", "serve", "/models"],
            "Env": ["PATH=/opt/trt-action/bin"],
        },
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        "history": [{"created_by": "test"}],
    }
    pointers = [registry.upload(repository, one) for one in (Blob.of(oci.canonical(config), oci.CONFIG), layer)]
    body = oci.manifest(pointers[0], pointers[1:])
    registry.put_manifest(repository, "base", body, oci.MANIFEST)
    # its list of packages, as an earlier run has attached it: no test waits for syft
    subject = oci.Descriptor(oci.MANIFEST, oci.sha256(body), len(body))
    bill = oci.canonical({"bomFormat": "CycloneDX", "specVersion": "1.6", "components": []})
    registry.attach(repository, subject, sbom.MEDIA_TYPE, [Blob.of(bill, sbom.MEDIA_TYPE)])
    return Reference(registry.host, repository, "base")


@dataclass
class Desk:
    """One repository with a runtime base, and an engine that was measured."""

    registry: Registry
    target: Reference
    options: Options
    folder: Path

    def publish(self, evidence: Evidence | None = None, **changes: Any) -> Published:
        engine = versions.read(self.folder)
        if evidence is not None:
            engine = replace(engine, evidence=evidence, raw=evidence.model_dump_json().encode())
        return publish(engine, replace(self.options, **changes), lambda _: (self.registry, None))

    def tags(self) -> list[str]:
        return sorted(tag for tag in self.registry.tags(self.target.repository) if tag in TAGS)


MakeDesk = Callable[[Registry], Desk]


@pytest.fixture
def make_desk(cncf: Running, make: MakeRegistry, repository: str, tmp_path: Path) -> MakeDesk:
    def made(registry: Registry) -> Desk:
        direct = make(cncf.host)
        runtime_base(direct, repository, tmp_path / "base")
        images.version_folder(tmp_path / "kept", ENGINE, images.measured(ENGINE))
        target = Reference(registry.host, repository)
        options = Options(target, facts={"branch": "main"}, base=replace(target, tag="base"))
        return Desk(registry, target, options, tmp_path / "kept")

    return made


@pytest.fixture
def desk(make_desk: MakeDesk, client: Registry) -> Desk:
    return make_desk(client)


def check_whole(registry: Registry, repository: str, tag: str) -> str:
    """An image behind a tag: every blob is there, the engine is the measured one, and its evidence is attached."""
    manifest = artifacts.resolve(registry, repository, tag)
    pointers = [oci.Descriptor.from_json(manifest.json()["config"]), *manifest.listed("layers")]
    assert all(registry.blob_size(repository, one.digest) == one.size for one in pointers)
    found = contents.engine(registry, repository, manifest)
    said = artifacts.labels(registry, repository, manifest)
    assert said[labels.ENGINE_SHA256] == found.sha256
    assert said[labels.EVIDENCE] == found.evidence_digest
    kinds = [one.kind for one in artifacts.read(registry, repository, manifest.digest)]
    assert sorted(kinds) == ["evidence", "sbom", "unsigned", "unsigned"]
    return manifest.digest


def test_an_image_is_published_whole(desk: Desk) -> None:
    done = desk.publish()
    assert done.tags == TAGS
    assert {check_whole(desk.registry, desk.target.repository, tag) for tag in TAGS} == {done.digest}
    manifest = artifacts.resolve(desk.registry, desk.target.repository, "main")
    config = artifacts.config(desk.registry, desk.target.repository, manifest)
    assert config["config"]["Labels"] == done.labels | {labels.RUNTIME: "sha256:" + "1" * 64}
    assert manifest.json()["annotations"] == done.labels
    assert config["config"]["User"] == "65532:65532"
    assert config["config"]["Entrypoint"] == ["trt-action", "serve", "/models"]
    assert contents.engine(desk.registry, desk.target.repository, manifest).folder == "/models/digits/1"
    assert done.labels[f"{labels.OCI}base.digest"].startswith("sha256:")


def test_the_same_again_is_the_same(desk: Desk, proxy: Proxy) -> None:
    first = desk.publish()
    uploads = proxy.count("POST")
    second = desk.publish()
    assert (second.digest, second.tags, second.sent) == (first.digest, first.tags, 0)
    assert proxy.count("POST") == uploads, "nothing is uploaded twice"


def test_outputs_are_those_of_the_docker_actions(desk: Desk) -> None:
    told = desk.publish().as_json()
    assert told["tags"] == [f"{desk.target.name}:{tag}" for tag in TAGS]
    assert told["tag-names"] == TAGS
    assert told["digest"].startswith("sha256:")
    assert f"manifest:{labels.PRECISION}=int8" in told["annotations"]
    json.dumps(told)


def broken(**changes: Any) -> Evidence:
    return images.measured(ENGINE).model_copy(update=changes)


CRASH = ErrorInfo(type="MeasureError", title="Measurement failed", what="It died.", why="", fix="", exit_code=6)


@pytest.mark.parametrize(
    ("evidence", "said"),
    [
        (broken(outcome="failed"), "a gate does not hold"),
        (broken(outcome="inconclusive", settings={"on-inconclusive": "fail"}), "inconclusive"),
        (
            broken(error=CRASH),
            "ended early",
        ),
    ],
)
def test_a_red_run_pushes_nothing(desk: Desk, proxy: Proxy, evidence: Evidence, said: str) -> None:
    with pytest.raises(errors.NotPublishedError) as refused:
        desk.publish(evidence)
    assert said in refused.value.what
    assert changes(proxy) == 0


def changes(proxy: Proxy) -> int:
    return sum(proxy.count(method) for method in ("POST", "PUT", "PATCH", "DELETE"))


def test_an_engine_that_nobody_measured_is_not_published(desk: Desk, proxy: Proxy) -> None:
    evidence = images.measured(ENGINE)
    assert evidence.head
    bare = evidence.model_copy(update={"head": evidence.head.model_copy(update={"latency": None})})
    with pytest.raises(errors.NotPublishedError, match="never measured"):
        desk.publish(bare)
    (desk.folder / "evidence.json").write_text(images.measured(b"another engine").model_dump_json())
    with pytest.raises(errors.EvidenceError, match="another engine"):
        desk.publish()
    (desk.folder / "evidence.json").unlink()
    with pytest.raises(errors.EvidenceError, match="nobody has measured it"):
        desk.publish()
    (desk.folder / "engine.onnx").write_bytes(ENGINE + b"!")
    with pytest.raises(errors.BuildError, match="cannot be trusted"):
        desk.publish()
    assert changes(proxy) == 0


@pytest.mark.parametrize(("part", "key"), [("engine", "backend"), ("engine", "precision"), ("model", "sha256")])
def test_a_forged_record_is_not_published(desk: Desk, proxy: Proxy, part: str, key: str) -> None:
    """The engine's bytes are the measured ones, and what the server would believe of them is not."""
    path = desk.folder / "engine.json"
    record = json.loads(path.read_text())
    record[part][key] = {"backend": "tensorrt", "precision": "fp32", "sha256": "0" * 64}[key]
    path.write_text(json.dumps(record))
    with pytest.raises(errors.EvidenceError, match="not of the run that measured it"):
        desk.publish()
    assert changes(proxy) == 0


def test_an_inconclusive_run_is_published_where_that_passes(desk: Desk) -> None:
    settings = {"on-inconclusive": "pass"}
    assert desk.publish(broken(outcome="inconclusive", settings=settings)).labels[labels.OUTCOME] == "inconclusive"


def test_an_image_that_is_too_large_is_not_pushed(desk: Desk, proxy: Proxy) -> None:
    with pytest.raises(errors.NotPublishedError, match=r"`max-image-size` is 0\.0 MB"):
        desk.publish(max_size=10_000)
    assert changes(proxy) == 0


def test_size_is_told_beside_the_one_before(desk: Desk) -> None:
    lines: list[str] = []
    engine = versions.read(desk.folder)
    for _ in range(2):
        publish(engine, desk.options, lambda _: (desk.registry, None), log=lines.append)
    told = [line for line in lines if line.startswith("Image: ")]
    assert "`main` has" not in told[0]
    assert "`main` has 0.0 MB (+0.0 MB, +0.0%)" in told[1]


TRIVY = """#!/bin/sh
echo '{"SchemaVersion": 2, "ArtifactName": "x", "Results": [{"Vulnerabilities": [{"VulnerabilityID": "CVE-2026-1",
"PkgName": "zlib", "InstalledVersion": "1", "Severity": "HIGH"}]}]}'
"""


def test_what_a_scan_forbids_is_not_pushed(
    desk: Desk, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scanner's answer is a recorded one: none can be had where these tests run."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "trivy").write_text(TRIVY)
    (tmp_path / "bin" / "trivy").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with pytest.raises(errors.NotPublishedError, match="max-severity: medium"):
        desk.publish(scan=scan.Asked("medium"))
    assert changes(proxy) == 0
    assert desk.publish(scan=scan.Asked("high")).tags == TAGS


def test_a_base_of_another_variant_is_refused(desk: Desk, proxy: Proxy, make: MakeRegistry, tmp_path: Path) -> None:
    direct = make(proxy.upstream)
    runtime_base(direct, desk.target.repository, tmp_path / "other", "tensorrt-rtx")
    with pytest.raises(errors.SettingsError, match="is a runtime base for `tensorrt-rtx`"):
        desk.publish()
    assert changes(proxy) == 0


def test_a_published_image_is_no_base(desk: Desk) -> None:
    """It has the label of the base that it was built on, and an engine of its own."""
    desk.publish()
    with pytest.raises(errors.SettingsError, match="holds an engine already"):
        desk.publish(base=replace(desk.target, tag="main"))


def test_triton_gets_a_model_repository(desk: Desk, make: MakeRegistry, proxy: Proxy, tmp_path: Path) -> None:
    """Its makers' image as it is: no Docker engine, only the layer with the generated configuration and a new start."""
    done = desk.publish(variant="triton")
    manifest = artifacts.resolve(desk.registry, desk.target.repository, done.digest)
    config = artifacts.config(desk.registry, desk.target.repository, manifest)["config"]
    layer = manifest.listed("layers")[-1]
    desk.registry.download(desk.target.repository, layer.digest, tmp_path / "layer.tar")
    with tarfile.open(tmp_path / "layer.tar") as archive:
        names = archive.getnames()
        text = archive.extractfile("models/digits/config.pbtxt").read().decode()  # type: ignore[union-attr]
    assert {"models/digits/1/engine.onnx", "models/digits/1/engine.json", "models/digits/1/evidence.json"} <= set(names)
    assert 'platform: "onnxruntime_onnx"' in text
    assert 'default_model_filename: "engine.onnx"' in text
    assert config["User"] == "65532:65532"


def test_without_docker_and_without_a_base(desk: Desk) -> None:
    with pytest.raises(errors.SettingsError, match="`publish-mode: registry` builds none"):
        desk.publish(mode="registry", base=replace(desk.target, tag="gone"))


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("kind", ["reset-request", "lost-answer"])
def test_a_connection_that_breaks_is_taken_up_again(desk: Desk, proxy: Proxy, method: str, kind: Any) -> None:
    proxy.faults = [Fault(method, "/v2/", kind, at=0, skip=step) for step in range(4)]
    done = desk.publish()
    assert check_whole(desk.registry, desk.target.repository, "main") == done.digest


COMMAND = [sys.executable, "-P", "-m", "trt_action", "publish"]


@contextlib.contextmanager
def started(folder: Path, image: str, base: str) -> Iterator[subprocess.Popen[str]]:
    """`trt-action publish` as a person starts it, without any configuration of this machine."""
    process = subprocess.Popen(
        [*COMMAND, str(folder), image, "--base-image", base],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()


def killed_at(step: Fault, desk: Desk, cncf: Running, repository: str) -> bool:
    """Publish into a new repository, and kill -9 at the request that never gets an answer. False: there was none."""
    with registry_proxy.serve(cncf.host) as proxy:
        proxy.faults = [step]
        base = f"{proxy.host}/{desk.target.repository}:base"
        with started(desk.folder, f"{proxy.host}/{repository}", base) as process:
            while step.times and process.poll() is None:
                clocks.sleep(0.01)
            if not step.times:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                return True
            assert process.returncode == 0, process.stdout and process.stdout.read()
            return False


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("method", "kind", "most"), [("POST", "silence", 12), ("PUT", "silence", 30)])
def test_kill_9_at_each_step_leaves_no_tag_on_half_an_image(
    make_desk: MakeDesk, cncf: Running, make: MakeRegistry, client: Registry, method: str, kind: Any, most: int
) -> None:
    """At the first changing request, then, in another repository, at the second, and so on to the last; afterwards the
    same again goes on and ends well, with the same digest everywhere."""
    direct = make(cncf.host)
    desk = make_desk(direct)
    digests = set()
    for step in range(most):
        repository = f"{desk.target.repository}/{method.lower()}{step}"
        if not killed_at(Fault(method, "/v2/", kind, skip=step), desk, cncf, repository):
            break
        for tag in TAGS:
            if direct.digest(repository, tag) is not None:
                check_whole(direct, repository, tag)
        with started(desk.folder, f"{cncf.host}/{repository}", f"{cncf.host}/{desk.target.repository}:base") as again:
            assert again.wait(60) == 0
        digests |= {check_whole(direct, repository, tag) for tag in TAGS}
    else:
        pytest.fail("it makes more requests than this test knows of")
    assert step > len(TAGS)
    assert len(digests) == 1


def test_the_command_line_keeps_its_secret(
    locked: Running, make_desk: MakeDesk, make: MakeRegistry, cncf: Running, tmp_path: Path, session: Any
) -> None:
    """The password is in no output, no argument, no image; and a wrong one is refused in the registry's words."""
    folder = make_desk(make(cncf.host)).folder
    assert locked.ca
    session.verify = str(locked.ca)
    from tests.publish.conftest import LOGIN

    registry = make(locked.host, credentials=LOGIN, ca=locked.ca)
    base = runtime_base(registry, "tests/secret", tmp_path / "locked")
    command = [*COMMAND, str(folder), f"{locked.host}/tests/secret", "--base-image", str(base)]
    command += ["--username", USER, "--ca", str(locked.ca), "--json"]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2]), "REGISTRY_PASSWORD": PASSWORD}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    digest = json.loads(done.stdout)["digest"]
    assert check_whole(registry, "tests/secret", "main") == digest
    stored = b"".join(path.read_bytes() for path in locked.data.rglob("data") if path.is_file())
    assert PASSWORD not in done.stdout + done.stderr + " ".join(command)
    assert PASSWORD.encode() not in stored

    wrong = subprocess.run(
        command,
        env={**env, "REGISTRY_PASSWORD": "canary-wrong"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert wrong.returncode == errors.RegistryError.exit_code
    assert "canary-wrong" not in wrong.stdout + wrong.stderr
    assert "Traceback" not in wrong.stderr
