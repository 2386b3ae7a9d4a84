"""Numbers as gates say them: short, with units, three significant digits."""

from __future__ import annotations

import math

from trt_action.evidence import Estimate, Interval


def significant(value: float, digits: int = 3) -> str:
    """At least `digits` significant digits, no exponent: 0.412, 41.2, 1234."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:.{min(max(decimals, 0), 12)}f}"


def milliseconds(value: float) -> str:
    """`3.21 ms`."""
    return f"{significant(value)} ms"


def milliseconds_interval(value: float, interval: Interval | None) -> str:
    """`3.21 ms [3.10, 3.40]`."""
    if interval is None:
        return milliseconds(value)
    return f"{milliseconds(value)} [{significant(interval.low_ms)}, {significant(interval.high_ms)}]"


def percent(fraction: float) -> str:
    """A chosen limit: 0.005 → `0.5 %`."""
    return f"{fraction * 100:.6g} %"


def share(fraction: float) -> str:
    """A measured share: 0.98167 → `98.17 %`."""
    return f"{fraction * 100:.2f} %"


def change_interval(ratio: Estimate) -> str:
    """head / base as a change: `+1.2 % [0.9, 1.6]`."""
    low, middle, high = ((value - 1) * 100 for value in (ratio.low, ratio.estimate, ratio.high))
    return f"{middle:+.2f} % [{low:.2f}, {high:.2f}]"


def metric_interval(estimate: Estimate, *, fraction: bool, unit: str = "%") -> str:
    """A task metric or its loss: `97.33 % [95.71, 98.36]` for shares, `32.1 [31.5, 32.8]` otherwise."""
    scale = 100 if fraction else 1
    values = [estimate.estimate * scale, estimate.low * scale, estimate.high * scale]
    middle, low, high = (f"{value:.2f}" if fraction else significant(value) for value in values)
    middle = f"{middle} {unit}" if fraction else middle
    return middle if estimate.low == estimate.high else f"{middle} [{low}, {high}]"


def size(count: float) -> str:
    """Bytes in powers of 1000, as settings are written: `12.3 MB`."""
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= factor:
            return f"{significant(count / factor)} {unit}"
    return f"{count:.0f} B"


def rate(samples_per_second: float) -> str:
    """`2134/s`."""
    return f"{significant(samples_per_second)}/s"
