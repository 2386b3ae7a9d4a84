"""The picture of one metric of one series: runs with their intervals, levels, changes, breaks."""

from __future__ import annotations

import statistics

from markupsafe import Markup

from trt_action.history import words
from trt_action.history.points import METRICS, Metric, Name, Point, Value
from trt_action.history.series import Series
from trt_action.report import format as fmt
from trt_action.report.escape import clean, clip
from trt_action.report.svg import WIDTH, Drawing, Scale

LEFT, RIGHT, TOP, BOTTOM = 72, WIDTH - 12, 40.0, 220.0
TICKS = 10


def chart(found: Series, name: Name) -> Markup | None:
    """One metric over all runs; None where fewer than two have it."""
    values, metric = found.values(name), METRICS[name]
    if len(values) < 2:
        return None
    x, y = Scale(-0.5, len(found.points) - 0.5, LEFT, RIGHT), _scale(list(values.values()))
    picture = Drawing(metric.title, f"{len(values)} runs, oldest first", 262)
    _axes(picture, found, metric, x, y)
    for one in found.breaks:
        place = (x(one.index - 1) + x(one.index)) / 2
        picture.line(
            "mark quiet", [(place, TOP), (place, BOTTOM)], clip(clean(f"measured otherwise: {one.words}"), 300)
        )
    _lines(picture, found, metric, values, x, y)
    for place, value in values.items():
        _run(picture, found.points[place], name, value, x(place), y)
    for change in found.changes:
        if change.metric == name:
            tone = "gain" if change.better else "cost"
            place = (x(change.since - 1) + x(change.since)) / 2
            said = (
                f"{words.size(change)} ({words.judged(change)}): {words.levels(change)}, {words.between(change, found)}"
            )
            picture.line(f"change {tone}-line", [(place, TOP), (place, BOTTOM)], clean(said))
            picture.text(min(place + 4, RIGHT - 50), TOP - 5, words.size(change), f"label {tone}-ink")
    return picture.markup()


def _scale(values: list[Value]) -> Scale:
    """Every number; of the intervals what is near them, so that one wide interval does not press the rest flat."""
    numbers = [one.value for one in values]
    low, high = min(numbers), max(numbers)
    widths = [one.high - one.low for one in values if one.low is not None and one.high is not None]
    reach = max(high - low, 2 * statistics.median(widths or [0.0]), high * 0.01, 1e-12)
    ends = [
        end for one in values for end in (one.low, one.high) if end is not None and low - reach < end < high + reach
    ]
    low, high = min([low, *ends]), max([high, *ends])
    gap = max((high - low) * 0.08, high * 0.002, 1e-12)
    return Scale(max(0.0, low - gap), high + gap, BOTTOM, TOP)


def _axes(picture: Drawing, found: Series, metric: Metric, x: Scale, y: Scale) -> None:
    def name(number: float) -> str:
        return fmt.size(number) if metric.name == "engine" else fmt.number(number)

    picture.y_axis(y, LEFT, RIGHT, words.axis(metric), name)
    step = max(1, -(-len(found.points) // TICKS))
    for place in range(0, len(found.points), step):
        picture.text(x(place), BOTTOM + 16, words.commit(found.points[place]), anchor="middle")
    picture.text(RIGHT, BOTTOM + 34, "commit", "axis", "end")


def _lines(picture: Drawing, found: Series, metric: Metric, values: dict[int, Value], x: Scale, y: Scale) -> None:
    """Neighbours are joined where they were measured under the same conditions."""
    run: list[int] = []
    for place in [*values, -1]:
        if run and (place < 0 or found.points[place].under(metric) != found.points[run[-1]].under(metric)):
            if len(run) > 1:
                picture.line("stroke head", [(x(one), y(values[one].value)) for one in run])
            run = []
        run.append(place)


def _run(picture: Drawing, one: Point, name: Name, value: Value, x: float, y: Scale) -> None:
    said = f"{words.commit(one)}, {one.created:%Y-%m-%d %H:%M}: {words.value(name, value.value)}"
    if value.low is not None and value.high is not None:
        said += f" [{words.value(name, value.low)}, {words.value(name, value.high)}]"
        picture.line("whisker head-line", [(x, y(value.low)), (x, y(value.high))])
    said += f", {one.outcome}" + (f", {one.verdict}" if one.verdict else "")
    picture.add(
        "circle",
        "point head" if one.outcome == "passed" else "point reference",
        clean(said),
        cx=x,
        cy=y(value.value),
        r=3.2,
    )
