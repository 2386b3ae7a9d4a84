"""Optional: the outcome as a check run or a commit status on the head commit.

A check run made through the API lands under an arbitrary workflow of the commit, so the job's exit code stays the gate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trt_action.errors import GitHubError
from trt_action.evidence import Outcome
from trt_action.github.api import Client

SUMMARY_BYTES = 65_535
"""Largest summary of a check run; GitHub counts bytes here."""
MAX_TITLE = 255
MAX_DESCRIPTION = 140
"""Longest description of a commit status."""

_CONCLUSION = {"passed": "success", "failed": "failure", "inconclusive": "neutral"}
_STATE = {"passed": "success", "failed": "failure", "inconclusive": "success"}


@dataclass(frozen=True)
class CheckResult:
    """`posted` is False where the token may not write; `reason` says so."""

    url: str | None
    posted: bool
    reason: str


def publish(
    client: Client,
    repository: str,
    *,
    kind: Literal["check", "status"],
    sha: str,
    outcome: Outcome,
    title: str,
    summary: str = "",
    run_url: str | None = None,
    name: str = "trt-action",
    trusted: bool = True,
) -> CheckResult:
    """Set the outcome on a commit. An undecided outcome is `neutral` as a check, and `success` as a status, which has
    no word for it.

    Args:
        title: one line, e.g. the headline of the comment; cut where GitHub would refuse it.
        summary: Markdown of at most `SUMMARY_BYTES` (checks only).
        trusted: False where the outcome is a stranger's word (evidence of a fork's job): its `passed` is shown as
            `action_required` (GitHub's rules would take `neutral` for a success), and sets no status, which has no
            such word.

    Raises:
        GitHubError: the API failed in another way than by refusing to let this token write.
    """
    believed = trusted or outcome != "passed"
    if kind == "status" and not believed:
        return CheckResult(None, False, "No status: a fork's job says that it passed, and nothing here can prove it.")
    try:
        if kind == "check":
            conclusion = _CONCLUSION[outcome] if believed else "action_required"
            made = _check_run(client, repository, sha, conclusion, title, summary, run_url, name)
            url = made.get("html_url")
        else:
            made = _status(client, repository, sha, outcome, title, run_url, name)
            url = made.get("target_url")
    except GitHubError as error:
        if error.status != 403:
            raise
        return CheckResult(None, False, f"The token may not set a {_WORDS[kind]}: {error.what}")
    return CheckResult(str(url) if url else None, True, f"{_WORDS[kind].capitalize()} set: {outcome}.")


_WORDS = {"check": "check run (`permissions: checks: write`)", "status": "status (`permissions: statuses: write`)"}


def _check_run(
    client: Client,
    repository: str,
    sha: str,
    conclusion: str,
    title: str,
    summary: str,
    run_url: str | None,
    name: str,
) -> dict[str, object]:
    output = {"title": _cut(title, MAX_TITLE), "summary": _cut_bytes(summary or title, SUMMARY_BYTES)}
    body: dict[str, object] = {
        "name": name,
        "head_sha": sha,
        "status": "completed",
        "conclusion": conclusion,
        "output": output,
    }
    if run_url:
        body["details_url"] = run_url
    made: dict[str, object] = client.post(f"/repos/{repository}/check-runs", body)
    return made


def _status(
    client: Client, repository: str, sha: str, outcome: Outcome, title: str, run_url: str | None, name: str
) -> dict[str, object]:
    """Statuses of one context replace each other: setting one twice does no harm, so a lost answer is repeated."""
    body = {"state": _STATE[outcome], "context": name, "description": _cut(title, MAX_DESCRIPTION)}
    if run_url:
        body["target_url"] = run_url
    made: dict[str, object] = client.post(f"/repos/{repository}/statuses/{sha}", body, sent=lambda: None)
    return made


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _cut_bytes(text: str, limit: int) -> str:
    """At most `limit` bytes of UTF-8, cut at a line's end."""
    content = text.encode()
    if len(content) <= limit:
        return text
    kept = content[: limit - 3].rpartition(b"\n")[0] or content[: limit - 3]
    return kept.decode(errors="ignore") + "…"
