"""What stands between a client and the real registry on a bad day: refusals, waits, resets, tokens, lies.

A proxy on loopback, strict about what a client may send (`violations`), with a memory (uploads, tokens, attachments).
Faults are asked for one by one; without any it passes everything on.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import itertools
import json
import re
import secrets
import socket
import struct
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from tests.doubles.registry import PASSWORD, USER

Kind = Literal[
    "status",
    "reset-request",
    "reset-answer",
    "truncate",
    "lost-answer",
    "corrupt",
    "wrong-digest",
    "redirect",
    "silence",
]
_UPLOAD = re.compile(r"/v2/(?P<name>.+)/blobs/uploads/(?P<id>[0-9a-f-]{36})")
_NAME = re.compile(r"/v2/(?P<name>.+)/(?:blobs|manifests|tags|referrers)/")
_SCOPE = re.compile(
    r"repository:(?P<name>[a-z0-9/._-]+):(?P<actions>(?:pull|push|delete|\*)(?:,(?:pull|push|delete))*)"
)
SERVICE = "registry.double"


@dataclass
class Fault:
    """One thing that goes wrong, `times` times, with requests of `method` whose path contains `path`.

    Args:
        kind: `status`: answer that instead; `reset-request`: reset the connection after `at` bytes of the request's
            body; `reset-answer`, `truncate`: reset or close after `at` bytes of the answer's body; `corrupt`: flip the
            byte `at`; `lost-answer`: do it, and reset before the answer; `wrong-digest`: another Docker-Content-Digest; `redirect`: 307 to `url`; `silence`: no answer.
        keeps: a registry that keeps what had arrived before a reset (the CNCF one does not tell).
        skip: how many requests that fit pass unharmed first.
    """

    method: str
    path: str
    kind: Kind = "status"
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b'{"errors":[{"code":"UNKNOWN","message":"injected"}]}'
    at: int = 0
    times: int = 1
    skip: int = 0
    keeps: bool = False
    url: str = ""


@dataclass(frozen=True)
class Seen:
    """One request as it came; `sent` are the bytes of its body that were read."""

    method: str
    path: str
    headers: dict[str, str]
    sent: int


class Proxy:
    """The proxy's switches and its memory.

    Attributes:
        tokens: ask for a bearer token of `token_url` instead of passing logins on.
        lives: `expires_in` of the next tokens, seconds by this proxy's `clock`; afterwards 300.
        page: most tags of one answer, with a `Link` to the next.
        api: has the referrers API (the CNCF registry 2 has not).
        least: `OCI-Chunk-Min-Length` of new uploads.
        ranges: downloads may begin anywhere.
        stale_range: says of every chunk after the first that it has the first (ECR).
        cut_through: the registry itself gets the half of a request that is reset, and names its own addresses.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.host = ""
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.violations: list[str] = []
        self.tokens = False
        self.token_url = ""
        self.token_requests: list[dict[str, str]] = []
        self.identity_tokens: set[str] = set()
        self.lives: list[float] = []
        self.clock: Callable[[], float] = time.monotonic
        self.page: int | None = None
        self.api = False
        self.least = 0
        self.ranges = True
        self.stale_range = False
        self.cut_through = False
        self.released = threading.Event()
        self._issued: dict[str, tuple[set[tuple[str, str]], float]] = {}
        self._uploads: dict[str, str] = {}
        self._attached: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self._lock = threading.Lock()

    def count(self, method: str, path: str = "") -> int:
        """How many requests fit."""
        return sum(one.method == method and path in one.path for one in self.seen)

    def fault(self, method: str, path: str) -> Fault | None:
        """The first fault that fits, used up."""
        with self._lock:
            for fault in self.faults:
                if fault.method == method and fault.path in path and fault.times > 0:
                    if fault.skip > 0:
                        fault.skip -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None

    def issue(self, scopes: list[str]) -> dict[str, object]:
        """A new token for the scopes."""
        granted = set()
        for scope in scopes:
            found = _SCOPE.fullmatch(scope)
            if found is None:
                self.violations.append(f"no scope: {scope!r}")
                continue
            granted |= {(found["name"], action) for action in found["actions"].split(",")}
        token = secrets.token_urlsafe(24)
        life = self.lives.pop(0) if self.lives else 300.0
        self._issued[token] = (granted, self.clock() + life)
        return {"token": token, "expires_in": int(life)}

    def allowed(self, authorization: str, path: str, method: str) -> bool:
        """Whether a token is good for the request."""
        scheme, _, token = authorization.partition(" ")
        granted, until = self._issued.get(token, (set(), 0.0))
        if scheme != "Bearer" or self.clock() >= until:
            return False
        name = _NAME.match(path)
        action = {"GET": "pull", "HEAD": "pull", "DELETE": "delete"}.get(method, "push")
        return name is None or (name["name"], action) in granted

    def remember_upload(self, upstream_location: str) -> str:
        """Uploads keep one address here, whatever state the registry hides in its own."""
        path = upstream_location.partition(self.upstream)[2] or upstream_location
        found = _UPLOAD.match(path)
        assert found, upstream_location
        self._uploads[found["id"]] = path
        return f"/v2/{found['name']}/blobs/uploads/{found['id']}?from=proxy"

    def upload_path(self, path: str) -> str:
        """The registry's own address of an upload, with what the client added (`digest=`)."""
        found = _UPLOAD.match(path)
        if found is None or found["id"] not in self._uploads:
            return path
        added = urllib.parse.parse_qs(urllib.parse.urlsplit(path).query)
        if added.pop("from", None) != ["proxy"]:
            self.violations.append(f"the Location was not taken as it is: {path}")
        query = urllib.parse.urlencode(added, doseq=True)
        return self._uploads[found["id"]] + (f"&{query}" if query else "")

    def attach(self, repository: str, body: bytes, digest: str) -> str | None:
        """Remember a manifest with a subject; returns the subject's digest."""
        with contextlib.suppress(ValueError):
            manifest = json.loads(body)
            subject = manifest.get("subject", {}).get("digest")
            if subject:
                descriptor = {
                    "mediaType": manifest["mediaType"],
                    "digest": digest,
                    "size": len(body),
                    "artifactType": manifest.get("artifactType"),
                }
                self._attached.setdefault((repository, subject), []).append(descriptor)
                return str(subject)
        return None

    def attached(self, repository: str, subject: str) -> bytes:
        """The answer of the referrers API."""
        found = self._attached.get((repository, subject), [])
        return json.dumps(
            {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": found}
        ).encode()


@contextlib.contextmanager
def serve(upstream: str) -> Iterator[Proxy]:
    """A proxy before the registry at `upstream` (`host:port`, plain http)."""
    proxy = Proxy(upstream)
    handler = type("BoundHandler", (_Handler,), {"proxy": proxy})
    server = _Server(("127.0.0.1", 0), handler)
    proxy.host = f"127.0.0.1:{server.server_address[1]}"
    proxy.token_url = f"http://{proxy.host}/token"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def log_message(self, *args: object) -> None:
        """Nothing on the test's stderr."""

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815 - the names are http.server's

    def _serve(self) -> None:
        proxy = self.proxy
        if self.path.startswith("/token"):
            self._token()
            return
        if proxy.tokens and not proxy.allowed(self.headers.get("Authorization", ""), self.path, self.command):
            self._read(int(self.headers.get("Content-Length") or 0))
            name = _NAME.match(self.path)
            scope = f',scope="repository:{name["name"]}:pull"' if name else ""
            challenge = f'Bearer realm="{proxy.token_url}",service="{SERVICE}"{scope}'
            self._answer(401, {"WWW-Authenticate": challenge}, b'{"errors":[{"code":"UNAUTHORIZED"}]}')
            return
        fault = proxy.fault(self.command, self.path)
        if fault and fault.kind == "reset-request":
            self._reset_request(fault)
            return
        body = self._read(int(self.headers.get("Content-Length") or 0))
        self._check(body)
        if fault and fault.kind == "silence":
            proxy.released.wait(30)
            self.close_connection = True
        elif fault and fault.kind == "status":
            self._answer(fault.status, fault.headers, fault.body)
        elif fault and fault.kind == "redirect":
            self._answer(307, {"Location": fault.url}, b"")
        else:
            self._forward(body, fault)

    def _read(self, length: int) -> bytes:
        body = self.rfile.read(length) if length else b""
        self.proxy.seen.append(Seen(self.command, self.path, dict(self.headers.items()), len(body)))
        return body

    def _check(self, body: bytes) -> None:
        complain = self.proxy.violations.append
        if "Transfer-Encoding" in self.headers or (
            self.command in ("PUT", "PATCH") and "Content-Length" not in self.headers
        ):
            complain(f"{self.command} {self.path} without a length")
        if "/manifests/" in self.path and self.command in ("GET", "HEAD"):
            accepted = self.headers.get("Accept", "")
            if "vnd.oci.image.index.v1+json" not in accepted or "distribution.manifest.v2+json" not in accepted:
                complain(f"{self.command} {self.path} accepts {accepted!r}")
        if self.command == "PATCH":
            first, _, last = self.headers.get("Content-Range", "").partition("-")
            if not (first.isdigit() and last.isdigit() and int(last) - int(first) + 1 == len(body)):
                complain(f"PATCH with Content-Range {self.headers.get('Content-Range')!r} and {len(body)} bytes")
        if not self.headers.get("User-Agent", "").startswith("trt-action/"):
            complain(f"User-Agent {self.headers.get('User-Agent')!r}")

    def _forward(self, body: bytes, fault: Fault | None) -> None:
        status, headers, content = self._upstream(body, self.headers.get("Content-Range"))
        if fault and fault.kind == "lost-answer":
            self._reset()
            return
        if fault and fault.kind == "wrong-digest":
            headers["Docker-Content-Digest"] = "sha256:" + "0" * 64
        if fault and fault.kind == "corrupt":
            content = content[: fault.at] + bytes([content[fault.at] ^ 1]) + content[fault.at + 1 :]
        cut = fault.at if fault and fault.kind in ("reset-answer", "truncate") else None
        self._answer(status, headers, content, cut=cut, reset=bool(fault and fault.kind == "reset-answer"))

    def _upstream(self, body: bytes, content_range: str | None) -> tuple[int, dict[str, str], bytes]:
        proxy = self.proxy
        found = _NAME.match(self.path)
        repository = found["name"] if found else ""
        if proxy.api and self.command == "GET" and "/referrers/" in self.path:
            subject = self.path.rpartition("/")[2].partition("?")[0]
            return 200, {"Content-Type": "application/vnd.oci.image.index.v1+json"}, proxy.attached(repository, subject)
        passed = {"Content-Type", "Accept", "Authorization"} | ({"Range"} if proxy.ranges else set())
        headers = {key: value for key, value in self.headers.items() if key in passed}
        if content_range:
            headers["Content-Range"] = content_range
        connection = http.client.HTTPConnection(proxy.upstream, timeout=30)
        try:
            connection.request(self.command, proxy.upload_path(self.path), body, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        kept = {
            key: value
            for key, value in answer.getheaders()
            if key.lower() not in ("transfer-encoding", "connection", "content-length", "date")
        }
        if self.command == "HEAD":
            kept["Content-Length"] = answer.getheader("Content-Length", "0")
        self._of_uploads(kept)
        if self.command == "PUT" and proxy.api and "/manifests/" in self.path and answer.status == 201:
            attached = proxy.attach(repository, body, kept["Docker-Content-Digest"])
            if attached:
                kept["OCI-Subject"] = attached
        if proxy.page and self.path.partition("?")[0].endswith("/tags/list") and answer.status == 200:
            content = self._page(json.loads(content), kept)
        return answer.status, kept, content

    def _of_uploads(self, kept: dict[str, str]) -> None:
        """What this proxy says of uploads in place of the registry."""
        proxy = self.proxy
        if self.command == "PATCH" and proxy.stale_range:
            kept["Range"] = "0-65535"
        if self.command == "POST" and proxy.least:
            kept["OCI-Chunk-Min-Length"] = str(proxy.least)
        if "uploads/" in kept.get("Location", "") and proxy.cut_through:
            kept["Location"] = kept["Location"].replace(proxy.upstream, proxy.host)
        elif "uploads/" in kept.get("Location", ""):
            kept["Location"] = proxy.remember_upload(kept["Location"])

    def _page(self, listed: dict[str, Any], headers: dict[str, str]) -> bytes:
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        after = query.get("last", [""])[0]
        rest = [tag for tag in sorted(listed["tags"]) if tag > after]
        page = list(itertools.islice(rest, self.proxy.page))
        if len(page) < len(rest):
            path = self.path.partition("?")[0]
            headers["Link"] = f'<{path}?last={urllib.parse.quote(page[-1])}&n={self.proxy.page}>; rel="next"'
        return json.dumps({**listed, "tags": page}).encode()

    def _reset_request(self, fault: Fault) -> None:
        """Take a part of the body; a registry that `keeps` has it afterwards."""
        if self.proxy.cut_through:
            self._half(self._read(fault.at))
            self._reset()
            return
        body = self._read(min(fault.at, int(self.headers.get("Content-Length") or 0)))
        if fault.keeps and body:
            first = int(self.headers.get("Content-Range", "0-").partition("-")[0])
            command, self.command = self.command, "PATCH"
            path, self.path = self.path, self.path.partition("&digest=")[0]
            self._upstream(body, f"{first}-{first + len(body) - 1}")
            self.command, self.path = command, path
        self._reset()

    def _half(self, body: bytes) -> None:
        """The registry gets a request whose body ends too early."""
        upstream = socket.create_connection(("127.0.0.1", int(self.proxy.upstream.rpartition(":")[2])), timeout=30)
        lines = [f"{self.command} {self.path} HTTP/1.1", f"Host: {self.proxy.upstream}"]
        lines += [f"{key}: {self.headers[key]}" for key in ("Content-Length", "Content-Range", "Content-Type")]
        upstream.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        upstream.shutdown(socket.SHUT_WR)
        upstream.recv(65_536)
        upstream.close()

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def _answer(
        self, status: int, headers: dict[str, str], content: bytes, *, cut: int | None = None, reset: bool = False
    ) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if "Content-Length" not in headers and status not in (204, 304):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(content if cut is None else content[:cut])
        if cut is None:
            return
        self.wfile.flush()
        self.close_connection = True
        if reset:
            self._reset()

    def _token(self) -> None:
        """The token server: Basic with GET, identity tokens with POST; anonymous ones may pull."""
        proxy = self.proxy
        fault = proxy.fault(self.command, "/token")
        body = self._read(int(self.headers.get("Content-Length") or 0)).decode()
        asked = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query if self.command == "GET" else body)
        proxy.token_requests.append({key: " ".join(values) for key, values in asked.items()})
        scopes = [scope for value in asked.get("scope", []) for scope in value.split()]
        if asked.get("service") != [SERVICE]:
            proxy.violations.append(f"token for service {asked.get('service')}")
        if fault:
            self._answer(fault.status, fault.headers, fault.body)
        elif not self._knows(asked):
            self._answer(401, {}, b'{"details":"incorrect username or password"}')
        else:
            if not self.headers.get("Authorization") and self.command == "GET":
                scopes = [scope.rpartition(":")[0] + ":pull" for scope in scopes]
            self._answer(200, {"Content-Type": "application/json"}, json.dumps(proxy.issue(scopes)).encode())

    def _knows(self, asked: dict[str, list[str]]) -> bool:
        if self.command == "POST":
            right = asked.get("grant_type") == ["refresh_token"] and bool(asked.get("client_id"))
            return right and asked.get("refresh_token", [""])[0] in self.proxy.identity_tokens
        login = self.headers.get("Authorization")
        return login is None or login == "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
