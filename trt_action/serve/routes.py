"""Every address but inference: health, metadata, statistics, the repository, metrics. Open Inference Protocol v2 with
Triton's extensions for configuration, statistics and the repository."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from trt_action import __version__
from trt_action.serve import refusal
from trt_action.serve.metrics import CONTENT_TYPE, Metrics

if TYPE_CHECKING:
    from trt_action.serve.app import App

EXTENSIONS = ["binary_tensor_data", "binary_tensor_data(raw)", "model_configuration", "model_repository", "schedule_policy",
              "statistics"]  # fmt: skip

Endpoint = Callable[[Request], Awaitable[Response]]


def routes(app: App) -> Router:
    """All routes; what goes wrong in them is raised as `RefusedError`, for `app` to answer."""
    model = "/v2/models/{model}"
    version = model + "/versions/{version}"
    pages = _Pages(app)
    table: list[tuple[str, str, Endpoint]] = [
        ("GET", "/v2", pages.server),
        ("GET", "/v2/", pages.server),
        ("GET", "/v2/health/live", pages.live),
        ("GET", "/v2/health/ready", pages.ready),
        ("GET", "/v2/models/stats", pages.all_stats),
        ("GET", "/metrics", pages.metrics),
        ("POST", "/v2/repository/index", pages.index),
        ("POST", "/v2/repository/models/{model}/load", pages.load),
        ("POST", "/v2/repository/models/{model}/unload", pages.unload),
    ]
    for base in (model, version):
        table += [
            ("GET", base, pages.metadata),
            ("GET", base + "/ready", pages.model_ready),
            ("GET", base + "/config", pages.config),
            ("GET", base + "/stats", pages.stats),
        ]
    listed = [Route(path, page, methods=[method]) for method, path, page in table]
    return Router(listed, redirect_slashes=False, default=_nothing)


class _Pages:
    def __init__(self, app: App) -> None:
        self._app = app
        self._repository = app.repository
        self._metrics = Metrics(app)

    async def server(self, _request: Request) -> Response:
        return _json({"name": "trt-action", "version": __version__, "extensions": EXTENSIONS})

    async def live(self, _request: Request) -> Response:
        return Response(status_code=200 if self._app.live else 503)

    async def ready(self, _request: Request) -> Response:
        return Response(status_code=200 if self._app.ready else 503)

    async def model_ready(self, request: Request) -> Response:
        self._model(request)
        return Response(status_code=200)

    async def metadata(self, request: Request) -> Response:
        return _json(self._model(request).metadata())

    async def config(self, request: Request) -> Response:
        return _json(self._model(request).config())

    async def stats(self, request: Request) -> Response:
        model = self._model(request)
        return _json({"model_stats": [model.stats.as_json(model.name, model.version)]})

    async def all_stats(self, _request: Request) -> Response:
        models = self._repository.models()
        return _json({"model_stats": [model.stats.as_json(model.name, model.version) for model in models]})

    async def metrics(self, _request: Request) -> Response:
        return Response(self._metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def index(self, request: Request) -> Response:
        asked = await self._asked(request)
        return _json(self._repository.index(ready_only=asked.get("ready") is True))

    async def load(self, request: Request) -> Response:
        self._app.check_explicit()
        parameters = (await self._asked(request)).get("parameters")
        if isinstance(parameters, dict) and any(key == "config" or key.startswith("file:") for key in parameters):
            raise refusal.bad("A model is loaded as it was built and measured: no `config` and no files in a request.")
        await self._repository.load(request.path_params["model"])
        return Response(status_code=200)

    async def unload(self, request: Request) -> Response:
        self._app.check_explicit()
        await self._asked(request)
        await self._repository.unload(request.path_params["model"])
        return Response(status_code=200)

    def _model(self, request: Request) -> Any:
        return self._repository.get(request.path_params["model"], request.path_params.get("version"))

    async def _asked(self, request: Request) -> dict[str, Any]:
        body = self._app.body()
        try:
            data = await body.read(request.receive, dict(request.scope["headers"]))
            if not data:
                return {}
            if len(data) > self._app.options.max_json_bytes:
                raise refusal.too_large("The body is too large.")
            document = orjson.loads(data)
        except orjson.JSONDecodeError:
            raise refusal.bad("The body is not JSON.") from None
        finally:
            body.release()
        if not isinstance(document, dict):
            raise refusal.bad("The body is not a JSON object.")
        return document


async def _nothing(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise refusal.not_found("There is nothing at this address.")


def _json(document: Any) -> Response:
    return Response(orjson.dumps(document), media_type="application/json")
