"""Workflow commands: what a step says to its runner through stdout and through files.

The library `actions_toolkit` writes outputs and escapes commands; this is the only module that imports it. What it
lacks or gets wrong is done here: annotations with a line, groups as a context manager, `stop-commands`, the job summary.
https://docs.github.com/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from actions_toolkit import core
from actions_toolkit.command import issue_command
from pydantic import SecretStr

from trt_action.console import clean
from trt_action.errors import StorageError

Level = Literal["error", "warning", "notice"]

MAX_ANNOTATIONS = 10
"""GitHub shows ten annotations per level and step, and drops the rest without a word."""
MAX_MESSAGE = 4_096
SUMMARY_LIMIT = 1_048_576
"""Bytes per step; the whole summary is dropped above it."""

_OUTPUT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}")
_CUT = "\n\n*Cut here: a job summary holds 1 MiB.*\n"


def output(name: str, value: object) -> None:
    """One output of the step. Paths and numbers become text, None an empty text, mappings and lists JSON.

    Raises:
        StorageError: the runner's file is not there or cannot be written.
        ValueError: a name that no output can have (a newline in it would write another output).
    """
    if not _OUTPUT_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of an output")
    if value is None:
        text = ""
    elif isinstance(value, Mapping | list | tuple | bool):
        text = json.dumps(value)
    else:
        text = str(value)
    path = os.environ.get("GITHUB_OUTPUT", "")
    try:
        if path:
            Path(path).stat()  # the library raises a bare Exception where the file is missing
        core.set_output(name, text)
    except OSError as error:
        raise _unwritable(f"output `{name}`", "GITHUB_OUTPUT", error) from error


def mask(secret: SecretStr | str | None) -> None:
    """Let the runner replace this text in every later line of the log. Call it before anything else is printed."""
    text = secret.get_secret_value() if isinstance(secret, SecretStr) else secret or ""
    for line in text.splitlines():
        if line.strip():
            core.set_secret(line.strip())


class Annotations:
    """At most `MAX_ANNOTATIONS` per level: the last one of a level that is full says how many more there are."""

    def __init__(self) -> None:
        self._said: Counter[str] = Counter()

    def add(
        self, level: Level, message: str, *, title: str = "", file: Path | str | None = None, line: int | None = None
    ) -> bool:
        """Show `message` in the list of annotations, beside `file` (relative to the repository) if there is one.

        Returns False, and prints a plain line instead, where GitHub would drop it.
        """
        text = message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 1] + "…"
        self._said[level] += 1
        if self._said[level] > MAX_ANNOTATIONS:
            plain(f"{level}: {title}: {text}" if title else f"{level}: {text}")
            return False
        place = {"file": str(file) if file else "", "line": str(line) if file and line else "", "title": title[:255]}
        issue_command(level, {key: value for key, value in place.items() if value}, text)
        return True


def plain(text: str) -> None:
    """Lines for the log in which nothing is a command, whoever wrote them. Each is made harmless by itself: the runner
    shows `stop-commands` and its end as two lines more."""
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        core.info(" " * indent + clean(line))


@contextlib.contextmanager
def group(title: str) -> Iterator[None]:
    """A foldable part of the log. Groups do not nest: a second one inside ends the first."""
    core.start_group(title)
    try:
        yield
    finally:
        core.end_group()


@contextlib.contextmanager
def foreign() -> Iterator[None]:
    """What is printed inside is no command to the runner, whoever wrote it."""
    token = secrets.token_hex(32)
    issue_command("stop-commands", {}, token)
    try:
        yield
    finally:
        issue_command(token, {}, "")


def forget_environment(env: Mapping[str, str]) -> None:
    """Empty the files that would set variables, paths or state of later steps. We never write them; a user's function,
    which runs as we do, could."""
    for name in ("GITHUB_ENV", "GITHUB_PATH", "GITHUB_STATE"):
        with contextlib.suppress(OSError):
            os.close(os.open(env.get(name, ""), os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK))


def summary_budget(env: Mapping[str, str]) -> int:
    """Bytes that the job summary of this step still takes; 0 outside of a runner."""
    path = env.get("GITHUB_STEP_SUMMARY", "")
    if not path:
        return 0
    try:
        return max(0, SUMMARY_LIMIT - Path(path).stat().st_size)
    except FileNotFoundError:
        return SUMMARY_LIMIT
    except OSError as error:
        raise _unwritable("job summary", "GITHUB_STEP_SUMMARY", error) from error


def summary(text: str, env: Mapping[str, str]) -> bool:
    """Append to the job summary. Returns False if nothing could be added: no runner, or no room.

    What does not fit is cut at a line's end; render it with `summary_budget` so that this does not happen.

    Raises:
        StorageError: the runner's file cannot be written.
    """
    budget = summary_budget(env)
    content = text.encode()
    if len(content) > budget:
        room = budget - len(_CUT.encode())
        whole_lines = content[: max(room, 0)].rpartition(b"\n")[0]
        if not whole_lines:
            return False
        content = whole_lines + _CUT.encode()
    try:
        with Path(env["GITHUB_STEP_SUMMARY"]).open("ab") as file:
            file.write(content)
    except OSError as error:
        raise _unwritable("job summary", "GITHUB_STEP_SUMMARY", error) from error
    return True


def _unwritable(what: str, variable: str, error: OSError) -> StorageError:
    return StorageError(
        f"The {what} cannot be written: {error.strerror or error}.",
        why=f"The runner makes a file for each step and names it in {variable}.",
        fix=f"Do not set {variable} in the workflow; check the free space of the runner.",
    )
