"""Activity `report`: evidence of other jobs in, one comment out.

The files may come from a stranger's pull request: they are data of unknown origin. Their number and size are limited,
links are refused, the schema is checked, the commit must be the one that GitHub names, series are dropped unread, and
everything is rendered and escaped here. The pull request is found through the API, never from a file.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from trt_action import judge, report
from trt_action.errors import EvidenceError, GitHubError, SettingsError, StorageError
from trt_action.evidence import Evidence, Outcome, Side
from trt_action.github import comment as comments
from trt_action.github.api import Client
from trt_action.github.comment import CommentResult, Run
from trt_action.github.event import Activity, PullRequest, read_pull_request
from trt_action.github.inputs import ActionInputs
from trt_action.inputs import quote

MAX_FILES = 64
MAX_FILE_BYTES = 32_000_000
MAX_TOTAL_BYTES = 256_000_000
MAX_PATHS = 20_000
"""Paths in the workspace that one pattern may match."""
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
        EvidenceError: nothing matches, or a file is a link, too large, invalid, contradicts itself, or is about
            another commit. One bad file refuses all: a leg that is left out could be the one that failed.

    A failure of the API is a note and an exit code: what was rendered must still reach the summary.
    """
    paths = find(inputs.evidence, folder)
    evidences = tuple(_read(path, folder, activity.commit) for path in paths)
    for path, one in zip(paths, evidences, strict=True):
        log(f"{path.relative_to(folder)}: {one.outcome}")
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


def find(patterns: Sequence[str], folder: Path) -> list[Path]:
    """The files that the patterns mean, in the order of their names; each once.

    Raises:
        SettingsError: no pattern, or one that leaves `folder`.
        EvidenceError: a pattern matches nothing, too many files, or something behind a link.
    """
    if not patterns:
        raise SettingsError(
            "`activity: report` needs the input `evidence`.",
            fix="Download the artifacts of the measuring jobs first, then `evidence: evidence/**/evidence.json`.",
        )
    found: set[Path] = set()
    for pattern in patterns:
        parts = PurePosixPath(pattern)
        if parts.is_absolute() or ".." in parts.parts or not parts.parts:
            raise SettingsError(
                f"The input `evidence: {quote(pattern)[1:-1]}` leaves the workspace.",
                fix="Give paths relative to the workspace, without `..`.",
            )
        matching = _matching(folder, pattern)
        if not matching:
            raise EvidenceError(
                f"No evidence matches {quote(pattern)}.",
                why="The measuring jobs wrote none, or their artifacts were not downloaded to this place.",
                fix="Look at the measuring jobs, and at `path:` of the download step.",
            )
        found |= matching
    if len(found) > MAX_FILES:
        raise EvidenceError(f"{len(found)} evidence files; at most {MAX_FILES} make one comment.")
    return sorted(found)


def _matching(folder: Path, pattern: str) -> set[Path]:
    found: set[Path] = set()
    try:
        for walked, path in enumerate(folder.glob(pattern)):
            if walked >= MAX_PATHS:
                raise EvidenceError(f"{quote(pattern)} matches more than {MAX_PATHS} paths.")
            if not path.is_dir() or path.is_symlink():
                _refuse_links(path, folder)
                found.add(path)
    except (OSError, ValueError, NotImplementedError) as error:
        raise EvidenceError(f"The pattern {quote(pattern)} cannot be used: {error}.") from None
    return found


def _refuse_links(path: Path, folder: Path) -> None:
    """Every step from `folder` to the file must be what it says: a link could point at a secret of this host."""
    here = folder
    for part in path.relative_to(folder).parts:
        here /= part
        if here.is_symlink():
            raise EvidenceError(
                f"{quote(path.relative_to(folder))} lies behind a symbolic link.",
                why="Evidence is never read through one.",
            )


def _read(path: Path, folder: Path, commit: str) -> Evidence:
    name = quote(path.relative_to(folder))
    if not str(path.relative_to(folder)).isprintable():
        raise EvidenceError(f"{name} has a name with control characters.", why="No artifact of this action has one.")
    try:
        about = path.lstat()
    except OSError as error:
        raise StorageError(f"{name} cannot be read: {error.strerror or error}.") from None
    if not stat.S_ISREG(about.st_mode):
        raise EvidenceError(f"{name} is not a regular file.")
    if about.st_size > MAX_FILE_BYTES:
        raise EvidenceError(f"{name} has {about.st_size:,} bytes; at most {MAX_FILE_BYTES:,} are read.")
    evidence = _without_series(report.read_evidence(path))
    if evidence.source.commit != commit:
        raise EvidenceError(
            f"{name} is about the commit {quote(str(evidence.source.commit)[:40])}, not {quote(commit[:40])}.",
            why="Results are attached only to the commit that was measured.",
            fix="Download the artifacts of the run that this job reports on.",
        )
    if evidence.outcome == "passed" and (evidence.error or any(gate.status == "failed" for gate in evidence.gates)):
        raise EvidenceError(f"{name} says `passed` and holds a failed gate or an error.")
    return evidence


def _without_series(evidence: Evidence) -> Evidence:
    """No comment shows them, and packed data from a stranger need not be unpacked."""

    def light(side: Side | None) -> Side | None:
        if side is None or side.latency is None:
            return side
        return side.model_copy(update={"latency": side.latency.model_copy(update={"series": None})})

    comparison = evidence.comparison.model_copy(update={"series": None}) if evidence.comparison else None
    return evidence.model_copy(
        update={"head": light(evidence.head), "base": light(evidence.base), "comparison": comparison}
    )


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
