"""A small GitHub on loopback: stateful, checked against GitHub's own API description, with faults on demand.

The description says nothing about rights, lengths, pages and check-run rules: the double enforces those itself.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from tests.doubles.github import contract
from tests.doubles.github.contract import Operation

JSON_TYPES = ("application/json", "application/vnd.github+json", "*/*")
MAX_BODY = 65_536
PER_PAGE = 30


@dataclass(frozen=True)
class Identity:
    """Who a token is and what it may. `installation`: GITHUB_TOKEN or an App, which may not ask `GET /user`.
    `scopes`: of a classic token, which GitHub repeats in every answer."""

    login: str = "github-actions[bot]"
    write: bool = True
    installation: bool = True
    checks: bool = True
    scopes: str | None = None


@dataclass
class Fault:
    """What happens instead of, or around, the next `times` matching requests.

    `kind`: answer `status`; cut the connection before or after the request took effect; answer late.
    """

    method: str
    path: str
    kind: Literal["status", "reset-before", "reset-after", "slow"] = "status"
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "Injected"
    data: Any = None
    seconds: float = 0.0
    times: int = 1


@dataclass(frozen=True)
class Seen:
    """One request that arrived."""

    method: str
    path: str
    query: dict[str, str]
    body: Any
    token: str | None
    headers: dict[str, str]


class RefusedError(Exception):
    """The request is answered with an error of GitHub's."""

    def __init__(self, status: int, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status, self.data = status, {"message": message, "documentation_url": "https://docs.github.com/", **more}


class GitHub:
    """The state. Use `serve()`; change `pulls`, `comments`, `faults` as a test needs."""

    def __init__(self, url: str, prefix: str) -> None:
        self.url = url + prefix
        self.prefix = prefix
        self.tokens: dict[str, Identity] = {}
        self.pulls: dict[tuple[str, int], dict[str, Any]] = {}
        self.comments: dict[int, dict[str, Any]] = {}
        self.check_runs: list[dict[str, Any]] = []
        self.statuses: list[dict[str, Any]] = []
        self.dispatches: list[tuple[str, dict[str, Any]]] = []
        self.packages: dict[tuple[str, str, str], dict[int, dict[str, Any]]] = {}
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.violations: list[str] = []
        self.hooks: list[Callable[[Seen], None]] = []
        self.lock = threading.RLock()
        self._next_id = 1_000

    # What tests arrange

    def add_pull(
        self, repository: str, number: int, head: str, *, head_repository: str | None = None, state: str = "open"
    ) -> None:
        """A pull request; `head_repository` other than `repository` makes it one of a fork."""
        pull = contract.minimal("pull-request")
        pull |= {"number": number, "state": state, "html_url": f"https://github.invalid/{repository}/pull/{number}"}
        pull["head"] |= {"sha": head, "ref": "feature", "repo": _repo(head_repository or repository)}
        pull["base"] |= {"sha": "b" * 40, "ref": "main", "repo": _repo(repository)}
        self.pulls[repository, number] = pull

    def add_comment(self, repository: str, number: int, body: str, login: str = "github-actions[bot]") -> int:
        """A comment that is already there. Returns its id."""
        with self.lock:
            self._next_id += 1
            comment = contract.minimal("issue-comment")
            page = f"https://github.invalid/{repository}/pull/{number}"
            comment |= {"id": self._next_id, "body": body, "html_url": f"{page}#issuecomment-{self._next_id}"}
            comment |= {"issue_url": f"{self.url}/repos/{repository}/issues/{number}", "user": _user(login)}
            self.comments[self._next_id] = comment
            return self._next_id

    def add_version(self, owner: tuple[str, str], package: str, digest: str, tags: Sequence[str], created: str) -> int:
        """A version of a container package; `owner` is (`orgs` or `users`, name)."""
        with self.lock:
            self._next_id += 1
            version = contract.minimal("package-version") | {"id": self._next_id, "name": digest}
            version |= {"created_at": created, "updated_at": created}
            version["metadata"] = {"package_type": "container", "container": {"tags": list(tags)}}
            self.packages.setdefault((*owner, package), {})[self._next_id] = version
            return self._next_id

    def bodies(self, repository: str, number: int) -> list[str]:
        """The comments of a pull request, oldest first."""
        return [one["body"] for one in self._thread(repository, number)]

    # What GitHub does

    def answer(self, seen: Seen) -> tuple[int, Any, dict[str, str]]:
        """Status, data and headers of the answer to one request."""
        path = seen.path.removeprefix(self.prefix)
        operation = contract.find(seen.method, path)
        if operation is None or not seen.path.startswith(self.prefix):
            self.violations.append(f"{seen.method} {seen.path} is not in the description")
            return 404, {"message": "Not Found"}, {}
        found = contract.request_problems(operation, seen.query, seen.body)
        self.violations += [f"{seen.method} {path}: {problem}" for problem in found]
        headers: dict[str, str] = {}
        with self.lock:
            try:
                if found:
                    raise RefusedError(422, "Validation Failed", errors=[{"code": "invalid", "message": found[0]}])
                status, data = self._act(operation, seen, self._identify(seen), headers)
            except RefusedError as refused:
                status, data = refused.status, refused.data
            wrong = contract.response_problems(operation, status, data)
            self.violations += [f"answer {status} to {seen.method} {path}: {problem}" for problem in wrong]
            return status, json.loads(json.dumps(data)), headers

    def _identify(self, seen: Seen) -> Identity:
        if seen.token is None:
            raise RefusedError(401, "Requires authentication")
        if seen.token not in self.tokens:
            raise RefusedError(401, "Bad credentials")
        return self.tokens[seen.token]

    def _act(self, operation: Operation, seen: Seen, who: Identity, headers: dict[str, str]) -> tuple[int, Any]:
        values = operation.values
        repository = f"{values.get('owner')}/{values.get('repo')}"
        name = f"{seen.method} {operation.template.removeprefix('/repos/{owner}/{repo}')}"
        if who.scopes is not None:
            headers["X-OAuth-Scopes"] = who.scopes
        if seen.method != "GET" and not (who.write and (who.checks or "check" not in name)):
            raise RefusedError(403, "Resource not accessible by integration")
        if name == "GET /user":
            if who.installation:
                raise RefusedError(403, "Resource not accessible by integration")
            return 200, contract.minimal("private-user") | {"login": who.login}
        if "package_name" in values:
            return self._package(seen, operation, headers)
        if not any(repository == known for known, _ in self.pulls):
            raise RefusedError(404, "Not Found")
        if "comment_id" in values:
            return self._one_comment(seen, int(values["comment_id"]))
        if seen.method == "POST":
            made = self._create(name, repository, values, seen.body, who)
            return (204 if made is None else 201), made
        if name == "GET /pulls/{pull_number}":
            return 200, self.pulls[repository, self._number(repository, values["pull_number"])]
        pages = _Pages(self.url + seen.path.removeprefix(self.prefix), seen.query, headers)
        return 200, pages.cut(self._list(name, repository, values, seen.query))

    def _package(self, seen: Seen, operation: Operation, headers: dict[str, str]) -> tuple[int, Any]:
        values = operation.values
        kind = operation.template.split("/")[1]
        owner = values["org"] if kind == "orgs" else values["username"]
        versions = self.packages.get((kind, owner, unquote(values["package_name"])))
        if versions is None or values["package_type"] != "container":
            raise RefusedError(404, "Package not found.")
        if seen.method == "GET":
            pages = _Pages(self.url + seen.path.removeprefix(self.prefix), seen.query, headers)
            return 200, pages.cut([versions[number] for number in sorted(versions, reverse=True)])
        chosen = versions.get(int(values["package_version_id"]))
        if chosen is None:
            raise RefusedError(404, "Package version not found.")
        tagged = [one for one in versions.values() if one["metadata"]["container"]["tags"]]
        if tagged == [chosen]:
            raise RefusedError(400, "You cannot delete the last tagged version of a package.")
        del versions[chosen["id"]]
        return 204, None

    def _list(self, name: str, repository: str, values: dict[str, str], query: dict[str, str]) -> list[dict[str, Any]]:
        if name == "GET /issues/{issue_number}/comments":
            return self._thread(repository, self._number(repository, values["issue_number"]))
        if name == "GET /commits/{commit_sha}/pulls":
            return self._pulls_of(repository, values["commit_sha"])
        return self._open_pulls(repository, query)

    def _create(self, name: str, repository: str, values: dict[str, str], body: Any, who: Identity) -> Any:
        if name == "POST /check-runs":
            return self._check_run(body)
        if name == "POST /statuses/{sha}":
            return self._status(body)
        if name == "POST /dispatches":
            if len(body.get("client_payload", {})) > 10:
                raise RefusedError(422, "No more than 10 properties are allowed")
            return self.dispatches.append((repository, body))
        if name == "POST /pulls":
            return self._pull(repository, body)
        number = self._number(repository, values["issue_number"])
        return self.comments[self.add_comment(repository, number, _fits(body["body"]), who.login)]

    def _one_comment(self, seen: Seen, identifier: int) -> tuple[int, Any]:
        if identifier not in self.comments:
            raise RefusedError(404, "Not Found")
        if seen.method == "DELETE":
            del self.comments[identifier]
            return 204, None
        if seen.method == "PATCH":
            self.comments[identifier]["body"] = _fits(seen.body["body"])
        return 200, self.comments[identifier]

    def _number(self, repository: str, text: str) -> int:
        if (repository, int(text)) not in self.pulls:
            raise RefusedError(404, "Not Found")
        return int(text)

    def _thread(self, repository: str, number: int) -> list[dict[str, Any]]:
        end = f"/repos/{repository}/issues/{number}"
        with self.lock:
            return [one for _, one in sorted(self.comments.items()) if one["issue_url"].endswith(end)]

    def _open_pulls(self, repository: str, query: dict[str, str]) -> list[dict[str, Any]]:
        state = query.get("state", "open")
        every = [pull for (name, _), pull in sorted(self.pulls.items(), reverse=True) if name == repository]
        wanted = [_simple(pull) for pull in every if state in ("all", pull["state"])]
        head, base = query.get("head", "").rpartition(":")[2], query.get("base", "")
        return [one for one in wanted if head in ("", one["head"]["ref"]) and base in ("", one["base"]["ref"])]

    def _pull(self, repository: str, body: dict[str, Any]) -> dict[str, Any]:
        if self._open_pulls(repository, {"head": f":{body['head']}", "base": body["base"]}):
            message = f"A pull request already exists for {body['head']}."
            raise RefusedError(422, "Validation Failed", errors=[{"code": "custom", "message": message}])
        number = max(known for name, known in self.pulls if name == repository) + 1
        self.add_pull(repository, number, "c" * 40)
        self.pulls[repository, number]["head"]["ref"] = body["head"]
        self.pulls[repository, number] |= {"title": body["title"], "body": body.get("body")}
        return self.pulls[repository, number]

    def _pulls_of(self, repository: str, sha: str) -> list[dict[str, Any]]:
        """Leaves out those of forks, as GitHub does."""
        own = [
            pull
            for (name, _), pull in sorted(self.pulls.items())
            if name == repository and pull["head"]["sha"] == sha and pull["head"]["repo"]["full_name"] == repository
        ]
        return [_simple(pull) for pull in own]

    def _check_run(self, body: dict[str, Any]) -> dict[str, Any]:
        output = body.get("output", {})
        if body.get("status") == "completed" and "conclusion" not in body:
            raise RefusedError(422, "Invalid request. `conclusion` is required")
        if len(output.get("summary", "").encode()) > 65_535 or len(output.get("title", "")) > 255:
            raise RefusedError(422, "Validation Failed")
        record = contract.minimal("check-run")
        record |= {"status": "completed", "conclusion": body.get("conclusion"), "name": body["name"]}
        record |= {"head_sha": body["head_sha"], "html_url": f"https://github.invalid/runs/{len(self.check_runs) + 1}"}
        self.check_runs.append(body)
        return dict(record)

    def _status(self, body: dict[str, Any]) -> dict[str, Any]:
        if len(body.get("description") or "") > 140:
            raise RefusedError(422, "Validation Failed", errors=[{"code": "custom", "message": "description too long"}])
        self.statuses.append(body)
        record = contract.minimal("status") | {key: body.get(key) for key in ("state", "context", "description")}
        return dict(record | {"target_url": body.get("target_url")})


@dataclass
class _Pages:
    """Pages of a list: 30 entries unless asked, 100 at most, and a Link header."""

    url: str
    query: dict[str, str]
    headers: dict[str, str]

    def cut(self, every: list[dict[str, Any]]) -> list[dict[str, Any]]:
        size = min(max(int(self.query.get("per_page", PER_PAGE)), 1), 100)
        page, last = max(int(self.query.get("page", 1)), 1), max(-(-len(every) // size), 1)
        links = {"prev": page - 1, "next": page + 1, "last": last, "first": 1}
        if page <= 1:
            del links["prev"], links["first"]
        if page >= last:
            del links["next"], links["last"]
        parts = [f'<{self.url}?{urlencode(self.query | {"page": n})}>; rel="{rel}"' for rel, n in links.items()]
        if parts:
            self.headers["Link"] = ", ".join(parts)
        return every[(page - 1) * size : page * size]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet
    disable_nagle_algorithm = True
    github: GitHub

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name of the base class
        """Silent."""

    def _serve(self) -> None:
        seen = self._read()
        self.github.seen.append(seen)
        for hook in list(self.github.hooks):
            hook(seen)
        fault = self._fault(seen)
        if fault and fault.kind == "reset-before":
            return self._cut()
        if fault and fault.kind == "slow":
            time.sleep(fault.seconds)
        if fault and fault.kind == "status":
            return self._send(fault.status, fault.data or {"message": fault.message}, fault.headers)
        status, data, headers = self.github.answer(seen)
        if fault and fault.kind == "reset-after":
            return self._cut()
        return self._send(status, data, headers)

    do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = _serve  # noqa: N815 - the names that http.server asks for

    def _read(self) -> Seen:
        length = int(self.headers.get("Content-Length") or 0)
        content = self.rfile.read(length)
        parts = urlsplit(self.path)
        authorization = self.headers.get("Authorization") or ""
        token = re.fullmatch(r"(?:Bearer|token) (.+)", authorization)
        if (self.headers.get("Accept") or "*/*").split(";")[0] not in JSON_TYPES:
            self.github.violations.append(f"Accept: {self.headers.get('Accept')}")
        return Seen(
            self.command,
            parts.path,
            dict(parse_qsl(parts.query)),
            json.loads(content) if content else None,
            token[1] if token else None,
            dict(self.headers.items()),
        )

    def _fault(self, seen: Seen) -> Fault | None:
        with self.github.lock:
            for fault in self.github.faults:
                if fault.times > 0 and fault.method == seen.method and re.search(fault.path, seen.path):
                    fault.times -= 1
                    return fault
        return None

    def _send(self, status: int, data: Any, headers: dict[str, str]) -> None:
        content = b"" if data is None else json.dumps(data).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if data is not None:
            self.send_header("Content-Type", "application/json; charset=utf-8")
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _cut(self) -> None:
        """A TCP reset instead of an answer."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.wfile = self.rfile = _Nowhere()  # type: ignore[assignment]


class _Nowhere:
    """http.server flushes and closes its files after a handler; here nobody is left to hear it."""

    closed = True

    def flush(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no failure; anything else is a bug of the double, and fails the test."""
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError):
            github: GitHub = self.RequestHandlerClass.github  # type: ignore[attr-defined]
            github.violations.append(f"bug in the double: {error!r}")


@contextlib.contextmanager
def serve(*, host: str = "127.0.0.1", prefix: str = "", public_host: str | None = None) -> Iterator[GitHub]:
    """A running double; `prefix` is `/api/v3` on GitHub Enterprise Server.

    Args:
        host: address to listen on; `0.0.0.0` for clients in containers.
        public_host: the name by which they reach it.
    """
    handler = type("Handler", (_Handler,), {})
    server = _Server((host, 0), handler)
    github = GitHub(f"http://{public_host or host}:{server.server_address[1]}", prefix)
    handler.github = github  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield github
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _fits(body: str) -> str:
    if len(body) > MAX_BODY:
        error = {"resource": "IssueComment", "code": "unprocessable", "field": "data"}
        error["message"] = f"Body is too long (maximum is {MAX_BODY} characters)"
        raise RefusedError(422, "Validation Failed", errors=[error])
    return body


def _user(login: str) -> dict[str, Any]:
    kind = "Bot" if login.endswith("[bot]") else "User"
    return dict(contract.minimal("simple-user") | {"login": login, "type": kind})


def _repo(full_name: str) -> dict[str, Any]:
    owner, _, name = full_name.partition("/")
    return dict(contract.minimal("repository") | {"full_name": full_name, "name": name, "owner": _user(owner)})


def _simple(pull: dict[str, Any]) -> dict[str, Any]:
    """A pull request as lists show it."""
    allowed = contract.DESCRIPTION["$defs"]["pull-request-simple"]["properties"]
    record = contract.minimal("pull-request-simple")
    return dict(record | {key: value for key, value in pull.items() if key in allowed})
