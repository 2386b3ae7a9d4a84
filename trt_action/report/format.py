"""Numbers for people. Every number that is shown anywhere is written here, so that a comment, a page and a terminal agree.

Signs: U+2212 for minus, a space before `%` and units, a comma between thousands.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from trt_action.evidence import Estimate, Interval

MINUS = "−"
NONE = "–"
"""What a table shows where there is no number."""

_MICRO_BELOW_MS = 0.1
_SECONDS_FROM_MS = 10_000.0
_ABSURD = 1e15
"""From here on (only in broken or forged evidence) digits would only fill the page."""


def number(value: float, digits: int = 3) -> str:
    """`value` with at least `digits` significant digits and no exponent: 0.412, 41.2, 1,234."""
    if value == 0:
        return "0"
    if not 1 / _ABSURD < abs(value) < _ABSURD:
        return _absurd(value)
    magnitude = math.floor(math.log10(abs(value)))
    decimals = max(0, min(12, digits - 1 - magnitude))
    # Rounding may carry into the next magnitude: 9.996 is 10.0, not 10.00.
    if round(abs(value), decimals) >= 10.0 ** (magnitude + 1) and decimals > 0:
        decimals -= 1
    return f"{value:,.{decimals}f}".replace("-", MINUS)


def count(value: int) -> str:
    """1,234,567."""
    return f"{value:,}".replace("-", MINUS)


def large(value: int) -> str:
    """Parameters or FLOPs: 25.6 M, 4.09 G."""
    for factor, suffix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= factor:
            return number(value / factor) + suffix
    return count(value)


def time_unit(values: Iterable[float | None]) -> str:
    """The unit in which these times (ms) are best read side by side: `µs`, `ms` or `s`."""
    largest = max((abs(v) for v in values if v is not None), default=0.0)
    if largest < _MICRO_BELOW_MS and largest > 0:
        return "µs"
    return "s" if largest >= _SECONDS_FROM_MS else "ms"


def ms(value: float | None, unit: str | None = None) -> str:
    """A latency in ms, three significant digits; below 0.1 ms in µs, from ten seconds in s."""
    if value is None:
        return NONE
    unit = unit or time_unit([value])
    return f"{number(value * {'µs': 1e3, 'ms': 1.0, 's': 1e-3}[unit])} {unit}"


def ms_interval(value: float, interval: Interval | None, unit: str | None = None) -> str:
    """`0.412 ms [0.410, 0.415]`; without an interval just the number."""
    unit = unit or time_unit([value])
    if interval is None:
        return ms(value, unit)
    factor = {"µs": 1e3, "ms": 1.0, "s": 1e-3}[unit]
    return f"{ms(value, unit)} [{number(interval.low_ms * factor)}, {number(interval.high_ms * factor)}]"


def seconds(value: float) -> str:
    """A duration of a stage: 850 ms, 3.2 s, 2 min 5 s."""
    if not value < _ABSURD:
        return f"{_absurd(value)} s"
    if value < 1:
        return f"{round(value * 1000)} ms"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def size(value: float | None) -> str:
    """Bytes in decimal units, as settings are written: 812 B, 1.23 MB."""
    if value is None:
        return NONE
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= factor:
            return f"{number(value / factor)} {unit}"
    return f"{round(value)} B"


def rate(value: float | None) -> str:
    """Samples per second."""
    return NONE if value is None else f"{number(value)}/s"


def share(value: float | None) -> str:
    """A fraction in [0, 1] as percent. Never rounded up to 100 % or down to 0 %."""
    if value is None:
        return NONE
    if not -10 < value < 10:
        return f"{number(value * 100)} %"
    for decimals in (1, 2, 3):
        text = f"{value * 100:.{decimals}f}"
        if (float(text) not in (0.0, 100.0)) or value in (0.0, 1.0):
            return f"{text.replace('-', MINUS)} %"
    return "> 99.999 %" if value > 0.5 else "< 0.001 %"


def percent(value: float) -> str:
    """A chosen fraction, as its setting is written: 0.99 → `99 %`, 0.005 → `0.5 %`."""
    return f"{value * 100:.6g} %".replace("-", MINUS)


def signed(value: float, decimals: int) -> str:
    """`+2.1`, `−0.4`; what rounds to zero has no sign."""
    if abs(value) >= _ABSURD:
        return _absurd(value)
    text = f"{value:+,.{decimals}f}"
    if float(text.replace(",", "")) == 0:
        return f"{0:.{decimals}f}"
    return text.replace("-", MINUS)


def change(ratio: float) -> str:
    """A ratio as signed percent: 1.021 → `+2.1 %`."""
    return f"{signed((ratio - 1) * 100, 1)} %"


def change_interval(ratio: Estimate) -> str:
    """`+2.1 % [1.8, 2.4]`: the relative difference and its interval, in percent."""
    percents = [(x - 1) * 100 for x in (ratio.estimate, ratio.low, ratio.high)]
    return _with_interval(percents, "%")


def points_interval(difference: Estimate, *, flip: bool = False) -> str:
    """`−0.3 points [−0.8, 0.2]` from fractions; `flip` turns a drop into a change."""
    values = [difference.estimate, difference.low, difference.high]
    if flip:
        values = [-difference.estimate, -difference.high, -difference.low]
    return _with_interval([v * 100 for v in values], "points")


def difference_interval(difference: Estimate, *, flip: bool = False) -> str:
    """The same for a metric that is not a fraction: `−0.31 [−0.80, 0.21]`."""
    values = [difference.estimate, difference.low, difference.high]
    if flip:
        values = [-difference.estimate, -difference.high, -difference.low]
    return _with_interval(values, "")


def times(ratio: Estimate) -> str:
    """`3.41× [3.35, 3.48]`."""
    return f"{number(ratio.estimate)}× [{number(ratio.low)}, {number(ratio.high)}]"


def faster_or_slower(ratio: float) -> str:
    """head / base in words. Percent is of the base's time: 0.877 → `12.3 % faster`, 1.021 → `2.1 % slower`.

    From a factor of two on, factors read better: `3.10× as fast as base`, `3.10× as long as base`.
    """
    if ratio >= 2:
        return f"takes {number(ratio)}× as long as base"
    if 0 < ratio <= 0.5:
        return f"{number(1 / ratio)}× as fast as base"
    if ratio <= 0:
        return f"{number(ratio)}× as long as base"
    percent = f"{abs(ratio - 1) * 100:.1f}"
    if float(percent) == 0:
        return "as fast as base"
    return f"{percent} % {'slower' if ratio > 1 else 'faster'} than base"


def plural(n: int, one: str, many: str = "") -> str:
    """`1 gate`, `2 gates`."""
    return f"{count(n)} {one if n == 1 else many or one + 's'}"


def _absurd(value: float) -> str:
    return f"{value:.1e}".replace("-", MINUS)


def _with_interval(values: list[float], unit: str) -> str:
    estimate, low, high = values
    width = abs(high - low)
    decimals = 1 if not 1e-9 < width < 0.2 else min(4, 1 - math.floor(math.log10(width * 5)))
    gap = f" {unit}" if unit else ""
    ends = [signed(v, decimals).removeprefix("+") for v in (low, high)]
    return f"{signed(estimate, decimals)}{gap} [{ends[0]}, {ends[1]}]"
