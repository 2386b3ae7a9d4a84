"""What the runner tells a step, against what is checked out."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from trt_action import delivery, settings
from trt_action.action import _lock_folder
from trt_action.container import CACHE_FOLDER, GUARD
from trt_action.errors import SettingsError
from trt_action.github.event import Activity, PullRequest
from trt_action.github.inputs import ActionInputs
from trt_action.job import Job

BASE_OF_THE_EVENT = "b" * 40


def git(top: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *identity, *arguments], cwd=top, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def commits(tmp_path: Path) -> dict[str, str]:
    """A checkout as GitHub makes it: the pull request's head, merged into main as it is now."""
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "-m", "old main")
    git(tmp_path, "branch", "feature")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "-m", "main moved on")
    main = git(tmp_path, "rev-parse", "HEAD")
    git(tmp_path, "switch", "--quiet", "feature")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "-m", "head")
    head = git(tmp_path, "rev-parse", "HEAD")
    git(tmp_path, "switch", "--quiet", "--detach", "main")
    git(tmp_path, "merge", "--quiet", "--no-ff", "-m", "merge", "feature")
    return {"main": main, "head": head, "merge": git(tmp_path, "rev-parse", "HEAD")}


def job(workspace: Path, head: str, **env: str) -> Job:
    pull = PullRequest(7, head, BASE_OF_THE_EVENT, "main", "acme/models", "acme/models")
    activity = Activity("measure", "test", pull, commit=head, base=BASE_OF_THE_EVENT)
    return Job({"GITHUB_WORKSPACE": str(workspace), **env}, ActionInputs(), activity, 1_000.0)


def test_the_base_is_what_the_pull_request_was_merged_into(tmp_path: Path, commits: dict[str, str]) -> None:
    """The event's `base.sha` is older when main moved on: its changes are not the pull request's."""
    one = job(tmp_path, commits["head"])
    assert one.base == one.source().base_commit == commits["main"]


def test_without_that_merge_commit_the_event_says_it(tmp_path: Path, commits: dict[str, str]) -> None:
    git(tmp_path, "checkout", "--quiet", commits["head"])
    assert job(tmp_path, commits["head"]).base == BASE_OF_THE_EVENT
    git(tmp_path, "checkout", "--quiet", commits["merge"])
    assert job(tmp_path, "d" * 40).base == BASE_OF_THE_EVENT, "a merge of something else"
    assert job(tmp_path.parent, commits["head"]).base == BASE_OF_THE_EVENT, "no repository"
    assert Job({}, ActionInputs(), Activity("measure", "push", base=commits["main"]), 0.0).base == commits["main"]


def test_the_base_is_not_judged_in_the_name_of_a_pull_request(tmp_path: Path, commits: dict[str, str]) -> None:
    git(tmp_path, "checkout", "--quiet", commits["main"])
    target = {"GITHUB_EVENT_NAME": "pull_request_target", "GITHUB_SHA": commits["main"]}
    with pytest.raises(SettingsError, match="not the pull request's head") as caught:
        job(tmp_path, commits["head"], **target).check_checkout()
    assert "event.pull_request.head.sha" in caught.value.fix
    git(tmp_path, "checkout", "--quiet", commits["head"])
    job(tmp_path, commits["head"], **target).check_checkout()
    job(tmp_path, commits["main"], **target | {"GITHUB_EVENT_NAME": "pull_request"}).check_checkout()


@pytest.mark.parametrize(("started_at", "expected"), [("1970-01-01T00:01:40Z", 100), (None, 1_000), ("soon", 1_000)])
def test_a_late_report_counts_from_the_run_that_measured(tmp_path: Path, started_at: str | None, expected: int) -> None:
    """Else the report of an older run that waited longer would take the place of a newer one."""
    event = tmp_path / "event.json"
    event.write_text(json.dumps({"workflow_run": {"id": 41, "run_attempt": 2, "run_started_at": started_at}}))
    run = delivery._run_of_evidence(job(tmp_path, "a" * 40, GITHUB_EVENT_PATH=str(event)))
    assert (run.id, run.attempt, run.started) == (41, 2, expected)


@pytest.mark.parametrize("cache", ["false", "own-cache", "auto"])
def test_all_siblings_of_a_host_lock_in_one_place(tmp_path: Path, cache: str) -> None:
    chosen = settings.load({"model": "m.onnx", "cache": cache}, {}, tmp_path)
    assert _lock_folder(job(tmp_path, "a" * 40, **{GUARD: "1"}), chosen) == Path(CACHE_FOLDER)
    assert _lock_folder(job(tmp_path, "a" * 40), chosen) != Path(CACHE_FOLDER)
