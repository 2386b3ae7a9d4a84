"""Numbers and commits of a trend for people."""

from __future__ import annotations

import re

from trt_action.history.points import METRICS, Metric, Name, Point
from trt_action.history.series import Change, Series
from trt_action.report import format as fmt

LEAST = 3
"""Points from which on there is a trend to show."""


def value(name: Name, number: float) -> str:
    """A number of this metric, with its unit."""
    if name in ("p50", "p99"):
        return fmt.ms(number)
    if name == "engine":
        return fmt.size(number)
    return fmt.rate(number) if name == "throughput" else fmt.number(number, 4)


def commit(one: Point) -> str:
    """Eight digits of the commit; the day of the run where there is none."""
    return one.commit[:8] if re.fullmatch(r"[0-9a-f]{8,64}", one.commit) else one.created.strftime("%Y-%m-%d")


def size(change: Change) -> str:
    """`+5.1 %`, or the difference of a metric that has no relative one."""
    if METRICS[change.metric].relative:
        return f"{fmt.signed(change.size * 100, 1)} %"
    return fmt.signed(change.size, 4)


def judged(change: Change) -> str:
    """What a change is, in a word."""
    return "better" if change.better else "worse"


def levels(change: Change) -> str:
    """`1.02 ms → 1.07 ms`."""
    return f"{value(change.metric, change.before_level)} → {value(change.metric, change.level)}"


def between(change: Change, found: Series) -> str:
    """Which commits lie between the last run of the old and the first one of the new level."""
    return f"{commit(found.points[change.after])} … {commit(found.points[change.since])}"


def title(found: Series) -> str:
    """`digits · int8 · NVIDIA L4 · tensorrt · 1×1×8×8`. Foreign text."""
    key = found.key
    return " · ".join(part for part in (key.model, key.precision, key.gpu, key.backend, key.shapes) if part)


def axis(metric: Metric) -> str:
    """The metric with its unit, for an axis."""
    return f"{metric.title.lower()}, {metric.unit}" if metric.unit else metric.title.lower()


CAVEAT = (
    "Numbers of different runs are history, not evidence: whether a change is slower is decided by the interleaved comparison "
    "of its own run."
)
