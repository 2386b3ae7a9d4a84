"""HTTP: who may ask, what for, and how the answer is counted. Inference has a path of its own through this file; every
other address is a route of Starlette (`routes`)."""

from __future__ import annotations

import hmac
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson

from trt_action.serve import refusal, trace
from trt_action.serve.body import Body, Budget, Receive, compressed
from trt_action.serve.decode import question
from trt_action.serve.encode import JSON, Headers, answer
from trt_action.serve.flags import Options
from trt_action.serve.log import Log
from trt_action.serve.refusal import RefusedError
from trt_action.serve.repository import Repository

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Scope = MutableMapping[str, Any]

OPEN_TO_ALL = frozenset({"/v2/health/live", "/v2/health/ready"})
"""What a kubelet asks without a token."""

CONNECTION = "trt_action.connection"
"""Key of the scope under which `connection.Connection` puts itself."""

_PREFIX = "/v2/models/"
_SUFFIX = "/infer"


class App:
    """The ASGI application."""

    def __init__(self, repository: Repository, options: Options, log: Log, token: bytes | None) -> None:
        from trt_action.serve.routes import routes

        self.repository = repository
        self.options = options
        self.errors: Counter[str] = Counter()
        """Refused requests by cause, of all models and of none."""
        self.in_flight = 0
        self.draining = False
        self._log = log
        self._token = token
        self._budget = Budget(options.max_inflight_bytes)
        self._routes = routes(self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"the server speaks HTTP only, not {scope['type']}")
        exchange = Exchange(self, scope, receive, send)
        self.in_flight += 1
        try:
            await exchange.run()
        finally:
            self.in_flight -= 1
            exchange.body.release()
            self._log.request(exchange.logged())

    def authorized(self, path: str, headers: dict[bytes, bytes]) -> bool:
        if self._token is None or path in OPEN_TO_ALL:
            return True
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), self._token)

    def body(self) -> Body:
        return Body(self._budget, self.options.max_body_bytes)

    async def other(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Every address but inference."""
        await self._routes(scope, receive, send)

    def unforeseen(self, error: Exception) -> None:
        """A bug of ours: the log gets what the client does not."""
        self._log.say(f"Internal error, please report it: {''.join(traceback.format_exception(error))}")


class Exchange:
    """One request and its answer."""

    __slots__ = (
        "_app", "_headers", "_receive", "_scope", "_send", "_trace", "arrived", "batch", "body", "bytes_in", "bytes_out",
        "cause", "compute_ns", "model", "queue_ns", "started", "status", "version",
    )  # fmt: skip

    def __init__(self, app: App, scope: Scope, receive: Receive, send: Send) -> None:
        self.arrived = time.perf_counter_ns()
        self._app = app
        self._scope = scope
        self._receive = receive
        self._send = send
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self._trace = trace.incoming(self._headers.get(b"traceparent"))
        self.body = app.body()
        self.status = 0
        self.started = False
        self.cause = ""
        self.model = self.version = ""
        self.bytes_in = self.bytes_out = 0
        self.queue_ns = self.compute_ns = self.batch = 0

    async def run(self) -> None:
        """Answer, whatever happens."""
        scope, path = self._scope, self._scope["path"]
        try:
            if not self._app.authorized(path, self._headers):
                headers = {"www-authenticate": "Bearer"}
                raise RefusedError(401, "A valid bearer token is needed.", "unauthorized", headers)
            if scope["method"] == "POST" and path.startswith(_PREFIX) and path.endswith(_SUFFIX):
                await self._infer(path[len(_PREFIX) : -len(_SUFFIX)])
            else:
                await self._app.other(scope, self._receive, self._other_sent)
        except RefusedError as refused:
            await self._refuse(refused)
        except Exception as error:  # noqa: BLE001 - the boundary to the wire: the client gets 500, the log gets the rest
            self._app.unforeseen(error)
            await self._refuse(RefusedError(500, "Internal error.", "internal"))

    async def _infer(self, address: str) -> None:
        """`<model>` or `<model>/versions/<version>`. The model is taken after the body is there, and held from then on:
        a swap meanwhile is no matter."""
        app, options = self._app, self._app.options
        name, _, version = address.partition("/versions/")
        app.repository.get(name, version or None)
        data = await self.body.read(self._receive, self._headers)
        self.bytes_in = len(data)
        model = app.repository.get(name, version or None)
        self.model, self.version = name, model.version
        connection = self._scope.get(CONNECTION)
        try:
            asked = question(data, self._json_bytes(len(data)), model.inputs, model.outputs)
            timeout = min(options.request_timeout, (asked.timeout_us or 1e15) / 1e6)
            call = model.call(
                asked.feeds, arrived=self.arrived, timeout=timeout, gone=connection.gone if connection else None
            )
            await model.infer(call, alone=connection is not None and connection.is_only_one())
            self.queue_ns, self.compute_ns, self.batch = (
                call.started - call.queued,
                call.computed - call.merged,
                call.batch,
            )
            headers, content = answer(asked, call.outputs, model.outputs, model.name, model.version)
        except RefusedError as refused:
            model.stats.failed(refused.cause, time.perf_counter_ns() - self.arrived)
            raise
        if accepted := self._headers.get(b"accept-encoding"):
            headers, content = await compressed(headers, content, accepted)
        model.stats.answered(call, time.perf_counter_ns())
        await self._answer(200, headers, content)

    def _json_bytes(self, size: int) -> int | None:
        """`Inference-Header-Content-Length`, if the request has one."""
        text = self._headers.get(b"inference-header-content-length")
        if text is not None and (not text.isdigit() or len(text) > 18):
            raise refusal.bad("Inference-Header-Content-Length is not a number.")
        found = int(text) if text is not None else None
        if (size if found is None else found) > self._app.options.max_json_bytes:
            raise refusal.too_large(
                f"The JSON is larger than {self._app.options.max_json_bytes} bytes; send tensors as binary data."
            )
        return found

    async def _refuse(self, refused: RefusedError) -> None:
        self.cause = refused.cause
        self._app.errors[refused.cause] += 1
        if self.started:
            return  # half an answer is out: the connection is closed by the server
        content = orjson.dumps({"error": refused.message})
        headers = [(name.encode(), value.encode()) for name, value in refused.headers.items()]
        await self._answer(refused.status, [*JSON, (b"content-length", b"%d" % len(content)), *headers], content)

    async def _answer(self, status: int, headers: Headers, content: bytes) -> None:
        self.bytes_out = len(content)
        await self._other_sent({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": content})

    async def _other_sent(self, message: MutableMapping[str, Any]) -> None:
        """What every answer gets on its way out."""
        if message["type"] == "http.response.start":
            self.started, self.status = True, message["status"]
            if self._trace is not None:
                message["headers"].append((b"traceparent", self._trace.outgoing()))
            if self._app.draining:
                message["headers"].append((b"connection", b"close"))
        await self._send(message)

    def logged(self) -> dict[str, Any]:
        scope = self._scope
        fields: dict[str, Any] = {
            "client": scope["client"][0] if scope.get("client") else "-",
            "method": scope["method"],
            "path": scope["path"][:500],
            "status": self.status,
            "ms": round((time.perf_counter_ns() - self.arrived) / 1e6, 3),
        }
        if self.model:
            fields |= {
                "model": self.model,
                "version": self.version,
                "bytes_in": self.bytes_in,
                "bytes_out": self.bytes_out,
                "queue_ms": round(self.queue_ns / 1e6, 3),
                "compute_ms": round(self.compute_ns / 1e6, 3),
                "batch": self.batch,
            }
        if self.cause:
            fields["cause"] = self.cause
        if self._trace is not None:
            fields |= {"trace_id": self._trace.trace_id, "span_id": self._trace.span_id}
        return fields
