"""The body of a request, read and decompressed within limits; and compressed answers."""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from trt_action.serve import refusal

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

THREAD_FROM = 65_536
"""Bytes from which (de)compression leaves the event loop; zlib lets go of the interpreter's lock."""

COMPRESS_FROM = 1_024
"""Answers below this are smaller than what compressing them saves."""

_LEVEL = 1
_NONE = re.compile(rb"q=0(?:\.0*)?")


class Budget:
    """Bytes of requests that this process holds at the same time, together."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0

    def check(self, size: int) -> None:
        """Would `size` bytes more fit in now? Nothing is set aside: an announcement alone must not keep others out.

        Raises:
            RefusedError: it would be more than `most`.
        """
        if self.held + size > self.most:
            raise refusal.overloaded("The requests in flight hold all the memory that is set aside for them.")

    def take(self, size: int) -> None:
        """Raises:
        RefusedError: it would be more than `most`.
        """
        self.check(size)
        self.held += size

    def give(self, size: int) -> None:
        self.held -= size


class Body:
    """Reads one body; what it holds is taken from `budget` until `release`."""

    def __init__(self, budget: Budget, limit: int) -> None:
        self._budget = budget
        self._limit = limit
        self._held = 0

    async def read(self, receive: Receive, headers: Mapping[bytes, bytes]) -> memoryview:
        """The whole body, decompressed.

        Raises:
            RefusedError: too large, no memory left, not what `Content-Encoding` says, or the client went away.
        """
        declared = headers.get(b"content-length")
        if declared is not None:
            self._check(int(declared))  # digits: the parser has checked it
        parts: list[bytes] = []
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise refusal.RefusedError(499, "The client went away.", "cancelled")
            part = message.get("body", b"")
            more = message.get("more_body", False)
            if part:
                parts.append(part)
                self._take(len(part))
        whole = parts[0] if len(parts) == 1 else b"".join(parts)
        encoding = headers.get(b"content-encoding")
        if encoding is None or encoding.lower() == b"identity":
            return memoryview(whole)
        return memoryview(await self._inflated(whole, encoding.lower()))

    def release(self) -> None:
        self._budget.give(self._held)
        self._held = 0

    def _check(self, size: int) -> None:
        if self._held + size > self._limit:
            raise refusal.too_large(f"The body is larger than {self._limit} bytes.")
        self._budget.check(size)

    def _take(self, size: int) -> None:
        self._check(size)
        self._budget.take(size)
        self._held += size

    async def _inflated(self, data: bytes, encoding: bytes) -> bytes:
        """Never more than what the limit and the budget have room for is inflated."""
        if encoding not in (b"gzip", b"deflate"):
            raise refusal.RefusedError(415, "Content-Encoding is neither gzip nor deflate.")
        room = min(self._limit - self._held, self._budget.most - self._budget.held)
        if len(data) < THREAD_FROM:
            whole = inflate(data, encoding == b"gzip", room)
        else:
            whole = await asyncio.to_thread(inflate, data, encoding == b"gzip", room)
        self._take(len(whole))
        return whole


def inflate(data: bytes, gzip: bool, room: int) -> bytes:
    """At most `room` bytes. `deflate` is zlib's format (RFC 9110, 8.4.1.2); the bare one that some send is taken too.

    Raises:
        RefusedError: damaged, cut off, followed by something else, or larger than `room`.
    """
    bare = not gzip and not (len(data) > 1 and data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0)
    inflater = zlib.decompressobj(31 if gzip else -15 if bare else 15)
    try:
        whole = inflater.decompress(data, max(room, 0) + 1)
    except zlib.error:
        raise refusal.bad("The body is not compressed as Content-Encoding says.") from None
    if len(whole) > room:
        raise refusal.too_large("The body is too large when it is decompressed.")
    if not inflater.eof or inflater.unused_data:
        raise refusal.bad("The compressed body is cut off, or something follows it.")
    return whole


async def compressed(
    headers: list[tuple[bytes, bytes]], content: bytes, accepted: bytes
) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Headers and content of an answer, compressed if the client takes it (`Accept-Encoding`) and it is worth it."""
    wanted = {name.strip().lower() for name, _, weight in _weighted(accepted) if not _NONE.fullmatch(weight.strip())}
    encoding = next((name for name in (b"gzip", b"deflate") if name in wanted), None)
    if encoding is None or len(content) < COMPRESS_FROM:
        return headers, content
    if len(content) < THREAD_FROM:
        small = deflate(content, encoding == b"gzip")
    else:
        small = await asyncio.to_thread(deflate, content, encoding == b"gzip")
    kept = [(name, value) for name, value in headers if name != b"content-length"]
    return [*kept, (b"content-encoding", encoding), (b"content-length", b"%d" % len(small))], small


def deflate(content: bytes, gzip: bool) -> bytes:
    deflater = zlib.compressobj(_LEVEL, wbits=31 if gzip else 15)
    return deflater.compress(content) + deflater.flush()


def _weighted(accepted: bytes) -> list[tuple[bytes, bytes, bytes]]:
    return [entry.partition(b";") for entry in accepted[:1_000].split(b",")]
