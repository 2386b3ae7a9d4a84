"""A real MLflow server (SQLite, files on disk) as a child process on loopback, and what may stand before it on a bad day."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

START_SECONDS = 180.0
ROOT = Path(__file__).parents[2]


def python() -> Path | None:
    """The interpreter of MLflow's environment: MLFLOW_PYTHON, or what `make mlflow` has made."""
    path = Path(os.environ.get("MLFLOW_PYTHON") or ROOT / ".mlflow/bin/python")
    return path if path.is_file() else None


def missing() -> str | None:
    """Why the real server cannot run here, or None."""
    return None if python() else "no MLflow server: `make mlflow` installs one, or set MLFLOW_PYTHON"


@contextlib.contextmanager
def serve(folder: Path, *, proxied: bool = True) -> Iterator[str]:
    """Start one with an empty store in `folder`; yields its address. `proxied`: it takes files in place of its store."""
    port = _free_port()
    log = folder / "mlflow.log"
    store = ["--artifacts-destination", str(folder / "files")] if proxied else ["--no-serve-artifacts"]
    command = [
        str(python()), "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", *store,
    ]  # fmt: skip
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, cwd=folder, env={**os.environ, **quiet}, start_new_session=True
        )
        try:
            _wait(process, port, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(f"the MLflow server does not answer:\n{log.read_text(errors='replace')[-3000:]}")


@dataclass
class Fault:
    """One thing that goes wrong, `times` times, with requests of `method` whose path contains `path`.

    Args:
        kind: `status`: answer that instead; `lost-answer`: do it, and reset before the answer; `silence`: no answer
            until the end; `page`: 200 with a page for people.
    """

    method: str
    path: str
    kind: Literal["status", "lost-answer", "silence", "page"] = "status"
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b'{"error_code": "INTERNAL_ERROR", "message": "injected"}'
    times: int = 1


class Proxy:
    """Passes everything on, but for faults that are asked for. `login`: the `Authorization` without which it is 401."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream.removeprefix("http://")
        self.uri = ""
        self.faults: list[Fault] = []
        self.seen: list[tuple[str, str, Any]] = []
        self.login: str | None = None
        self.released = threading.Event()

    def fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and fault.method == method and fault.path in path:
                fault.times -= 1
                return fault
        return None

    def count(self, method: str, path: str) -> int:
        return sum(one == method and path in where for one, where, _ in self.seen)


@contextlib.contextmanager
def proxy(upstream: str) -> Iterator[Proxy]:
    """A proxy before a real server."""
    state = Proxy(upstream)

    class Handler(_Handler):
        proxy = state

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        state.uri = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield state
        finally:
            state.released.set()
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        as_json = body.startswith(b"{") and self.command == "POST"
        self.proxy.seen.append((self.command, self.path, json.loads(body) if as_json else len(body)))
        fault = self.proxy.fault(self.command, self.path)
        if self.proxy.login is not None and self.headers.get("Authorization") != self.proxy.login:
            said = f"You are not authenticated: {(self.headers.get('Authorization') or 'nobody').split()[-1]}"
            self._answer(401, {}, json.dumps({"error_code": "UNAUTHENTICATED", "message": said}).encode())
        elif fault and fault.kind == "silence":
            self.proxy.released.wait(60)
            self.close_connection = True
        elif fault and fault.kind == "page":
            self._answer(200, {"Content-Type": "text/html"}, b"<!doctype html><title>Welcome</title>")
        elif fault and fault.kind == "status":
            self._answer(fault.status, fault.headers, fault.body)
        else:
            status, content = self._pass_on(body)
            if fault:
                self._reset()
            else:
                self._answer(status, {"Content-Type": "application/json"}, content)

    def _pass_on(self, body: bytes) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.proxy.upstream, timeout=60)
        headers = {"Content-Type": self.headers.get("Content-Type") or "application/octet-stream"}
        try:
            connection.request(self.command, self.path, body or None, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()
