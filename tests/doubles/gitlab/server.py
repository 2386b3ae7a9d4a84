"""A small GitLab on loopback: stateful, held to `contract.py`, with faults on demand.

Rights, lengths, pages and quick actions are after https://docs.gitlab.com/api/rest/ and /api/notes/.
"""

from __future__ import annotations

import contextlib
import json
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tests.doubles.github.server import Fault, Seen, _Handler, _Server
from tests.doubles.gitlab import contract
from tests.doubles.gitlab.contract import Operation

__all__ = ["Fault", "GitLab", "Identity", "RefusedError", "Seen", "serve"]

PREFIX = "/api/v4"
PER_PAGE, MAX_PER_PAGE = 20, 100
MAX_NOTE = 1_000_000
QUICK_ACTION = re.compile(
    r"^/(?:close|merge|approve|assign|label|unlabel|title|lock|draft|ready|todo)\b.*$", re.MULTILINE
)
_CODE = re.compile(r"^```.*?^```\s*$|<pre>\n.*?\n</pre>", re.MULTILINE | re.DOTALL)
TIME = "2030-01-02T03:04:05.000Z"


@dataclass(frozen=True)
class Identity:
    """Who a token is and what it may. `scope`: `api` writes, `read_api` reads. `member`: of the project."""

    username: str = "project_42_bot"
    scope: str = "api"
    member: bool = True


class RefusedError(Exception):
    """The request is answered with an error of GitLab's."""

    def __init__(self, status: int, **data: Any) -> None:
        super().__init__(str(data))
        self.status, self.data = status, data


class GitLab:
    """The state. Use `serve()`; change `tokens`, `merge_requests`, `notes`, `faults` as a test needs."""

    def __init__(self, url: str) -> None:
        self.url = url + PREFIX
        self.tokens: dict[str, Identity] = {}
        self.merge_requests: dict[tuple[int, int], dict[str, Any]] = {}
        self.notes: dict[int, dict[str, Any]] = {}
        self.statuses: list[dict[str, Any]] = []
        self.executed: list[str] = []
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.violations: list[str] = []
        self.hooks: list[Callable[[Seen], None]] = []
        self.lock = threading.RLock()
        self._next_id = 1_000

    # What tests arrange

    def add_merge_request(self, project: int, number: int, sha: str) -> None:
        self.merge_requests[project, number] = {
            "id": number * 10, "iid": number, "project_id": project, "sha": sha, "state": "opened", "source_branch": "feature",
        }  # fmt: skip

    def add_note(
        self, project: int, number: int, body: str, username: str = "project_42_bot", *, system: bool = False
    ) -> int:
        """A note that is there. Returns its id."""
        with self.lock:
            self._next_id += 1
            self.notes[self._next_id] = {
                "id": self._next_id, "body": body, "author": _user(username), "created_at": TIME, "updated_at": TIME,
                "system": system, "noteable_id": number * 10, "noteable_type": "MergeRequest", "noteable_iid": number,
                "resolvable": False, "internal": False, "project_id": project,
            }  # fmt: skip
            return self._next_id

    def bodies(self, project: int, number: int) -> list[str]:
        """The notes of a merge request, oldest first."""
        return [one["body"] for one in self._thread(project, number)]

    # What GitLab does

    def answer(self, seen: Seen) -> tuple[int, Any, dict[str, str]]:
        """Status, data and headers of the answer to one request."""
        operation = contract.find(seen.method, seen.path.removeprefix(PREFIX))
        if operation is None or not seen.path.startswith(PREFIX):
            self.violations.append(f"{seen.method} {seen.path} is not in the contract")
            return 404, {"error": "404 Not Found"}, {}
        found = contract.request_problems(operation, seen.query, seen.body)
        self.violations += [f"{seen.method} {seen.path}: {problem}" for problem in found]
        headers: dict[str, str] = {}
        with self.lock:
            try:
                if found:
                    raise RefusedError(400, error=found[0])
                status, data = self._act(operation, seen, self._identify(seen), headers)
            except RefusedError as refused:
                status, data = refused.status, refused.data
            wrong = contract.response_problems(operation, status, data)
            self.violations += [f"answer {status} to {seen.method} {seen.path}: {problem}" for problem in wrong]
            return status, json.loads(json.dumps(data)), headers

    def _identify(self, seen: Seen) -> Identity:
        """A job token may not touch notes: it is no PRIVATE-TOKEN, and its own header opens other doors."""
        if seen.token is None or seen.token not in self.tokens:
            raise RefusedError(401, message="401 Unauthorized")
        who = self.tokens[seen.token]
        if seen.method != "GET" and who.scope != "api":
            raise RefusedError(
                403, error="insufficient_scope", error_description="The request requires higher privileges."
            )
        return who

    def _act(self, operation: Operation, seen: Seen, who: Identity, headers: dict[str, str]) -> tuple[int, Any]:
        if operation.template == "/user":
            return 200, _user(who.username)
        values = operation.values
        project = int(values["id"])
        if not who.member or project not in {one for one, _ in self.merge_requests}:
            raise RefusedError(404, message="404 Project Not Found")
        if "sha" in values:
            return 201, self._status(values["sha"], seen.body)
        number = int(values.get("noteable_id") or values["merge_request_iid"])
        if (project, number) not in self.merge_requests:
            raise RefusedError(404, message="404 Not found")
        if "merge_request_iid" in values:
            return 200, self.merge_requests[project, number]
        if "note_id" in values:
            return self._one(seen, int(values["note_id"]), who)
        if seen.method == "POST":
            return self._create(project, number, seen.body["body"], who)
        return 200, self._page(self._thread(project, number), seen, headers)

    def _create(self, project: int, number: int, body: str, who: Identity) -> tuple[int, Any]:
        rest = self._obey(_fits(body))
        if not rest:
            return 202, {"commands_changes": {}, "summary": ["Done."]}
        return 201, self.notes[self.add_note(project, number, rest, who.username)]

    def _one(self, seen: Seen, identifier: int, who: Identity) -> tuple[int, Any]:
        note = self.notes.get(identifier)
        if note is None:
            raise RefusedError(404, message="404 Note Not Found")
        if note["author"]["username"] != who.username:
            raise RefusedError(403, message="403 Forbidden")
        if seen.method == "DELETE":
            del self.notes[identifier]
            return 204, None
        note["body"] = self._obey(_fits(seen.body["body"]))
        return 200, note

    def _obey(self, body: str) -> str:
        """Quick actions are carried out and taken out; in blocks of code they are text."""
        blocks = [match.span() for match in _CODE.finditer(body)]
        found = [m for m in QUICK_ACTION.finditer(body) if not any(a <= m.start() < b for a, b in blocks)]
        self.executed += [match.group() for match in found]
        return QUICK_ACTION.sub("", body).strip() if found else body

    def _thread(self, project: int, number: int) -> list[dict[str, Any]]:
        with self.lock:
            return [
                one
                for _, one in sorted(self.notes.items())
                if one["project_id"] == project and one["noteable_iid"] == number
            ]

    def _page(self, every: list[dict[str, Any]], seen: Seen, headers: dict[str, str]) -> list[dict[str, Any]]:
        """20 entries unless asked, 100 at most, newest first unless asked, and a Link header."""
        if seen.query.get("sort", "desc") == "desc":
            every = every[::-1]
        size = min(max(int(seen.query.get("per_page", PER_PAGE)), 1), MAX_PER_PAGE)
        page, last = int(seen.query.get("page", 1)), max(-(-len(every) // size), 1)
        links = {"first": 1, "last": last} | ({"next": page + 1} if page < last else {})
        base = self.url.removesuffix(PREFIX) + seen.path
        headers["Link"] = ", ".join(
            f'<{base}?{urlencode(seen.query | {"page": n})}>; rel="{rel}"' for rel, n in links.items()
        )
        return every[(page - 1) * size : page * size]

    def _status(self, sha: str, body: dict[str, Any]) -> dict[str, Any]:
        last = next((one for one in reversed(self.statuses) if one["sha"] == sha and one["name"] == body["name"]), None)
        if last and last["status"] == body["state"]:
            raise RefusedError(400, message=f"Cannot transition status via :enqueue from :{body['state']}")
        if len(body.get("description", "")) > 255:
            raise RefusedError(400, message={"description": ["is too long (maximum is 255 characters)"]})
        self._next_id += 1
        record = {"id": self._next_id, "sha": sha, "ref": "feature", "status": body["state"], "name": body["name"]}
        self.statuses.append(record | {"description": body.get("description")})
        return record


class _GitLabHandler(_Handler):
    """The same wire; the token comes by a header of its own."""

    def _read(self) -> Seen:
        seen = super()._read()
        headers = {name.lower(): value for name, value in seen.headers.items()}
        return Seen(seen.method, seen.path, seen.query, seen.body, headers.get("private-token"), seen.headers)


@contextlib.contextmanager
def serve(*, certificate: tuple[Path, Path] | None = None) -> Iterator[GitLab]:
    """A running double; with a certificate and its key, over TLS on `localhost`."""
    handler = type("Handler", (_GitLabHandler,), {})
    server = _Server(("127.0.0.1", 0), handler)
    scheme, host = ("https", "localhost") if certificate else ("http", "127.0.0.1")
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    gitlab = GitLab(f"{scheme}://{host}:{server.server_address[1]}")
    handler.github = gitlab  # type: ignore[attr-defined] # what the wire calls its double
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield gitlab
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _fits(body: str) -> str:
    if not body.strip():
        raise RefusedError(400, error="body is empty")
    if len(body) > MAX_NOTE:
        raise RefusedError(400, message=f"400 Bad request - Note is too long (maximum is {MAX_NOTE} characters)")
    return body


def _user(username: str) -> dict[str, Any]:
    web = f"https://gitlab.example/{username}"
    return {"id": len(username), "username": username, "name": username, "state": "active", "web_url": web}
