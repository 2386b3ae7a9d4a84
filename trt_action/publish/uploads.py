"""Sending one blob: mounted where it is already, else streamed, and resumed where the connection broke.

https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#pushing-blobs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from trt_action import http
from trt_action.errors import RegistryError, StorageError
from trt_action.inputs import quote
from trt_action.publish.oci import Blob, Descriptor
from trt_action.publish.transport import PIECE, Answer, Ask, Transport

CHUNK = 4 * PIECE
"""Bytes of one request after a break: as much as GHCR takes of a chunked upload, and what another break costs at most."""

Sent = Callable[[int], None]
"""Told how many bytes of the blob the registry has."""

_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,18})")
_NO_CHUNKS = (400, 404, 405, 411, 413, 416, 501)
"""Google's registry takes no chunks, ECR none below 5 MB, GHCR none above 4 MiB: each says it in its own way."""


class Part:
    """Bytes `start` to `stop` of a blob, read anew every time it is sent."""

    def __init__(self, blob: Blob, start: int, stop: int) -> None:
        self._blob, self._start, self._stop = blob, start, stop

    def __len__(self) -> int:
        return self._stop - self._start

    def __iter__(self) -> Iterator[bytes]:
        if self._blob.path is None:
            yield self._blob.data[self._start : self._stop]
            return
        left = len(self)
        try:
            with self._blob.path.open("rb", buffering=0) as file:
                file.seek(self._start)
                while left and (piece := file.read(min(PIECE, left))):
                    left -= len(piece)
                    yield piece
        except OSError as error:
            raise _unreadable(self._blob.path, error.strerror or str(error)) from None
        if left:
            raise _unreadable(self._blob.path, "it became shorter while it was sent")


class Upload:
    """One blob on its way into one repository.

    It goes in one request, which every registry takes. After a break, and where a proxy limits the size, it goes in
    chunks; where the registry takes none, in one request again.

    Args:
        chunk: bytes of one request from the beginning on; None: as above.
    """

    def __init__(
        self,
        transport: Transport,
        repository: str,
        blob: Blob,
        *,
        chunk: int | None = None,
        sent: Sent = lambda _: None,
    ) -> None:
        self._transport, self._repository, self._blob = transport, repository, blob
        self._chunk, self._sent = chunk, sent
        self._least, self._refuses_chunks = 0, False
        self._location, self._offset = "", 0
        self._scopes: list[str] = [f"repository:{repository}:pull,push"]

    def run(self, mount_from: Sequence[str] = ()) -> Descriptor:
        """Mount it from one of the repositories, or send it.

        Raises:
            RegistryError: refused, not answered in time, or the digests do not match.
            StorageError: the file cannot be read.
        """
        for source in mount_from:
            if self.mount(source):
                return self._blob.descriptor()
        if not self._location:
            self._begin()
        tries = self._transport.patience.tries()
        best = 0
        while True:
            ask, answer = self._send()
            if answer is None:
                self._sent(self._blob.size)
                return self._blob.descriptor()
            again = self._transport.patience.tries() if self._offset > best else tries  # it moves: patience begins anew
            best, tries = max(best, self._offset), again
            tries.postpone()
            wait = 0.0 if self._changed_way(ask, answer) else self._transport.wait(answer, tries.number)
            if not tries.again(wait, self._transport.said(answer), ask.words()):
                raise self._transport.refused(ask, answer)
            if self._resume():
                return self._blob.descriptor()

    def mount(self, source: str) -> bool:
        """Whether the registry took it from `source`; where it did not, it has begun an upload instead."""
        ask = Ask(
            "POST",
            self._transport.url(f"/v2/{self._repository}/blobs/uploads/"),
            [*self._scopes, f"repository:{source}:pull"],
            params={"mount": self._blob.digest, "from": source},
            body=b"",
        )
        answer = self._transport.call(ask, (201, 202, 401, 403, 404, 405))
        if answer.status == 202:
            self._start(answer)
        return answer.status == 201

    def _begin(self) -> None:
        url = self._transport.url(f"/v2/{self._repository}/blobs/uploads/")
        self._start(self._transport.call(Ask("POST", url, self._scopes, body=b""), (202,)))

    def _start(self, answer: Answer) -> None:
        self._location, self._offset = self._transport.follow(answer), 0
        least = answer.headers.get("OCI-Chunk-Min-Length", "")
        if least.isascii() and least.isdigit() and len(least) < 12:
            self._least = int(least)

    def _send(self) -> tuple[Ask, Answer | http.Lost | None]:
        """Everything that is left. The last request, and its answer where it failed. The last chunk goes with the
        closing request: ECR wants it so."""
        size = self._blob.size
        chunk = size if self._chunk is None or self._refuses_chunks else max(1, self._chunk, self._least)
        while size - self._offset > chunk:
            stop = self._offset + chunk
            ask = self._ask("PATCH", stop)
            answer = self._transport.once(ask)
            if isinstance(answer, http.Lost) or answer.status not in (201, 202, 204):
                return ask, answer
            self._location = self._transport.follow(answer)
            self._offset = stop  # whatever `Range` says: ECR's stands still
            self._sent(stop)
        ask = self._ask("PUT", size, {"digest": self._blob.digest})
        answer = self._transport.once(ask)
        if isinstance(answer, http.Lost) or answer.status not in (201, 204):
            return ask, answer
        check_digest(self._transport.host, answer, self._blob.digest)
        return ask, None

    def _ask(self, method: str, stop: int, params: Mapping[str, str] | None = None) -> Ask:
        headers = {"Content-Type": "application/octet-stream"}
        if method == "PATCH" or self._offset:
            headers["Content-Range"] = f"{self._offset}-{stop - 1}"
        body = Part(self._blob, self._offset, stop) if stop > self._offset else b""
        return Ask(method, self._location, self._scopes, headers, params or {}, body, slow=True)

    def _changed_way(self, ask: Ask, answer: Answer | http.Lost) -> bool:
        """Whether there is another way to send it, after this failure."""
        chunked = ask.method == "PATCH" or self._offset > 0
        if isinstance(answer, Answer) and answer.status in _NO_CHUNKS and chunked and not self._refuses_chunks:
            self._refuses_chunks, self._location = True, ""
            return True
        too_large = isinstance(answer, Answer) and answer.status == 413 and not self._refuses_chunks
        broken = isinstance(answer, http.Lost) and not answer.final
        if self._chunk is None and (too_large or broken):
            self._chunk = CHUNK
            return too_large
        return False

    def _resume(self) -> bool:
        """After a failure: go on where the registry is, or from the beginning. True: it has the blob after all."""
        if exists(self._transport, self._repository, self._blob.digest, self._scopes) is not None:
            return True
        if self._location:
            answer = self._transport.once(Ask("GET", self._location, self._scopes))
            if isinstance(answer, Answer) and answer.status == 204 and (taken := self._taken(answer)):
                if answer.headers.get("Location"):
                    self._location = self._transport.follow(answer)
                self._offset = taken
                return False
        self._begin()
        return False

    def _taken(self, answer: Answer) -> int:
        """How many bytes the registry says it has. `0-0` is what it says of none, and of one byte: taken as none."""
        found = _RANGE.fullmatch(answer.headers.get("Range", "").strip())
        last = int(found[1]) if found else 0
        return last + 1 if 0 < last < self._blob.size else 0


def exists(transport: Transport, repository: str, digest: str, scopes: Sequence[str]) -> int | None:
    """The size in bytes of a blob that the repository has; None if it has not.

    Raises:
        RegistryError: refused, or not answered in time.
    """
    ask = Ask("HEAD", transport.url(f"/v2/{repository}/blobs/{digest}"), scopes)
    answer = transport.call(ask, (200, 404))
    if answer.status == 404:
        return None
    check_digest(transport.host, answer, digest)
    length = answer.headers.get("Content-Length", "")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 19 else 0


def check_digest(host: str, answer: Answer, digest: str) -> None:
    """What the registry says it holds must be what was meant.

    Raises:
        RegistryError: it is something else.
    """
    said = answer.headers.get("Docker-Content-Digest", digest).strip()
    if said != digest and said.partition(":")[0] == digest.partition(":")[0]:
        raise mismatch(host, digest, said)


def mismatch(host: str, digest: str, found: str) -> RegistryError:
    """The error for content that is not what its digest says."""
    return RegistryError(
        f"{host} has {quote(found)} where {quote(digest)} was meant.",
        why="The content was damaged on the way or in the registry's storage, or somebody changed it.",
        fix="Run it again; if it stays, do not use this image: ask whoever runs the registry.",
        code="DIGEST_MISMATCH",
    )


def _unreadable(path: Path, why: str) -> StorageError:
    return StorageError(
        f"{quote(path)} cannot be uploaded: {why}.", fix="Leave the file alone until the run has ended."
    )
