"""The plain pieces that a report is made of. Strings in them are raw; each renderer escapes them its own way."""

from __future__ import annotations

from dataclasses import dataclass, field

from trt_action.evidence import GateStatus


@dataclass(frozen=True)
class Code:
    """A name, path, hash or value, shown in monospace."""

    text: str


@dataclass(frozen=True)
class Mark:
    """A gate's status in front of a text."""

    status: GateStatus
    text: str = ""


Cell = str | Code | Mark


@dataclass(frozen=True)
class Table:
    """`columns` are ours; cells may be foreign. With `numbers`, all columns but the first are right-aligned."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numbers: bool = False
    left_out: int = 0


@dataclass(frozen=True)
class Section:
    """A folded part of the report."""

    name: str
    title: str
    lines: tuple[str, ...] = ()
    tables: tuple[Table, ...] = field(default=())


STATUS_ICON: dict[GateStatus, str] = {
    "passed": "✅",
    "failed": "❌",
    "inconclusive": "⚠️",
    "not-checked": "➖",
}
STATUS_WORD: dict[GateStatus, str] = {
    "passed": "passed",
    "failed": "failed",
    "inconclusive": "inconclusive",
    "not-checked": "not checked",
}


@dataclass(frozen=True)
class Limits:
    """How much of a list or text is shown. What is left out is counted."""

    rows: int = 40
    problems: int = 10
    notes: int = 8
    models: int = 40
    text: int = 600
    error: int = 3_000
    name: int = 120
    changes: int = 10
    """Differences of layers."""
    layers: int = 0
    """Layers of a side; 0: none at all, and differences only where they matter."""


COMMENT = Limits()
SUMMARY = Limits(rows=200, problems=50, notes=50, models=100, text=2_000, error=20_000, name=300, changes=50, layers=30)
PAGE = Limits(
    rows=5_000,
    problems=1_000,
    notes=500,
    models=1_000,
    text=20_000,
    error=20_000,
    name=1_000,
    changes=1_000,
    layers=1_000,
)
