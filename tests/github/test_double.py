"""The double refuses what GitHub refuses: else the tests beside it would prove nothing."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from tests.doubles.github import contract
from tests.doubles.github.server import GitHub, Identity, serve
from tests.github.conftest import HEAD, REPOSITORY, TOKEN

COMMENTS = f"/repos/{REPOSITORY}/issues/7/comments"
CHECKS = f"/repos/{REPOSITORY}/check-runs"


def ask(github: GitHub, method: str, path: str, body: Any = None, token: str | None = TOKEN) -> requests.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return requests.request(method, github.url + path, json=body, headers=headers, timeout=10)


@pytest.mark.parametrize(
    ("method", "path", "body", "problem"),
    [
        ("POST", COMMENTS, {}, "'body' is a required property"),
        ("POST", COMMENTS, {"body": "x", "draft": True}, "unknown key draft"),
        ("POST", COMMENTS, {"body": 3}, "3 is not of type 'string'"),
        ("GET", f"{COMMENTS}?perpage=9", None, "unknown parameter perpage"),
        ("GET", f"{COMMENTS}?per_page=many", None, "'many' is not of type 'integer'"),
        ("GET", f"/repos/{REPOSITORY}/pulls?state=merged", None, "'merged' is not one of"),
        ("POST", CHECKS, {"name": "x", "head_sha": HEAD, "conclusion": "passed"}, "check-runs"),
        ("GET", "/repos/acme/models/secrets", None, "not in the description"),
    ],
)
def test_requests_that_githubs_description_does_not_know(method: str, path: str, body: Any, problem: str) -> None:
    with serve() as github:
        github.tokens[TOKEN] = Identity()
        github.add_pull(REPOSITORY, 7, HEAD)
        assert ask(github, method, path, body).status_code in (404, 422)
        assert any(problem in violation for violation in github.violations)


@pytest.mark.parametrize(
    ("method", "path", "body", "token", "status"),
    [
        ("GET", COMMENTS, None, None, 401),
        ("GET", COMMENTS, None, "other", 401),
        ("POST", COMMENTS, {"body": "x"}, "read", 403),
        ("GET", "/user", None, TOKEN, 403),
        ("GET", "/user", None, "pat", 200),
        ("POST", COMMENTS, {"body": "ä" * 65_536}, TOKEN, 201),
        ("POST", COMMENTS, {"body": "x" * 65_537}, TOKEN, 422),
        ("GET", "/repos/acme/models/issues/8/comments", None, TOKEN, 404),
        ("GET", "/repos/acme/other/issues/7/comments", None, TOKEN, 404),
        ("DELETE", "/repos/acme/models/issues/comments/1", None, TOKEN, 404),
        ("POST", CHECKS, {"name": "x", "head_sha": HEAD, "status": "completed"}, TOKEN, 422),
        ("POST", f"/repos/{REPOSITORY}/statuses/{HEAD}", {"state": "success", "description": "x" * 141}, TOKEN, 422),
    ],
)
def test_what_the_description_does_not_say(
    github: GitHub, method: str, path: str, body: Any, token: str | None, status: int
) -> None:
    github.tokens["pat"] = Identity("octocat", installation=False)
    github.tokens["read"] = Identity(write=False)
    assert ask(github, method, path, body, token).status_code == status


def test_pages_of_thirty_unless_asked(github: GitHub) -> None:
    for n in range(101):
        github.add_comment(REPOSITORY, 7, str(n))
    first = ask(github, "GET", COMMENTS)
    assert len(first.json()) == 30
    assert first.links["next"]["url"] == f"{github.url}{COMMENTS}?page=2"
    assert first.links["last"]["url"].endswith("page=4")
    assert len(ask(github, "GET", f"{COMMENTS}?per_page=1000").json()) == 100
    assert "next" not in ask(github, "GET", f"{COMMENTS}?per_page=100&page=2").links


@pytest.mark.parametrize("name", sorted(contract.DESCRIPTION["$defs"]))
def test_minimal_records_are_valid(name: str) -> None:
    assert contract.problems({"$ref": f"#/$defs/{name}"}, contract.minimal(name)) == []
