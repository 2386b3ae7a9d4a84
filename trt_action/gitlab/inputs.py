"""What a job of GitLab was asked beside the settings: `TRT_ACTION_<NAME>` variables, every value checked.

Variables that are settings (`TRT_ACTION_MODEL`, …) are read by `settings.load`, which gets an environment without these.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from pydantic import SecretStr

from trt_action.errors import SettingsError
from trt_action.inputs import nearest, quote
from trt_action.publish import wanted
from trt_action.publish.wanted import Wanted
from trt_action.report import marker
from trt_action.settings import reader
from trt_action.settings.options import ACTION_BY_NAME, BY_NAME
from trt_action.settings.publish_options import PUBLISH_OPTIONS
from trt_action.settings.reader import Reader

PREFIX = "TRT_ACTION_"
TOKENS = ("TRT_ACTION_GITLAB_TOKEN", "GITLAB_TOKEN")
"""The first one that is set writes the note."""

MEASURING = ("activity", "comment", "comment-id", "report-only", "check-run", "gpu", "gpu-lock-timeout", "push")
"""Options of the action that a measuring job of GitLab knows too."""
PUBLISHING = ("registry", "image", "history", *(option.name for option in PUBLISH_OPTIONS))
"""Options of a publishing job."""

Comment = Literal["auto", "true", "false", "changes-only"]


@dataclass(frozen=True)
class JobInputs:
    """What was asked of every job. `token` is None if there is none."""

    token: SecretStr | None = None
    activity: str = "auto"
    comment: Comment = "auto"
    comment_id: str = "default"
    report_only: bool = False
    status: bool = False
    gpu: str | None = None
    gpu_lock_timeout: float = 1_800.0
    push: str = "auto"


@dataclass(frozen=True)
class Target:
    """Where a publishing job publishes to, and as whom. `image`: registry and name, without tag; None: nowhere. `own`: the
    registry is that of the instance. `history`: the trend goes into what is said of it."""

    image: str | None
    asked: Wanted
    username: str | None
    password: SecretStr | None
    own: bool
    history: bool = False


def read(env: Mapping[str, str]) -> JobInputs:
    """What was asked of this job; nothing of a registry's login is read.

    Raises:
        SettingsError: a variable that is almost one of these, or a value that it cannot take.
    """
    _refuse_misspelt(env)
    asked = _reader(env)
    return JobInputs(
        token=_token(env),
        activity=asked.choice("activity"),
        comment=cast(Comment, asked.choice("comment")),
        comment_id=_comment_id(env, asked),
        report_only=asked.boolean("report-only"),
        status=_status(asked),
        gpu=asked.gpu(),
        gpu_lock_timeout=asked.seconds("gpu-lock-timeout"),
        push=asked.choice("push"),
    )


def target(env: Mapping[str, str]) -> Target:
    """Where to publish: `registry` and `image`, else the project's own registry, whose login GitLab lends to the job.

    Raises:
        SettingsError: a value that the option cannot take.
    """
    asked = _reader(env)
    registry, name = asked.registry(), asked.image()
    own = env.get("CI_REGISTRY", "")
    publishing = wanted.read(lambda option: _given(env, option))
    if registry or name:
        host = registry or own
        name = name or env.get("CI_PROJECT_PATH", "").lower()
        image = f"{host}/{name}" if host else name
    else:
        host, image = own, env.get("CI_REGISTRY_IMAGE", "")
    username, password = publishing.username, publishing.password
    if host and host == own and not username and not password:
        username = env.get("CI_REGISTRY_USER") or None
        lent = env.get("CI_REGISTRY_PASSWORD", "")
        password = SecretStr(lent) if username and lent else None
        username = username if password else None
    return Target(
        image or None, publishing, username, password, own=bool(host) and host == own, history=asked.boolean("history")
    )


def of_the_job(name: str) -> bool:
    """Whether a variable belongs to this module and not to the settings."""
    if name in TOKENS:
        return True
    option = _option(name)
    return option in MEASURING or option in PUBLISHING


def secrets(env: Mapping[str, str]) -> list[str]:
    """Every text that nobody may read in a log."""
    names = [
        *TOKENS,
        *(variable(name) for name in wanted.SECRETS),
        "CI_JOB_TOKEN",
        "CI_REGISTRY_PASSWORD",
        "CI_DEPLOY_PASSWORD",
        "SIGSTORE_ID_TOKEN",
        *reader.SECRET_VARIABLES,
    ]
    return [env[name] for name in names if len(env.get(name, "")) >= reader.SHORTEST_SECRET]


def variable(name: str) -> str:
    """The variable of an option."""
    return PREFIX + name.upper().replace("-", "_")


def _option(name: str) -> str:
    return name.removeprefix(PREFIX).lower().replace("_", "-") if name.startswith(PREFIX) else ""


def _reader(env: Mapping[str, str]) -> Reader:
    return Reader(lambda name: _given(env, name), "variable", variable, "`.gitlab-ci.yml`")


def _given(env: Mapping[str, str], name: str) -> str:
    return env.get(variable(name), "").strip()


def _comment_id(env: Mapping[str, str], asked: Reader) -> str:
    """What was asked; else, of a job with `parallel`, its name: legs of a matrix do not write over each other."""
    given = asked.comment_id(marker)
    if given != "default" or env.get("CI_NODE_TOTAL", "1") in ("", "1"):
        return given
    leg = re.sub(r"[^A-Za-z0-9._]+", "-", env.get("CI_JOB_NAME", "")).strip("-")
    return leg[-64:].strip("-") or given


def _token(env: Mapping[str, str]) -> SecretStr | None:
    """Checked for its form, so that a token with a newline at its end never becomes a header."""
    for name in TOKENS:
        text = env.get(name, "").strip()
        if text:
            if reader.TOKEN.fullmatch(text) is None:
                raise SettingsError(f"The variable {name} holds no token: there is white space in it.")
            return SecretStr(text)
    return None


def _status(asked: Reader) -> bool:
    kind = asked.choice("check-run")
    if kind == "check":
        raise asked.refused("check-run", kind, "is none of GitLab's", "`false` or `status`", "status")
    return kind == "status"


def _refuse_misspelt(env: Mapping[str, str]) -> None:
    """A variable that is almost one of ours; whoever else uses the prefix is left alone (`settings.load` notes it)."""
    ours = (*MEASURING, *PUBLISHING)
    for name in sorted(env):
        option = _option(name)
        if not option or option in ACTION_BY_NAME or option in BY_NAME or name in TOKENS or not env[name].strip():
            continue
        near = nearest(option, (*ours, *BY_NAME, "gitlab-token"))
        if near in (*ours, "gitlab-token"):
            raise SettingsError(
                f"Unknown variable {quote(name)}.",
                why="A variable that is not understood is not ignored: a rule that never ran would look like one that "
                "held.",
                fix=f"Did you mean `{variable(near)}`?",
            )
