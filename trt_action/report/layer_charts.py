"""Pictures of layers: where time is lost and won, and which layers take it. Pure functions from records to SVG."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from markupsafe import Markup

from trt_action.evidence import Evidence
from trt_action.layer_records import Layer, LayerChange
from trt_action.report import format as fmt
from trt_action.report.escape import clean, clip
from trt_action.report.layers import KIND_WORDS, chosen, difference
from trt_action.report.svg import WIDTH, Drawing, Scale

MOST_BARS = 15
_LEFT, _RIGHT, _ROW, _TOP = 250.0, WIDTH - 92.0, 24.0, 8.0
_LABEL = 38


def pictures(evidence: Evidence) -> dict[str, Markup]:
    """By name; without layers, or without their times, none."""
    found: dict[str, Markup] = {}
    if evidence.layer_diff:
        changes = [change for change in chosen(evidence.layer_diff, MOST_BARS) if change.delta_ms]
        if changes:
            found["layer_diff"] = differences(changes)
    if evidence.head and evidence.head.layers:
        timed = [layer for layer in evidence.head.layers.layers if layer.ms]
        if timed:
            found["layers"] = slowest(sorted(timed, key=lambda layer: -(layer.ms or 0.0))[:MOST_BARS])
    return found


def differences(changes: Sequence[LayerChange]) -> Markup:
    """One bar per change from the line of no difference: to the right what costs time, to the left what saves it."""
    deltas = [change.delta_ms or 0.0 for change in changes]
    low, high = min(0.0, *deltas), max(0.0, *deltas)
    picture = _drawing("Differences of layers", "time of head minus time of base", len(changes))
    x = Scale(low, high, _LEFT, _RIGHT)
    bottom = _axis(picture, x, len(changes), "head minus base", lambda v: difference(v) if v else "0")
    picture.line("zero", [(x(0.0), _TOP), (x(0.0), bottom)])
    for i, (change, delta) in enumerate(zip(changes, deltas, strict=True)):
        y = _TOP + _ROW * i
        words = ", ".join(KIND_WORDS[kind] for kind in change.kinds)
        picture.text(_LEFT - 10, y + 16, clip(clean(change.title), _LABEL), "label", "end")
        _bar(
            picture,
            "cost" if delta > 0 else "gain",
            x(min(delta, 0.0)),
            x(max(delta, 0.0)),
            y,
            f"{change.title}: {words}",
        )
        picture.text(WIDTH - 2, y + 16, difference(delta), "label", "end")
    return picture.markup()


def slowest(layers: Sequence[Layer]) -> Markup:
    """One bar per layer, with its share and its precision."""
    picture = _drawing("Slowest layers", "time with the profiler on", len(layers))
    x = Scale(0.0, max(layer.ms or 0.0 for layer in layers), _LEFT, _RIGHT)
    _axis(picture, x, len(layers), "time with the profiler on", lambda v: fmt.ms(v) if v else "0")
    for i, layer in enumerate(layers):
        y = _TOP + _ROW * i
        title = " + ".join(layer.nodes[:3]) or layer.name
        picture.text(_LEFT - 10, y + 16, clip(clean(title), _LABEL), "label", "end")
        _bar(picture, "bar", x(0.0), x(layer.ms or 0.0), y, f"{layer.name}: {fmt.ms(layer.ms)}")
        words = " ".join(one for one in (fmt.share(layer.share), clip(clean(layer.precision or ""), 8)) if one)
        picture.text(WIDTH - 2, y + 16, words, "label", "end")
    return picture.markup()


def _drawing(title: str, description: str, rows: int) -> Drawing:
    return Drawing(title, description, round(_TOP + _ROW * rows) + 42)


def _axis(picture: Drawing, x: Scale, rows: int, label: str, name: Callable[[float], str]) -> float:
    bottom = _TOP + _ROW * rows
    picture.x_axis(x, bottom, _TOP, label, name)
    return bottom


def _bar(picture: Drawing, css: str, start: float, end: float, y: float, tooltip: str) -> None:
    width = max(1.5, end - start)
    picture.add("rect", css, clean(tooltip), x=start, y=y + 4, width=width, height=_ROW - 8, rx=2)
