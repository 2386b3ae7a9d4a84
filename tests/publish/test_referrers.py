"""Attachments: with the referrers API and without, written by several at once, twice the same."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import requests

from tests.doubles.registry import Running
from tests.doubles.registry_proxy import Fault, Proxy
from tests.publish.test_registry import put
from trt_action.errors import RegistryError
from trt_action.publish import oci
from trt_action.publish.oci import Blob, Descriptor
from trt_action.publish.registry import Registry

KIND = "application/vnd.example.evidence+json"


@pytest.fixture
def subject(client: Registry, repository: str) -> Descriptor:
    found = client.manifest(repository, put(client, repository, "v1"))
    assert found is not None
    return found.descriptor()


def attach(registry: Registry, repository: str, subject: Descriptor, text: str, kind: str = KIND) -> Descriptor:
    return registry.attach(repository, subject, kind, [Blob.of(text.encode(), kind)], {"name": text})


@pytest.mark.parametrize("api", [True, False])
def test_what_is_attached_is_found(
    client: Registry, proxy: Proxy, repository: str, subject: Descriptor, api: bool
) -> None:
    proxy.api = api
    assert client.referrers(repository, subject.digest) == []
    one = attach(client, repository, subject, "one")
    two = attach(client, repository, subject, "two", "text/other")
    assert {found.digest for found in client.referrers(repository, subject.digest)} == {one.digest, two.digest}
    (found,) = client.referrers(repository, subject.digest, KIND)
    manifest = client.manifest(repository, found.digest)
    assert manifest is not None
    document = manifest.json()
    assert (document["artifactType"], document["subject"]["digest"]) == (KIND, subject.digest)
    assert document["annotations"] == {"name": "one"}
    (layer,) = manifest.listed("layers")
    assert client.blob_bytes(repository, layer.digest) == b"one"
    fallback = client.manifest(repository, subject.digest.replace(":", "-"))
    assert (fallback is None) is api


@pytest.mark.parametrize("api", [True, False])
def test_the_same_again_changes_nothing(
    client: Registry, proxy: Proxy, repository: str, subject: Descriptor, api: bool
) -> None:
    proxy.api = api
    assert attach(client, repository, subject, "one") == attach(client, repository, subject, "one")
    assert len({found.digest for found in client.referrers(repository, subject.digest)}) == 1


def test_writers_at_once_lose_nothing(cncf: Running, repository: str, subject: Descriptor) -> None:
    """Real time, real registry: six writers begin at the same moment."""
    start, failures = threading.Barrier(6), list[BaseException]()

    def write(number: int) -> None:
        try:
            with requests.Session() as session:
                session.trust_env = False
                registry = Registry(session, cncf.host)
                registry.upload(repository, oci.EMPTY_BLOB)
                start.wait()
                attach(registry, repository, subject, f"writer {number}")
        except BaseException as error:  # noqa: BLE001 - told by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with requests.Session() as session:
        found = Registry(session, cncf.host).referrers(repository, subject.digest)
    assert {one.annotations["name"] for one in found} == {f"writer {number}" for number in range(6)}


def test_one_who_overwrites_is_merged_with(
    client: Registry, proxy: Proxy, repository: str, subject: Descriptor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another writer read the list before ours was in it, and writes it afterwards."""
    other = Descriptor(oci.MANIFEST, put(client, repository, "other", x="y"), 1, artifact_type="x/y")
    tag = subject.digest.replace(":", "-")
    real: Callable[..., str] = client.put_manifest
    overwrites = iter(range(3))

    def put_manifest(name: str, reference: str | None, body: bytes, kind: str) -> str:
        digest = real(name, reference, body, kind)
        if reference == tag and next(overwrites, None) is not None:
            real(name, tag, oci.index([other]), oci.INDEX)
        return digest

    monkeypatch.setattr(client, "put_manifest", put_manifest)
    ours = attach(client, repository, subject, "ours")
    assert {one.digest for one in client.referrers(repository, subject.digest)} == {ours.digest, other.digest}


def test_one_who_never_stops_overwriting_is_told(
    client: Registry, proxy: Proxy, repository: str, subject: Descriptor
) -> None:
    tag = subject.digest.replace(":", "-")
    proxy.faults = [Fault("PUT", tag, status=201, headers={}, body=b"", times=999)]  # says so, and does nothing
    with pytest.raises(RegistryError, match="overwrite the list"):
        attach(client, repository, subject, "ours")


@pytest.mark.parametrize("body", [b"{}", b'{"manifests":[{}]}', b'{"manifests":{}}', b"x"])
def test_a_damaged_list_is_told(
    client: Registry, proxy: Proxy, repository: str, subject: Descriptor, body: bytes
) -> None:
    proxy.faults = [Fault("GET", "/referrers/", status=200, headers={"Content-Type": oci.INDEX}, body=body)]
    with pytest.raises(RegistryError):
        client.referrers(repository, subject.digest)
