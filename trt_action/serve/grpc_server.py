"""The gRPC side: the same models, queue, limits and counters as over HTTP, on a port of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar

import grpc
from google.protobuf.json_format import ParseDict

from trt_action import __version__
from trt_action.errors import SettingsError
from trt_action.inputs import quote
from trt_action.serve import refusal
from trt_action.serve.app import App
from trt_action.serve.exchange import Exchange
from trt_action.serve.grpc_decode import Message, answer, messages, question
from trt_action.serve.refusal import RefusedError

SERVICE = "inference.GRPCInferenceService"
OPEN_TO_ALL = ("ServerLive", "ServerReady")
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""By status of HTTP (google/rpc/code.proto); anything else is INTERNAL."""

Context = Any
Handler = Callable[[Any, Context], Awaitable[Any]]


def server(app: App) -> grpc.aio.Server:
    """A server that is not yet started, bound to `--grpc-port`.

    Raises:
        SettingsError: the port cannot be listened on, or the TLS files are not usable.
    """
    options = app.options
    made = grpc.aio.server(
        maximum_concurrent_rpcs=options.max_connections,
        options=[
            ("grpc.max_receive_message_length", options.max_body_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_metadata_size", options.max_header_bytes),
            ("grpc.max_connection_idle_ms", int(options.idle_timeout * 1e3)),
            ("grpc.so_reuseport", 0),
        ],
    )
    calls = Calls(app)
    handlers = {name: _handler(app, name, getattr(calls, name), kind) for name, kind in Calls.REQUESTS.items()}
    made.add_generic_rpc_handlers((_Service(app, handlers),))
    host = f"[{options.host}]" if ":" in options.host else options.host
    address = f"{host}:{options.grpc_port}"
    try:
        if options.tls_key:
            made.add_secure_port(address, _credentials(app))
        else:
            made.add_insecure_port(address)
    except RuntimeError:
        raise SettingsError(
            f"Port {options.grpc_port} of {quote(options.host)} cannot be listened on for gRPC.",
            fix="Stop what listens there, or choose another --grpc-port.",
        ) from None
    return made


class _Service(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Finds the handler of a call. One without a valid token gets a handler that refuses before the message is read:
    strangers do not fill the memory."""

    def __init__(self, app: App, handlers: Mapping[str, Any]) -> None:
        self._app = app
        self._handlers = {f"/{SERVICE}/{name}": handler for name, handler in handlers.items()}

    def service(self, handler_call_details: Any) -> Any:
        handler = self._handlers.get(handler_call_details.method)
        if handler is None:
            return None
        try:
            _check_token(self._app, handler_call_details.method, handler_call_details.invocation_metadata)
        except RefusedError:
            return grpc.stream_unary_rpc_method_handler(handler.unary_unary)
        return handler


class Calls:
    """One method per call of the service."""

    REQUESTS: ClassVar[dict[str, Any]] = {
        "ServerLive": messages.ServerLiveRequest,
        "ServerReady": messages.ServerReadyRequest,
        "ModelReady": messages.ModelReadyRequest,
        "ServerMetadata": messages.ServerMetadataRequest,
        "ModelMetadata": messages.ModelMetadataRequest,
        "ModelInfer": messages.ModelInferRequest,
        "ModelConfig": messages.ModelConfigRequest,
        "ModelStatistics": messages.ModelStatisticsRequest,
        "RepositoryIndex": messages.RepositoryIndexRequest,
        "RepositoryModelLoad": messages.RepositoryModelLoadRequest,
        "RepositoryModelUnload": messages.RepositoryModelUnloadRequest,
    }

    def __init__(self, app: App) -> None:
        self._app = app
        self._repository = app.repository

    async def ServerLive(self, _request: Message, _exchange: Exchange, _context: Context) -> Message:  # noqa: N802 - the protocol's name, as all below
        return messages.ServerLiveResponse(live=self._app.live)

    async def ServerReady(self, _request: Message, _exchange: Exchange, _context: Context) -> Message:  # noqa: N802
        return messages.ServerReadyResponse(ready=self._app.ready)

    async def ModelReady(self, request: Message, _exchange: Exchange, _context: Context) -> Message:  # noqa: N802
        try:
            self._repository.get(request.name, request.version or None)
        except RefusedError:
            return messages.ModelReadyResponse(ready=False)
        return messages.ModelReadyResponse(ready=True)

    async def ServerMetadata(self, _request: Message, _exchange: Exchange, _context: Context) -> Message:  # noqa: N802
        return messages.ServerMetadataResponse(
            name="trt-action",
            version=__version__,
            extensions=["model_configuration", "model_repository", "schedule_policy", "statistics"],
        )

    async def ModelMetadata(self, request: Message, _exchange: Exchange, _context: Context) -> Message:  # noqa: N802
        found = self._repository.get(request.name, request.version or None).metadata()
        tensor = messages.ModelMetadataResponse.TensorMetadata
        return messages.ModelMetadataResponse(
            name=found["name"],
            versions=found["versions"],
            platform=found["platform"],
            inputs=[tensor(**one) for one in found["inputs"]],
            outputs=[tensor(**one) for one in found["outputs"]],
        )

    async def ModelInfer(self, request: Message, exchange: Exchange, context: Context) -> Message:  # noqa: N802
        budget = self._app.budget
        size = request.ByteSize()
        budget.take(size)
        try:
            model = self._repository.get(request.model_name, request.model_version or None)
            exchange.model, exchange.bytes_in = model, size
            asked = question(request, model.inputs, model.outputs)
            call = exchange.start(model, asked, context.cancelled, context.time_remaining())
            ended = asyncio.get_running_loop().create_future()
            model.infer(call, lambda: None if ended.done() else ended.set_result(None))
            await ended
            if call.error is not None:
                raise call.error
            response = answer(asked, call.outputs, model.outputs, model.name, model.version)
            exchange.bytes_out = response.ByteSize()
            return response
        finally:
            budget.give(size)

    async def ModelConfig(self, request: Message, _exchange: Exchange, _context: Context) -> Message:  # noqa: N802
        found = self._repository.get(request.name, request.version or None)
        return messages.ModelConfigResponse(config=ParseDict(found.config(), messages.ModelConfig()))

    async def ModelStatistics(self, request: Message, _exchange: Exchange, _context: Context) -> Message:  # noqa: N802
        get, name = self._repository.get, request.name
        models = [get(name, request.version or None)] if name else self._repository.models()
        found = [model.stats.as_json(model.name, model.version) for model in models]
        return ParseDict({"model_stats": found}, messages.ModelStatisticsResponse())

    async def RepositoryIndex(self, request: Message, _exchange: Exchange, _context: Context) -> Message:  # noqa: N802
        entry = messages.RepositoryIndexResponse.ModelIndex
        found = self._repository.index(ready_only=request.ready)
        return messages.RepositoryIndexResponse(models=[entry(**one) for one in found])

    async def RepositoryModelLoad(self, request: Message, _exchange: Exchange, _context: Context) -> Message:  # noqa: N802
        self._app.check_explicit()
        if any(key == "config" or key.startswith("file:") for key in request.parameters):
            raise refusal.bad("A model is loaded as it was built and measured: no `config` and no files in a request.")
        await self._repository.load(request.model_name)
        return messages.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(self, request: Message, _exchange: Exchange, _context: Context) -> Message:  # noqa: N802
        self._app.check_explicit()
        await self._repository.unload(request.model_name)
        return messages.RepositoryModelUnloadResponse()


def _handler(app: App, name: str, call: Callable[..., Awaitable[Any]], kind: Any) -> Any:
    """Authorization, refusals, the access log and the trace around one call."""
    path = f"/{SERVICE}/{name}"

    async def handle(request: Message, context: Context) -> Message:
        headers = _headers(context.invocation_metadata())
        exchange = Exchange(app, "GRPC", path, context.peer().rpartition(":")[0], headers)
        try:
            _check_token(app, path, context.invocation_metadata())
            response = await call(request, exchange, context)
            exchange.status = 200
            if exchange.trace is not None:
                context.set_trailing_metadata((("traceparent", exchange.trace.outgoing().decode()),))
            return response  # noqa: TRY300 - `finally` is for both ways
        except Exception as error:  # noqa: BLE001 - the boundary to the wire: the client gets INTERNAL, the log the rest
            refused = error if isinstance(error, RefusedError) else app.unforeseen(error)
            exchange.refused(refused)
            exchange.status = refused.status
        finally:
            exchange.end()
        return await context.abort(CODES.get(refused.status, grpc.StatusCode.INTERNAL), refused.message)

    return grpc.unary_unary_rpc_method_handler(
        handle, request_deserializer=kind.FromString, response_serializer=_serialized
    )


def _check_token(app: App, path: str, metadata: Any) -> None:
    app.check_token("/v2/health/live" if path.rpartition("/")[2] in OPEN_TO_ALL else "", _headers(metadata))


def _headers(metadata: Any) -> dict[bytes, bytes]:
    return {key.encode(): _bytes(value) for key, value in metadata or ()}


def _serialized(message: Message) -> bytes:
    return bytes(message.SerializeToString())


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def _credentials(app: App) -> Any:
    from pathlib import Path

    options = app.options
    try:
        key, chain = Path(options.tls_key).read_bytes(), Path(options.tls_certificate).read_bytes()
    except OSError as error:
        raise SettingsError(f"A TLS file cannot be read: {error}.", fix="Correct the paths.") from None
    return grpc.ssl_server_credentials([(key, chain)])
