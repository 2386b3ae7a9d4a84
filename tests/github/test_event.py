"""The whole table: event, payload, environment → activity."""

from __future__ import annotations

from typing import Any

import pytest

from trt_action.errors import SettingsError
from trt_action.github.event import Activity, Kind, decide, with_push

HEAD, BASE, MERGE, ZERO = "a" * 40, "b" * 40, "c" * 40, "0" * 40
REPOSITORY = {"full_name": "acme/models", "default_branch": "main"}
ENV = {"GITHUB_SHA": MERGE, "GITHUB_REF": "refs/heads/main", "GITHUB_ACTOR": "ada"}


def pull(action: str = "synchronize", head: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "action": action,
        "pull_request": {
            "number": 7,
            "head": {"sha": HEAD, "repo": {"full_name": "acme/models"} if head is None else head.get("repo")},
            "base": {"sha": BASE, "ref": "main", "repo": REPOSITORY},
        },
    }


FORK = {"repo": {"full_name": "mallory/models"}}


def push(ref: str, **more: Any) -> dict[str, Any]:
    return {"ref": ref, "before": BASE, "repository": REPOSITORY, **more}


def finished(head_repository: str = "acme/models") -> dict[str, Any]:
    run = {"head_sha": HEAD, "head_repository": {"full_name": head_repository}}
    return {"workflow_run": run, "repository": REPOSITORY}


TABLE = [
    ("pull_request", pull("opened"), {}, ("measure", HEAD, MERGE, BASE, True, True)),
    ("pull_request", pull("synchronize"), {}, ("measure", HEAD, MERGE, BASE, True, True)),
    ("pull_request", pull("reopened"), {}, ("measure", HEAD, MERGE, BASE, True, True)),
    ("pull_request", pull("labeled"), {}, ("measure", HEAD, MERGE, BASE, True, True)),
    (
        "pull_request",
        pull("edited") | {"changes": {"base": {"ref": {"from": "old"}}}},
        {},
        ("measure", HEAD, MERGE, BASE, True, True),
    ),
    (
        "pull_request",
        pull("edited") | {"changes": {"title": {"from": "old"}}},
        {},
        ("nothing", HEAD, MERGE, BASE, True, True),
    ),
    ("pull_request", pull("closed"), {}, ("nothing", HEAD, MERGE, BASE, True, True)),
    ("pull_request", pull(head=FORK), {}, ("measure", HEAD, MERGE, BASE, False, False)),
    ("pull_request", pull(head={"repo": None}), {}, ("measure", HEAD, MERGE, BASE, False, False)),
    ("pull_request", pull(), {"GITHUB_ACTOR": "dependabot[bot]"}, ("measure", HEAD, MERGE, BASE, False, False)),
    ("pull_request_target", pull(), {}, ("measure", HEAD, MERGE, BASE, True, True)),
    ("pull_request_target", pull("closed", FORK), {}, ("nothing", HEAD, MERGE, BASE, False, True)),
    ("push", push("refs/heads/main"), {}, ("publish", MERGE, MERGE, BASE, True, True)),
    ("push", push("refs/heads/topic"), {}, ("measure", MERGE, MERGE, BASE, True, True)),
    ("push", push("refs/heads/main", before=ZERO), {}, ("publish", MERGE, MERGE, None, True, True)),
    ("push", push("refs/heads/topic", deleted=True), {}, ("nothing", "", "", None, True, True)),
    ("push", push("refs/tags/v1.2.3"), {}, ("promote", MERGE, MERGE, None, True, True)),
    (
        "release",
        {"action": "published", "release": {"tag_name": "v1"}},
        {},
        ("promote", MERGE, MERGE, None, True, True),
    ),
    ("release", {"action": "edited", "release": {"tag_name": "v1"}}, {}, ("nothing", "", "", None, True, True)),
    ("workflow_run", finished(), {}, ("report", HEAD, HEAD, None, True, True)),
    ("workflow_run", finished("mallory/models"), {}, ("report", HEAD, HEAD, None, False, True)),
    ("workflow_dispatch", {}, {}, ("measure", MERGE, MERGE, None, True, True)),
    ("repository_dispatch", {}, {}, ("measure", MERGE, MERGE, None, True, True)),
    ("schedule", {}, {}, ("measure", MERGE, MERGE, None, True, True)),
    (
        "merge_group",
        {"merge_group": {"head_sha": HEAD, "base_sha": BASE}},
        {},
        ("measure", HEAD, HEAD, BASE, True, True),
    ),
]


@pytest.mark.parametrize(("event", "payload", "env", "expected"), TABLE)
def test_table(event: str, payload: dict[str, Any], env: dict[str, str], expected: tuple[Any, ...]) -> None:
    a = decide(event, payload, {**ENV, **env})
    assert (a.kind, a.commit, a.measured_commit, a.base, a.trusted, a.can_write) == expected


@pytest.mark.parametrize(
    ("event", "payload", "more", "words"),
    [
        ("pull_request_target", pull(head=FORK), {}, "secrets"),
        ("pull_request_target", pull("closed", FORK), {"activity": "measure"}, "secrets"),
        ("pull_request_target", pull("edited", FORK), {"activity": "promote"}, "secrets"),
        ("workflow_run", finished("mallory/models"), {"activity": "measure"}, "`workflow_run` would run"),
        ("issue_comment", {}, {}, "not one that this action serves"),
        ("pull_request", {"action": "opened"}, {}, "not as GitHub documents"),
        ("pull_request", {"action": "opened", "pull_request": {"number": 1}}, {}, "not as GitHub documents"),
        ("workflow_run", {"workflow_run": {"head_sha": "HEAD; rm -rf"}}, {}, "names no head commit"),
        ("push", push("refs/heads/main"), {"activity": "publsh"}, "publsh"),
        ("pull_request", pull(head=FORK), {"activity": "publish"}, "untrusted"),
    ],
)
def test_refusals(event: str, payload: dict[str, Any], more: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        decide(event, payload, ENV, **more)


def test_the_named_opt_in_lets_a_fork_run_but_keeps_it_untrusted() -> None:
    activity = decide("pull_request_target", pull(head=FORK), ENV, allow_untrusted_fork=True)
    assert (activity.kind, activity.trusted, activity.can_write) == ("measure", False, True)


def test_a_release_keeps_its_tag_and_an_override_its_commit() -> None:
    assert decide("push", push("refs/tags/v1.2.3"), ENV).tag == "v1.2.3"
    by_hand = decide("workflow_dispatch", {}, ENV, activity="publish")
    assert (by_hand.kind, by_hand.commit) == ("publish", MERGE)


@pytest.mark.parametrize(
    ("kind", "trusted", "push", "expected"),
    [
        ("publish", True, "auto", "publish"),
        ("publish", True, "true", "publish"),
        ("publish", True, "false", "measure"),
        ("promote", True, "auto", "promote"),
        ("promote", True, "false", "nothing"),
        ("measure", True, "auto", "measure"),
        ("measure", True, "true", "publish"),
        ("measure", True, "false", "measure"),
        ("measure", False, "auto", "measure"),
        ("measure", False, "true", "measure"),
        ("report", True, "true", "report"),
        ("nothing", True, "true", "nothing"),
    ],
)
def test_what_push_makes_of_an_activity(kind: Kind, trusted: bool, push: str, expected: str) -> None:
    decided = Activity(kind, "test", trusted=trusted)
    assert with_push(decided, push).kind == expected
