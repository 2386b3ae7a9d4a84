"""A Prometheus that answers instant queries, as its HTTP API documents, from functions of the test's."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "canary-prometheus-77"  # noqa: S105 - the double's own


@dataclass
class Prometheus:
    """`answer`: the values of the series that a query gives (strings as on the wire), or an error's text."""

    url: str
    answer: Callable[[str], list[str] | str] = lambda _query: []
    queries: list[str] = field(default_factory=list)
    token: str = ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    double: Prometheus

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the base class
        """Silent."""

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        if self.double.token and self.headers.get("Authorization") != f"Bearer {self.double.token}":
            return self._send(401, {"status": "error", "error": "no"})
        if urlsplit(self.path).path != "/api/v1/query":
            return self._send(404, {"status": "error", "error": "not found"})
        query = form["query"][0]
        self.double.queries.append(query)
        found = self.double.answer(query)
        if isinstance(found, str):
            return self._send(400, {"status": "error", "errorType": "bad_data", "error": found})
        result = [{"metric": {}, "value": [1.0, value]} for value in found]
        return self._send(200, {"status": "success", "data": {"resultType": "vector", "result": result}})

    def do_GET(self) -> None:
        """What a health check of the user's own asks."""
        return self._send(200 if self.path == "/v2/health/ready" else 503, {})

    def _send(self, status: int, data: Any) -> None:
        content = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextlib.contextmanager
def serve() -> Iterator[Prometheus]:
    """One on loopback."""
    handler = type("Handler", (_Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    double = Prometheus(f"http://127.0.0.1:{server.server_address[1]}")
    handler.double = double  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield double
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
