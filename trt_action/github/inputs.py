"""The action's own inputs: `INPUT_<NAME>` variables become one frozen record, every value checked.

The runner upper-cases a name, turns spaces into `_` and keeps dashes; an input that was not given is an empty text.
Inputs that are settings (`model`, `precision`, …) are read by `settings.load`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from pydantic import SecretStr

from trt_action.errors import SettingsError
from trt_action.publish import wanted
from trt_action.publish.wanted import Wanted
from trt_action.report import marker
from trt_action.settings import units
from trt_action.settings.options import ACTION_BY_NAME, BY_NAME
from trt_action.settings.values import BadValueError, nearest, shown

PREFIX = "INPUT_"
MAX_TEXT = 1_000
_GPUS = re.compile(r"auto|none|all|(\d{1,3}|(GPU|MIG)-[0-9A-Za-z/-]{1,80})(,(\d{1,3}|(GPU|MIG)-[0-9A-Za-z/-]{1,80}))*")
_REGISTRY = re.compile(r"[A-Za-z0-9.-]+(:\d{1,5})?")
_IMAGE = re.compile(r"[a-z0-9]+([._/-]+[a-z0-9]+)*")
_TOKEN = re.compile(r"[!-~]{1,2000}")

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
    evidence: tuple[str, ...] = ()
    gpu: str | None = None
    gpus: str = "auto"
    gpu_lock_timeout: float = 1_800.0
    registry: str | None = None
    image: str | None = None
    push: Push = "auto"
    publish: Wanted = field(default_factory=Wanted)
    on_inconclusive: OnInconclusive = "pass"
    """A setting, which `activity: report` needs without any other."""


def read(env: Mapping[str, str]) -> ActionInputs:
    """The action's own inputs, out of the environment of the runner.

    Raises:
        SettingsError: an input that does not exist (names the nearest one that does), or a value that it cannot take.
    """
    _refuse_unknown(env)
    token = _text(env, "github-token", _TOKEN, "a token without spaces", secret=True)
    return ActionInputs(
        token=SecretStr(token) if token else None,
        activity=_choice(env, "activity"),
        comment=cast(Comment, _choice(env, "comment")),
        comment_id=_comment_id(env),
        report_only=_boolean(env, "report-only"),
        allow_untrusted_fork=_boolean(env, "allow-untrusted-fork"),
        check_run=cast(CheckKind, _choice(env, "check-run")),
        summary=_boolean(env, "summary"),
        evidence=_lines(env, "evidence"),
        gpu=_text(env, "gpu", re.compile(r"[\w .()/+-]{1,100}"), "part of a GPU's name, or an architecture"),
        gpus=_text(env, "gpus", _GPUS, "`auto`, `none`, `all`, or indexes or UUIDs, comma-separated") or "auto",
        gpu_lock_timeout=_seconds(env, "gpu-lock-timeout"),
        registry=_text(env, "registry", _REGISTRY, "a host name, with a port if needed, e.g. `ghcr.io`"),
        image=_text(env, "image", _IMAGE, "a lower-case image name such as `acme/digits`, without registry and tag"),
        push=cast(Push, _choice(env, "push")),
        publish=wanted.read(lambda name: _given(env, name)),
        on_inconclusive=cast(OnInconclusive, _choice(env, "on-inconclusive")),
    )


def secrets(env: Mapping[str, str]) -> list[str]:
    """Every input that nobody may read in a log, before anything is checked or printed."""
    return [text for name in ("github-token", *wanted.SECRETS) if (text := _given(env, name))]


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


def _choice(env: Mapping[str, str], name: str) -> str:
    row = ACTION_BY_NAME.get(name) or BY_NAME[name]
    text = _given(env, name) or str(row.default)
    if text not in row.choices:
        near = nearest(text, row.choices)
        allowed = ", ".join(f"`{choice}`" for choice in row.choices)
        raise _refused(name, text, "is not one of its values", allowed, near)
    return text


def _boolean(env: Mapping[str, str], name: str) -> bool:
    text = _given(env, name)
    if text not in ("", "true", "false"):
        raise _refused(name, text, "is not a boolean", "exactly `true` or `false`", nearest(text, ("true", "false")))
    return text == "true" if text else bool(ACTION_BY_NAME[name].default)


def _text(
    env: Mapping[str, str], name: str, form: re.Pattern[str], allowed: str, *, secret: bool = False
) -> str | None:
    text = _given(env, name)
    if not text:
        return None
    if form.fullmatch(text) is None:
        raise _refused(name, "***" if secret else text, "is malformed", allowed)
    return text


def _comment_id(env: Mapping[str, str]) -> str:
    text = _given(env, "comment-id") or "default"
    try:
        marker(text)
    except SettingsError as error:
        raise _refused("comment-id", text, "is malformed", error.fix) from None
    return text


def _lines(env: Mapping[str, str], name: str) -> tuple[str, ...]:
    found = tuple(line.strip() for line in _given(env, name).splitlines() if line.strip())
    too_long = next((line for line in found if len(line) > MAX_TEXT or not line.isprintable()), None)
    if too_long is not None:
        raise _refused(name, too_long, "is malformed", f"printable paths of at most {MAX_TEXT} characters, one a line")
    return found


def _seconds(env: Mapping[str, str], name: str) -> float:
    text = _given(env, name) or str(ACTION_BY_NAME[name].default)
    return _parsed(name, text, units.duration)


def _parsed(name: str, text: str, parse: Callable[[Any], float]) -> float:
    try:
        return parse(text)
    except BadValueError as error:
        raise _refused(name, text, error.reason, error.allowed, error.example) from None


def _refused(name: str, text: str, reason: str, allowed: str, example: str | None = None) -> SettingsError:
    return SettingsError(
        f"The input `{name}: {shown(text)}` {reason}.",
        why=f"Allowed: {allowed.rstrip('.')}.",
        fix=f"Write for example `{name}: {example}`." if example else f"Correct `{name}` in the workflow.",
    )
