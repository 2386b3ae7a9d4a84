"""The index of several GPUs: built by racing legs, pulled plainly, chosen from by compute capability and TensorRT."""

from __future__ import annotations

import json
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import requests

from tests.doubles.registry import Running
from tests.publish import images
from tests.publish.conftest import MakeRegistry
from trt_action import cli
from trt_action.errors import SettingsError, VerificationError
from trt_action.publish import artifacts, inspect, labels, oci, select
from trt_action.publish.oci import Descriptor
from trt_action.publish.registry import Registry
from trt_action.publish.select import Entry, Need

H100, A100, L4 = (9, 0), (8, 0), (8, 9)


def entry(capability: str, version: str = "10.13.2", precision: str = "fp16", backend: str = "tensorrt") -> Entry:
    said = {
        labels.COMPUTE_CAPABILITY: capability,
        labels.BACKEND: backend,
        labels.BACKEND_VERSION: version,
        labels.PRECISION: precision,
        labels.MODEL: "digits",
    }
    digest = oci.sha256(f"{capability} {version} {precision} {backend}".encode())
    return Entry.of(Descriptor(oci.MANIFEST, digest, 1, said))


CPU = entry("", "1.32.1", "int8", "onnxruntime")
OLD, NEW, OTHER = entry("9.0", "10.13.2"), entry("9.0", "10.14.0"), entry("8.0")
ALL = [CPU, OTHER, OLD, NEW]


@pytest.mark.parametrize(
    ("need", "expected"),
    [
        (Need(H100), NEW),
        (Need(H100, "10.13.2"), OLD),
        (Need(H100, "10.13.2.6"), OLD),
        (Need(A100), OTHER),
        (Need(None), CPU),
        (Need(L4, cpu_will_do=True), CPU),
        (Need(H100, "11.0.0", cpu_will_do=True), CPU),
    ],
)
def test_the_image_that_fits(need: Need, expected: Entry) -> None:
    assert select.choose(ALL, need).digest == expected.digest


@pytest.mark.parametrize(
    "need", [Need(L4), Need(H100, "11.0.0"), Need(H100, precision="int8"), Need((8, 6)), Need((9, 1))]
)
def test_nothing_fits_is_an_error_that_says_what_there_is(need: Need) -> None:
    with pytest.raises(VerificationError) as refused:
        select.choose(ALL, need)
    assert "compute capability 9.0, tensorrt 10.14.0" in refused.value.why
    with pytest.raises(VerificationError):
        select.choose([], need)


def test_two_precisions_must_be_told_apart() -> None:
    both = [entry("9.0", precision="fp16"), entry("9.0", precision="fp8")]
    with pytest.raises(SettingsError, match="fp8"):
        select.choose(both, Need(H100))
    assert select.choose(both, Need(H100, precision="fp8")).precision == "fp8"


@pytest.mark.parametrize(
    ("text", "expected"), [("9.0", (9, 0)), ("sm_90", (9, 0)), ("sm_120", (12, 0)), ("sm90a", (9, 0))]
)
def test_compute_capabilities_as_people_write_them(text: str, expected: tuple[int, int]) -> None:
    assert select.capability(text) == expected


@pytest.mark.parametrize("text", ["", "9", "nine", "9.0.1", "sm_", "-9.0"])
def test_what_is_no_compute_capability(text: str) -> None:
    with pytest.raises(SettingsError):
        select.capability(text)


# In a registry

TAG = images.COMMIT
LEGS = {"h100": images.H100, "a100": images.A100, "cpu": None}


@pytest.fixture
def plain(cncf: Running, make: MakeRegistry) -> Registry:
    return make(cncf.host)


def test_an_index_lists_every_leg_and_keeps_their_tags(plain: Registry, repository: str) -> None:
    legs = {gpu: images.push(plain, repository, f"digits-{gpu}-int8-{TAG}", gpu=facts) for gpu, facts in LEGS.items()}
    digest = select.publish_index(plain, repository, TAG)
    assert select.publish_index(plain, repository, TAG) == digest
    told = inspect.table(inspect.inspect(plain, repository, digest))
    own, *children = told.split("\n\n")
    assert f"of {len(children)} images" in own
    assert "no evidence" not in own
    found = select.entries(artifacts.resolve(plain, repository, TAG))
    assert [one.digest for one in found] == [legs[gpu].digest for gpu in ("cpu", "a100", "h100")]
    assert found[2].gpu == "NVIDIA H100 80GB HBM3"
    assert {json.dumps(one.descriptor.platform, sort_keys=True) for one in found} == {
        '{"architecture": "amd64", "os": "linux"}'
    }
    for gpu, image in legs.items():
        assert plain.digest(repository, f"digits-{gpu}-int8-{TAG}") == image.digest


def test_racing_legs_lose_nobody(cncf: Running, repository: str) -> None:
    """Each leg pushes, tags, and writes the index, all at the same time; a slow one writes what it saw long before."""
    legs = [f"gpu{number}" for number in range(6)]
    barrier = threading.Barrier(len(legs))

    def leg(name: str) -> str:
        with requests.Session() as session:
            registry = Registry(session, cncf.host)
            facts = {"name": name, "compute_capability": [7, int(name[-1])], "driver": "1"}
            image = images.push(registry, repository, f"digits-{name}-int8-{TAG}", gpu=facts)
            barrier.wait(60)
            select.publish_index(registry, repository, TAG)
            return image.digest

    with ThreadPoolExecutor(len(legs)) as pool:
        digests = set(pool.map(leg, legs))
    with requests.Session() as session:
        found = select.entries(artifacts.resolve(Registry(session, cncf.host), repository, TAG))
    assert {one.digest for one in found} == digests


def test_a_stale_write_is_repaired_by_whoever_made_it(
    plain: Registry, repository: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reading the tags and writing the index, another leg comes and goes."""
    images.push(plain, repository, f"digits-a-int8-{TAG}", gpu=images.A100)
    put = plain.put_manifest
    late: list[str] = []

    def slow(name: str, reference: str | None, body: bytes, media_type: str) -> str:
        if reference == TAG and not late:
            late.append(images.push(plain, repository, f"digits-b-int8-{TAG}", gpu=images.H100).digest)
            select.publish_index(plain, repository, TAG)
        return put(name, reference, body, media_type)

    monkeypatch.setattr(plain, "put_manifest", slow)
    select.publish_index(plain, repository, TAG)
    found = select.entries(artifacts.resolve(plain, repository, TAG))
    assert len(found) == 2
    assert late[0] in {one.digest for one in found}


def test_an_index_hides_nothing(plain: Registry, repository: str) -> None:
    images.push(plain, repository, "main")
    with pytest.raises(VerificationError, match="no image tagged"):
        select.publish_index(plain, repository, TAG)
    images.push(plain, repository, f"digits-a-int8-{TAG}", gpu=images.A100)
    images.push(plain, repository, TAG, commit="9" * 40)
    with pytest.raises(VerificationError, match="another commit"):
        select.publish_index(plain, repository, TAG)
    images.push(plain, repository, f"digits-b-int8-{TAG}", gpu=images.H100, commit="9" * 40)
    with pytest.raises(VerificationError, match="different commits"):
        select.publish_index(plain, repository, TAG)


def test_the_commands(plain: Registry, repository: str, capsys: pytest.CaptureFixture[str]) -> None:
    legs = {gpu: images.push(plain, repository, f"digits-{gpu}-int8-{TAG}", gpu=facts) for gpu, facts in LEGS.items()}
    name = f"{plain.host}/{repository}"
    assert cli.main(["index", f"{name}:{TAG}"]) == 0
    assert capsys.readouterr().out.startswith(f"{name}@sha256:")
    assert cli.main(["select", f"{name}:{TAG}", "--compute-capability", "9.0"]) == 0
    assert capsys.readouterr().out.strip() == f"{name}@{legs['h100'].digest}"
    assert cli.main(["select", f"{name}:{TAG}", "--compute-capability", "8.6"]) == VerificationError.exit_code
    assert "--fallback cpu" in capsys.readouterr().err
    assert cli.main(["select", f"{name}:{TAG}", "--compute-capability", "8.6", "--fallback", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == legs["cpu"].digest
    assert (
        cli.main(["select", f"{name}@{legs['cpu'].digest}", "--compute-capability", "8.6"])
        == VerificationError.exit_code
    )
    assert "not an index" in capsys.readouterr().err
    assert cli.main(["index", name]) == 2


@pytest.mark.docker
def test_a_plain_docker_pull_gets_the_first_image(plain: Registry, repository: str) -> None:
    legs = {gpu: images.push(plain, repository, f"digits-{gpu}-int8-{TAG}", gpu=facts) for gpu, facts in LEGS.items()}
    select.publish_index(plain, repository, TAG)
    name = f"{plain.host}/{repository}"
    try:
        subprocess.run(["docker", "pull", "--quiet", f"{name}:{TAG}"], check=True, capture_output=True, timeout=120)
        show = ["docker", "image", "inspect", f"{name}:{TAG}", "--format", "{{json .Config.Labels}}"]
        said = json.loads(subprocess.run(show, check=True, capture_output=True, timeout=60).stdout)
        assert said == dict(legs["cpu"].labels)
        chosen = select.choose(select.entries(artifacts.resolve(plain, repository, TAG)), Need(H100))
        pull = ["docker", "pull", "--quiet", f"{name}@{chosen.digest}"]
        subprocess.run(pull, check=True, capture_output=True, timeout=120)
    finally:
        for one in (f"{name}:{TAG}", f"{name}@{legs['h100'].digest}"):
            subprocess.run(["docker", "image", "rm", one], capture_output=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"vnd.docker.reference.type": "attestation-manifest"},
        {labels.PRECISION: "int8", labels.COMPUTE_CAPABILITY: "9.0\x1b[31m"},
        {labels.PRECISION: "int8", labels.GPU: "NVIDIA H100"},
    ],
)
def test_an_entry_that_does_not_say_what_it_is_for_fits_nobody(said: dict[str, str]) -> None:
    stranger = Entry.of(Descriptor(oci.MANIFEST, "sha256:" + "f" * 64, 100, said))
    for need in (Need(None), Need(H100), Need((8, 6), cpu_will_do=True)):
        with pytest.raises(VerificationError):
            select.choose([stranger], need)
    assert select.choose([stranger, CPU], Need(None)) == CPU


def test_a_cpu_entry_fits_no_gpu() -> None:
    assert replace(CPU).capability == (0, 0)
    with pytest.raises(VerificationError):
        select.choose([CPU], Need(H100))
