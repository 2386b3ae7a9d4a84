"""The optional check run and commit status."""

from __future__ import annotations

from typing import Literal

import pytest

from tests.doubles.github.server import Fault, GitHub, Identity
from tests.github.conftest import HEAD, REPOSITORY, MakeClient
from trt_action.errors import GitHubError
from trt_action.evidence import Outcome
from trt_action.github import checks
from trt_action.github.api import Client

Kind = Literal["check", "status"]


def publish(
    client: Client, kind: Kind, outcome: Outcome = "passed", title: str = "Passed", *, trusted: bool = True
) -> checks.CheckResult:
    return checks.publish(
        client, REPOSITORY, kind=kind, sha=HEAD, outcome=outcome, title=title, summary="€\n" * 40_000,
        run_url="https://github.invalid/run", trusted=trusted,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("outcome", "conclusion", "state"),
    [("passed", "success", "success"), ("failed", "failure", "failure"), ("inconclusive", "neutral", "success")],
)
def test_outcomes_in_githubs_words(
    github: GitHub, client: Client, outcome: Outcome, conclusion: str, state: str
) -> None:
    assert publish(client, "check", outcome).posted
    assert publish(client, "status", outcome).url == "https://github.invalid/run"
    assert github.check_runs[0]["conclusion"] == conclusion
    assert github.statuses[0]["state"] == state
    assert 65_000 < len(github.check_runs[0]["output"]["summary"].encode()) <= 65_535


def test_a_strangers_word_is_no_success(github: GitHub, client: Client) -> None:
    assert publish(client, "check", "passed", trusted=False).posted
    assert github.check_runs[0]["conclusion"] == "action_required"
    assert not publish(client, "status", "passed", trusted=False).posted
    assert github.statuses == []
    assert publish(client, "status", "failed", trusted=False).posted, "nobody gains by claiming a failure"


@pytest.mark.parametrize("kind", ["check", "status"])
def test_long_titles_are_cut(github: GitHub, client: Client, kind: Kind) -> None:
    assert publish(client, kind, title="ä" * 1_000).posted


@pytest.mark.parametrize("kind", ["check", "status"])
def test_a_token_without_the_right_is_no_failure(github: GitHub, make_client: MakeClient, kind: Kind) -> None:
    github.tokens["fork"] = Identity(write=False)
    result = publish(make_client("fork"), kind)
    assert not result.posted
    assert "permissions: " in result.reason


def test_a_check_is_not_doubled(github: GitHub, client: Client) -> None:
    github.faults.append(Fault("POST", "check-runs", "reset-after"))
    with pytest.raises(GitHubError):
        publish(client, "check")
    assert len(github.check_runs) == 1
    github.faults.append(Fault("POST", "statuses", status=502))
    assert publish(client, "status").posted
