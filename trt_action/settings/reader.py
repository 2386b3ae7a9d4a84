"""What a CI job was asked beside the settings, as texts; each becomes typed, or is refused in words.

GitHub's inputs and GitLab's variables come through here; only their names and places differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trt_action.errors import SettingsError
from trt_action.settings import units
from trt_action.settings.options import ACTION_BY_NAME, BY_NAME
from trt_action.settings.values import BadValueError, nearest, shown

MAX_TEXT = 1_000
GPU = re.compile(r"[\w .()/+-]{1,100}")
REGISTRY = re.compile(r"[A-Za-z0-9.-]+(:\d{1,5})?")
IMAGE = re.compile(r"[a-z0-9]+([._/-]+[a-z0-9]+)*")
TOKEN = re.compile(r"[!-~]{1,2000}")
SECRET_VARIABLES = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "TRT_ACTION_ENDPOINT_KEY",
    "TRT_ACTION_BASE_ENDPOINT_KEY",
)
"""What rooms take from the environment under names of their own, in every CI; nobody may read it in a log."""
SHORTEST_SECRET = 4
"""Characters of a text that is worth hiding: a shorter one would blacken half of the log."""


@dataclass(frozen=True)
class Reader:
    """Reads rows of the table of options.

    Args:
        given: an option's text by its name, empty if it was not given.
        noun: what a person gives, e.g. `input`.
        label: its name as a person writes it there.
        place: where it is written, e.g. `the workflow`.

    Raises (every method):
        SettingsError: a value that the option cannot take; names it and what is allowed.
    """

    given: Callable[[str], str]
    noun: str
    label: Callable[[str], str]
    place: str

    def choice(self, name: str) -> str:
        row = ACTION_BY_NAME.get(name) or BY_NAME[name]
        text = self.given(name) or str(row.default)
        if text not in row.choices:
            near = nearest(text, row.choices)
            allowed = ", ".join(f"`{choice}`" for choice in row.choices)
            raise self.refused(name, text, "is not one of its values", allowed, near)
        return text

    def boolean(self, name: str) -> bool:
        text = self.given(name)
        if text not in ("", "true", "false"):
            near = nearest(text, ("true", "false"))
            raise self.refused(name, text, "is not a boolean", "exactly `true` or `false`", near)
        return text == "true" if text else bool(ACTION_BY_NAME[name].default)

    def text(self, name: str, form: re.Pattern[str], allowed: str, *, secret: bool = False) -> str | None:
        text = self.given(name)
        if not text:
            return None
        if form.fullmatch(text) is None:
            raise self.refused(name, "***" if secret else text, "is malformed", allowed)
        return text

    def lines(self, name: str) -> tuple[str, ...]:
        found = tuple(line.strip() for line in self.given(name).splitlines() if line.strip())
        too_long = next((line for line in found if len(line) > MAX_TEXT or not line.isprintable()), None)
        if too_long is not None:
            allowed = f"printable paths of at most {MAX_TEXT} characters, one a line"
            raise self.refused(name, too_long, "is malformed", allowed)
        return found

    def seconds(self, name: str) -> float:
        return self._parsed(name, self.given(name) or str(ACTION_BY_NAME[name].default), units.duration)

    def gpu(self) -> str | None:
        return self.text("gpu", GPU, "part of a GPU's name, or an architecture")

    def registry(self) -> str | None:
        return self.text("registry", REGISTRY, "a host name, with a port if needed, e.g. `ghcr.io`")

    def image(self) -> str | None:
        return self.text("image", IMAGE, "a lower-case image name such as `acme/digits`, without registry and tag")

    def comment_id(self, check: Callable[[str], object]) -> str:
        """`check` raises a SettingsError whose `fix` says what is allowed."""
        text = self.given("comment-id") or "default"
        try:
            check(text)
        except SettingsError as error:
            raise self.refused("comment-id", text, "is malformed", error.fix) from None
        return text

    def _parsed(self, name: str, text: str, parse: Callable[[Any], float]) -> float:
        try:
            return parse(text)
        except BadValueError as error:
            raise self.refused(name, text, error.reason, error.allowed, error.example) from None

    def refused(self, name: str, text: str, reason: str, allowed: str, example: str | None = None) -> SettingsError:
        label = self.label(name)
        return SettingsError(
            f"The {self.noun} `{label}: {shown(text)}` {reason}.",
            why=f"Allowed: {allowed.rstrip('.')}.",
            fix=f"Write for example `{label}: {example}`." if example else f"Correct `{label}` in {self.place}.",
        )
