"""Quantities as people write them: `2%`, `200MB`, `30m`, `2000/s`. Each has a parser and a printer that are inverse.

Sizes: kB, MB, GB, TB are powers of 1000 and KiB, MiB, GiB, TiB powers of 1024 (IEC 80000-13). Decimal arithmetic
keeps `7%` at exactly 0.07 and back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal

from trt_action.settings.values import BadValueError, decimal, number, shown

NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,30})?"
_QUANTITY = re.compile(rf"([-+]?)({NUMBER})\s*(.*)", re.ASCII | re.DOTALL)

SECONDS = {
    "us": Decimal("0.000001"), "µs": Decimal("0.000001"), "μs": Decimal("0.000001"), "ms": Decimal("0.001"),
    "s": Decimal(1), "m": Decimal(60), "min": Decimal(60), "h": Decimal(3600),
}  # fmt: skip
DECIMAL_BYTES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
BINARY_BYTES = {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_SPELLED = {
    "b": "B",
    "kb": "kB",
    "mb": "MB",
    "gb": "GB",
    "tb": "TB",
    "kib": "KiB",
    "mib": "MiB",
    "gib": "GiB",
    "tib": "TiB",
}

PERCENT_ALLOWED = "a percentage, e.g. `2%`"
DURATION_ALLOWED = "a duration in `ms`, `s`, `m` or `h`, e.g. `300s` or `30m`, above 0 and at most 24h"
SIZE_ALLOWED = "a size in B, kB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (powers of 1024), e.g. `200MB`"
RATE_ALLOWED = "samples per second, e.g. `2000/s`, or output tokens per second of an endpoint, e.g. `1000tok/s`"


def quantity(value: object, allowed: str, example: str) -> tuple[Decimal, str]:
    """Number and unit of a text; a number from a config file has the unit "".

    Raises:
        BadValueError: no number in front, negative, or not text.
    """
    bare = number(value)
    text = decimal(bare) if bare is not None else value
    if not isinstance(text, str):
        raise BadValueError("is not a number with a unit", allowed=allowed, example=example)
    found = _QUANTITY.fullmatch(text.strip())
    if found is None:
        raise BadValueError("is not a number with a unit", allowed=allowed, example=example)
    sign, digits, unit = found.groups()
    if sign == "-" and Decimal(digits) != 0:
        raise BadValueError("is negative", allowed=allowed, example=example)
    return Decimal(digits), unit.strip()


def wrong_unit(unit: str, allowed: str, example: str) -> BadValueError:
    """The complaint about a unit that is missing or unknown."""
    reason = f"has the unknown unit `{shown(unit, 40)}`" if unit else "has no unit"
    return BadValueError(reason, allowed=allowed, example=example)


def _nearest(unit: str, known: Iterable[str], default: str) -> str:
    """The longest known unit that an unknown one begins with (`mins` → `min`, `hours` → `h`, `GiBs` → `GiB`)."""
    return max((name for name in known if unit.lower().startswith(name.lower())), key=len, default=default)


def percent(value: object, *, low: str = "0", high: str = "100000", inside: bool = False) -> float:
    """`2%` → 0.02. A bare number is refused: 2 could mean 2 % or 200 %.

    Args:
        low, high: allowed range in percent; `inside` leaves both ends out.

    Raises:
        BadValueError: another unit, no unit, or out of range.
    """
    allowed = PERCENT_ALLOWED + (f", {'between' if inside else 'from'} {low}% {'and' if inside else 'to'} {high}%")
    amount, unit = quantity(value, allowed, "2%")
    if unit != "%":
        raise wrong_unit(unit, allowed, f"{decimal(float(amount))}%")
    if not (Decimal(low) < amount < Decimal(high) if inside else Decimal(low) <= amount <= Decimal(high)):
        raise BadValueError("is out of range", allowed=allowed, example="2%")
    return float(amount / 100)


def percent_text(fraction: float) -> str:
    """0.02 → `2%`."""
    return decimal_text(Decimal(repr(fraction)) * 100) + "%"


def duration(value: object, *, bare: bool = False) -> float:
    """Seconds. A number without a unit is refused, except where the setting's name says seconds (`bare`).

    Raises:
        BadValueError: another unit, zero, or longer than a day.
    """
    amount, unit = quantity(value, DURATION_ALLOWED, "30s")
    if not unit and bare:
        unit = "s"
    if unit not in SECONDS:
        raise wrong_unit(unit, DURATION_ALLOWED, f"{decimal(float(amount))}{_nearest(unit, SECONDS, 's')}")
    seconds = amount * SECONDS[unit]
    if not Decimal("0.000001") <= seconds <= 86_400:
        raise BadValueError("is out of range", allowed=DURATION_ALLOWED, example="30s")
    return float(seconds)


def duration_text(seconds: float) -> str:
    """3.0 → `3s`, 0.5 → `500ms`, 1800.0 → `30m`."""
    exact = Decimal(repr(seconds))
    if exact >= 3600 and exact % 3600 == 0:
        return decimal_text(exact / 3600) + "h"
    if exact >= 600 and exact % 60 == 0:
        return decimal_text(exact / 60) + "m"
    return decimal_text(exact) + "s" if exact >= 1 else decimal_text(exact * 1000) + "ms"


def size(value: object, *, zero: bool = False) -> int:
    """Bytes. `MB` is 1,000,000 and `MiB` 1,048,576; case does not matter; a bare number is refused.

    Raises:
        BadValueError: another unit (`G` alone means 1000³ in one tool and 1024³ in the next), zero, above 1000 TB.
    """
    amount, unit = quantity(value, SIZE_ALLOWED, "200MB")
    factor = (DECIMAL_BYTES | BINARY_BYTES).get(unit.lower())
    if factor is None:
        likely = f"{unit}B" if unit and f"{unit}b".lower() in _SPELLED else _nearest(unit, _SPELLED.values(), "MB")
        raise wrong_unit(unit, SIZE_ALLOWED, f"{decimal(float(amount))}{likely}")
    if not (0 if zero else 1) <= amount * factor <= 10**15:
        raise BadValueError("is out of range", allowed=SIZE_ALLOWED, example="200MB")
    return round(amount * factor)


def size_text(count: int) -> str:
    """Exact, in the unit that needs the fewest characters: 200000000 → `200MB`, 209715200 → `200MiB`."""
    return min(_exact_sizes(count), key=len)


def _exact_sizes(count: int) -> list[str]:
    units: Mapping[str, int] = DECIMAL_BYTES | BINARY_BYTES
    fitting = [unit for unit, factor in units.items() if factor <= max(count, 1)]
    return [decimal_text(Decimal(count) / units[unit]) + _SPELLED[unit] for unit in reversed(fitting)]


def decimal_text(exact: Decimal) -> str:
    """Without exponent and without trailing zeros."""
    written = format(exact, "f")
    return written.rstrip("0").rstrip(".") if "." in written else written
