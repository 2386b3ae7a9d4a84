"""Spans as a real exporter sends them to a collector."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.serve.conftest import Serve, ask, scale, version
from trt_action.errors import BackendUnavailableError
from trt_action.serve import spans

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
BODY = b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}'


@pytest.fixture
def collector() -> Iterator[tuple[str, list[Any]]]:
    """Address of a collector of OTLP over HTTP, and the spans that it got."""
    got: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = ExportTraceServiceRequest()
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                import gzip

                body = gzip.decompress(body)
            request.ParseFromString(body)
            got.extend(span for r in request.resource_spans for s in r.scope_spans for span in s.spans)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", got
        server.shutdown()
        thread.join()


def test_a_request_is_a_span_of_its_trace(tmp_path: Path, serve: Serve, collector: tuple[str, list[Any]]) -> None:
    address, got = collector
    server = serve(version(tmp_path / "m" / "1", scale(1)), env={"OTEL_EXPORTER_OTLP_ENDPOINT": address})
    _, headers, _ = ask(server, "/v2/models/m/infer", BODY, {"traceparent": f"00-{TRACE}-{PARENT}-01"})
    ask(server, "/v2/models/m/infer", b"{}", {})
    assert server.stop() == 0
    ours, other = got
    assert (ours.trace_id.hex(), ours.parent_span_id.hex()) == (TRACE, PARENT)
    assert headers["traceparent"] == f"00-{TRACE}-{ours.span_id.hex()}-01"
    assert ours.name == "POST /v2/models/{model}/infer"
    attributes = {pair.key: pair.value for pair in ours.attributes}
    assert attributes["trt_action.model"].string_value == "m"
    assert attributes["http.response.status_code"].int_value == 200
    assert attributes["trt_action.compute_ms"].double_value > 0
    assert 0 < ours.end_time_unix_nano - ours.start_time_unix_nano < 60e9
    assert other.trace_id.hex() != TRACE


def test_no_collector_no_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    assert spans.spans({}) is None
    assert spans.spans({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}) is None
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry", None)
    with pytest.raises(BackendUnavailableError, match="OpenTelemetry"):
        spans.spans({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"})
