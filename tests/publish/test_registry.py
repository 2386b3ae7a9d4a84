"""Manifests, tags and deletion at a real registry, and what a client must not believe."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from pathlib import Path

import pytest

from tests.doubles import registry as doubles
from tests.doubles.registry import PASSWORD, USER, Running
from tests.doubles.registry_proxy import Fault, Proxy
from tests.publish.conftest import LOGIN, MakeRegistry, Time
from trt_action.errors import RegistryError, SettingsError
from trt_action.publish import oci
from trt_action.publish.oci import Blob, Descriptor, Fetched
from trt_action.publish.registry import Registry

CONFIG = Blob.of(b'{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}', oci.CONFIG)
NONE = "sha256:" + "0" * 64


def put(registry: Registry, repository: str, tag: str | None, **annotations: str) -> str:
    """A small image. Returns its digest."""
    registry.upload(repository, CONFIG)
    body = oci.manifest(CONFIG.descriptor(), [], annotations=annotations)
    return registry.put_manifest(repository, tag, body, oci.MANIFEST)


def test_a_manifest_comes_back_as_it_was(client: Registry, repository: str) -> None:
    digest = put(client, repository, "v1", k="v")
    found = client.manifest(repository, "v1")
    assert found == client.manifest(repository, digest)
    assert found is not None
    assert (found.digest, found.media_type, found.is_index) == (digest, oci.MANIFEST, False)
    assert found.json()["annotations"] == {"k": "v"}
    assert found.descriptor() == Descriptor(oci.MANIFEST, digest, len(found.body))
    assert client.digest(repository, "v1") == digest
    assert put(client, repository, "v1", k="v") == digest


def test_what_is_not_there_is_none(client: Registry, repository: str) -> None:
    assert client.manifest(repository, "v1") is None
    assert client.manifest(repository, NONE) is None
    assert client.digest(repository, "v1") is None
    assert client.blob_size(repository, NONE) is None
    assert client.delete(repository, NONE) is False
    with pytest.raises(RegistryError, match="NAME_UNKNOWN"):
        client.tags(repository)
    with pytest.raises(RegistryError, match="BLOB_UNKNOWN"):
        client.blob_bytes(repository, NONE)


def test_an_index_of_images(client: Registry, repository: str) -> None:
    one = client.manifest(repository, put(client, repository, "one"))
    assert one is not None
    platform = {"os": "linux", "architecture": "amd64"}
    entry = Descriptor(one.media_type, one.digest, len(one.body), {"gpu": "sm_90"}, platform=platform)
    digest = client.put_manifest(repository, "all", oci.index([entry, entry]), oci.INDEX)
    found = client.manifest(repository, "all")
    assert found is not None
    assert (found.digest, found.is_index) == (digest, True)
    assert found.listed("manifests") == [entry, entry]


def test_tags_of_every_page(client: Registry, proxy: Proxy, repository: str) -> None:
    tags = [f"t{number}" for number in range(7)]
    for tag in tags:
        put(client, repository, tag)
    assert sorted(client.tags(repository)) == tags
    proxy.page = 3
    before = proxy.count("GET", "tags/list")
    assert sorted(client.tags(repository)) == tags
    assert proxy.count("GET", "tags/list") - before == 3


@pytest.mark.parametrize(
    ("link", "content", "expected"),
    [
        ("", b'{"name":"x","tags":null}', []),
        ('</v2/{r}/tags/list?n=1000>; rel="next"', b'{"tags":["a","a"]}', ["a"]),
        ("nonsense", b'{"tags":["a", 3, "../b", "b"]}', ["a", "b"]),
    ],
)
def test_odd_lists_of_tags(
    client: Registry, proxy: Proxy, repository: str, link: str, content: bytes, expected: list[str]
) -> None:
    headers = {"Link": link.format(r=repository)} if link else {}
    proxy.faults = [Fault("GET", "tags/list", status=200, headers=headers, body=content, times=99)]
    assert client.tags(repository) == expected
    assert proxy.count("GET", "tags/list") <= 2


def test_a_next_page_elsewhere_is_not_followed(client: Registry, proxy: Proxy, repository: str) -> None:
    headers = {"Link": '<http://127.0.0.1:9/x>; rel="next"'}
    proxy.faults = [Fault("GET", "tags/list", status=200, headers=headers, body=b'{"tags":[]}')]
    with pytest.raises(RegistryError, match="another host"):
        client.tags(repository)


def closed_port() -> str:
    """An address where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize("insecure", [None, False])
def test_nobody_listens_at_all(make: MakeRegistry, time: Time, log: list[str], insecure: bool | None) -> None:
    """Whether http or https is to be found out first, or not: seconds, one line, and what to do."""
    host = closed_port()
    with pytest.raises(RegistryError, match="no connection") as caught:
        make(host, insecure=insecure).tags("a")
    assert time.slept == [1, 2, 4]
    assert len(log) == 1
    assert log[0].startswith(f"{host} refuses the connection; it gets a few seconds to start")
    assert "Nothing listens" in caught.value.why
    assert "port" in caught.value.fix


@pytest.mark.parametrize(
    ("host", "insecure", "number", "waits", "words"),
    [
        ("registry.example.com", None, socket.EAI_NONAME, 3, "no such host"),
        ("registry.example.com", True, socket.EAI_NONAME, 3, "no such host"),
        ("registry.example.com:5000", True, socket.EAI_NONAME, 3, "no such host"),
        ("registry.example.com", None, socket.EAI_AGAIN, 6, "no connection"),
    ],
)
def test_a_name_that_no_host_has(
    make: MakeRegistry,
    time: Time,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    insecure: bool | None,
    number: int,
    waits: int,
    words: str,
) -> None:
    """A name that is wrong stays wrong; a resolver that does not answer may answer later."""

    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(number, "as the resolver says")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(RegistryError, match=words) as caught:
        make(host, insecure=insecure).tags("a")
    assert len(time.slept) == waits
    assert ("DNS knows no host" in caught.value.why) == (number == socket.EAI_NONAME)


def test_a_registry_that_is_just_starting(
    make: MakeRegistry, time: Time, log: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := doubles.missing():
        pytest.skip(reason)
    host = closed_port()
    with contextlib.ExitStack() as running:

        def sleep(seconds: float) -> None:
            time.slept.append(seconds)
            if len(time.slept) == 2:
                running.enter_context(doubles.serve(tmp_path, port=int(host.rpartition(":")[2])))

        monkeypatch.setattr(time, "sleep", sleep)
        registry = make(host)
        digest = put(registry, "a", "v1")
        assert registry.digest("a", "v1") == digest
    assert len(time.slept) == 2
    assert len(log) == 1


def test_a_registry_that_goes_away_later_is_waited_for(make: MakeRegistry, time: Time, tmp_path: Path) -> None:
    if reason := doubles.missing():
        pytest.skip(reason)
    with doubles.serve(tmp_path) as running:
        registry = make(running.host)
        put(registry, "a", "v1")
    with pytest.raises(RegistryError, match="no connection"):
        registry.tags("a")
    assert len(time.slept) == 6


def test_deleting_takes_the_tags_along(client: Registry, repository: str) -> None:
    digest = put(client, repository, "v1")
    assert client.delete(repository, digest)
    assert client.manifest(repository, "v1") is None
    assert client.delete(repository, digest) is False


def test_a_deletion_whose_answer_is_lost(client: Registry, proxy: Proxy, repository: str) -> None:
    digest = put(client, repository, "v1")
    proxy.faults = [Fault("DELETE", "", "lost-answer")]
    client.delete(repository, digest)
    assert client.manifest(repository, digest) is None


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (405, b'{"errors":[{"code":"UNSUPPORTED","message":"The operation is unsupported."}]}', "delete.enabled"),
        (401, b"{}", "registry-password"),
        (403, b'{"errors":[{"code":"DENIED"}]}', "packages: write"),
        (400, b'{"errors":"what"}', ""),
        (404, b"", ""),
    ],
)
def test_refusals_say_what_to_do(
    client: Registry, proxy: Proxy, repository: str, status: int, body: bytes, says: str
) -> None:
    proxy.faults = [Fault("DELETE", "", status=status, body=body)]
    if status == 404:
        assert client.delete(repository, NONE) is False
        return
    with pytest.raises(RegistryError, match=f"HTTP {status}") as caught:
        client.delete(repository, NONE)
    assert says in caught.value.fix
    assert caught.value.fix
    assert (caught.value.status, caught.value.exit_code) == (status, 13)


@pytest.mark.parametrize("reference", ["tag", "digest"])
@pytest.mark.parametrize("kind", ["corrupt", "wrong-digest"])
def test_a_manifest_that_is_not_its_digest_is_refused(
    client: Registry, proxy: Proxy, repository: str, reference: str, kind: str
) -> None:
    digest = put(client, repository, "v1")
    proxy.faults = [Fault("GET", "/manifests/", kind, at=40)]  # type: ignore[arg-type]
    if (reference, kind) == ("digest", "wrong-digest"):  # the bytes are right, and that is what counts
        assert client.manifest(repository, digest)
        return
    with pytest.raises(RegistryError, match="was meant"):
        client.manifest(repository, "v1" if reference == "tag" else digest)


@pytest.mark.parametrize(
    ("kind", "at"), [("reset-answer", 10), ("truncate", 10), ("lost-answer", 0), ("reset-request", 0)]
)
def test_a_broken_answer_is_asked_for_again(
    client: Registry, proxy: Proxy, time: Time, repository: str, kind: str, at: int
) -> None:
    digest = put(client, repository, "v1")
    proxy.faults = [Fault("GET", "/manifests/", kind, at=at)]  # type: ignore[arg-type]
    found = client.manifest(repository, "v1")
    assert found is not None
    assert found.digest == digest
    assert time.slept == [1.0]


@pytest.mark.parametrize(
    ("body", "kind", "says"),
    [
        (b"[]", oci.MANIFEST, "no JSON object"),
        (b"{", oci.MANIFEST, "no JSON object"),
        (b"[" * 100_000, oci.MANIFEST, "no JSON object"),
        (b"{}", "application/vnd.docker.distribution.manifest.v1+prettyjws", "not with an image"),
        (b'{"mediaType":"text/html"}', oci.MANIFEST, "not with an image"),
        (b" " * (oci.MAX_MANIFEST_BYTES + 1), oci.MANIFEST, "larger than"),
    ],
)
def test_what_is_no_manifest(
    client: Registry, proxy: Proxy, repository: str, body: bytes, kind: str, says: str
) -> None:
    proxy.faults = [Fault("GET", "/manifests/", status=200, headers={"Content-Type": kind}, body=body)]
    with pytest.raises(RegistryError, match=says):
        client.manifest(repository, "v1")


@pytest.mark.parametrize(
    "document",
    [
        {}, {"layers": 3}, {"layers": [3]}, {"layers": [{"digest": "x", "size": 1}]}, {"layers": [{"digest": NONE, "size": -1}]},
        {"layers": [{"digest": NONE, "size": True}]}, {"layers": [{"digest": NONE}]}, {"layers": [{}] * 10_001},
    ],
)  # fmt: skip
def test_a_damaged_list_is_refused(document: object) -> None:
    with pytest.raises(RegistryError):
        Fetched(json.dumps(document).encode(), oci.MANIFEST, NONE).listed("layers")


@pytest.mark.parametrize("name", ["", "../x", "A", "a//b", "a/", "a?b", "a%2f"])
def test_names_stay_in_their_place(client: Registry, proxy: Proxy, name: str) -> None:
    for call in (
        lambda: client.manifest(name, "v1"),
        lambda: client.manifest("a", name + "/"),
        lambda: client.blob_size("a", name),
        lambda: client.delete("a", "latest"),
        lambda: client.upload(name, CONFIG),
        lambda: client.upload("a", CONFIG, mount_from=[name]),
        lambda: client.tags(name),
    ):
        with pytest.raises(SettingsError):
            call()
    assert all(one.path == "/v2/" or "/v2/a/blobs/" in one.path for one in proxy.seen)


def test_skopeo_reads_what_was_pushed(locked: Running, make: MakeRegistry, repository: str) -> None:
    assert locked.ca
    digest = put(make(locked.host, credentials=LOGIN, ca=locked.ca), repository, "v1", a="b")
    done = subprocess.run(
        ["skopeo", "inspect", "--raw", "--cert-dir", str(_certificates(locked)), "--creds", f"{USER}:{PASSWORD}",
         f"docker://{locked.host}/{repository}@{digest}"],
        capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    assert oci.sha256(done.stdout) == digest


def _certificates(locked: Running) -> object:
    """skopeo takes a folder of `*.crt`."""
    assert locked.ca
    folder = locked.ca.parent / "certificates"
    folder.mkdir(exist_ok=True)
    (folder / "ca.crt").write_bytes(locked.ca.read_bytes())
    return folder
