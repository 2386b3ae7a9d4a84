"""Images without an engine: what the base gives, what is changed, what is sent; real tools agree with the result."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.registry import PASSWORD, USER, Running
from tests.doubles.registry_proxy import Fault, Proxy
from tests.publish.conftest import LOGIN, MakeRegistry, Pack
from trt_action.errors import RegistryError
from trt_action.publish import direct, layers, oci
from trt_action.publish.direct import Change
from trt_action.publish.oci import Blob, Descriptor
from trt_action.publish.reference import Reference
from trt_action.publish.registry import Registry

CREATED = "2026-01-02T03:04:05Z"


def put_base(registry: Registry, repository: str, blobs: list[Blob], *, docker: bool = False, **changes: Any) -> str:
    """A base image with the tag `base`: OCI, or as `docker push` sends it. Returns its digest."""
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2020-01-01T00:00:00Z",
        "container": "of the builder",
        "config": {
            "Env": ["PATH=/bin", "EMPTY="], "Cmd": ["old"], "Entrypoint": ["/old"], "User": "root", "Labels": {"a": "1", "b": "2"},
            "WorkingDir": "/w", "StopSignal": "SIGINT", "ExposedPorts": {"1/tcp": {}}, "Healthcheck": {"Test": ["NONE"]},
        },
        "rootfs": {"type": "layers", "diff_ids": [blob.diff_id for blob in blobs]},
        "history": [{"created_by": "base"} for _ in blobs],
        **changes,
    }  # fmt: skip
    sent = Blob.of(oci.canonical(config), oci.DOCKER_CONFIG if docker else oci.CONFIG)
    for blob in [*blobs, sent]:
        registry.upload(repository, blob)
    listed = [
        Descriptor(oci.DOCKER_LAYER_GZIP if docker else blob.media_type, blob.digest, blob.size) for blob in blobs
    ]
    body = oci.manifest(sent.descriptor(), listed)
    if docker:
        body = oci.canonical({**json.loads(body), "mediaType": oci.DOCKER_MANIFEST})
    return registry.put_manifest(repository, "base", body, oci.DOCKER_MANIFEST if docker else oci.MANIFEST)


def reference(registry: Registry, repository: str, tag: str = "base") -> Reference:
    return Reference.parse(f"{registry.host}/{repository}:{tag}")


def config_of(registry: Registry, repository: str, digest: str) -> dict[str, Any]:
    found = registry.manifest(repository, digest)
    assert found is not None
    pointer = Descriptor.from_json(found.json()["config"])
    assert pointer.media_type == oci.CONFIG
    return dict(json.loads(registry.blob_bytes(repository, pointer.digest)))


@pytest.mark.parametrize("docker", [False, True])
def test_what_changes_and_what_stays(client: Registry, repository: str, pack: Pack, docker: bool) -> None:
    under, engine = pack("under"), pack("engine")
    put_base(client, f"{repository}/base", [under], docker=docker)
    base = direct.read_base(client, reference(client, f"{repository}/base"))
    assert (base.labels, base.size) == ({"a": "1", "b": "2"}, under.size)
    change = Change(
        CREATED, [engine], labels={"b": "3", "c": "4"}, env={"PATH": "/new", "X": "y=z"}, entrypoint=["/serve"], user="65532:65532",
        healthcheck={"Test": ["CMD", "/check"], "Interval": 5_000_000_000}, ports=["8000/tcp"], annotations={"k": "v"},
    )  # fmt: skip
    pushed = direct.push(base, client, repository, change)
    found = client.manifest(repository, pushed.digest)
    assert found is not None
    assert (found.body, found.media_type) == (pushed.body, oci.MANIFEST)
    assert found.json()["annotations"] == {"k": "v"}
    assert [(one.digest, one.media_type) for one in found.listed("layers")] == [
        (under.digest, oci.LAYER_GZIP), (engine.digest, oci.LAYER_GZIP),
    ]  # fmt: skip
    config = config_of(client, repository, pushed.digest)
    assert config["config"] == {
        "Env": ["PATH=/new", "EMPTY=", "X=y=z"], "Entrypoint": ["/serve"], "User": "65532:65532", "WorkingDir": "/w",
        "Labels": {"a": "1", "b": "3", "c": "4"}, "StopSignal": "SIGINT", "ExposedPorts": {"1/tcp": {}, "8000/tcp": {}},
        "Healthcheck": {"Test": ["CMD", "/check"], "Interval": 5_000_000_000},
    }  # fmt: skip
    assert config["rootfs"]["diff_ids"] == [under.diff_id, engine.diff_id]
    assert [entry["created_by"] for entry in config["history"]] == ["base", "trt-action publish"]
    assert config["created"] == CREATED
    assert "container" not in config
    assert pushed.size == pushed.config.size + under.size + engine.size
    assert client.manifest(repository, "latest") is None
    with pytest.raises(RegistryError):  # no tag came into being
        client.tags(repository)


def test_a_second_time_sends_nothing(client: Registry, proxy: Proxy, repository: str, pack: Pack) -> None:
    put_base(client, f"{repository}/base", [pack("under")])
    base = direct.read_base(client, reference(client, f"{repository}/base"))
    engine = pack("engine")
    first = direct.push(base, client, repository, Change(CREATED, [engine]))
    assert first.sent == engine.size + first.config.size  # the base's layer is mounted
    proxy.seen.clear()
    again = direct.push(base, client, repository, Change(CREATED, [engine]))
    assert (again.digest, again.sent) == (first.digest, 0)
    assert {one.method for one in proxy.seen} == {"HEAD", "PUT"}
    assert proxy.count("PUT") == 1


def test_new_labels_send_a_config_alone(client: Registry, proxy: Proxy, repository: str, pack: Pack) -> None:
    put_base(client, repository, [pack("under"), pack("engine")])
    base = direct.read_base(client, reference(client, repository))
    proxy.seen.clear()
    pushed = direct.push(base, client, repository, Change(CREATED, labels={"new": "label"}))
    assert [layer.digest for layer in pushed.layers] == [layer.digest for layer in base.layers]
    assert pushed.sent == pushed.config.size < 2_000
    assert len(proxy.seen) <= 5


def test_a_base_of_another_registry_is_copied(
    client: Registry, locked: Running, make: MakeRegistry, repository: str, pack: Pack
) -> None:
    under = pack("under")
    put_base(client, repository, [under])
    base = direct.read_base(client, reference(client, repository))
    target = make(locked.host, credentials=LOGIN, ca=locked.ca)
    pushed = direct.push(base, target, repository, Change(CREATED))
    assert target.blob_size(repository, under.digest) == under.size
    assert pushed.sent == under.size + pushed.config.size
    assert direct.push(base, target, repository, Change(CREATED)).sent == 0


def test_a_base_that_cannot_be_mounted_is_copied(client: Registry, proxy: Proxy, repository: str, pack: Pack) -> None:
    under = pack("under")
    put_base(client, f"{repository}/base", [under])
    base = direct.read_base(client, reference(client, f"{repository}/base"))
    proxy.faults = [Fault("POST", "mount=", status=403)]
    direct.push(base, client, repository, Change(CREATED))
    assert client.blob_size(repository, under.digest) == under.size


def test_layers_that_lie_elsewhere_stay_there(client: Registry, proxy: Proxy, repository: str, pack: Pack) -> None:
    foreign = Descriptor(
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "sha256:" + "1" * 64, 5, urls=("https://x/y",)
    )
    put_base(client, repository, [pack("under")])
    base = direct.read_base(client, reference(client, repository))
    found = direct.Base(base.registry, base.reference, base.manifest, base.config, [*base.layers, foreign])
    proxy.faults = [Fault("PUT", "/manifests/", status=201)]
    assert direct.push(found, client, f"{repository}/out", Change(CREATED)).layers[1].urls == ("https://x/y",)
    assert not any("1" * 64 in one.path for one in proxy.seen)


def index(registry: Registry, repository: str, *platforms: tuple[dict[str, str], str]) -> None:
    entries = [Descriptor(oci.MANIFEST, digest, 1, platform=platform) for platform, digest in platforms]
    registry.put_manifest(repository, "all", oci.index(entries), oci.INDEX)


def test_an_index_gives_the_image_of_the_platform(client: Registry, repository: str, pack: Pack) -> None:
    blobs = [pack("under")]
    arm = put_base(client, repository, blobs, architecture="arm64", variant="v8")
    amd = put_base(client, repository, blobs)
    linux = {"os": "linux"}
    index(
        client, repository, ({"os": "unknown", "architecture": "unknown"}, arm),
        ({**linux, "architecture": "arm64", "variant": "v8"}, arm), ({**linux, "architecture": "amd64"}, amd), ({**linux, "architecture": "amd64"}, arm),
    )  # fmt: skip
    name = reference(client, repository, "all")
    assert direct.read_base(client, name).manifest.digest == amd
    assert direct.read_base(client, name, "linux/arm64").manifest.digest == arm
    assert direct.read_base(client, name, "linux/arm64/v8").manifest.digest == arm
    with pytest.raises(RegistryError, match="no image for `linux/s390x`") as caught:
        direct.read_base(client, name, "linux/s390x")
    assert "linux/arm64/v8" in caught.value.why
    with pytest.raises(RegistryError, match="not for `linux/arm64`"):
        direct.read_base(client, reference(client, repository), "linux/arm64")


def test_a_base_that_is_not_there_or_damaged(client: Registry, repository: str, pack: Pack) -> None:
    with pytest.raises(RegistryError, match="There is no image"):
        direct.read_base(client, reference(client, repository))
    cases: list[dict[str, Any]] = [{"rootfs": {}}, {"rootfs": {"diff_ids": [1]}}, {"rootfs": None}]
    for changes in cases:
        put_base(client, repository, [Blob.of(b"x" * len(str(changes)), oci.LAYER_GZIP)], **changes)
        with pytest.raises(RegistryError, match="damaged"):
            direct.read_base(client, reference(client, repository))


@pytest.mark.parametrize(
    "fault",
    [
        Fault("PUT", "/manifests/", status=500),
        Fault("PUT", "digest=", "reset-request", at=1_000),
        Fault("PUT", "digest=", "lost-answer"),
        Fault("POST", "/uploads/", status=429, headers={"Retry-After": "2"}),
        Fault("PATCH", "/uploads/", "reset-request", at=30_000, keeps=True, skip=1),
        Fault("HEAD", "/blobs/", "lost-answer"),
    ],
)
def test_a_bad_day_gives_the_same_image(
    client: Registry, proxy: Proxy, repository: str, pack: Pack, fault: Fault
) -> None:
    put_base(client, f"{repository}/base", [pack("under")])
    base = direct.read_base(client, reference(client, f"{repository}/base"))
    change = Change(CREATED, [pack("engine")])
    good = direct.push(base, client, f"{repository}/good", change)
    proxy.faults = [Fault(**vars(fault))]
    assert direct.push(base, client, repository, change).digest == good.digest
    assert proxy.faults[0].times == 0


def test_skopeo_agrees_and_copies(
    locked: Running, make: MakeRegistry, repository: str, pack: Pack, tmp_path: Path
) -> None:
    registry = make(locked.host, credentials=LOGIN, ca=locked.ca)
    engine = pack("engine")
    put_base(registry, repository, [pack("under")])
    base = direct.read_base(registry, reference(registry, repository))
    pushed = direct.push(base, registry, repository, Change(CREATED, [engine], labels={"l": "ä"}, env={"E": "f"}))
    registry.put_manifest(repository, "v1", pushed.body, oci.MANIFEST)
    assert locked.ca
    (tmp_path / "ca.crt").write_bytes(locked.ca.read_bytes())
    login = ["--cert-dir", str(tmp_path), "--creds", f"{USER}:{PASSWORD}"]
    name = f"docker://{locked.host}/{repository}:v1"
    seen = json.loads(subprocess.run(["skopeo", "inspect", *login, name], capture_output=True, check=True).stdout)
    assert (seen["Digest"], seen["Labels"]) == (pushed.digest, {"a": "1", "b": "2", "l": "ä"})
    assert seen["Layers"] == [layer.digest for layer in pushed.layers]
    copied = tmp_path / "copied"
    copy = [
        "skopeo",
        "copy",
        "--src-cert-dir",
        str(tmp_path),
        "--src-creds",
        f"{USER}:{PASSWORD}",
        name,
        f"dir:{copied}",
    ]
    subprocess.run(copy, capture_output=True, check=True, timeout=60)
    assert engine.path
    assert (copied / engine.digest.partition(":")[2]).read_bytes() == engine.path.read_bytes()


@pytest.fixture
def docker_image(cncf: Running, repository: str) -> Iterator[str]:
    """The name of an image that Docker's engine may use; its images are removed afterwards."""
    if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True, timeout=60).returncode:
        pytest.skip("no Docker engine answers `docker info`")
    yield f"{cncf.host}/{repository}"
    listed = subprocess.run(
        ["docker", "images", "-q", f"{cncf.host}/{repository}"], capture_output=True, text=True
    ).stdout
    for image in set(listed.split()):
        subprocess.run(["docker", "rmi", "-f", image], capture_output=True, check=False)


@pytest.mark.docker
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_docker_pulls_and_unpacks_it(
    cncf: Running,
    make: MakeRegistry,
    docker_image: str,
    repository: str,
    tmp_path: Path,
    compression: layers.Compression,
) -> None:
    registry = make(cncf.host)
    (tmp_path / "hello").write_text("hello")
    archive = subprocess.run(["tar", "-C", str(tmp_path), "-c", "hello"], capture_output=True, check=True).stdout
    subprocess.run(["docker", "import", "-", f"{docker_image}:base"], input=archive, capture_output=True, check=True)
    subprocess.run(["docker", "push", "-q", f"{docker_image}:base"], capture_output=True, check=True, timeout=120)
    folder = tmp_path / "engine"
    folder.mkdir()
    (folder / "plan").write_bytes(os.urandom(100_000))
    layer = layers.pack(folder, "/models/digits/1", tmp_path / "layer", compression=compression)
    base = direct.read_base(registry, reference(registry, repository))
    assert base.manifest.media_type == oci.DOCKER_MANIFEST
    change = Change(
        CREATED, [layer], labels={"l": "m"}, entrypoint=["/models/digits/1/plan"], user="65532", stop_signal="SIGINT"
    )
    pushed = direct.push(base, registry, repository, change)
    name = f"{docker_image}@{pushed.digest}"
    subprocess.run(["docker", "pull", "-q", name], capture_output=True, check=True, timeout=120)
    (seen,) = json.loads(subprocess.run(["docker", "inspect", name], capture_output=True, check=True).stdout)
    assert (seen["Config"]["Labels"], seen["Config"]["User"], seen["Config"]["StopSignal"]) == (
        {"l": "m"},
        "65532",
        "SIGINT",
    )
    assert seen["RootFS"]["Layers"][-1] == layer.diff_id
    made = subprocess.run(["docker", "create", name], capture_output=True, text=True, check=True).stdout.strip()
    try:
        subprocess.run(
            ["docker", "cp", f"{made}:/models/digits/1/plan", str(tmp_path / "out")], check=True, capture_output=True
        )
    finally:
        subprocess.run(["docker", "rm", made], check=True, capture_output=True)
    assert (tmp_path / "out").read_bytes() == (folder / "plan").read_bytes()
