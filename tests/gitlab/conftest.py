"""A GitLab on loopback, and clients of it whose clock does not wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from pydantic import SecretStr

from tests.doubles.gitlab.server import GitLab, Identity, serve
from tests.github.conftest import Time
from trt_action.gitlab.api import Client
from trt_action.gitlab.pipeline_event import MergeRequest

PROJECT = 42
TOKEN = "glpat-canary0123456789abcdef"  # noqa: S105 - the double's own
HEAD = "a" * 40
MERGE_REQUEST = MergeRequest(PROJECT, 7, HEAD, "https://gitlab.example/acme/models/-/merge_requests/7", fork=False)

MakeClient = Callable[..., Client]


@pytest.fixture
def gitlab() -> Iterator[GitLab]:
    """One project, merge request 7 at HEAD, a token that may write. Every request must fit the contract."""
    with serve() as double:
        double.tokens[TOKEN] = Identity()
        double.add_merge_request(PROJECT, 7, HEAD)
        yield double
        assert double.violations == []
        assert double.executed == []


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def make_client(gitlab: GitLab, time: Time, log: list[str]) -> Iterator[MakeClient]:
    sessions: list[requests.Session] = []

    def make(token: str | None = TOKEN, url: str | None = None, **changes: Any) -> Client:
        session = requests.Session()
        session.trust_env = False
        sessions.append(session)
        return Client(
            session,
            url or gitlab.url,
            SecretStr(token) if token else None,
            sleep=time.sleep,
            clock=time.now,
            now=time.now,
            jitter=lambda: 0.0,
            log=log.append,
            **changes,
        )

    yield make
    for session in sessions:
        session.close()


@pytest.fixture
def client(make_client: MakeClient) -> Client:
    return make_client()
