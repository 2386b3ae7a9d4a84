"""Events and pull requests in other repositories."""

from __future__ import annotations

import pytest

from tests.doubles.github.server import Fault, GitHub, Identity
from tests.github.conftest import REPOSITORY, TOKEN
from trt_action.errors import GitHubError
from trt_action.github import handover
from trt_action.github.api import Client

PAYLOAD = {"image": "ghcr.io/acme/detector@sha256:0", "digest": "sha256:0", "commit": "4f2a"}


def test_an_event(github: GitHub, client: Client) -> None:
    handover.dispatch(client, REPOSITORY, "image-published", PAYLOAD)
    assert github.dispatches == [(REPOSITORY, {"event_type": "image-published", "client_payload": PAYLOAD})]


def test_an_event_is_never_sent_twice(github: GitHub, client: Client) -> None:
    github.faults = [Fault("POST", "/dispatches", "reset-after")]
    with pytest.raises(GitHubError):
        handover.dispatch(client, REPOSITORY, "image-published", PAYLOAD)
    assert len(github.dispatches) == 1


def test_a_repository_that_the_token_may_not_reach(github: GitHub, client: Client) -> None:
    github.tokens[TOKEN] = Identity(write=False)
    with pytest.raises(GitHubError) as caught:
        handover.dispatch(client, REPOSITORY, "x", PAYLOAD)
    assert "deploy-github-token" in caught.value.fix


def open_pull(client: Client) -> handover.Pull:
    return handover.pull_request(client, REPOSITORY, head="trt-action/x", base="main", title="Deploy x", body="why")


def test_a_pull_request_once(github: GitHub, client: Client) -> None:
    first, again = open_pull(client), open_pull(client)
    assert (first.made, again.made) == (True, False)
    assert first.number == again.number == 8
    assert github.pulls[REPOSITORY, 8]["title"] == "Deploy x"


def test_a_pull_request_whose_answer_is_lost(github: GitHub, client: Client) -> None:
    github.faults = [Fault("POST", "/pulls", "reset-after")]
    assert open_pull(client).number == 8
    assert (REPOSITORY, 9) not in github.pulls


@pytest.mark.parametrize(
    ("remote", "name"),
    [
        ("https://github.com/acme/gitops", "acme/gitops"),
        ("https://x-access-token:t@ghe.example:8443/acme/gitops.git", "acme/gitops"),
        ("git@github.com:acme/gitops.git", "acme/gitops"),
        ("ssh://git@github.com/acme/git.ops", "acme/git.ops"),
        ("/srv/git/gitops.git", None),
        ("https://github.com/acme", None),
    ],
)
def test_whose_remote(remote: str, name: str | None) -> None:
    assert handover.repository_of(remote) == name
