"""Evidence from anywhere: one comment, or a refusal that says why."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.github.server import Fault, GitHub, Identity
from tests.github.conftest import HEAD, REPOSITORY, TOKEN, MakeClient
from tests.report import samples
from trt_action import judge, report
from trt_action.errors import EvidenceError, GitHubError, SettingsError, TrtActionError
from trt_action.evidence import Evidence, Source
from trt_action.github import comment, report_job
from trt_action.github.api import Client
from trt_action.github.comment import Run
from trt_action.github.event import Activity, PullRequest
from trt_action.github.inputs import ActionInputs
from trt_action.github.report_job import ReportResult
from trt_action.report import gathered

FROM_RUN = Activity("report", "results", commit=HEAD, measured_commit=HEAD)
RUN = Run(50, 1, 1_000)


def of_head(evidence: Evidence, **changes: Any) -> Evidence:
    return evidence.model_copy(update={"source": Source(commit=HEAD), **changes})


def leg(folder: Path, name: str, evidence: Evidence) -> Path:
    return report.write_evidence(evidence, folder / "evidence" / name)


def run(
    client: Client | None, folder: Path, *patterns: str, activity: Activity = FROM_RUN, **inputs: Any
) -> ReportResult:
    return report_job.run(
        client,
        ActionInputs(evidence=patterns or ("evidence/**/evidence.json",), **inputs),
        activity,
        REPOSITORY,
        folder=folder,
        run=RUN,
    )


def test_legs_become_one_comment(github: GitHub, client: Client, tmp_path: Path) -> None:
    leg(tmp_path, "a100", of_head(samples.passed()))
    leg(tmp_path, "l4", of_head(samples.regressed()))
    result = run(client, tmp_path)
    assert (result.outcome, result.exit_code, result.pull_requests) == ("failed", 1, (7,))
    assert [comment.without_stamp(body) for body in github.bodies(REPOSITORY, 7)] == [result.body]
    assert result.comments[0].posted
    assert len(result.evidences) == 2


@pytest.mark.parametrize("others", [0, 130])
def test_a_forks_pull_request_is_found_by_its_head(github: GitHub, client: Client, tmp_path: Path, others: int) -> None:
    github.add_pull(REPOSITORY, 7, HEAD, head_repository="mallory/models")
    for n in range(others):
        github.add_pull(REPOSITORY, 100 + n, f"{n:040x}")
    github.add_pull(REPOSITORY, 6, HEAD, state="closed")
    leg(tmp_path, "a", of_head(samples.passed()))
    assert run(client, tmp_path).pull_requests == (7,)
    assert github.bodies(REPOSITORY, 6) == []


def test_a_commit_that_only_the_fork_has(github: GitHub, client: Client, tmp_path: Path) -> None:
    github.add_pull(REPOSITORY, 7, HEAD, head_repository="mallory/models")
    github.faults.append(Fault("GET", "commits", status=422, message="No commit found for SHA"))
    leg(tmp_path, "a", of_head(samples.passed()))
    assert run(client, tmp_path).pull_requests == (7,)


def test_two_pull_requests_with_one_head_both_hear_of_it(github: GitHub, client: Client, tmp_path: Path) -> None:
    github.add_pull(REPOSITORY, 9, HEAD)
    leg(tmp_path, "a", of_head(samples.passed()))
    assert run(client, tmp_path).pull_requests == (7, 9)
    assert len(github.comments) == 2


def test_nobody_to_tell(github: GitHub, client: Client, tmp_path: Path) -> None:
    leg(tmp_path, "a", of_head(samples.passed()))
    assert "no token" in run(None, tmp_path).notes[0]
    assert "`comment: false`" in run(client, tmp_path, comment="false").notes[0]
    github.pulls[REPOSITORY, 7]["state"] = "closed"
    result = run(client, tmp_path)
    assert (result.comments, result.outcome) == ((), "passed")
    assert "no open pull request" in result.notes[0]
    assert github.comments == {}


def test_the_events_own_pull_request_needs_no_search(github: GitHub, client: Client, tmp_path: Path) -> None:
    pull = PullRequest(7, HEAD, "b" * 40, "main", REPOSITORY, REPOSITORY)
    leg(tmp_path, "a", of_head(samples.passed()))
    run(client, tmp_path, activity=Activity("report", "matrix", pull, commit=HEAD))
    assert not [seen for seen in github.seen if "/commits/" in seen.path]


def test_a_read_only_token_keeps_the_verdict(github: GitHub, make_client: MakeClient, tmp_path: Path) -> None:
    github.tokens["fork"] = Identity(write=False)
    leg(tmp_path, "a", of_head(samples.regressed()))
    result = run(make_client("fork"), tmp_path)
    assert (result.exit_code, result.comments[0].posted) == (1, False)


@pytest.mark.parametrize(("name", "code"), [("passed", GitHubError.exit_code), ("regressed", 1)])
def test_an_api_that_fails_is_told_and_loses_nothing(
    github: GitHub, client: Client, tmp_path: Path, name: str, code: int
) -> None:
    github.faults.append(Fault("GET", "commits", status=500, times=99))
    leg(tmp_path, "a", of_head(getattr(samples, name)()))
    result = run(client, tmp_path)
    assert result.exit_code == code
    assert "not posted" in result.notes[0]
    assert result.body
    assert len(result.evidences) == 1


@pytest.mark.parametrize(
    ("names", "on_inconclusive", "outcome", "code"),
    [
        (["passed", "passed"], "pass", "passed", 0),
        (["passed", "inconclusive"], "pass", "inconclusive", 0),
        (["passed", "inconclusive"], "fail", "inconclusive", 3),
        (["inconclusive", "regressed"], "fail", "failed", 1),
        (["regressed", "error", "passed"], "pass", "failed", 5),
    ],
)
def test_the_worst_leg_decides(names: list[str], on_inconclusive: str, outcome: str, code: int) -> None:
    evidences = [samples.ALL[name]() for name in names]
    assert judge.overall(evidences) == outcome
    assert report_job.exit_code(evidences, on_inconclusive) == code


def test_what_a_stranger_wrote_is_escaped_here(github: GitHub, client: Client, tmp_path: Path) -> None:
    evil = "@everyone <img src=x onerror=alert(1)> [click](https://evil.invalid) ![](//evil.invalid) | #1 -->\n# Big"
    forged = "<!-- trt-action:comment id=other --> " + evil
    bad = of_head(samples.regressed(), warnings=[evil, forged], base_note=forged, settings={"name": evil})
    bad = bad.model_copy(update={"model": samples.model(name=forged), "comparison": None})
    leg(tmp_path, "a", bad)
    body = run(client, tmp_path).body
    assert body.count("<!--") == 1
    for raw in ("@everyone", "<img", "](https", "![](", "\n# Big", "https://evil"):
        assert raw not in body


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _changed(folder: Path, **changes: Any) -> None:
    record = json.loads(of_head(samples.passed()).model_dump_json()) | changes
    _write(folder / "evidence/a/evidence.json", json.dumps(record))


def _huge(folder: Path) -> None:
    _write(folder / "evidence/a/evidence.json", "")
    os.truncate(folder / "evidence/a/evidence.json", gathered.MAX_FILE_BYTES + 1)


def _link(folder: Path) -> None:
    secret = report.write_evidence(of_head(samples.passed()), folder.parent / "secret")
    (folder / "evidence/a").mkdir(parents=True)
    (folder / "evidence/a/evidence.json").symlink_to(secret)


def _linked_folder(folder: Path) -> None:
    report.write_evidence(of_head(samples.passed()), folder.parent / "secret")
    (folder / "evidence").mkdir()
    (folder / "evidence/a").symlink_to(folder.parent / "secret")


def _pipe(folder: Path) -> None:
    (folder / "evidence/a").mkdir(parents=True)
    os.mkfifo(folder / "evidence/a/evidence.json")


def _many(folder: Path) -> None:
    for n in range(gathered.MAX_FILES + 1):
        _write(folder / f"evidence/{n}/evidence.json", "{}")


def _one_good_one_bad(folder: Path) -> None:
    leg(folder, "b", of_head(samples.passed()))
    _write(folder / "evidence/a/evidence.json", "{}")


@pytest.mark.parametrize(
    ("arrange", "pattern", "says"),
    [
        (lambda folder: None, "evidence/**/evidence.json", "No evidence matches"),
        (lambda folder: _write(folder / "evidence/a/evidence.json", "{"), "evidence/**/*.json", "not valid evidence"),
        (lambda folder: _write(folder / "evidence/a/evidence.json", "[" * 99_999), "evidence/**/*.json", "not valid"),
        (lambda folder: _changed(folder, extra=1), "evidence/a/evidence.json", "extra"),
        (lambda folder: _changed(folder, schema_version="9.0"), "evidence/*/evidence.json", "schema_version"),
        (lambda folder: _changed(folder, warnings=["x" * 30_000]), "evidence/*/evidence.json", "warnings.0"),
        (
            lambda folder: _changed(folder, source={"commit": "d" * 40}),
            "evidence/*/evidence.json",
            "is about the commit",
        ),
        (lambda folder: _changed(folder, source={}), "evidence/*/evidence.json", "is about the commit `None`"),
        (lambda folder: _changed(folder, gates=[samples.gates("failed")[1].model_dump()]), "evidence/*/*", "`passed`"),
        (_one_good_one_bad, "evidence/*/evidence.json", "not valid evidence"),
        (_huge, "evidence/*/evidence.json", "bytes; at most"),
        (_link, "evidence/*/evidence.json", "symbolic link"),
        (_link, "evidence/a/evidence.json", "symbolic link"),
        (_linked_folder, "evidence/a/evidence.json", "symbolic link"),
        (_linked_folder, "evidence/*/evidence.json", "symbolic link"),
        (
            lambda folder: leg(folder, "a\nb", of_head(samples.passed())) and None,
            "evidence/**/evidence.json",
            "control characters",
        ),
        (_pipe, "evidence/*/evidence.json", "not a regular file"),
        (_many, "evidence/*/evidence.json", "at most 64"),
        (lambda folder: None, "../secret/evidence.json", "leaves the workspace"),
        (lambda folder: None, "/etc/passwd", "leaves the workspace"),
    ],
)
def test_hostile_files_are_refused_in_words(
    github: GitHub, client: Client, tmp_path: Path, arrange: Callable[[Path], None], pattern: str, says: str
) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    arrange(workspace)
    with pytest.raises(TrtActionError) as caught:
        run(client, workspace, pattern)
    assert isinstance(caught.value, EvidenceError | SettingsError)
    assert says in caught.value.what
    assert TOKEN not in str(vars(caught.value))
    assert github.seen == []


def test_no_evidence_is_asked_for(client: Client, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="needs the input `evidence`"):
        report_job.run(client, ActionInputs(), FROM_RUN, REPOSITORY, folder=tmp_path, run=RUN)


def test_series_of_strangers_are_not_unpacked(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leg(tmp_path, "a", of_head(samples.passed()))
    (one,) = run(client, tmp_path).evidences
    assert one.comparison is not None
    assert one.head is not None
    assert one.head.latency is not None
    assert one.comparison.series is None
    assert one.head.latency.series is None
