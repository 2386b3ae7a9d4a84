"""What one request and its answer have in common, whichever way they take: counted, traced, logged, refused alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import orjson

from trt_action.serve import refusal, trace
from trt_action.serve.batching import Call, nobody
from trt_action.serve.decode import Question
from trt_action.serve.encode import JSON, Headers, answer
from trt_action.serve.model import Model
from trt_action.serve.refusal import RefusedError

if TYPE_CHECKING:
    from trt_action.serve.app import App


QUIET = frozenset({"/v2/health/live", "/v2/health/ready", "/metrics"})
"""What probes and scrapers ask all day is logged only when it fails."""


class Exchange:
    """One request, and what is told about it when it has ended."""

    __slots__ = (
        "app", "arrived", "asked", "bytes_in", "bytes_out", "call", "cause", "client", "headers", "method",
        "model", "path", "status", "trace",
    )  # fmt: skip

    def __init__(self, app: App, method: str, path: str, client: str, headers: Mapping[bytes, bytes]) -> None:
        self.arrived = time.perf_counter_ns()
        self.app = app
        self.method = method
        self.path = path
        self.client = client
        self.headers = headers
        parent = headers.get(b"traceparent")
        self.trace = trace.incoming(parent) if parent is not None else None
        self.model: Model | None = None
        self.asked: Question | None = None
        self.call: Call | None = None
        self.cause = ""
        self.status = self.bytes_in = self.bytes_out = 0
        app.in_flight += 1

    def ask(self, name: str, version: str | None, data: memoryview, gone: Callable[[], bool] | None) -> Model:
        """Decode an inference request. The model is looked up now that the body is there, and the caller goes on with
        it at once: a swap before or after is no matter.

        Raises:
            RefusedError: anything about the request is wrong.
        """
        self.bytes_in = len(data)
        model = self.model = self.app.repository.get(name, version)
        self.start(model, model.decoder.question(data, self._json_bytes(len(data))), gone)
        return model

    def start(
        self, model: Model, asked: Question, gone: Callable[[], bool] | None, seconds: float | None = None
    ) -> Call:
        """The call of a decoded question; `seconds` is the time that the transport leaves."""
        timeout = self.app.options.request_timeout
        if asked.timeout_us is not None:
            timeout = min(timeout, asked.timeout_us / 1e6)
        if seconds is not None:
            timeout = min(timeout, seconds)
        self.asked = asked
        self.call = model.call(asked.feeds, arrived=self.arrived, timeout=timeout, gone=gone)
        return self.call

    def reply(self) -> tuple[Headers, bytes]:
        """Headers and body of the answer, after the call has ended.

        Raises:
            RefusedError: the call failed.
        """
        model, asked, call = self.model, self.asked, self.call
        if model is None or asked is None or call is None:
            raise RuntimeError("a reply before the question")
        if call.error is not None:
            raise call.error
        return answer(asked, call.outputs, model.outputs, model.name, model.version)

    def refused(self, error: RefusedError) -> tuple[Headers, bytes]:
        """Headers and body of a refusal, which is counted."""
        self.cause = error.cause
        self.app.errors[error.cause] += 1
        content = orjson.dumps({"error": error.message})
        extra = [(name.encode(), value.encode()) for name, value in error.headers.items()]
        return [*JSON, (b"content-length", b"%d" % len(content)), *extra], content

    def more_headers(self, headers: Headers) -> None:
        """What every answer gets on its way out."""
        if self.trace is not None:
            headers.append((b"traceparent", self.trace.outgoing()))
        if self.app.leaving:
            headers.append((b"connection", b"close"))

    def end(self) -> None:
        """The answer is out, or nobody wants it any more."""
        app, model, call = self.app, self.model, self.call
        app.in_flight -= 1
        now = time.perf_counter_ns()
        if model is not None:
            if call is not None and self.status == 200:
                model.stats.answered(call, now)
            else:
                model.stats.failed(self.cause or "cancelled", now - self.arrived)
        if app.log.style != "off" and not (self.status == 200 and self.path in QUIET):
            app.log.request(self._logged(now))
        if app.spans is not None:
            app.spans.record(self, now)
        if call is not None and (call.computed or call.error is not None):
            call.ended = nobody  # it refers to us: without this, only the garbage collector would free the tensors
        self.call = self.asked = None

    def _json_bytes(self, size: int) -> int | None:
        """`Inference-Header-Content-Length`, if the request has one."""
        text = self.headers.get(b"inference-header-content-length")
        if text is not None and (not text.isdigit() or len(text) > 18):
            raise refusal.bad("Inference-Header-Content-Length is not a number.")
        found = int(text) if text is not None else None
        most = self.app.options.max_json_bytes
        if (size if found is None else found) > most:
            raise refusal.too_large(f"The JSON is larger than {most} bytes; send tensors as binary data.")
        return found

    def _logged(self, now: int) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "client": self.client,
            "method": self.method,
            "path": self.path[:500],
            "status": self.status,
            "ms": round((now - self.arrived) / 1e6, 3),
        }
        if self.model is not None:
            fields |= {
                "model": self.model.name,
                "version": self.model.version,
                "bytes_in": self.bytes_in,
                "bytes_out": self.bytes_out,
            }
        if (call := self.call) is not None:
            fields |= {
                "queue_ms": round((call.started - call.queued) / 1e6, 3),
                "compute_ms": round((call.computed - call.merged) / 1e6, 3),
                "batch": call.batch,
            }
        if self.cause:
            fields["cause"] = self.cause
        if self.trace is not None:
            fields |= {"trace_id": self.trace.trace_id, "span_id": self.trace.span_id}
        return fields
