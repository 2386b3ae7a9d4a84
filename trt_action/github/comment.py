"""One comment per pull request and `comment-id` (how it stays one: `discussion.settle`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from trt_action import discussion, report
from trt_action.discussion import CommentResult, Entry, Run, without_stamp, worth_starting
from trt_action.errors import GitHubError
from trt_action.github.api import Client

__all__ = ["BUDGET", "CommentResult", "Run", "run_of", "upsert", "without_stamp", "worth_starting"]

ACTIONS_BOT = "github-actions[bot]"
MAX_CHARACTERS = 65_536
"""GitHub answers 422 above it (it counts characters; `BUDGET` counts bytes, which are never fewer)."""
BUDGET = MAX_CHARACTERS - discussion.STAMP_BYTES
"""For `report.comment(budget=…)`: leaves room for the stamp of the run."""


def run_of(env: Mapping[str, str], started: float) -> Run:
    """The run that the runner's environment names."""

    def number(name: str, default: int) -> int:
        text = env.get(name, "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else default

    return Run(number("GITHUB_RUN_ID", 0), number("GITHUB_RUN_ATTEMPT", 1), int(started))


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
    stamped = discussion.stamped(body, mark, head_sha, run, MAX_CHARACTERS)
    thread = _Thread(client, repository, number, mark, _login(client))
    try:
        return discussion.settle(thread, stamped, head_sha, run, create=create)
    except discussion.UnsettledError:
        raise GitHubError(
            f"The comment on pull request #{number} could not be settled: other jobs keep changing it.",
            fix="Let one job write the comment (`activity: report`), or give each job its own `comment-id`.",
        ) from None
    except GitHubError as error:
        if error.status != 403:
            raise
        return CommentResult(None, False, f"The token may not comment on pull request #{number}: {error.what}")


class _Thread:
    """The comments of one pull request that carry our marker and were written by us."""

    def __init__(self, client: Client, repository: str, number: int, mark: str, login: str) -> None:
        self.client, self.repository, self.number, self.mark, self.login = client, repository, number, mark, login
        self.title = f"#{number}"

    def head(self) -> str:
        pull = self.client.get(f"/repos/{self.repository}/pulls/{self.number}")
        return str(pull["head"]["sha"])

    def own(self) -> list[Entry]:
        return sorted((_entry(one) for one in self._records()), key=lambda one: one.id)

    def _records(self) -> Iterator[dict[str, Any]]:
        found = self.client.paginate(f"/repos/{self.repository}/issues/{self.number}/comments")
        return (one for one in found if self._is_ours(one))

    def _is_ours(self, comment: Mapping[str, Any]) -> bool:
        author = str((comment.get("user") or {}).get("login") or "")
        return author.lower() == self.login.lower() and discussion.is_marked(str(comment.get("body") or ""), self.mark)

    def post(self, body: str) -> Entry:
        def sent() -> dict[str, Any] | None:
            return next((one for one in self._records() if one["body"] == body), None)

        path = f"/repos/{self.repository}/issues/{self.number}/comments"
        made: dict[str, Any] = self.client.post(path, {"body": body}, sent=sent)
        self.login = str((made.get("user") or {}).get("login") or self.login)  # an App's token: its name is known now
        return _entry(made)

    def update(self, entry: Entry, body: str) -> bool:
        if entry.body == body:
            return True
        try:
            self.client.patch(self._path(entry), {"body": body})
        except GitHubError as error:
            if error.status == 404:
                return False
            raise
        return True

    def delete(self, entry: Entry) -> None:
        try:
            self.client.delete(self._path(entry))
        except GitHubError as error:
            if error.status != 404:
                raise

    def _path(self, entry: Entry) -> str:
        return f"/repos/{self.repository}/issues/comments/{entry.id}"


def _entry(comment: Mapping[str, Any]) -> Entry:
    return Entry(int(comment["id"]), str(comment["body"]), str(comment["html_url"]))


def _login(client: Client) -> str:
    """Who this token is. An installation's token (`GITHUB_TOKEN`, an App) may not ask: then it is taken to be the
    job's own, and the first comment's author corrects that."""
    try:
        return str(client.get("/user")["login"])
    except GitHubError as error:
        if error.status in (403, 404):
            return ACTIONS_BOT
        raise
