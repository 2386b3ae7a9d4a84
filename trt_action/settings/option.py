"""One row of the table of settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ACTION_GROUP = "GitHub"


@dataclass(frozen=True)
class Option:
    """One setting. `default` is what the typed model starts from; None = unset."""

    name: str
    group: str
    default: Any
    metavar: str
    help: str
    choices: tuple[str, ...] = ()
