"""Clients for the registries of one publishing: the one that is pushed to, and those that base images come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import requests
from pydantic import SecretStr

from trt_action.publish import credentials
from trt_action.publish.credentials import Credentials
from trt_action.publish.reference import DOCKER_HUB, DOCKER_HUB_API
from trt_action.publish.registry import Registry
from trt_action.publish.runtime import Open

ELSEWHERE = {"patience": 60.0, "attempts": 2}
"""For registries that are only looked at: one that cannot be reached is no reason to wait for minutes."""


def opener(
    session: requests.Session,
    host: str,
    *,
    username: str | None,
    password: SecretStr | None,
    env: Mapping[str, str],
    ca: Path | None = None,
    insecure: bool | None = None,
    log: Callable[[str], None] = lambda _: None,
) -> Open:
    """Opens each registry once. The named login is for `host` alone; others get what Docker's config has for them.

    Raises (what it returns):
        SettingsError: a login is incomplete.
    """
    known: dict[str, tuple[Registry, Credentials | None]] = {}

    def opened(asked: str) -> tuple[Registry, Credentials | None]:
        if asked not in known:
            own = asked == host
            login = credentials.find(asked, username if own else None, password if own else None, env)
            api = DOCKER_HUB_API if asked == DOCKER_HUB else asked
            if own:
                made = Registry(session, api, credentials=login, ca=ca, insecure=insecure, log=log)
            else:
                made = Registry(
                    session, api, credentials=login, patience=ELSEWHERE["patience"], attempts=int(ELSEWHERE["attempts"])
                )
            known[asked] = made, login
        return known[asked]

    return opened
