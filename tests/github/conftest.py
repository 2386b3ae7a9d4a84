"""A GitHub on loopback, and clients of it whose clock does not wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
import requests
from pydantic import SecretStr

from tests.doubles.github.server import GitHub, Identity, serve
from trt_action.github.api import Client

REPOSITORY = "acme/models"
TOKEN = "ghs_canary0123456789abcdefABCDEF0123456789"  # noqa: S105 - the double's own
HEAD = "a" * 40


@dataclass
class Time:
    """A clock that moves only when somebody sleeps."""

    seconds: float = 1_000.0
    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds

    def now(self) -> float:
        return self.seconds


MakeClient = Callable[..., Client]


@pytest.fixture
def github() -> Iterator[GitHub]:
    """One repository, pull request 7 at HEAD, a token that may write. Every request must fit GitHub's description."""
    with serve() as double:
        double.tokens[TOKEN] = Identity()
        double.add_pull(REPOSITORY, 7, HEAD)
        yield double
        assert double.violations == []


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def make_client(github: GitHub, time: Time, log: list[str]) -> Iterator[MakeClient]:
    sessions: list[requests.Session] = []

    def make(token: str | None = TOKEN, url: str | None = None, **changes: object) -> Client:
        session = requests.Session()
        session.trust_env = False
        sessions.append(session)
        return Client(
            session,
            url or github.url,
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
