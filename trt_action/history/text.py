"""The trend as Markdown, for a job's summary: a chart that GitHub draws from text, and the changes."""

from __future__ import annotations

from collections.abc import Sequence

from trt_action.history import words
from trt_action.history.changes import LEAST
from trt_action.history.points import METRICS
from trt_action.history.series import Series
from trt_action.report import escape
from trt_action.report import format as fmt

MAX_SERIES = 4
MAX_POINTS = 40
"""Of one chart: the newest. More labels than that lie over each other."""
MAX_CHANGES = 20
MAX_NOTES = 10
_COLOURS = "#9db8e8, #9db8e8, #3b7ddd"
"""Ends of the intervals, and the median: readable on GitHub's light and dark ground."""


def markdown(found: Sequence[Series], notes: Sequence[str] = ()) -> str:
    """A chart of the median latency with its intervals for each of the newest trends, and what changed. Everything
    foreign is escaped."""
    parts = ["### History", ""]
    for one in found[:MAX_SERIES]:
        parts += [f"**{escape.text(escape.clip(words.title(one), 160))}**, {fmt.plural(len(one.points), 'run')}", ""]
        if picture := _chart(one):
            parts += ["```mermaid", picture, "```", ""]
        parts += [f"- {line}" for line in _changes(one)]
        parts += ["", *_last_break(one)]
    if len(found) > MAX_SERIES:
        parts += [f"{fmt.plural(len(found) - MAX_SERIES, 'more trend')} not shown.", ""]
    parts += [f"- {escape.prose(note)}" for note in notes[:MAX_NOTES]]
    parts += ["", f"<sub>{words.CAVEAT}</sub>", ""]
    return "\n".join(parts)


def _chart(one: Series) -> str | None:
    """Lines of p50 and of the ends of its interval. Labels are commits or days, so nothing foreign is in it."""
    points = [point for point in one.points if "p50" in point.values][-MAX_POINTS:]
    if len(points) < words.LEAST:
        return None
    values = [point.values["p50"] for point in points]
    unit = fmt.time_unit([value.value for value in values])
    factor = {"µs": 1e3, "ms": 1.0, "s": 1e-3}[unit]
    middle = [value.value * factor for value in values]
    reach = max(max(middle) - min(middle), max(middle) * 0.02)
    ends = min(middle) - reach, max(middle) + reach
    low = [max(ends[0], (v.low if v.low is not None else v.value) * factor) for v in values]
    high = [min(ends[1], (v.high if v.high is not None else v.value) * factor) for v in values]
    labels = ", ".join(f'"{words.commit(point)}"' for point in points)
    top, bottom = max(high) + reach * 0.1, max(0.0, min(low) - reach * 0.1)
    return "\n".join(
        (
            f'%%{{init: {{"themeVariables": {{"xyChart": {{"plotColorPalette": "{_COLOURS}"}}}}}}}}%%',
            "xychart-beta",
            f'    title "Median latency by commit, {unit}, with the interval of each run"',
            f"    x-axis [{labels}]",
            f'    y-axis "{unit}" {_decimal(bottom)} --> {_decimal(top)}',
            *(f"    line [{', '.join(_decimal(value) for value in line)}]" for line in (low, high, middle)),
        )
    )


def _changes(one: Series) -> list[str]:
    return [
        f"{METRICS[c.metric].title}: **{words.size(c)}** ({words.judged(c)}), {words.levels(c)}, "
        f"at `{words.commit(one.points[c.since])}`, held for {fmt.plural(c.runs, 'run')}"
        for c in one.changes[-MAX_CHANGES:]
    ] or [
        "No change of level." if one.comparable >= LEAST else f"{LEAST} comparable runs are the least to see a change."
    ]


def _last_break(one: Series) -> list[str]:
    if not one.breaks:
        return []
    last = one.breaks[-1]
    said = escape.text(escape.clip(last.words, 200))
    count = f" ({fmt.plural(len(one.breaks), 'such break')} in all)" if len(one.breaks) > 1 else ""
    return [f"Measured otherwise since `{words.commit(one.points[last.index])}`: {said}{count}", ""]


def _decimal(value: float) -> str:
    """No exponent, no trailing zeros."""
    return f"{value:.{3 if value >= 1 else 6}f}".rstrip("0").rstrip(".")
