"""What the runner tells a step: environment, inputs, event; and where code, run and API are."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from trt_action import errors
from trt_action.discussion import Run
from trt_action.evidence import Source
from trt_action.github import comment as comments
from trt_action.github.api import Client
from trt_action.github.event import Activity
from trt_action.github.inputs import ActionInputs
from trt_action.model import base as bases
from trt_action.settings.options import BY_NAME

MAX_EVENT_BYTES = 32_000_000


@dataclass(frozen=True)
class Job:
    """What the runner told us. `started`: seconds since 1970."""

    env: Mapping[str, str]
    inputs: ActionInputs
    activity: Activity
    started: float

    @property
    def workspace(self) -> Path:
        """The folder of the checkout, as this container sees it."""
        return Path(self.env.get("GITHUB_WORKSPACE") or ".").absolute()

    def shown(self, path: Path) -> Path:
        """Relative to the workspace: this container's paths mean nothing to the next step."""
        return path.relative_to(self.workspace) if path.is_relative_to(self.workspace) else path

    @property
    def default_output(self) -> Path:
        """Where results go when the settings could not be read."""
        return self.workspace / str(BY_NAME["output"].default)

    @property
    def repository(self) -> str:
        return self.env.get("GITHUB_REPOSITORY", "")

    @property
    def run_url(self) -> str | None:
        server, run = self.env.get("GITHUB_SERVER_URL"), self.env.get("GITHUB_RUN_ID")
        return f"{server}/{self.repository}/actions/runs/{run}" if server and run else None

    @property
    def image(self) -> str:
        """What is published: registry and name, without tag."""
        name = self.inputs.image or self.repository.lower()
        return f"{self.inputs.registry}/{name}" if self.inputs.registry else name

    def run(self) -> Run:
        """Who writes: stamped into the comment."""
        return comments.run_of(self.env, self.started)

    def client(self, log: Callable[[str], None]) -> Client | None:
        """The API with the job's token; None without one."""
        if self.inputs.token is None:
            return None
        return Client(requests.Session(), self.env.get("GITHUB_API_URL", ""), self.inputs.token, log=log)

    @property
    def base(self) -> str | None:
        """The revision that `base: auto` means here. Of a checked-out merge commit it is the parent that GitHub merged
        the pull request into: `base.sha` of the event may be older, and main's own changes would count as head's."""
        pull = self.activity.pull_request
        return (bases.merged_into(self.workspace, pull.head_sha) if pull else None) or self.activity.base

    def check_checkout(self) -> None:
        """Refuse to judge the base in the name of a pull request: `pull_request_target` checks out the base by default.

        Raises:
            SettingsError: HEAD is the base's commit, not the pull request's.
        """
        pull = self.activity.pull_request
        if pull is None or self.env.get("GITHUB_EVENT_NAME") != "pull_request_target":
            return
        head = bases.source(self.workspace).commit
        if head == self.env.get("GITHUB_SHA") != pull.head_sha:
            raise errors.SettingsError(
                f"The workspace holds the base ({str(head)[:12]}), not the pull request's head ({pull.head_sha[:12]}).",
                why="On `pull_request_target` actions/checkout takes the base: it would be compared with itself.",
                fix="Use the event `pull_request`; else `ref: ${{ github.event.pull_request.head.sha }}` at checkout.",
            )

    def source(self) -> Source:
        """Where the code came from: the event knows better than the checkout, which may be a merge commit."""
        found = bases.source(self.workspace)
        server = self.env.get("GITHUB_SERVER_URL", "")
        return Source(
            repository=f"{server}/{self.repository}" if self.repository else found.repository,
            commit=self.activity.commit or found.commit,
            measured_commit=found.commit or self.activity.measured_commit or None,
            base_commit=self.base,
            ref=self.activity.ref or found.ref,
            dirty=found.dirty,
            run_url=self.run_url,
        )


def read_payload(env: Mapping[str, str]) -> dict[str, Any]:
    """The event as GitHub sent it; empty if there is no event file.

    Raises:
        SettingsError: the file is there and cannot be read.
    """
    path = Path(env.get("GITHUB_EVENT_PATH") or "/dev/null")
    try:
        with path.open("rb") as file:
            payload = json.loads(file.read(MAX_EVENT_BYTES) or b"{}")
    except (OSError, ValueError) as error:
        raise errors.SettingsError(
            f"The event file `{path}` cannot be read: {error}.",
            fix="GitHub's runner sets GITHUB_EVENT_PATH; elsewhere use `trt-action run`.",
        ) from None
    return payload if isinstance(payload, dict) else {}
