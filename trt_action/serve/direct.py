"""The short way of an inference request: from the connection into the queue and from the engine to the connection, by
callbacks. No task, no future, no ASGI messages: they would cost more than the rest of the request (docs/serving.md).

A `Direct` stands where uvicorn's connection has its `RequestResponseCycle`, and has what the connection uses of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING

from trt_action.serve.body import COMPRESS_FROM, compressed
from trt_action.serve.encode import Headers
from trt_action.serve.exchange import Exchange
from trt_action.serve.refusal import RefusedError, too_large

if TYPE_CHECKING:
    from trt_action.serve.app import App
    from trt_action.serve.connection import Connection

SPECIAL = frozenset({b"content-encoding", b"expect", b"upgrade"})
"""A request with one of these headers goes over ASGI."""

_STATUS = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode()
    for status in HTTPStatus
    if status.value >= 200
} | {499: b"HTTP/1.1 499 Client Closed Request\r\n"}


class _NoEvent:
    """Nobody waits for the parts of the body."""

    def set(self) -> None: ...


class Direct(Exchange):
    """One inference request of a connection."""

    __slots__ = (
        "_connection", "_held", "_parts", "_target", "disconnected", "keep_alive", "more_body", "response_complete",
        "response_started",
    )  # fmt: skip

    message_event = _NoEvent()

    def __init__(
        self, app: App, connection: Connection, path: bytes, headers: Mapping[bytes, bytes], *, keep_alive: bool
    ) -> None:
        client = connection.client[0] if connection.client else "-"
        super().__init__(app, "POST", path.decode("ascii"), client, headers)
        self._connection = connection
        self._target = app.inference[path]
        self._parts: list[bytes] = []
        self._held = 0
        self.keep_alive = keep_alive
        self.more_body = True
        self.disconnected = self.response_started = self.response_complete = False

    def begin(self) -> None:
        """The headers are there: refuse at once what need not be read."""
        try:
            self.app.check_token(self.path, self.headers)
            if (declared := self.headers.get(b"content-length")) is not None:
                self._check(int(declared))
        except RefusedError as error:
            self.keep_alive = False  # the body is not read
            self._refuse(error)

    def part(self, data: bytes) -> None:
        """A part of the body."""
        try:
            self._check(len(data))
            self.app.budget.take(len(data))
            self._held += len(data)
            self._parts.append(data)
        except RefusedError as error:
            self.keep_alive = False
            self._refuse(error)

    def complete(self) -> None:
        """The body is whole: into the queue."""
        self.more_body = False
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts = []
        try:
            model = self.ask(*self._target, memoryview(data), self._connection.gone)
            if self.call is not None:
                model.infer(self.call, self._computed, alone=len(self._connection.connections) == 1)
        except RefusedError as error:
            self._refuse(error)
        except Exception as error:  # noqa: BLE001 - the boundary to the wire: the client gets 500, the log gets the rest
            self._refuse(self.app.unforeseen(error))

    def lost(self) -> None:
        """The connection is gone. A call in the queue or in an engine still comes back by itself."""
        if self.call is None and not self.response_complete:
            self.cause = "cancelled"
            self.app.errors["cancelled"] += 1
            self._done()

    def _computed(self) -> None:
        try:
            headers, content = self.reply()
        except RefusedError as error:
            self._refuse(error)
            return
        except Exception as error:  # noqa: BLE001 - as above
            self._refuse(self.app.unforeseen(error))
            return
        accepted = self.headers.get(b"accept-encoding")
        if accepted is not None and len(content) >= COMPRESS_FROM:
            self.app.background(self._compressed(headers, content, accepted))
        else:
            self._answer(200, headers, content)

    async def _compressed(self, headers: Headers, content: bytes, accepted: bytes) -> None:
        self._answer(200, *await compressed(headers, content, accepted))

    def _refuse(self, error: RefusedError) -> None:
        headers, content = self.refused(error)
        if not self.keep_alive and b"connection" not in dict(headers):
            headers.append((b"connection", b"close"))
        self._answer(error.status, headers, content)

    def _answer(self, status: int, headers: Headers, content: bytes) -> None:
        """Head and body in one piece, as uvicorn would send them."""
        connection = self._connection
        self.more_headers(headers)
        self.status, self.bytes_out = status, len(content)
        if not self.disconnected and not connection.gone():
            if (b"connection", b"close") in headers:
                self.keep_alive = False
            elif not self.keep_alive:
                headers.append((b"connection", b"close"))
            head = [_STATUS[status]]
            for name, value in (*connection.server_state.default_headers, *headers):
                head += (name, b": ", value, b"\r\n")
            head.append(b"\r\n")
            connection.transport.writelines((b"".join(head), content))
        self._done()

    def _done(self) -> None:
        self.response_started = self.response_complete = True
        self.app.budget.give(self._held)
        self._held = 0
        self.end()
        self._connection.answered(self)

    def _check(self, size: int) -> None:
        limit = self.app.options.max_body_bytes
        if self._held + size > limit:
            raise too_large(f"The body is larger than {limit} bytes.")
        self.app.budget.check(size)
