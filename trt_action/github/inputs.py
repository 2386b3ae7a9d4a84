"""The action's own inputs: `INPUT_<NAME>` variables become one frozen record, every value checked.

The runner upper-cases a name, turns spaces into `_` and keeps dashes; an input that was not given is an empty text.
Inputs that are settings (`model`, `precision`, …) are read by `settings.load`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

from pydantic import SecretStr

from trt_action.deploy import wanted as deploying
from trt_action.errors import SettingsError
from trt_action.publish import wanted
from trt_action.publish.wanted import Wanted
from trt_action.report import marker
from trt_action.settings import reader
from trt_action.settings.options import ACTION_BY_NAME, BY_NAME
from trt_action.settings.reader import Reader
from trt_action.settings.values import nearest, shown

PREFIX = "INPUT_"
_GPUS = re.compile(r"auto|none|all|(\d{1,3}|(GPU|MIG)-[0-9A-Za-z/-]{1,80})(,(\d{1,3}|(GPU|MIG)-[0-9A-Za-z/-]{1,80}))*")

Comment = Literal["auto", "true", "false", "changes-only"]
CheckKind = Literal["false", "check", "status"]
Push = Literal["auto", "true", "false"]
OnInconclusive = Literal["pass", "fail"]


@dataclass(frozen=True)
class ActionInputs:
    """What was asked for, beside the settings. `token` is None if there is none."""

    token: SecretStr | None = None
    activity: str = "auto"
    comment: Comment = "auto"
    comment_id: str = "default"
    report_only: bool = False
    allow_untrusted_fork: bool = False
    check_run: CheckKind = "false"
    summary: bool = True
    history: bool = False
    evidence: tuple[str, ...] = ()
    gpu: str | None = None
    gpus: str = "auto"
    gpu_lock_timeout: float = 1_800.0
    registry: str | None = None
    image: str | None = None
    push: Push = "auto"
    publish: Wanted = field(default_factory=Wanted)
    deploy: deploying.Wanted = field(default_factory=deploying.Wanted)
    on_inconclusive: OnInconclusive = "pass"
    """A setting, which `activity: report` needs without any other."""


def read(env: Mapping[str, str]) -> ActionInputs:
    """The action's own inputs, out of the environment of the runner.

    Raises:
        SettingsError: an input that does not exist (names the nearest one that does), or a value that it cannot take.
    """
    _refuse_unknown(env)
    asked = Reader(lambda name: _given(env, name), "input", str, "the workflow")
    token = asked.text("github-token", reader.TOKEN, "a token without spaces", secret=True)
    return ActionInputs(
        token=SecretStr(token) if token else None,
        activity=asked.choice("activity"),
        comment=cast(Comment, asked.choice("comment")),
        comment_id=asked.comment_id(marker),
        report_only=asked.boolean("report-only"),
        allow_untrusted_fork=asked.boolean("allow-untrusted-fork"),
        check_run=cast(CheckKind, asked.choice("check-run")),
        summary=asked.boolean("summary"),
        history=asked.boolean("history"),
        evidence=asked.lines("evidence"),
        gpu=asked.gpu(),
        gpus=asked.text("gpus", _GPUS, "`auto`, `none`, `all`, or indexes or UUIDs, comma-separated") or "auto",
        gpu_lock_timeout=asked.seconds("gpu-lock-timeout"),
        registry=asked.registry(),
        image=asked.image(),
        push=cast(Push, asked.choice("push")),
        publish=wanted.read(lambda name: _given(env, name)),
        deploy=deploying.read(lambda name: _given(env, name)),
        on_inconclusive=cast(OnInconclusive, asked.choice("on-inconclusive")),
    )


def secrets(env: Mapping[str, str]) -> list[str]:
    """Everything that nobody may read in a log, before anything is checked or printed. Not `deploy-kubeconfig`: a
    mask hides each of its lines, `apiVersion: v1` among them; of a kubeconfig nothing is ever printed."""
    names = ("github-token", *wanted.SECRETS, *(name for name in deploying.SECRETS if name != "deploy-kubeconfig"))
    others = [env.get(name, "").strip() for name in reader.SECRET_VARIABLES]
    given = [text for name in names if (text := _given(env, name))]
    return [*given, *(text for text in others if len(text) >= reader.SHORTEST_SECRET)]


def variable(name: str) -> str:
    """The variable that the runner sets for an input."""
    return PREFIX + name.replace(" ", "_").upper()


def _refuse_unknown(env: Mapping[str, str]) -> None:
    known = {variable(name): name for name in (*BY_NAME, *ACTION_BY_NAME)}
    for key in sorted(env):
        if key.startswith(PREFIX) and key not in known:
            name = key.removeprefix(PREFIX).lower()
            near = nearest(name, known.values())
            raise SettingsError(
                f"Unknown input `{shown(name)}`.",
                why="An input that is not understood is not ignored: a gate that never ran would look like one that "
                "passed.",
                fix=f"Did you mean `{near}`?" if near else "README.md lists the inputs.",
            )


def _given(env: Mapping[str, str], name: str) -> str:
    return env.get(variable(name), "").strip()
