"""The trend as one page: no script, no network, light and dark; its size is bounded."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from trt_action.history import words
from trt_action.history.chart import chart
from trt_action.history.points import METRICS, Name, Point
from trt_action.history.series import Series
from trt_action.report import format as fmt
from trt_action.report.escape import clean

MAX_SERIES = 24
MAX_ROWS = 50
"""Rows of one table: the newest."""


def html(found: Sequence[Series], notes: Sequence[str] = ()) -> str:
    """The page. Everything foreign is cleaned and escaped.

    Args:
        notes: what is to be said about the sources.
    """
    return (
        _environment()
        .get_template("history.html.j2")
        .render(
            trends=[_trend(one) for one in found[:MAX_SERIES]],
            left_out=[words.title(one) for one in found[MAX_SERIES : MAX_SERIES + 20]],
            more=max(0, len(found) - MAX_SERIES),
            notes=list(notes),
            caveat=words.CAVEAT,
            style=Markup(_style()),  # noqa: S704 – our own file
        )
    )


def _trend(one: Series) -> dict[str, Any]:
    charts = [(METRICS[name].title, picture) for name in METRICS if (picture := chart(one, name)) is not None]
    return {
        "title": words.title(one),
        "runs": fmt.plural(len(one.points), "run"),
        "first": one.points[0].created.strftime("%Y-%m-%d"),
        "last": one.points[-1].created.strftime("%Y-%m-%d"),
        "charts": charts,
        "changes": [_change(one, place) for place in range(len(one.changes))][-MAX_ROWS:],
        "breaks": [(words.commit(one.points[b.index]), b.words) for b in one.breaks][-MAX_ROWS:],
        "rows": [_row(point) for point in reversed(one.points[-MAX_ROWS:])],
        "hidden": max(0, len(one.points) - MAX_ROWS),
    }


def _change(found: Series, place: int) -> dict[str, str]:
    one = found.changes[place]
    return {
        "metric": METRICS[one.metric].title,
        "size": words.size(one),
        "word": words.judged(one),
        "tone": "passed" if one.better else "failed",
        "levels": words.levels(one),
        "between": words.between(one, found),
        "runs": fmt.plural(one.runs, "run"),
    }


def _row(one: Point) -> list[str]:
    def shown(name: Name) -> str:
        return words.value(name, one.values[name].value) if name in one.values else fmt.NONE

    when = one.created.strftime("%Y-%m-%d %H:%M")
    return [
        words.commit(one),
        when,
        *(shown(name) for name in METRICS),
        one.verdict or fmt.NONE,
        one.outcome,
        one.place,
    ]


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("trt_action.history", "templates"),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _finalize(value: Any) -> Any:
    """Foreign text without control or direction signs; autoescape does the rest."""
    return clean(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


@functools.cache
def _style() -> str:
    loader = jinja2.PackageLoader("trt_action.report", "templates")
    return loader.get_source(jinja2.Environment(autoescape=True), "report.css")[0]
