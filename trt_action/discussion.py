"""One text per discussion and marker: found again, updated in place, never doubled, never turned back.

Which discussion it is (a pull request's comments, a merge request's notes), a room further up the story says.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from trt_action.evidence import Evidence

STAMP_BYTES = 256
"""Largest stamp: what a renderer leaves room for."""

ROUNDS = 12
"""Other jobs may post and delete at the same time; each round looks again."""

_STAMP = re.compile(
    r"<!-- trt-action:run head=(?P<head>[0-9a-f]{40,64}) run=(?P<id>\d{1,20}) attempt=(?P<attempt>\d{1,20})"
    r" started=(?P<started>\d{1,12}) -->"
)


@dataclass(frozen=True)
class Run:
    """Which run wrote a text. `started`: seconds since 1970, when this attempt began."""

    id: int = 0
    attempt: int = 1
    started: int = 0

    def before(self, other: Run) -> bool:
        """Whether `other` began later. Ids grow with time; a repetition keeps its run's id."""
        if self.id == other.id:
            return self.attempt < other.attempt
        return (self.started, self.id) < (other.started, other.id)


@dataclass(frozen=True)
class CommentResult:
    """`posted` is False where nothing was written; `reason` says in a sentence what was done or why not."""

    url: str | None
    posted: bool
    reason: str


@dataclass(frozen=True)
class Entry:
    """One text that is there. Foreign until its author was checked."""

    id: int
    body: str
    url: str


class Thread(Protocol):
    """A discussion, as far as it is ours: entries that carry our marker and that we wrote. Every method may raise the
    host's error."""

    title: str
    """For people: `#7`, `!7`."""

    def head(self) -> str:
        """The commit that the discussion is about now."""

    def own(self) -> list[Entry]:
        """Lowest id first: ids grow with time, so the first entry is the one that every racing job sees."""

    def post(self, body: str) -> Entry:
        """After a lost answer, it looks whether the text is there; it is never sent twice blindly."""

    def update(self, entry: Entry, body: str) -> bool:
        """False if the entry is gone."""

    def delete(self, entry: Entry) -> None:
        """One that is gone is deleted."""


class UnsettledError(Exception):
    """Other jobs keep changing the discussion."""


def settle(thread: Thread, body: str, head_sha: str, run: Run, *, create: bool) -> CommentResult:
    """Update the lowest id, delete the rest, post only where there is none.

    Of racing posts the lowest id stays: ids grow with time, so every job's look after its own post includes it. Whoever
    posted looks until two looks in a row show that one alone, since deletions by others move entries between pages.

    Args:
        body: stamped (`stamped`).
        head_sha: the commit that was measured; results of an older one are not written.
        run: who writes; of two runs for one commit, the one that started later stays.
        create: False updates a text that is there and starts none.

    Raises:
        UnsettledError: other jobs keep changing it.
        the host's error: a request failed.
    """
    written: int | None = None
    alone: int | None = None
    done = "updated"
    for _ in range(ROUNDS):
        own = thread.own()
        head = thread.head()
        if head != head_sha:
            return CommentResult(None, False, f"Stale: {thread.title} is at {head[:12]} now, not {head_sha[:12]}.")
        if not own:
            if not create:
                return CommentResult(None, False, "Nothing to act on, and there is no earlier comment to update.")
            written, done = thread.post(body).id, "created"
            continue
        first, *rest = own
        for one in rest:
            thread.delete(one)
        if (newer := _newer(first, head_sha, run)) is not None:
            return CommentResult(first.url, False, newer)
        if written != first.id:
            if not thread.update(first, body):
                continue  # deleted between our look and our update
            written = first.id
        if not rest and (done == "updated" or alone == first.id):
            return CommentResult(first.url, True, f"Comment {done}.")
        alone = None if rest else first.id
    raise UnsettledError


def _newer(entry: Entry, head_sha: str, run: Run) -> str | None:
    """Why the text that is there stays: a later run wrote it about the same head."""
    found = _STAMP.search(entry.body[:1_000])
    if found is None or found["head"] != head_sha:
        return None
    there = Run(int(found["id"]), int(found["attempt"]), int(found["started"]))
    if not run.before(there):
        return None
    return f"Stale: run {there.id} (attempt {there.attempt}), which started later, wrote it."


def stamped(body: str, mark: str, head_sha: str, run: Run, limit: int) -> str:
    """`body` with the stamp of its run behind the marker that it starts with.

    Raises:
        ValueError: no marker, no stamp, or more than `limit` characters (a bug of the caller).
    """
    first_line, _, rest = body.partition("\n")
    if first_line != mark:
        raise ValueError("the body does not start with its marker")
    stamp = f"<!-- trt-action:run head={head_sha} run={run.id} attempt={run.attempt} started={run.started} -->"
    if not _STAMP.fullmatch(stamp):
        raise ValueError(f"no stamp can be made of {head_sha!r} and {run}")
    whole = f"{mark}\n{stamp}\n{rest}"
    if len(whole) > limit:
        raise ValueError(f"a comment of {len(whole)} characters")
    return whole


def without_stamp(body: str) -> str:
    """The body as it was rendered, before the run's stamp was put in."""
    return re.sub(_STAMP.pattern + "\n", "", body, count=1)


def is_marked(body: str, mark: str) -> bool:
    """Whether the first line that is not empty is the marker: a quotation of it is not."""
    return body.lstrip("\ufeff \r\n").partition("\n")[0].strip() == mark


def worth_starting(evidences: Sequence[Evidence]) -> bool:
    """Whether `changes-only` starts a comment: something failed, is undecided, or is measurably faster."""
    return any(
        one.outcome != "passed" or (one.comparison is not None and one.comparison.verdict != "within-noise")
        for one in evidences
    )
