"""The ASGI application: every address. Inference requests that need nothing special do not come by here (`direct`)."""

from __future__ import annotations

import asyncio
import hmac
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping
from typing import Any

from trt_action.serve.body import Body, Budget, Receive, compressed
from trt_action.serve.exchange import Exchange
from trt_action.serve.flags import Options
from trt_action.serve.log import Log
from trt_action.serve.refusal import RefusedError
from trt_action.serve.repository import Repository
from trt_action.serve.spans import Spans

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Scope = MutableMapping[str, Any]

OPEN_TO_ALL = frozenset({"/v2/health/live", "/v2/health/ready"})
"""What a kubelet asks without a token."""

CONNECTION = "trt_action.connection"
"""Key of the scope under which `connection.Connection` puts itself."""

_PREFIX = "/v2/models/"
_SUFFIX = "/infer"


class App:
    """What all requests share. An ASGI application for everything that `direct` leaves."""

    def __init__(
        self, repository: Repository, options: Options, log: Log, token: bytes | None, spans: Spans | None = None
    ) -> None:
        from trt_action.serve.routes import routes

        self.repository = repository
        self.options = options
        self.log = log
        self.spans = spans
        self.errors: Counter[str] = Counter()
        """Refused requests by cause, of all models and of none."""
        self.in_flight = 0
        self.draining = False
        """The server is about to end."""
        self.leaving = False
        """Clients are asked to go elsewhere, while new connections are still taken."""
        self.budget = Budget(options.max_inflight_bytes)
        self.inference: dict[bytes, tuple[str, str | None]] = {}
        """Model and version by the path of their inference."""
        self._token = token
        self._tasks: set[asyncio.Task[None]] = set()
        self._routes = routes(self)
        repository.on_change = self._changed
        self.connections: Callable[[], int] = lambda: 0
        self.refused_connections: Callable[[], int] = lambda: 0
        """How many are open, and were closed for a limit; the server knows."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"the server speaks HTTP only, not {scope['type']}")
        exchange = AsgiExchange(self, scope, receive, send)
        try:
            await exchange.run()
        finally:
            exchange.body.release()
            exchange.end()

    def check_token(self, path: str, headers: Mapping[bytes, bytes]) -> None:
        """Raises:
        RefusedError: there is a token, and the request has it not.
        """
        if self._token is None or path in OPEN_TO_ALL:
            return
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._token):
            raise RefusedError(401, "A valid bearer token is needed.", "unauthorized", {"www-authenticate": "Bearer"})

    def check_explicit(self) -> None:
        """Raises:
        RefusedError: models are not loaded and unloaded on request.
        """
        if self.options.model_control_mode != "explicit":
            raise RefusedError(403, "This server does not load or unload on request (--model-control-mode explicit).")

    @property
    def ready(self) -> bool:
        """Every model is loaded, and the server is not about to end."""
        return self.repository.ready and not self.draining

    @property
    def live(self) -> bool:
        """No engine hangs: one that does not come back from a run can only be freed by a new process."""
        now, limit = time.perf_counter_ns(), self.options.hang_timeout
        return not limit or all(model.batcher.longest_run(now) < limit for model in self.repository.models())

    def body(self) -> Body:
        return Body(self.budget, self.options.max_body_bytes)

    async def other(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Every address but inference."""
        await self._routes(scope, receive, send)

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work` beside everything else; it is held until it ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def unforeseen(self, error: Exception) -> RefusedError:
        """A bug of ours: the log gets what the client does not."""
        self.log.say(f"Internal error, please report it: {''.join(traceback.format_exception(error))}")
        return RefusedError(500, "Internal error.", "internal")

    def _changed(self) -> None:
        self.inference = {
            path.encode(): target
            for model in self.repository.models()
            for path, target in (
                (f"{_PREFIX}{model.name}{_SUFFIX}", (model.name, None)),
                (f"{_PREFIX}{model.name}/versions/{model.version}{_SUFFIX}", (model.name, model.version)),
            )
        }


class AsgiExchange(Exchange):
    """One request over ASGI."""

    __slots__ = ("_receive", "_scope", "_send", "_started", "body")

    def __init__(self, app: App, scope: Scope, receive: Receive, send: Send) -> None:
        client = scope["client"][0] if scope.get("client") else "-"
        super().__init__(app, scope["method"], scope["path"], client, dict(scope["headers"]))
        self._scope = scope
        self._receive = receive
        self._send = send
        self._started = False
        self.body = app.body()

    async def run(self) -> None:
        """Answer, whatever happens."""
        path = self.path
        try:
            self.app.check_token(path, self.headers)
            if self.headers.get(b"transfer-encoding", b"chunked").lower() != b"chunked":
                raise RefusedError(
                    501, "The only transfer coding here is `chunked`.", "request", {"connection": "close"}
                )
            if self.method == "POST" and path.startswith(_PREFIX) and path.endswith(_SUFFIX):
                await self._infer(path[len(_PREFIX) : -len(_SUFFIX)])
            else:
                await self.app.other(self._scope, self._receive, self._sent)
        except RefusedError as refused:
            await self._refuse(refused)
        except Exception as error:  # noqa: BLE001 - the boundary to the wire: the client gets 500, the log gets the rest
            await self._refuse(self.app.unforeseen(error))

    async def _infer(self, address: str) -> None:
        """`<model>` or `<model>/versions/<version>`."""
        name, _, version = address.partition("/versions/")
        self.app.repository.get(name, version or None)
        data = await self.body.read(self._receive, self.headers)
        connection = self._scope.get(CONNECTION)
        model = self.ask(name, version or None, data, connection.gone if connection is not None else None)
        if self.call is not None:
            ended = asyncio.get_running_loop().create_future()
            model.infer(self.call, lambda: None if ended.done() else ended.set_result(None))
            await ended
        headers, content = self.reply()
        if accepted := self.headers.get(b"accept-encoding"):
            headers, content = await compressed(headers, content, accepted)
        await self._answer(200, headers, content)

    async def _refuse(self, error: RefusedError) -> None:
        headers, content = self.refused(error)
        if not self._started:  # else half an answer is out: the connection is closed by the server
            await self._answer(error.status, headers, content)

    async def _answer(self, status: int, headers: list[tuple[bytes, bytes]], content: bytes) -> None:
        self.bytes_out = len(content)
        await self._sent({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": content})

    async def _sent(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self._started, self.status = True, message["status"]
            self.more_headers(message["headers"])
        await self._send(message)
