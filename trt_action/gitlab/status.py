"""Optional: the outcome as a commit status, beside the pipeline's own.

https://docs.gitlab.com/api/commits/#set-commit-pipeline-status; GitLab has no word for an undecided outcome.
"""

from __future__ import annotations

from typing import Any

from trt_action.errors import GitLabError
from trt_action.evidence import Outcome
from trt_action.gitlab.api import Client

MAX_DESCRIPTION = 255
_STATE = {"passed": "success", "failed": "failed", "inconclusive": "success"}


def publish(
    client: Client,
    project: int,
    sha: str,
    outcome: Outcome,
    title: str,
    *,
    name: str = "trt-action",
    pipeline: int | None = None,
    target_url: str | None = None,
) -> str:
    """Set the outcome on a commit. Returns, in a sentence, what was done.

    Args:
        title: one line, e.g. the headline of the note; cut where GitLab would refuse it.
        pipeline: the one that the status belongs to; None: GitLab finds one.

    Raises:
        GitLabError: the API failed in another way than by refusing to let this token write.
    """
    body: dict[str, Any] = {"state": _STATE[outcome], "name": name, "description": title[:MAX_DESCRIPTION]}
    if pipeline:
        body["pipeline_id"] = pipeline
    if target_url:
        body["target_url"] = target_url
    try:
        client.post(f"/projects/{project}/statuses/{sha}", body, sent=lambda: None)
    except GitLabError as error:
        if error.status in (401, 403):
            return f"The token may not set a commit status: {error.what}"
        if error.status == 400 and "transition" in error.what:  # the same state again
            return f"Commit status is {_STATE[outcome]} already."
        raise
    return f"Commit status set: {outcome}."
