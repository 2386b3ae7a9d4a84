"""Blobs on their way up: nothing twice, mounted where possible, resumed after a break, checked at the end."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.doubles.registry import Running
from tests.doubles.registry_proxy import Fault, Proxy
from tests.publish.conftest import MakeRegistry, Time
from trt_action.errors import RegistryError, StorageError
from trt_action.publish.oci import LAYER, Blob
from trt_action.publish.registry import Registry

MakeBlob = Callable[[int], Blob]
CHUNK = 65_536


@pytest.mark.parametrize("size", [0, 1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 7])
def test_any_size_arrives(client: Registry, repository: str, make_blob: MakeBlob, size: int) -> None:
    blob = make_blob(size)
    sent: list[int] = []
    descriptor = client.upload(repository, blob, sent=sent.append)
    assert (descriptor.digest, descriptor.size, descriptor.media_type) == (blob.digest, size, LAYER)
    assert client.blob_size(repository, blob.digest) == size
    assert blob.path
    assert b"".join(client.blob(repository, blob.digest)) == blob.path.read_bytes()
    assert sent[-1] == size
    assert sent == sorted(sent)


def test_what_is_there_is_not_sent_again(client: Registry, proxy: Proxy, repository: str, make_blob: MakeBlob) -> None:
    blob = make_blob(1_000)
    client.upload(repository, blob)
    before = len(proxy.seen)
    client.upload(repository, blob)
    assert [one.method for one in proxy.seen[before:]] == ["HEAD"]


def test_a_blob_of_another_repository_is_mounted(
    client: Registry, proxy: Proxy, repository: str, make_blob: MakeBlob
) -> None:
    blob = make_blob(1_000)
    client.upload(f"{repository}/a", blob)
    before = len(proxy.seen)
    client.upload(f"{repository}/b", blob, mount_from=[f"{repository}/none", f"{repository}/a"])
    assert [one.method for one in proxy.seen[before:]] == ["HEAD", "POST", "POST"]
    assert sum(one.sent for one in proxy.seen[before:]) == 0
    assert client.blob_size(f"{repository}/b", blob.digest) == 1_000


@pytest.mark.parametrize("refusal", [(403, b'{"errors":[{"code":"DENIED"}]}'), (202, b"")])
def test_a_refused_mount_is_sent(
    client: Registry, proxy: Proxy, repository: str, make_blob: MakeBlob, refusal: tuple[int, bytes]
) -> None:
    blob = make_blob(1_000)
    if refusal[0] == 403:
        proxy.faults = [Fault("POST", "mount=", status=403, body=refusal[1])]
    client.upload(repository, blob, mount_from=["tests/nothing"])
    assert client.blob_size(repository, blob.digest) == 1_000


@pytest.mark.parametrize("at", [0, 1, CHUNK // 2, CHUNK - 1])
@pytest.mark.parametrize("size", [CHUNK, 4 * CHUNK])
def test_a_reset_in_a_body_goes_on_where_the_registry_is(
    client: Registry, proxy: Proxy, time: Time, repository: str, make_blob: MakeBlob, at: int, size: int
) -> None:
    blob = make_blob(size)
    method = "PUT" if size <= CHUNK else "PATCH"
    proxy.faults = [Fault(method, "/uploads/", "reset-request", at=at, keeps=True, skip=0 if size <= CHUNK else 2)]
    client.upload(repository, blob)
    assert client.blob_size(repository, blob.digest) == size
    assert time.slept == [1.0]
    kept = at if size > CHUNK or at > 1 else 0  # `0-0` is what a registry says of none and of one byte
    body = sum(one.sent for one in proxy.seen if one.method in ("PATCH", "PUT"))
    assert body == size + at - kept
    assert proxy.count("POST") == (1 if size > CHUNK or kept else 2)


def test_a_registry_that_forgets_gets_it_from_the_beginning(
    proxy: Proxy, make: MakeRegistry, repository: str, make_blob: MakeBlob
) -> None:
    proxy.faults = [
        Fault("PATCH", "/uploads/", "reset-request", at=10, skip=1),
        Fault("GET", "/uploads/", status=404),
    ]
    blob = make_blob(3 * CHUNK)
    client = make(proxy.host, chunk=CHUNK)
    client.upload(repository, blob)
    assert client.blob_size(repository, blob.digest) == blob.size
    assert proxy.count("POST") == 2


def test_a_reset_before_the_real_registry(
    cncf: Running, proxy: Proxy, make: MakeRegistry, repository: str, make_blob: MakeBlob
) -> None:
    """The CNCF registry itself sees the half request, and what it then says about the upload is what we must bear."""
    proxy.cut_through = True
    proxy.faults = [Fault("PATCH", "/uploads/", "reset-request", at=40_000, skip=1)]
    blob = make_blob(3 * CHUNK)
    client = make(proxy.host, chunk=CHUNK)
    client.upload(repository, blob)
    assert make(cncf.host).blob_size(repository, blob.digest) == blob.size


@pytest.mark.parametrize(
    ("fault", "slept"),
    [
        (Fault("PUT", "digest=", status=500, times=2), [1.0, 2.0]),
        (Fault("PUT", "digest=", status=429, headers={"Retry-After": "20"}), [20.0]),
        (Fault("POST", "/uploads/", status=502), [1.0]),
        (Fault("HEAD", "/blobs/", status=503, headers={"Retry-After": "3"}), [3.0]),
        (Fault("PUT", "digest=", "truncate", at=0), []),
        (Fault("POST", "/uploads/", "reset-request"), [1.0]),
    ],
)
def test_what_passes_is_waited_for(
    client: Registry, proxy: Proxy, time: Time, repository: str, make_blob: MakeBlob, fault: Fault, slept: list[float]
) -> None:
    proxy.faults = [Fault(**vars(fault))]
    blob = make_blob(1_000)
    client.upload(repository, blob)
    assert time.slept == slept
    assert client.blob_size(repository, blob.digest) == 1_000


def test_an_answer_that_is_lost_is_looked_for(
    client: Registry, proxy: Proxy, repository: str, make_blob: MakeBlob
) -> None:
    """The registry has finished the blob, and the connection breaks before it says so."""
    blob = make_blob(1_000)
    proxy.faults = [Fault("PUT", "digest=", "lost-answer")]
    client.upload(repository, blob)
    assert proxy.count("PUT") == 1
    assert client.blob_size(repository, blob.digest) == 1_000


@pytest.mark.parametrize("status", [416, 405, 400])
def test_a_registry_without_chunks_gets_one_piece(
    client: Registry, proxy: Proxy, repository: str, make_blob: MakeBlob, status: int
) -> None:
    proxy.faults = [Fault("PATCH", "/uploads/", status=status, times=99)]
    blob = make_blob(3 * CHUNK)
    client.upload(repository, blob)
    assert client.blob_size(repository, blob.digest) == blob.size


MB = 1 << 20


@pytest.fixture
def plain(proxy: Proxy, make: MakeRegistry) -> Registry:
    """A client that chooses its way itself."""
    return make(proxy.host)


def bodies(proxy: Proxy) -> list[tuple[str, int]]:
    return [(one.method, one.sent) for one in proxy.seen if one.method in ("PATCH", "PUT")]


def test_a_large_blob_goes_in_one_request(plain: Registry, proxy: Proxy, repository: str, make_blob: MakeBlob) -> None:
    plain.upload(repository, make_blob(9 * MB))
    assert bodies(proxy) == [("PUT", 9 * MB)]


@pytest.mark.parametrize("keeps", [True, False])
def test_after_a_break_it_goes_in_chunks(
    plain: Registry, proxy: Proxy, repository: str, make_blob: MakeBlob, keeps: bool
) -> None:
    proxy.faults = [Fault("PUT", "digest=", "reset-request", at=1 * MB, keeps=keeps)]
    plain.upload(repository, make_blob(9 * MB))
    rest = [("PATCH", 4 * MB), ("PUT", 4 * MB)] if keeps else [("PATCH", 4 * MB), ("PATCH", 4 * MB), ("PUT", 1 * MB)]
    assert bodies(proxy) == [("PUT", 1 * MB), *rest]


def test_a_proxy_that_limits_the_size_gets_chunks(
    plain: Registry, proxy: Proxy, time: Time, repository: str, make_blob: MakeBlob
) -> None:
    proxy.faults = [Fault("PUT", "digest=", status=413, body=b"<html>")]
    plain.upload(repository, make_blob(5 * MB))
    assert bodies(proxy) == [("PUT", 5 * MB), ("PATCH", 4 * MB), ("PUT", 1 * MB)]
    assert time.slept == [0.0]


def test_a_registry_that_breaks_and_takes_no_chunks_gets_one_piece_again(
    plain: Registry, proxy: Proxy, repository: str, make_blob: MakeBlob
) -> None:
    proxy.faults = [
        Fault("PUT", "digest=", "reset-request", at=1 * MB),
        Fault("PATCH", "/uploads/", status=416, times=99),
    ]
    plain.upload(repository, make_blob(5 * MB))
    assert bodies(proxy) == [("PUT", 1 * MB), ("PATCH", 4 * MB), ("PUT", 5 * MB)]


def test_a_range_that_stands_still_is_not_believed(
    client: Registry, proxy: Proxy, repository: str, make_blob: MakeBlob
) -> None:
    """As ECR answers: it has every chunk, and says that it has the first."""
    proxy.stale_range = True
    blob = make_blob(4 * CHUNK)
    client.upload(repository, blob)
    assert bodies(proxy) == [("PATCH", CHUNK)] * 3 + [("PUT", CHUNK)]
    assert client.blob_size(repository, blob.digest) == blob.size


def test_cookies_are_not_sent_back(plain: Registry, proxy: Proxy, repository: str, make_blob: MakeBlob) -> None:
    proxy.faults = [Fault("HEAD", "/blobs/", status=404, headers={"Set-Cookie": "sid=1; Path=/"})]
    plain.upload(repository, make_blob(10))
    assert not any("Cookie" in one.headers for one in proxy.seen)


def test_the_registry_may_ask_for_larger_chunks(
    client: Registry, proxy: Proxy, repository: str, make_blob: MakeBlob
) -> None:
    proxy.least = 100_000
    blob = make_blob(250_000)
    client.upload(repository, blob)
    assert [one.sent for one in proxy.seen if one.method == "PATCH"] == [100_000, 100_000]


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (Fault("POST", "/uploads/", status=403, body=b'{"errors":[{"code":"DENIED","message":"no write"}]}'), r"DENIED, no write"),
        (Fault("POST", "/uploads/", status=404, body=b'{"errors":[{"code":"NAME_UNKNOWN"}]}'), "NAME_UNKNOWN"),
        (Fault("PUT", "digest=", status=413, body=b"<html>"), "HTTP 413"),
        (Fault("PUT", "digest=", status=500, times=99), "HTTP 500"),
        (Fault("PUT", "digest=", "reset-request", times=99), "the connection broke"),
        (Fault("PUT", "digest=", "wrong-digest"), "where .* was meant"),
        (Fault("POST", "/uploads/", status=202), "without a `Location`"),
        (Fault("POST", "/uploads/", status=202, headers={"Location": "gopher://x/"}), "without TLS"),
    ],
)  # fmt: skip
def test_what_does_not_pass_is_told(
    client: Registry, proxy: Proxy, repository: str, make_blob: MakeBlob, fault: Fault, says: str
) -> None:
    proxy.faults = [Fault(**vars(fault))]
    with pytest.raises(RegistryError, match=re.compile(says)) as caught:
        client.upload(repository, make_blob(1_000))
    assert caught.value.fix
    assert "?" not in caught.value.what  # addresses of uploads hold the registry's signature


def test_content_that_is_not_its_digest_is_refused(
    client: Registry, proxy: Proxy, repository: str, make_blob: MakeBlob
) -> None:
    blob = make_blob(1_000)
    assert blob.path
    blob.path.write_bytes(b"x" * 1_000)
    with pytest.raises(RegistryError, match="DIGEST_INVALID") as caught:
        client.upload(repository, blob)
    assert "changed" in caught.value.why
    assert client.blob_size(repository, blob.digest) is None


def test_a_file_that_shrinks_or_goes_is_told(client: Registry, repository: str, make_blob: MakeBlob) -> None:
    blob = make_blob(1_000)
    assert blob.path
    blob.path.write_bytes(b"x" * 10)
    with pytest.raises(StorageError, match="became shorter"):
        client.upload(repository, blob)
    blob.path.unlink()
    with pytest.raises(StorageError, match="No such file"):
        client.upload(repository, blob)


def test_a_silent_registry_is_given_up(proxy: Proxy, make: MakeRegistry, repository: str) -> None:
    proxy.faults = [Fault("HEAD", "", "silence", times=9)]
    with pytest.raises(RegistryError, match="no answer in time"):
        make(proxy.host, attempts=2, read_seconds=0.2).upload(repository, Blob.of(b"x", "text/plain"))


def test_a_moving_upload_keeps_its_patience(
    proxy: Proxy, make: MakeRegistry, time: Time, repository: str, make_blob: MakeBlob
) -> None:
    """Ten chunks, each broken twice: more waits than one call would get."""
    proxy.faults = [Fault("PATCH", "/uploads/", status=503, times=2, skip=n) for n in range(10)]
    blob = make_blob(10 * CHUNK)
    client = make(proxy.host, chunk=CHUNK, attempts=3, patience=10.0)
    client.upload(repository, blob)
    assert len(time.slept) == 18  # the last chunk goes with the closing request
    assert client.blob_size(repository, blob.digest) == blob.size


def test_a_download_appears_whole(client: Registry, repository: str, make_blob: MakeBlob, tmp_path: Path) -> None:
    blob = make_blob(300_000)
    client.upload(repository, blob)
    client.download(repository, blob.digest, tmp_path / "out")
    assert blob.path
    assert (tmp_path / "out").read_bytes() == blob.path.read_bytes()


@pytest.mark.parametrize("kind", ["reset-answer", "truncate"])
def test_a_download_goes_on_where_it_broke(
    client: Registry, proxy: Proxy, repository: str, make_blob: MakeBlob, kind: str
) -> None:
    blob = make_blob(300_000)
    client.upload(repository, blob)
    proxy.faults = [Fault("GET", "/blobs/", kind, at=at) for at in (100_000, 0, 70_000)]  # type: ignore[arg-type]
    assert blob.path
    assert b"".join(client.blob(repository, blob.digest)) == blob.path.read_bytes()
    ranges = [one.headers.get("Range") for one in proxy.seen if one.method == "GET" and "/blobs/" in one.path]
    assert ranges[0] is None
    assert len(ranges) == 4
    if kind == "truncate":  # after a reset, what was on the way may be lost
        assert ranges[1:] == ["bytes=65536-", "bytes=65536-", "bytes=131072-"]


def test_a_download_from_a_store_that_ignores_ranges(
    client: Registry, proxy: Proxy, repository: str, make_blob: MakeBlob
) -> None:
    blob = make_blob(300_000)
    client.upload(repository, blob)
    proxy.ranges = False
    proxy.faults = [Fault("GET", "/blobs/", "truncate", at=100_000)]
    assert blob.path
    assert b"".join(client.blob(repository, blob.digest)) == blob.path.read_bytes()


def test_a_damaged_download_leaves_no_file(
    client: Registry, proxy: Proxy, repository: str, make_blob: MakeBlob, tmp_path: Path
) -> None:
    blob = make_blob(1_000)
    client.upload(repository, blob)
    proxy.faults = [Fault("GET", "/blobs/", "corrupt", at=500)]
    with pytest.raises(RegistryError, match="was meant") as caught:
        client.download(repository, blob.digest, tmp_path / "out")
    assert caught.value.code == "DIGEST_MISMATCH"
    assert [path.name for path in tmp_path.iterdir()] == ["blob-1000"]


def test_a_small_blob_has_a_limit(client: Registry, repository: str, make_blob: MakeBlob) -> None:
    blob = make_blob(1_000)
    client.upload(repository, blob)
    with pytest.raises(RegistryError, match="larger than 999 bytes"):
        client.blob_bytes(repository, blob.digest, limit=999)
