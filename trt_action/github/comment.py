"""One comment per pull request and `comment-id`: found again, updated in place, never doubled, never turned back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trt_action import report
from trt_action.errors import GitHubError
from trt_action.evidence import Evidence
from trt_action.github.api import Client

ACTIONS_BOT = "github-actions[bot]"
MAX_CHARACTERS = 65_536
"""GitHub answers 422 above it (it counts characters; `BUDGET` counts bytes, which are never fewer)."""
STAMP_BYTES = 256
BUDGET = MAX_CHARACTERS - STAMP_BYTES
"""For `report.comment(budget=…)`: leaves room for the stamp of the run."""

ROUNDS = 12
"""Other jobs may post and delete at the same time; each round looks again."""

_STAMP = re.compile(
    r"<!-- trt-action:run head=(?P<head>[0-9a-f]{40,64}) run=(?P<id>\d{1,20}) attempt=(?P<attempt>\d{1,9})"
    r" started=(?P<started>\d{1,12}) -->"
)


@dataclass(frozen=True)
class Run:
    """Which run wrote a comment. `started`: seconds since 1970, when this attempt began."""

    id: int = 0
    attempt: int = 1
    started: int = 0

    @classmethod
    def of(cls, env: Mapping[str, str], started: float) -> Run:
        """The run that the runner's environment names."""

        def number(name: str, default: int) -> int:
            text = env.get(name, "")
            return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else default

        return cls(number("GITHUB_RUN_ID", 0), number("GITHUB_RUN_ATTEMPT", 1), int(started))


@dataclass(frozen=True)
class CommentResult:
    """`posted` is False where nothing was written; `reason` says in a sentence what was done or why not."""

    url: str | None
    posted: bool
    reason: str


def upsert(
    client: Client,
    repository: str,
    number: int,
    comment_id: str,
    body: str,
    *,
    head_sha: str,
    run: Run,
    create: bool = True,
) -> CommentResult:
    """Write `body` as the one comment with this id on pull request `number`.

    Args:
        body: Markdown that starts with `report.marker(comment_id)`, at most `BUDGET` bytes.
        head_sha: the pull request's head that was measured; results of an older head are not written.
        run: who writes; of two runs for one head, the one that started later stays.
        create: False updates a comment that is there and starts none (`comment: changes-only`).

    Raises:
        GitHubError: the API failed in another way than by refusing to let this token write.
        ValueError: the body has no marker or is too long (a bug of the caller).
    """
    mark = report.marker(comment_id)
    stamped = _stamped(body, mark, head_sha, run)
    thread = _Thread(client, repository, number, mark, _login(client))
    try:
        return _write(thread, stamped, head_sha, run, create=create)
    except GitHubError as error:
        if error.status != 403:
            raise
        return CommentResult(None, False, f"The token may not comment on pull request #{number}: {error.what}")


def worth_starting(evidences: Sequence[Evidence]) -> bool:
    """Whether `changes-only` starts a comment: something failed, is undecided, or is measurably faster."""
    return any(
        one.outcome != "passed" or (one.comparison is not None and one.comparison.verdict != "within-noise")
        for one in evidences
    )


def without_stamp(body: str) -> str:
    """The body as it was rendered, before the run's stamp was put in."""
    return re.sub(_STAMP.pattern + "\n", "", body, count=1)


class _Thread:
    """The comments of one pull request that carry our marker and were written by us."""

    def __init__(self, client: Client, repository: str, number: int, mark: str, login: str) -> None:
        self.client, self.repository, self.number, self.mark, self.login = client, repository, number, mark, login

    def head(self) -> str:
        pull = self.client.get(f"/repos/{self.repository}/pulls/{self.number}")
        return str(pull["head"]["sha"])

    def own(self) -> list[dict[str, Any]]:
        """Lowest id first: ids grow with time, so the first comment is the one that every racing job sees."""
        found = self.client.paginate(f"/repos/{self.repository}/issues/{self.number}/comments")
        return sorted((one for one in found if self._is_ours(one)), key=lambda one: int(one["id"]))

    def _is_ours(self, comment: Mapping[str, Any]) -> bool:
        author = str((comment.get("user") or {}).get("login") or "")
        first_line = str(comment.get("body") or "").lstrip("\ufeff \r\n").partition("\n")[0].strip()
        return author.lower() == self.login.lower() and first_line == self.mark

    def post(self, body: str) -> dict[str, Any]:
        """After a lost answer, look whether it is there; a comment is never sent twice blindly."""

        def sent() -> dict[str, Any] | None:
            return next((one for one in self.own() if one["body"] == body), None)

        path = f"/repos/{self.repository}/issues/{self.number}/comments"
        made: dict[str, Any] = self.client.post(path, {"body": body}, sent=sent)
        self.login = str((made.get("user") or {}).get("login") or self.login)  # an App's token: its name is known now
        return made

    def update(self, comment: Mapping[str, Any], body: str) -> bool:
        """False if the comment is gone."""
        if comment["body"] == body:
            return True
        try:
            self.client.patch(self._path(comment), {"body": body})
        except GitHubError as error:
            if error.status == 404:
                return False
            raise
        return True

    def delete(self, comment: Mapping[str, Any]) -> None:
        try:
            self.client.delete(self._path(comment))
        except GitHubError as error:
            if error.status != 404:
                raise

    def _path(self, comment: Mapping[str, Any]) -> str:
        return f"/repos/{self.repository}/issues/comments/{int(comment['id'])}"


def _write(thread: _Thread, body: str, head_sha: str, run: Run, *, create: bool) -> CommentResult:
    """Update the lowest id, delete the rest, post only where there is none.

    Of racing posts the lowest id stays: ids grow with time, so every job's look after its own post includes it. Whoever
    posted looks until two looks in a row show that one alone, since deletions by others move entries between pages.
    """
    written: int | None = None
    alone: int | None = None
    done = "updated"
    for _ in range(ROUNDS):
        own = thread.own()
        head = thread.head()
        if head != head_sha:
            return CommentResult(None, False, f"Stale: #{thread.number} is at {head[:12]} now, not {head_sha[:12]}.")
        if not own:
            if not create:
                return CommentResult(None, False, "Nothing to act on, and there is no earlier comment to update.")
            written, done = int(thread.post(body)["id"]), "created"
            continue
        first, *rest = own
        for one in rest:
            thread.delete(one)
        identifier, url = int(first["id"]), str(first["html_url"])
        if (newer := _newer(first, head_sha, run)) is not None:
            return CommentResult(url, False, newer)
        if written != identifier:
            if not thread.update(first, body):
                continue  # deleted between our look and our update
            written = identifier
        if not rest and (done == "updated" or alone == identifier):
            return CommentResult(url, True, f"Comment {done}.")
        alone = None if rest else identifier
    raise GitHubError(
        f"The comment on pull request #{thread.number} could not be settled: other jobs keep changing it.",
        fix="Let one job write the comment (`activity: report`), or give each job its own `comment-id`.",
    )


def _newer(comment: Mapping[str, Any], head_sha: str, run: Run) -> str | None:
    """Why the comment that is there stays: a later run wrote it about the same head."""
    found = _STAMP.search(str(comment["body"])[:1_000])
    if found is None or found["head"] != head_sha:
        return None
    again = int(found["id"]) == run.id
    late = int(found["attempt"]) > run.attempt if again else int(found["started"]) > run.started
    return f"Stale: run {found['id']} (attempt {found['attempt']}), which started later, wrote it." if late else None


def _stamped(body: str, mark: str, head_sha: str, run: Run) -> str:
    first_line, _, rest = body.partition("\n")
    if first_line != mark:
        raise ValueError("the body does not start with its marker")
    stamp = f"<!-- trt-action:run head={head_sha} run={run.id} attempt={run.attempt} started={run.started} -->"
    if not _STAMP.fullmatch(stamp):
        raise ValueError(f"no stamp can be made of {head_sha!r} and {run}")
    stamped = f"{mark}\n{stamp}\n{rest}"
    if len(stamped) > MAX_CHARACTERS:
        raise ValueError(f"a comment of {len(stamped)} characters")
    return stamped


def _login(client: Client) -> str:
    """Who this token is. An installation's token (`GITHUB_TOKEN`, an App) may not ask: then it is taken to be the
    job's own, and the first comment's author corrects that."""
    try:
        return str(client.get("/user")["login"])
    except GitHubError as error:
        if error.status in (403, 404):
            return ACTIONS_BOT
        raise
