"""OpenTelemetry, where it is installed and configured: one span per request, in the caller's trace.

It is on when `OTEL_EXPORTER_OTLP_ENDPOINT` (or `…_TRACES_ENDPOINT`) is set; what else the SDK reads from the environment
(`OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER`, headers of the exporter, …) holds as everywhere.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trt_action import __version__
from trt_action.errors import BackendUnavailableError

if TYPE_CHECKING:
    from trt_action.serve.exchange import Exchange

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
SHUTDOWN_MS = 3_000


def spans(env: Mapping[str, str]) -> Spans | None:
    """What records spans, or None if nobody asks for them.

    Raises:
        BackendUnavailableError: they are asked for, and the library is not installed.
    """
    if not any(env.get(name) for name in ENDPOINTS) or env.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    try:
        return Spans()
    except ImportError as error:
        raise BackendUnavailableError(
            f"`{ENDPOINTS[1]}` is set, and OpenTelemetry is not in this Python environment.",
            why=" ".join(str(error).split())[:300],
            fix="Install it with `pip install 'trt-action[otel]'` for the same Python, or unset the variable.",
        ) from None


class Spans:
    """Makes a span of a request that has ended; sending happens in a thread of the SDK."""

    def __init__(self) -> None:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self._trace = trace
        self._ids = _ids()
        resource = Resource.create({"service.version": __version__})
        self._provider = TracerProvider(resource=resource, id_generator=self._ids)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("trt-action", __version__)

    def record(self, exchange: Exchange, now: int) -> None:
        """The span of `exchange`, which ends at `now` (`time.perf_counter_ns`)."""
        end = time.time_ns()
        trace, context = exchange.trace, None
        if trace is not None:
            self._ids.next = int(trace.span_id, 16)
            parent = self._trace.SpanContext(
                int(trace.trace_id, 16),
                int(trace.parent_id, 16),
                is_remote=True,
                trace_flags=self._trace.TraceFlags(int(trace.flags, 16)),
            )
            context = self._trace.set_span_in_context(self._trace.NonRecordingSpan(parent))
        span = self._tracer.start_span(
            f"{exchange.method} {_route(exchange)}",
            context=context,
            kind=self._trace.SpanKind.SERVER,
            attributes=_attributes(exchange),
            start_time=end - (now - exchange.arrived),
        )
        if exchange.status >= 500:
            span.set_status(self._trace.StatusCode.ERROR, exchange.cause)
        span.end(end)

    def close(self) -> None:
        """Send what is left."""
        self._provider.force_flush(SHUTDOWN_MS)
        self._provider.shutdown()


def _ids() -> Any:
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class Ids(RandomIdGenerator):
        """The next span has the number that the client was told (`traceparent` of the answer)."""

        next = 0

        def generate_span_id(self) -> int:
            chosen, self.next = self.next, 0
            return chosen or int(super().generate_span_id())

    return Ids()


def _route(exchange: Exchange) -> str:
    """The address without what differs from request to request."""
    return "/v2/models/{model}/infer" if exchange.model is not None else exchange.path[:100]


def _attributes(exchange: Exchange) -> dict[str, Any]:
    found: dict[str, Any] = {
        "http.request.method": exchange.method,
        "http.response.status_code": exchange.status,
        "url.path": exchange.path[:500],
        "client.address": exchange.client,
    }
    if exchange.model is not None:
        found |= {"trt_action.model": exchange.model.name, "trt_action.model_version": exchange.model.version}
    if (call := exchange.call) is not None:
        found |= {
            "trt_action.queue_ms": (call.started - call.queued) / 1e6,
            "trt_action.compute_ms": (call.computed - call.merged) / 1e6,
            "trt_action.batch": call.batch,
        }
    return found
