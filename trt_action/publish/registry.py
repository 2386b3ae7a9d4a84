"""One OCI registry: manifests, blobs, tags, referrers, over a `requests` session.

https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md; works with Docker's registry v2 API as well.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urljoin

import requests

from trt_action import http
from trt_action.errors import RegistryError, SettingsError
from trt_action.inputs import quote
from trt_action.publish import downloads, oci, referrers, transport, uploads
from trt_action.publish.credentials import Credentials
from trt_action.publish.oci import Blob, Descriptor, Fetched
from trt_action.publish.reference import is_digest, is_repository, is_tag
from trt_action.publish.transport import Answer, Ask, Transport

PER_PAGE = 1_000
MAX_PAGES = 1_000
MAX_TAGS_BYTES = 32_000_000


class Registry:
    """Talks to one registry as one login; every request is retried where that can help.

    Args:
        session: connections; its own headers and cookies are left alone.
        host: `ghcr.io`, `localhost:5000`; for an image `Reference.api_host`.
        ca: certificates in PEM form, trusted by `session` beside the usual ones.
        insecure: True: plain http where the host answers it. None: that only on this machine's own addresses.
            False: never.
        patience: seconds that one call may take, waits included; a moving upload begins anew with every chunk.
        read_seconds: without a byte from the registry, until a try is lost.
        chunk: send blobs in requests of so many bytes. None: in one, and in chunks after a break (`uploads.Upload`).
        log: told about each wait.
        sleep, clock, now, jitter: time and chance, passed in for tests.

    Raises (every method):
        RegistryError: refused, not answered in time, or content that is not what its digest says.
        SettingsError: a repository, tag or digest that cannot be one.
    """

    def __init__(
        self,
        session: requests.Session,
        host: str,
        *,
        credentials: Credentials | None = None,
        ca: Path | None = None,
        insecure: bool | None = None,
        patience: float = 300.0,
        read_seconds: float = transport.READ_SECONDS,
        attempts: int = 7,
        chunk: int | None = None,
        log: Callable[[str], None] = lambda _: None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        waits = http.Patience(patience, attempts, sleep, clock, now, jitter, log)
        self._transport = Transport(session, host, credentials, ca, insecure, waits, read_seconds)
        self._chunk = chunk

    def __repr__(self) -> str:
        return f"Registry({self.host!r})"

    @property
    def host(self) -> str:
        return self._transport.host

    def ping(self) -> bool:
        """Ask whether it is a registry that takes this login (`GET /v2/`). True: it wanted to know who we are."""
        self._transport.call(Ask("GET", self._transport.url("/v2/")), (200,))
        return self._transport.login_was_asked

    def manifest(self, repository: str, reference: str) -> Fetched | None:
        """The manifest or index behind a tag or digest, its bytes checked; None: there is none."""
        ask = self._ask("GET", repository, f"manifests/{_checked(reference)}", headers={"Accept": oci.ACCEPT})
        answer = self._transport.call(ask, (200, 404))
        return None if answer.status == 404 else _fetched(self.host, answer, reference)

    def digest(self, repository: str, reference: str) -> str | None:
        """The digest that a tag points to, without its content; None: there is no such tag."""
        ask = self._ask("HEAD", repository, f"manifests/{_checked(reference)}", headers={"Accept": oci.ACCEPT})
        answer = self._transport.call(ask, (200, 404))
        if answer.status == 404:
            return None
        said = answer.headers.get("Docker-Content-Digest", "")
        if is_digest(said):
            return said
        found = self.manifest(repository, reference)
        return found.digest if found else None

    def put_manifest(self, repository: str, reference: str | None, body: bytes, media_type: str) -> str:
        """Store a manifest under a tag, or by its digest alone (`reference` None). Returns its digest."""
        return self._put(repository, reference, body, media_type)[0]

    def blob_size(self, repository: str, digest: str) -> int | None:
        """Bytes of a blob that is there; None: it is not."""
        return uploads.exists(self._transport, _name(repository), _checked_digest(digest), _scopes(repository))

    def blob(self, repository: str, digest: str) -> Iterator[bytes]:
        """The content in pieces, resumed where the connection breaks. Only when the iterator has ended without an
        error is it sure that the pieces are what `digest` says."""
        ask = self._ask("GET", repository, f"blobs/{_checked_digest(digest)}")
        return downloads.pieces(self._transport, ask, digest)

    def blob_bytes(self, repository: str, digest: str, limit: int = oci.MAX_MANIFEST_BYTES) -> bytes:
        """A small blob, whole and checked; more than `limit` bytes are refused."""
        ask = self._ask("GET", repository, f"blobs/{_checked_digest(digest)}")
        return downloads.whole(self._transport, ask, digest, limit)

    def download(self, repository: str, digest: str, path: Path) -> None:
        """A blob into a file, which appears only once it is whole and checked.

        Raises:
            StorageError: the file cannot be written.
        """
        downloads.into_file(self.blob(repository, digest), path)

    def upload(
        self, repository: str, blob: Blob, mount_from: Sequence[str] = (), *, sent: uploads.Sent = lambda _: None
    ) -> Descriptor:
        """Make sure that the repository has the blob: nothing where it is there, else mounted from one of the
        repositories, else sent. `sent` is told how many bytes are there.

        Raises:
            StorageError: the file cannot be read.
        """
        scopes = [f"repository:{_name(repository)}:pull,push"]
        if uploads.exists(self._transport, repository, _checked_digest(blob.digest), scopes) is not None:
            return blob.descriptor()
        sources = [_name(source) for source in mount_from if source != repository]
        return uploads.Upload(self._transport, repository, blob, chunk=self._chunk, sent=sent).run(sources)

    def mount(self, repository: str, digest: str, source: str) -> bool:
        """Take a blob over from another repository of this registry; False: it will not, and it has to be sent."""
        blob = Blob(_checked_digest(digest), 0, "")
        return uploads.Upload(self._transport, _name(repository), blob).mount(_name(source))

    def tags(self, repository: str) -> list[str]:
        """Every tag, in the registry's order. A repository that does not exist is an error (`NAME_UNKNOWN`)."""
        ask = self._ask("GET", repository, "tags/list", params={"n": PER_PAGE})
        found: dict[str, None] = {}
        for answer in self._pages(ask):
            page = oci.parse(answer.content, f"The list of tags of {quote(repository)}").get("tags") or []
            if not isinstance(page, list):
                raise RegistryError(f"{self.host} answers with no list of tags for {quote(repository)}.")
            found.update(dict.fromkeys(tag for tag in page if isinstance(tag, str) and is_tag(tag)))
        return list(found)

    def delete(self, repository: str, digest: str) -> bool:
        """Remove a manifest and all its tags. False: it was not there (any more)."""
        ask = self._ask("DELETE", repository, f"manifests/{_checked_digest(digest)}", "pull,delete")
        return self._transport.call(ask, (200, 202, 204, 404)).status != 404

    def referrers(self, repository: str, digest: str, artifact_type: str | None = None) -> list[Descriptor]:
        """What is attached to a manifest: by the referrers API, else by the tag `sha256-<hex>`."""
        ask = self._ask("GET", repository, f"referrers/{_checked_digest(digest)}")
        found = referrers.listed(self, repository, digest, self._pages(ask, (200, 404, 405)))
        return [one for one in found if artifact_type in (None, one.artifact_type)]

    def attach(
        self,
        repository: str,
        subject: Descriptor,
        artifact_type: str,
        layers: Sequence[Blob],
        annotations: Mapping[str, str] | None = None,
    ) -> Descriptor:
        """Attach an artifact to a manifest. The same arguments again change nothing."""
        self.upload(repository, oci.EMPTY_BLOB)
        for layer in layers:
            self.upload(repository, layer)
        body = oci.manifest(
            oci.EMPTY_BLOB.descriptor(),
            [layer.descriptor() for layer in layers],
            subject=subject,
            artifact_type=artifact_type,
            annotations=annotations,
        )
        digest, answer = self._put(repository, None, body, oci.MANIFEST)
        attached = Descriptor(oci.MANIFEST, digest, len(body), annotations or {}, artifact_type)
        if answer.headers.get("OCI-Subject", "") != subject.digest:
            referrers.record(self, repository, subject.digest, attached, self._transport.patience)
        return attached

    def _put(self, repository: str, reference: str | None, body: bytes, media_type: str) -> tuple[str, Answer]:
        digest = oci.sha256(body)
        place = digest if reference is None else _checked(reference)
        ask = self._ask(
            "PUT", repository, f"manifests/{place}", "pull,push", headers={"Content-Type": media_type}, body=body
        )
        answer = self._transport.call(ask, (200, 201, 202))
        uploads.check_digest(self.host, answer, digest)
        return digest, answer

    def _pages(self, ask: Ask, accept: Sequence[int] = (200,)) -> Iterator[Answer]:
        """Answers, page after page, as long as they name a next one."""
        seen: set[str] = set()
        while ask.url not in seen and len(seen) < MAX_PAGES:
            seen.add(ask.url)
            answer = self._transport.call(ask, accept, limit=MAX_TAGS_BYTES)
            yield answer
            links = requests.utils.parse_header_links(answer.headers.get("Link", "")[:8_192])
            following = next((link["url"] for link in links if link.get("rel") == "next" and link.get("url")), None)
            if following is None:
                return
            target = urljoin(answer.url, following)
            if http.origin(target) != http.origin(answer.url):
                raise RegistryError(f"{self.host} names a next page on another host ({quote(target)}).")
            ask = Ask(ask.method, target, ask.scopes, ask.headers)

    def _ask(
        self,
        method: str,
        repository: str,
        path: str,
        actions: str = "pull",
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str | int] | None = None,
        body: bytes | None = None,
    ) -> Ask:
        url = self._transport.url(f"/v2/{_name(repository)}/{path}")
        return Ask(method, url, _scopes(repository, actions), headers or {}, params or {}, body)


def _fetched(host: str, answer: Answer, reference: str) -> Fetched:
    """Content under a digest must hash to it; content under a tag to what the registry says beside it."""
    expected = reference if is_digest(reference) else answer.headers.get("Docker-Content-Digest", "").strip()
    algorithm = expected.partition(":")[0] if is_digest(expected) else "sha256"
    digest = downloads.hashed(answer.content, algorithm)
    if expected and digest != expected:
        raise uploads.mismatch(host, expected, digest)
    inside = oci.parse(answer.content, f"The manifest {quote(reference)} of {host}").get("mediaType")
    outside = answer.headers.get("Content-Type", "").partition(";")[0].strip()
    media_type = inside if isinstance(inside, str) and inside else outside
    if media_type not in (*oci.MANIFESTS, *oci.INDEXES):
        raise RegistryError(
            f"{host} answers for {quote(reference)} with {quote(media_type or 'no media type')}, not with an image.",
            why="It is an image of a long dead format, or something else under an image's name.",
            fix="Push the image again with a current tool.",
        )
    return Fetched(answer.content, media_type, digest)


def _scopes(repository: str, actions: str = "pull") -> list[str]:
    return [f"repository:{repository}:{actions}"]


def _name(repository: str) -> str:
    if not is_repository(repository):
        raise SettingsError(f"{quote(repository)} is no name of a repository.")
    return repository


def _checked(reference: str) -> str:
    if not is_tag(reference) and not is_digest(reference):
        raise SettingsError(f"{quote(reference)} is neither a tag nor a digest.")
    return reference


def _checked_digest(digest: str) -> str:
    if not is_digest(digest):
        raise SettingsError(f"{quote(digest)} is no digest (`sha256:` and 64 hexadecimal digits).")
    return digest
