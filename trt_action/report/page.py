"""The report page: one file, no script, no network; for the reviewer who wants to see why."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jinja2
from markupsafe import Markup
from markupsafe import escape as html_escape

from trt_action.evidence import Comparison, Evidence, TaskMetric
from trt_action.report import charts, layer_charts, traces
from trt_action.report import format as fmt
from trt_action.report import sections as parts
from trt_action.report.escape import clean
from trt_action.report.headline import headline, overall, verdict
from trt_action.report.parts import PAGE, STATUS_WORD, Code, Mark
from trt_action.report.table import PERCENTILES, overall_table
from trt_action.report.view import View, view


def html(evidences: Sequence[Evidence]) -> str:
    """The page for one or several runs. Self-contained: style inside, drawings as SVG, no JavaScript.

    Raises:
        ValueError: no evidence.
    """
    if not evidences:
        raise ValueError("no evidence to render")
    views = [view(evidence, PAGE) for evidence in evidences]
    several = len(views) > 1
    environment = _environment()
    return environment.get_template("report.html.j2").render(
        views=views,
        several=several,
        headline=overall(evidences) if several else headline(evidences[0]),
        outcome=_outcome(evidences),
        overall=overall_table(evidences, PAGE),
        pictures=[pictures(one) for one in views],
        style=Markup(_read("report.css")),  # noqa: S704 – our own file
    )


def pictures(one: View) -> dict[str, Markup]:
    """Every chart for which the evidence holds the samples, by name."""
    evidence = one.evidence
    sides = {"base": evidence.base, "head": evidence.head}
    latencies = {role: side.latency for role, side in sides.items() if side and side.latency}
    samples = {role: values for role, x in latencies.items() if (values := traces.latency_ms(x)) is not None}
    found: dict[str, Markup] = {}
    if samples:
        marks = {role: {p: getattr(latencies[role], f"{p}_ms") for p in PERCENTILES} for role in samples}
        found["distribution"] = charts.distribution(samples, marks)
        found["beyond"] = Markup(html_escape(charts.beyond(samples)))  # noqa: S704
        cut = charts.beyond(samples, charts.TIME_WIDTHS)
        found["beyond_in_time"] = Markup(html_escape(cut))  # noqa: S704
        found["tail"] = charts.tail(samples)
        found["over_time"] = charts.over_time(samples, "Latency pass", "sample")
    if evidence.comparison:
        found |= _comparison_pictures(evidence.comparison)
    if evidence.accuracy.task:
        found["accuracy"] = _accuracy_picture(evidence.accuracy.task)
    if evidence.stages:
        found["stages"] = charts.stage_bars(evidence.stages[:40])
    return found | layer_charts.pictures(evidence)


def _comparison_pictures(c: Comparison) -> dict[str, Markup]:
    found: dict[str, Markup] = {}
    named = (
        ("p50, paired blocks", c.p50_ratio),
        *((parts.WITNESS_WORDS[name], estimate) for name, estimate in c.witnesses.items()),
        ("noise floor: base against base", c.noise_floor),
        ("p99, paired blocks", c.p99_ratio),
    )
    rows = [(words, _percent(e.estimate), _percent(e.low), _percent(e.high)) for words, e in named if e]
    if rows:
        margin = c.margin * 100
        found["estimates"] = charts.intervals(
            rows, "Head against base", "difference in time, % of base (shaded: margin)", _signed, (-margin, margin)
        )
    pairs = traces.duet(c)
    if pairs:
        found["paired"] = charts.paired(pairs, c.p50_ratio, c.margin, c.tolerance, c.limit)
        breaks = [int(i) for i in range(1, len(pairs.unit)) if pairs.unit[i] != pairs.unit[i - 1]]
        found["blocks"] = charts.over_time(
            {"base": pairs.base_ms, "head": pairs.head_ms}, "Median of each block", "pair", breaks[:20]
        )
    return found


def _percent(ratio: float) -> float:
    return (ratio - 1) * 100


def _signed(percent: float) -> str:
    return fmt.signed(percent, 0 if abs(percent) >= 10 else 1)


def _accuracy_picture(task: TaskMetric) -> Markup:
    named = (("FP32 reference", task.reference), ("base", task.base), ("head", task.head))
    rows = [(words, e.estimate, e.low, e.high) for words, e in named if e]
    return charts.intervals(
        rows, parts.metric_word(task), clean(parts.metric_word(task)), lambda v: parts.metric_value(task, v)
    )


def _outcome(evidences: Sequence[Evidence]) -> str:
    found = {verdict(e) for e in evidences}
    return next(o for o in ("failed", "inconclusive", "passed") if o in found)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trt_action.report", "templates"),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"prose": _prose, "lines": _lines}
    environment.tests |= {
        "mark": lambda value: isinstance(value, Mark),
        "code": lambda value: isinstance(value, Code),
    }
    environment.globals |= {"words": STATUS_WORD, "fmt": fmt}
    return environment


def _finalize(value: Any) -> Any:
    """Foreign text without control or direction signs; autoescape does the rest."""
    if isinstance(value, str) and not hasattr(value, "__html__"):
        return clean(value)
    return value


def _prose(foreign: str) -> Markup:
    """Text in which `backticks` mean code."""
    pieces = clean(foreign).split("`")
    if len(pieces) % 2 == 0:
        return html_escape(clean(foreign))
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else p for i, p in enumerate(pieces))


def _lines(foreign: str) -> Markup:
    """`prose`, or a preformatted block if there are several lines."""
    kept = clean(foreign, lines=True).strip()
    return Markup("<pre>{}</pre>").format(kept) if "\n" in kept else Markup("<p>{}</p>").format(_prose(kept))


def _read(name: str) -> str:
    source, _, _ = jinja2.PackageLoader("trt_action.report", "templates").get_source(
        jinja2.Environment(autoescape=True), name
    )
    return source
