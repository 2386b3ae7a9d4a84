"""The pictures of the report: pure functions from arrays to SVG. Times in ms; `sides` maps `base` / `head` to samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from markupsafe import Markup

from trt_action.evidence import Estimate, Stage
from trt_action.report import format as fmt
from trt_action.report.escape import clean, clip
from trt_action.report.svg import WIDTH, Drawing, Scale
from trt_action.report.traces import Duet, Floats

LEFT, RIGHT = 64, WIDTH - 12
BINS = 90
COLUMNS = 240
MOST_POINTS = 600
HISTOGRAM_WIDTHS, TIME_WIDTHS = 4.0, 7.0
"""Reach of an axis around the median, in 10–90 % ranges: outliers must not squeeze the rest to a line."""


def distribution(sides: Mapping[str, Floats], marks: Mapping[str, Mapping[str, float]]) -> Markup:
    """Overlaid histograms of the bulk, with percentiles marked. What lies beyond the right edge is said, not drawn.

    Args:
        marks: side → percentile's name → ms.
    """
    low, high = _bulk(sides.values(), HISTOGRAM_WIDTHS)
    unit, factor = _unit(high)
    edges = np.linspace(low, high, BINS + 1)
    shares = {side: np.histogram(values, edges)[0] / len(values) for side, values in sides.items()}
    top, bottom = 44.0, 244.0
    x = Scale(low, high, LEFT, RIGHT)
    y = Scale(0, max(float(s.max()) for s in shares.values()) or 1.0, bottom, top)
    picture = Drawing("Latency distribution", _beyond(sides, high), 286)
    picture.x_axis(x, bottom, top, f"latency, {unit}", lambda v: fmt.number(v * factor))
    picture.y_axis(y, LEFT, RIGHT, "share of samples", lambda v: f"{v * 100:.3g} %")
    for side, share in shares.items():
        outline = [(x(edges[0]), bottom)]
        for i, height in enumerate(share):
            outline += [(x(edges[i]), y(float(height))), (x(edges[i + 1]), y(float(height)))]
        picture.area(f"fill {side}", [*outline, (x(edges[-1]), bottom)])
        picture.line(f"stroke {side}", outline)
    for row, (side, named) in enumerate(marks.items()):
        free = 0.0  # where the next label has room
        for name, value in named.items():
            if not low <= value <= high:
                continue
            picture.line(f"mark {side}", [(x(value), top), (x(value), bottom)], f"{side} {name}: {fmt.ms(value)}")
            if x(value) >= free:
                picture.text(x(value) + 3, top + 11 + 13 * row, name, f"label {side}-ink")
                free = x(value) + 28
    picture.legend(LEFT, 14, [(side, f"{side}, {fmt.plural(len(v), 'sample')}") for side, v in sides.items()])
    return picture.markup()


def tail(sides: Mapping[str, Floats]) -> Markup:
    """Latency by percentile, the tail stretched: every nine gets the same width."""
    ordered = {side: np.sort(values) for side, values in sides.items()}
    nines = max(1.0, np.log10(max(len(v) for v in ordered.values())))
    unit, factor = _unit(float(np.median(np.concatenate(list(ordered.values())))))
    low = min(float(np.quantile(v, 0.1)) for v in ordered.values())
    high = max(float(v[-1]) for v in ordered.values())
    top, bottom = 44.0, 244.0
    x = Scale(0, nines, LEFT, RIGHT)
    y = Scale(low, max(high, low * 1.0001), bottom, top, log=high > 4 * low)
    picture = Drawing("Latency by percentile", "from the median to the slowest sample", 286)
    picture.y_axis(y, LEFT, RIGHT, f"latency, {unit}", lambda v: fmt.number(v * factor))
    for nine, name in ((0.0, "min"), (np.log10(2), "p50"), (1, "p90"), (np.log10(20), "p95"), (2, "p99"), (3, "p99.9"), (4, "p99.99"), (5, "p99.999")):  # fmt: skip
        if nine <= nines:
            picture.add("line", "grid", x1=x(nine), x2=x(nine), y1=top, y2=bottom)
            picture.text(x(nine), bottom + 16, name, anchor="middle")
    picture.text(RIGHT, bottom + 32, "percentile", "axis", "end")
    for side, values in ordered.items():
        at = np.linspace(0, np.log10(len(values)), 400) if len(values) > 1 else np.zeros(1)
        index = np.minimum((len(values) * (1 - 10.0**-at)).astype(int), len(values) - 1)
        points = [(x(float(a)), y(float(values[i]))) for a, i in zip(at, index, strict=True)]
        picture.line(f"stroke wide {side}", points)
    picture.legend(LEFT, 14, [(side, side) for side in sides])
    return picture.markup()


def over_time(sides: Mapping[str, Floats], title: str, label: str, breaks: Sequence[int] = ()) -> Markup:
    """Samples in the order taken: median line and min–max envelope of each column, so that no outlier hides.

    Args:
        label: what the x axis counts.
        breaks: indices at which a new set of processes began.
    """
    low, high = _bulk(sides.values(), TIME_WIDTHS)
    unit, factor = _unit(high)
    top, bottom = 44.0, 224.0
    longest = max(len(v) for v in sides.values())
    x, y = Scale(0, max(1, longest - 1), LEFT, RIGHT), Scale(low, high, bottom, top)
    picture = Drawing(title, _beyond(sides, high), 266)
    picture.x_axis(x, bottom, top, label, lambda v: fmt.count(round(v)))
    picture.y_axis(y, LEFT, RIGHT, f"latency, {unit}", lambda v: fmt.number(v * factor))
    for side, values in sides.items():
        columns = np.array_split(np.arange(len(values)), min(COLUMNS, len(values)))
        centre = [x(float(c.mean())) for c in columns]
        highest = [(cx, y(float(values[c].max()))) for cx, c in zip(centre, columns, strict=True)]
        lowest = [(cx, y(float(values[c].min()))) for cx, c in zip(centre, columns, strict=True)]
        if len(values) > COLUMNS:
            picture.area(f"fill faint-fill {side}", [*highest, *reversed(lowest)])
        middle = [(cx, y(float(np.median(values[c])))) for cx, c in zip(centre, columns, strict=True)]
        picture.line(f"stroke {side}", middle)
    for number, index in enumerate(breaks, start=2):
        picture.line("mark quiet", [(x(index), top), (x(index), bottom)], f"unit {number}: new processes")
    picture.legend(LEFT, 14, [(side, side) for side in sides])
    return picture.markup()


def paired(duet: Duet, estimate: Estimate | None, margin: float, tolerance: float, limit: float | None) -> Markup:
    """The difference of every pair in percent of base, by unit, with the estimate's interval and the margin."""
    percent = (duet.ratio - 1) * 100
    spread = float(np.quantile(percent, 0.9) - np.quantile(percent, 0.1)) or 0.1
    shown = [margin * 100, -margin * 100, *([(estimate.low - 1) * 100, (estimate.high - 1) * 100] if estimate else [])]
    low = min(float(np.quantile(percent, 0.02)) - spread / 2, *shown) - 0.1
    high = max(float(np.quantile(percent, 0.98)) + spread / 2, *shown) + 0.1
    top, bottom = 44.0, 244.0
    x, y = Scale(0, max(1, len(percent) - 1), LEFT, RIGHT), Scale(low, high, bottom, top)
    outside = int(((percent < low) | (percent > high)).sum())
    picture = Drawing("Difference of each pair", f"{fmt.plural(outside, 'pair')} outside are drawn at the edge", 286)
    picture.x_axis(x, bottom, top, "pair", lambda v: fmt.count(round(v)))
    picture.y_axis(y, LEFT, RIGHT, "head against base, %", lambda v: fmt.signed(v, 1 if high - low < 8 else 0))
    if estimate:
        ends = [y((estimate.high - 1) * 100), y((estimate.low - 1) * 100)]
        picture.add(
            "rect", "band", fmt.change_interval(estimate),
            x=LEFT, y=ends[0], width=RIGHT - LEFT, height=max(1.5, ends[1] - ends[0]),
        )  # fmt: skip
    for value, css, words in (
        (0.0, "zero", "no difference"),
        (margin * 100, "rule", "margin"),
        (-margin * 100, "rule", "margin"),
        (tolerance * 100, "rule faint", "tolerance"),
        *(((limit * 100, "rule limit", "limit"),) if limit is not None else ()),
    ):
        if low < value < high:
            picture.line(css, [(LEFT, y(value)), (RIGHT, y(value))], f"{words}: {fmt.signed(value, 1)} %")
    step = max(1, -(-len(percent) // MOST_POINTS))
    for index in range(0, len(percent), step):
        css = f"dot unit{int(duet.unit[index]) % 2}"
        picture.add("circle", css, cx=x(index), cy=y(float(percent[index])), r=2.2)
    picture.legend(
        LEFT,
        14,
        [
            ("head", "odd units"),
            ("unit1", "even units"),
            ("band", "interval of the estimate"),
            ("margin-key", f"margin ± {fmt.percent(margin)}"),
            ("tolerance-key", f"tolerance {fmt.percent(tolerance)}"),
        ],
    )
    return picture.markup()


def intervals(
    rows: Sequence[tuple[str, float, float, float]],
    title: str,
    label: str,
    name: Callable[[float], str],
    band: tuple[float, float] | None = None,
) -> Markup:
    """A dot and its interval per row. `rows` holds (label, estimate, low, high); `band` is shaded (the margin)."""
    low = min(*(row[2] for row in rows), *(band or ()), rows[0][1])
    high = max(*(row[3] for row in rows), *(band or ()), rows[0][1])
    gap = (high - low) * 0.06 or 0.01
    left, top = 236.0, 14.0
    bottom = top + 28.0 * len(rows)
    x = Scale(low - gap, high + gap, left, RIGHT)
    picture = Drawing(title, "; ".join(f"{row[0]} {name(row[1])}" for row in rows), round(bottom) + 42)
    picture.x_axis(x, bottom, top, label, name)
    if band:
        picture.add(
            "rect", "margin-band", "margin", x=x(band[0]), y=top, width=x(band[1]) - x(band[0]), height=bottom - top
        )
    for i, (words, estimate, start, end) in enumerate(rows):
        y = top + 14 + 28 * i
        side = {"base": "base", "FP32 reference": "reference"}.get(words, "head")
        tooltip = f"{words}: {name(estimate)} [{name(start)}, {name(end)}]"
        picture.text(left - 12, y + 4, clip(clean(words), 36), "label", "end")
        picture.line(f"whisker {side}-line", [(x(start), y), (x(end), y)], tooltip)
        picture.add("circle", f"point {side}", tooltip, cx=x(estimate), cy=y, r=4.5)
    return picture.markup()


def stage_bars(stages: Sequence[Stage]) -> Markup:
    """When each stage ran and how long, one below the other."""
    total = sum(stage.seconds for stage in stages) or 1.0
    left, top = 150.0, 6.0
    x = Scale(0, total, left, RIGHT - 70)
    bottom = top + 24.0 * len(stages)
    picture = Drawing("Stages", f"{fmt.seconds(total)} in all", round(bottom) + 42)
    picture.x_axis(x, bottom, top, "seconds", lambda v: f"{v:g}")
    start = 0.0
    for i, stage in enumerate(stages):
        y = top + 24 * i
        words = f"{clip(clean(stage.name), 22)}"
        picture.text(left - 10, y + 16, words, "label", "end")
        width = max(1.5, x(start + stage.seconds) - x(start))
        picture.add(
            "rect", "bar", f"{words}: {fmt.seconds(stage.seconds)}", x=x(start), y=y + 4, width=width, height=16, rx=2
        )
        picture.text(x(start) + width + 6, y + 16, fmt.seconds(stage.seconds))
        start += stage.seconds
    return picture.markup()


def beyond(sides: Mapping[str, Floats], widths: float = HISTOGRAM_WIDTHS) -> str:
    """What lies above the histogram's (or with `TIME_WIDTHS` the time line's) edge, in words."""
    return _beyond(sides, _bulk(sides.values(), widths)[1])


def _bulk(many: Iterable[Floats], widths: float) -> tuple[float, float]:
    """Where nearly all samples are: `widths` times the 10–90 % range around the medians, inside the data."""
    lows, highs = [], []
    for values in many:
        q10, q50, q90 = (float(q) for q in np.quantile(values, (0.1, 0.5, 0.9)))
        reach = max(q90 - q10, q50 * 0.002) * widths
        lows.append(max(float(values.min()), q50 - reach))
        highs.append(min(float(values.max()), q50 + reach))
    low, high = min(lows), max(highs)
    return (low, high) if high > low else (low * 0.99, high * 1.01)


def _beyond(sides: Mapping[str, Floats], high: float) -> str:
    said = [
        f"{fmt.share(float((values > high).mean()))} of {side} (slowest {fmt.ms(float(values.max()))})"
        for side, values in sides.items()
        if (values > high).any()
    ]
    return f"Slower than {fmt.ms(high)} and not drawn to scale: {', '.join(said)}" if said else "All samples are shown"


def _unit(value_ms: float) -> tuple[str, float]:
    unit = fmt.time_unit([value_ms])
    return unit, {"µs": 1e3, "ms": 1.0, "s": 1e-3}[unit]
