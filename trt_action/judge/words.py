"""Numbers as gates say them: short, with units, and with as many digits as it takes to tell them from the limit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from trt_action.evidence import Estimate, Interval

_MOST_DIGITS = 12


def significant(value: float, digits: int = 3) -> str:
    """At least `digits` significant digits, no exponent: 0.412, 41.2, 1234."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:.{min(max(decimals, 0), 12)}f}"


def _fixed(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}"


def _apart(values: Sequence[float], limit: float, write: Callable[[float, int], str], least: int) -> list[str]:
    """The values with `least` digits, or with more until what is written lies where the value lies: below the limit,
    at it or above it. 50.04 beside a limit of 50 is `50.04` and not `50.0`."""
    texts: list[str] = []
    for digits in range(least, _MOST_DIGITS + 1):
        texts = [write(value, digits) for value in values]
        if all(_place(float(text), limit) == _place(value, limit) for text, value in zip(texts, values, strict=True)):
            break
    return texts


def _place(value: float, limit: float) -> int:
    """-1 below, 0 at, 1 above the limit. The tolerance is far below what is measured and above rounding errors."""
    if math.isclose(value, limit, rel_tol=1e-9, abs_tol=1e-7):
        return 0
    return 1 if value > limit else -1


def milliseconds(value: float, limit_ms: float) -> str:
    """`3.21 ms`."""
    (text,) = _apart([value], limit_ms, significant, 3)
    return f"{text} ms"


def milliseconds_interval(value: float, interval: Interval | None, limit_ms: float) -> str:
    """`3.21 ms [3.10, 3.40]`."""
    if interval is None:
        return milliseconds(value, limit_ms)
    middle, low, high = _apart([value, interval.low_ms, interval.high_ms], limit_ms, significant, 3)
    return f"{middle} ms [{low}, {high}]"


def percent(fraction: float) -> str:
    """A chosen limit: 0.005 → `0.5 %`."""
    return f"{fraction * 100:.6g} %"


def share(fraction: float, limit: float) -> str:
    """A measured share: 0.98167 → `98.17 %`. The limit is a fraction too."""
    return f"{_hundredths([fraction], limit)[0]} %"


def points(fraction: float, limit: float) -> str:
    """A difference of two shares: 0.0081 → `0.81 points`."""
    return f"{_hundredths([fraction], limit)[0]} points"


def _hundredths(fractions: Sequence[float], limit: float) -> list[str]:
    return _apart([fraction * 100 for fraction in fractions], limit * 100, _fixed, 2)


def change_interval(ratio: Estimate, limit: float) -> str:
    """head / base as a change: `+1.20 % [0.90, 1.60]`; `limit` is the largest change, 0.05 for 5 %."""
    middle, low, high = _hundredths([ratio.estimate - 1, ratio.low - 1, ratio.high - 1], limit)
    return f"{middle if middle.startswith('-') else '+' + middle} % [{low}, {high}]"


def metric_interval(estimate: Estimate, limit: float, *, fraction: bool, unit: str = "%") -> str:
    """A task metric or its loss: `97.33 % [95.71, 98.36]` for shares, `32.1 [31.5, 32.8]` otherwise."""
    values = [estimate.estimate, estimate.low, estimate.high]
    middle, low, high = _hundredths(values, limit) if fraction else _apart(values, limit, significant, 3)
    middle = f"{middle} {unit}" if fraction else middle
    return middle if estimate.low == estimate.high else f"{middle} [{low}, {high}]"


def metric_value(value: float, limit: float) -> str:
    """A value of a metric that is no share."""
    return _apart([value], limit, significant, 3)[0]


def size(count: float, limit: float) -> str:
    """Bytes in powers of 1000, as settings are written: `12.3 MB`."""
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= factor:
            return f"{_apart([count / factor], limit / factor, significant, 3)[0]} {unit}"
    return f"{count:.0f} B"


def rate(samples_per_second: float, limit: float) -> str:
    """`2134/s`."""
    return f"{_apart([samples_per_second], limit, significant, 3)[0]}/s"
