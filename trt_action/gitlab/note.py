"""One note per merge request and `comment-id` (how it stays one: `discussion.settle`).

A note is more than text: a line that begins with `/` may be a quick action, which GitLab would carry out as the token's
user, and `!7` is a reference that leaves a trace on merge request 7.
https://docs.gitlab.com/user/project/quick_actions/, https://docs.gitlab.com/api/notes/#merge-requests
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from trt_action import discussion, report
from trt_action.discussion import CommentResult, Entry, Run
from trt_action.errors import GitLabError
from trt_action.gitlab.api import Client
from trt_action.gitlab.pipeline_event import MergeRequest

MAX_CHARACTERS = 1_000_000
"""GitLab answers 400 above it."""
BUDGET = (MAX_CHARACTERS - discussion.STAMP_BYTES) * 2 // 3
"""Bytes for `report.comment(budget=…)`: leaves room for the stamp of the run, and for `harmless`, which may put a
character behind every second one."""

_QUICK_ACTION = re.compile(r"^([ \t]*)/(?=[A-Za-z_])", re.MULTILINE)
_REFERENCE = re.compile(r"!(?=\d)")


def run_of(env: Mapping[str, str]) -> Run:
    """The pipeline and the job that the runner's environment names: a job that is started again gets a higher id."""

    def number(name: str) -> int:
        text = env.get(name, "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0

    try:
        started = int(datetime.fromisoformat(env.get("CI_PIPELINE_CREATED_AT", "")).timestamp())
    except ValueError:
        started = 0
    return Run(number("CI_PIPELINE_ID"), number("CI_JOB_ID"), max(0, started))


def harmless(body: str) -> str:
    """The same text to a reader; to GitLab without quick actions and without references to merge requests. A
    zero-width space is the one thing that works in running text, in tables and in blocks of code alike."""
    return _REFERENCE.sub("!\u200b", _QUICK_ACTION.sub("\\1\u200b/", body))


def upsert(
    client: Client,
    merge_request: MergeRequest,
    comment_id: str,
    body: str,
    *,
    run: Run,
    create: bool = True,
) -> CommentResult:
    """Write `body` as the one note with this id on the merge request.

    Args:
        body: Markdown that starts with `report.marker(comment_id)`, at most `BUDGET` bytes.
        run: who writes; of two pipelines for one commit, the one that was made later stays.
        create: False updates a note that is there and starts none (`comment: changes-only`).

    Raises:
        GitLabError: the API failed in another way than by refusing to let this token write.
        ValueError: the body has no marker or is too long (a bug of the caller).
    """
    mark = report.marker(comment_id)
    stamped = discussion.stamped(harmless(body), mark, merge_request.head_sha, run, MAX_CHARACTERS)
    try:
        thread = _Notes(client, merge_request, mark, str(client.get("/user")["username"]))
        return discussion.settle(thread, stamped, merge_request.head_sha, run, create=create)
    except discussion.UnsettledError:
        raise GitLabError(
            f"The note on merge request !{merge_request.number} could not be settled: other jobs keep changing it.",
            fix="Give each job that writes a note its own `comment-id` (TRT_ACTION_COMMENT_ID).",
        ) from None
    except GitLabError as error:
        if error.status not in (401, 403):
            raise
        text = f"The token may not write to merge request !{merge_request.number}: {error.what} {error.fix}"
        return CommentResult(None, False, text)


class _Notes:
    """The notes of one merge request that carry our marker and were written by us."""

    def __init__(self, client: Client, merge_request: MergeRequest, mark: str, username: str) -> None:
        self.client, self.merge_request, self.mark, self.username = client, merge_request, mark, username
        self.title = f"!{merge_request.number}"
        self.path = f"/projects/{merge_request.project}/merge_requests/{merge_request.number}"

    def head(self) -> str:
        """GitLab's own view of the source branch; one that is not ready yet (a fork's first seconds) has none."""
        found = self.client.get(self.path)
        return str(found.get("sha") or self.merge_request.head_sha)

    def own(self) -> list[Entry]:
        return sorted((self._entry(one) for one in self._records()), key=lambda one: one.id)

    def _records(self) -> Iterator[dict[str, Any]]:
        """In the order of creation: an entry that is made meanwhile moves no other to the next page."""
        found = self.client.paginate(f"{self.path}/notes", sort="asc", order_by="created_at")
        return (one for one in found if self._is_ours(one))

    def _is_ours(self, note: Mapping[str, Any]) -> bool:
        author = str((note.get("author") or {}).get("username") or "")
        ours = author.lower() == self.username.lower() and not note.get("system")
        return ours and discussion.is_marked(str(note.get("body") or ""), self.mark)

    def post(self, body: str) -> Entry:
        def sent() -> dict[str, Any] | None:
            return next((one for one in self._records() if one["body"] == body), None)

        return self._entry(self.client.post(f"{self.path}/notes", {"body": body}, sent=sent))

    def update(self, entry: Entry, body: str) -> bool:
        if entry.body == body:
            return True
        try:
            self.client.put(f"{self.path}/notes/{entry.id}", {"body": body})
        except GitLabError as error:
            if error.status == 404:
                return False
            raise
        return True

    def delete(self, entry: Entry) -> None:
        try:
            self.client.delete(f"{self.path}/notes/{entry.id}")
        except GitLabError as error:
            if error.status != 404:
                raise

    def _entry(self, note: Mapping[str, Any]) -> Entry:
        return Entry(int(note["id"]), str(note["body"]), f"{self.merge_request.url}#note_{int(note['id'])}")
