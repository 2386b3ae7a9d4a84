"""What GitLab's runner tells a job: environment and pipeline; and where code, artifacts and API are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from trt_action import report
from trt_action.console import clean
from trt_action.evidence import Source
from trt_action.gitlab import api, inputs, pipeline_event
from trt_action.gitlab.api import Client
from trt_action.gitlab.inputs import JobInputs
from trt_action.gitlab.pipeline_event import Activity
from trt_action.model import base as bases
from trt_action.settings import Settings
from trt_action.settings.options import BY_NAME

HANDED = ".trt-action"
"""The folder that goes from job to job as an artifact: `cache` (engines), `built.json`, `kept` (what was measured)."""


@dataclass(frozen=True)
class Job:
    """What the runner told us."""

    env: Mapping[str, str]
    inputs: JobInputs
    activity: Activity

    @classmethod
    def of(cls, env: Mapping[str, str]) -> Job:
        """Raises:
        SettingsError: as `gitlab.inputs.read`, `gitlab.pipeline_event.decide`.
        """
        asked = inputs.read(env)
        decided = pipeline_event.decide(env, activity=asked.activity)
        return cls(env, asked, pipeline_event.with_push(decided, asked.push))

    @property
    def workspace(self) -> Path:
        """The folder of the checkout."""
        return Path(self.env.get("CI_PROJECT_DIR") or ".").absolute()

    @property
    def handed(self) -> Path:
        return self.workspace / HANDED

    def kept(self, name: str) -> Path:
        """Where the engine of a model goes that may be published."""
        return self.handed / "kept" / report.slug(name)

    @property
    def settings_env(self) -> dict[str, str]:
        """The environment for `settings.load`. Engines are cached in the folder that goes from job to job, unless
        `TRT_ACTION_CACHE` names another."""
        rest = {name: text for name, text in self.env.items() if not inputs.of_the_job(name)}
        return {"TRT_ACTION_CACHE": str(self.handed / "cache")} | {
            name: text for name, text in rest.items() if name != "TRT_ACTION_CACHE" or text.strip()
        }

    def output(self, chosen: list[Settings]) -> Path:
        """Where results go, also when the settings could not be read."""
        return chosen[0].output if chosen else self.workspace / str(BY_NAME["output"].default)

    def shown(self, path: Path) -> Path:
        """Relative to the workspace, as artifacts are named."""
        return path.relative_to(self.workspace) if path.is_relative_to(self.workspace) else path

    @cached_property
    def _secrets(self) -> list[str]:
        return sorted(inputs.secrets(self.env), key=len, reverse=True)

    def say(self, text: str) -> None:
        """A line for the log: no control characters, no secret, whoever wrote it."""
        for line in text.splitlines() or [""]:
            for secret in self._secrets:
                line = line.replace(secret, "***")
            print(clean(line), flush=True)  # noqa: T201 - the job's log

    @contextlib.contextmanager
    def client(self, log: Callable[[str], None]) -> Iterator[Client | None]:
        """The API with the job's token; None without one.

        Raises:
            SettingsError: the address or the certificates that the runner names are none.
        """
        if self.inputs.token is None:
            yield None
            return
        with requests.Session() as session:
            url, ca = self.env.get("CI_API_V4_URL", ""), api.authority(self.env)
            yield Client(session, url, self.inputs.token, ca=ca, log=log)

    def source(self) -> Source:
        """Where the code came from: the pipeline knows better than the checkout, which may be a merge commit."""
        found = bases.source(self.workspace)
        return Source(
            repository=_without_login(self.env.get("CI_PROJECT_URL", "")) or found.repository,
            commit=self.activity.commit or found.commit,
            measured_commit=found.commit or self.activity.measured_commit or None,
            base_commit=self.activity.base,
            ref=self.activity.ref or found.ref,
            dirty=found.dirty,
            run_url=self.env.get("CI_PIPELINE_URL") or None,
        )

    def facts(self) -> dict[str, Any]:
        """What tags of an image need and evidence does not know."""
        if self.activity.merge_request:
            return {"pull_request": self.activity.merge_request.number, "default_branch": False}
        if self.activity.tag:
            return {"tag": self.activity.tag, "default_branch": False}
        branch = self.activity.ref.removeprefix("refs/heads/")
        default = self.env.get("CI_DEFAULT_BRANCH", "")
        found: dict[str, Any] = {"branch": branch} if branch else {}
        return {**found, "default_branch": bool(default) and branch == default}


def _without_login(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
