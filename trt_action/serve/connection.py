"""What one connection may cost: size of the head, time for head and body, number of connections. uvicorn reads and
writes HTTP; what it leaves open is bounded here, and plain inference requests take a shorter way (`direct`)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from trt_action.serve.app import CONNECTION, App
from trt_action.serve.direct import SPECIAL, Direct

LINGER_SECONDS = 1.0
"""How long an idle connection is kept after the server began to stop: a request that is on its way still gets its
answer (and `Connection: close`)."""

FRAMING = 16
"""Bytes of chunk headers that one byte of a chunked body may bring with it; a body of single bytes brings five."""

PROGRESS_BYTES = 1_000_000
SWEEP_SECONDS = 0.25
NEVER = float("inf")


class Connection(HttpToolsProtocol):
    """uvicorn's connection with limits. `shared` is set once, before the first connection."""

    shared: ClassVar[App]
    refused: ClassVar[int] = 0
    """Connections that were closed for a limit."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._options = self.shared.options
        self.until = time.monotonic() + self._options.read_timeout
        self._head_bytes = 0
        self._in_head = True
        self._progress = 0
        self._framing = 0
        self._last = False
        self._refused = False
        self._unsent = (0, NEVER)
        super().connection_made(transport)
        if len(self.connections) > self._options.max_connections:
            self._close(HTTPStatus.SERVICE_UNAVAILABLE, b"retry-after: 1\r\n")
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if isinstance(self.cycle, Direct):
            self.cycle.lost()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self.until == NEVER:
                self.until = time.monotonic() + self._options.read_timeout
        else:
            self._framing += len(data)
        super().data_received(data)
        most = self._options.max_header_bytes
        if (self._head_bytes if self._in_head else self._framing) > most and not self.transport.is_closing():
            self._close(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)  # extensions of chunks and trailers count as well

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[CONNECTION] = self  # type: ignore[literal-required]
        self._in_head = True
        self.until = time.monotonic() + self._options.read_timeout

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._progress = self._framing = 0
        received, self._head_bytes = self._head_bytes, 0
        if received > self._options.max_header_bytes and self._size_of_head() > self._options.max_header_bytes:
            self._close(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return
        if not self._directly():
            super().on_headers_complete()
        self.headers = []  # what comes as a trailer is no header
        if self._last:
            self.cycle.keep_alive = False

    def _size_of_head(self) -> int:
        """What was received may be the body as well."""
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _directly(self) -> bool:
        """Start the short way, if this request can take it."""
        if self.url not in self.shared.inference or self.parser.get_method() != b"POST":
            return False
        headers = dict(self.headers)
        if headers.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
            return False
        if not SPECIAL.isdisjoint(headers) or not (self.cycle is None or self.cycle.response_complete):
            return False
        keep_alive = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        direct = Direct(self.shared, self, self.url, headers, keep_alive=keep_alive)
        self.cycle = direct  # type: ignore[assignment]
        direct.begin()
        return True

    def on_body(self, body: bytes) -> None:
        if self._refused:
            return
        self._framing -= (FRAMING + 1) * len(body)
        self._progress += len(body)
        if self._progress >= PROGRESS_BYTES:
            self._progress = 0
            self.until = time.monotonic() + self._options.read_timeout
        if isinstance(self.cycle, Direct):
            if not self.cycle.response_complete:
                self.cycle.part(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._refused:
            return
        self.until = NEVER
        self._in_head = True
        if isinstance(self.cycle, Direct):
            if not self.cycle.response_complete:
                self.cycle.complete()
        else:
            super().on_message_complete()

    def answered(self, direct: Direct) -> None:
        """The answer of the short way is out."""
        if direct.disconnected or self.gone():
            return
        if not direct.keep_alive:
            if direct.more_body:
                self._hang_up()
            else:
                self.transport.close()
        self.on_response_complete()

    def shutdown(self) -> None:
        """The server stops: the answer in work is the last one, or the request that is about to arrive."""
        self._last = True
        if self.cycle is None or self.cycle.response_complete:
            self.until = min(self.until, time.monotonic() + LINGER_SECONDS)
        else:
            self.cycle.keep_alive = False

    def gone(self) -> bool:
        """The client has hung up, or was hung up on: nothing may be written any more."""
        return self._refused or self.transport.is_closing()

    def check(self, now: float) -> None:
        """Close if the client has used up its time: for a request, or for reading its answer."""
        waiting = self.cycle is None or self.cycle.response_complete or self.cycle.more_body
        if now > self.until and self._refused:
            self.transport.abort()
        elif now > self.until and waiting:
            self._close(None if self._in_head and not self._head_bytes else HTTPStatus.REQUEST_TIMEOUT)
        unsent = self.transport.get_write_buffer_size()
        if not unsent or unsent != self._unsent[0]:
            self._unsent = (unsent, now + self._options.read_timeout if unsent else NEVER)
        elif now > self._unsent[1]:
            self.transport.abort()

    def _close(self, status: HTTPStatus | None, header: bytes = b"") -> None:
        """Close, with a bare answer if there is one to give."""
        if self.transport.is_closing():
            return
        cycle = self.cycle
        owed = cycle is not None and not cycle.response_complete and (cycle.response_started or not cycle.more_body)
        if status is not None and not owed:  # else it would be taken for the answer to the request before
            Connection.refused += 1
            line = f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode()
            self.transport.write(line + header + b"content-length: 0\r\nconnection: close\r\n\r\n")
        self._hang_up()

    def _hang_up(self) -> None:
        """Say no more, and let the client finish for a moment: closing while it still sends would make its kernel
        throw our answer away (RFC 9112, 9.6)."""
        self._refused = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # what it still says is not sent
            self.cycle.message_event.set()
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.until = time.monotonic() + LINGER_SECONDS
        else:
            self.transport.close()


async def sweep(connections: Iterable[Any]) -> None:
    """Check every connection, for ever. One timer for all of them costs less than one for each."""
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        now = time.monotonic()
        for connection in list(connections):
            connection.check(now)
