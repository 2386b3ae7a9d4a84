"""Activity `report`: evidence of other jobs in, one comment out.

The files may come from a stranger's pull request: `report.gathered` reads them so. The commit must be the one that GitHub
names, and the pull request is found through the API, never from a file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trt_action import judge, report
from trt_action.errors import GitHubError, SettingsError
from trt_action.evidence import Evidence, Outcome
from trt_action.github import comment as comments
from trt_action.github.api import Client
from trt_action.github.comment import CommentResult, Run
from trt_action.github.event import Activity, PullRequest, read_pull_request
from trt_action.github.inputs import ActionInputs
from trt_action.report import gathered

MAX_PULLS = 5
"""Open pull requests with the same head that get the comment."""


@dataclass(frozen=True)
class ReportResult:
    """What the report job found and did. `outcome`: failed if any leg failed, else inconclusive if any was."""

    evidences: tuple[Evidence, ...]
    outcome: Outcome
    exit_code: int
    body: str
    pull_requests: tuple[int, ...]
    comments: tuple[CommentResult, ...]
    notes: tuple[str, ...]


def run(
    client: Client | None,
    inputs: ActionInputs,
    activity: Activity,
    repository: str,
    *,
    folder: Path,
    run: Run,
    on_inconclusive: str = "pass",
    template: Path | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> ReportResult:
    """Merge the evidence of N jobs into one comment on the pull request whose head is `activity.commit`.

    Args:
        client: None where there is no token: everything but the comment is done.
        repository: `owner/name` that the workflow runs in (GITHUB_REPOSITORY).
        folder: the workspace; `inputs.evidence` are paths and globs in it.
        run: for `workflow_run`, the run that made the evidence.
        on_inconclusive: of this job; what an evidence says about it is not asked.

    Raises:
        SettingsError: no evidence was named, or a pattern leaves the workspace.
        EvidenceError: as `gathered.read`.

    A failure of the API is a note and an exit code: what was rendered must still reach the summary.
    """
    if not inputs.evidence:
        raise SettingsError(
            "`activity: report` needs the input `evidence`.",
            fix="Download the artifacts of the measuring jobs first, then `evidence: evidence/**/evidence.json`.",
        )
    evidences = gathered.read(inputs.evidence, folder, activity.commit, log=log)
    body = report.comment(evidences, template=template, budget=comments.BUDGET, comment_id=inputs.comment_id)
    outcome = judge.overall(evidences)
    try:
        numbers, results, notes = _post(client, inputs, activity, repository, body, evidences, run)
        code = exit_code(evidences, on_inconclusive)
    except GitHubError as error:  # summary and outputs are still due; the job is red
        numbers, results, notes = (), (), [f"The comment was not posted: {error.what} {error.fix}".strip()]
        code = exit_code(evidences, on_inconclusive) or error.exit_code
    return ReportResult(evidences, outcome, code, body, numbers, results, tuple(notes))


def exit_code(evidences: Sequence[Evidence], on_inconclusive: str) -> int:
    """As `judge.exit_code_of_all`, with one rule for every leg."""
    return judge.exit_code_of_all(evidences, [on_inconclusive] * len(evidences))


def _post(
    client: Client | None,
    inputs: ActionInputs,
    activity: Activity,
    repository: str,
    body: str,
    evidences: Sequence[Evidence],
    run: Run,
) -> tuple[tuple[int, ...], tuple[CommentResult, ...], list[str]]:
    if inputs.comment == "false":
        return (), (), ["No comment: `comment: false`."]
    if client is None:
        return (), (), ["No comment: there is no token (`github-token`)."]
    numbers = (
        (activity.pull_request.number,)
        if activity.pull_request
        else tuple(pull.number for pull in pull_requests(client, repository, activity.commit))
    )
    if not numbers:
        return (), (), [f"No comment: no open pull request has the head {activity.commit[:12]}."]
    create = inputs.comment != "changes-only" or comments.worth_starting(evidences)
    results = tuple(
        comments.upsert(
            client, repository, number, inputs.comment_id, body, head_sha=activity.commit, run=run, create=create
        )
        for number in numbers[:MAX_PULLS]
    )
    return numbers[:MAX_PULLS], results, [result.reason for result in results]


def pull_requests(client: Client, repository: str, sha: str) -> list[PullRequest]:
    """Open pull requests of `repository` whose head is exactly `sha`, those of forks included.

    GitHub's list of a commit's pull requests leaves out forks; then the open ones are searched, latest change first.

    Raises:
        GitHubError: the API failed.
    """
    try:
        listed = client.get(f"/repos/{repository}/commits/{sha}/pulls", per_page=100)
    except GitHubError as error:
        if error.status not in (404, 409, 422):  # the commit is only in the fork
            raise
        listed = []
    found = _with_head(listed if isinstance(listed, list) else [], repository, sha)
    if found:
        return found
    every = client.paginate(f"/repos/{repository}/pulls", state="open", sort="updated", direction="desc")
    return _with_head(list(every), repository, sha)


def _with_head(records: Sequence[object], repository: str, sha: str) -> list[PullRequest]:
    opened = [one for one in records if isinstance(one, dict) and one.get("state") == "open"]
    pulls = [read_pull_request(one) for one in opened]
    return sorted(
        (pull for pull in pulls if pull.head_sha == sha and pull.base_repository.lower() == repository.lower()),
        key=lambda pull: pull.number,
    )
