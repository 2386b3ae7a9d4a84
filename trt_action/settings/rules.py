"""Rules as people say them: `p99 < 50ms`, `0.5% relative`, `97%`. Each remembers its text and prints itself; what
it prints can be read again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from trt_action.settings.units import RATE_ALLOWED, SECONDS, decimal_text, percent_text, quantity, wrong_unit
from trt_action.settings.values import BadValueError, decimal, number, shown

Statistic = Literal["mean", "p50", "p90", "p95", "p99", "max"]
_STATISTICS: dict[str, Statistic] = {
    "mean": "mean", "average": "mean", "median": "p50", "p50": "p50", "p90": "p90", "p95": "p95", "p99": "p99", "max": "max",
}  # fmt: skip
Metric = Literal["ttft", "itl", "tpot", "e2e"]
_METRICS: dict[str, Metric] = {"ttft": "ttft", "itl": "itl", "tpot": "tpot", "e2e": "e2e"}
_ENDPOINT = re.compile(r"(?:(ttft|itl|tpot|e2e)\s+)?(.*?)(?:\s+at\s+([1-9][0-9]{0,3}))?", re.ASCII | re.DOTALL | re.I)
"""Around a rule about an endpoint: which time, and at how many requests in flight."""
_LATENCY = re.compile(r"([A-Za-z][A-Za-z0-9.]*)\s*(<=|≤|<|>=|≥|>|==?)\s*(.+)", re.ASCII | re.DOTALL)
LATENCY_ALLOWED = (
    "`STATISTIC < TIME` or `<=`, where STATISTIC is mean, p50, p90, p95, p99 or max and TIME is in us, ms or s; "
    "a bare number is p99 in ms; several rules are a list or separated by `;`; for an endpoint with ttft, itl, tpot or "
    "e2e in front and `at N` (requests in flight) behind"
)
DROP_ALLOWED = (
    "`0.5%` (points of the metric) or `0.5% relative` (share of what it is compared with); "
    "for your own metric also a bare number in its unit"
)
MIN_ALLOWED = "a percentage or a fraction, e.g. `97%` or `0.97`; for your own metric any number in its unit"


@dataclass(frozen=True)
class LatencyRule:
    """An upper limit of one statistic of the latency. `strict` is `<`, otherwise `<=`.

    Of an endpoint, `metric` says which time (None: end to end) and `concurrency` at how many requests in flight (None: at
    the most that are measured).
    """

    statistic: Statistic
    limit_ms: float
    strict: bool = True
    metric: Metric | None = None
    concurrency: int | None = None
    text: str = field(default="", compare=False)

    def __str__(self) -> str:
        front = f"{self.metric} " if self.metric else ""
        behind = f" at {self.concurrency}" if self.concurrency else ""
        return f"{front}{self.statistic} {'<' if self.strict else '<='} {decimal(self.limit_ms)} ms{behind}"


def latency_rules(value: object) -> tuple[LatencyRule, ...]:
    """One rule, a list of rules, or rules separated by `;`. None is no rule.

    Raises:
        BadValueError: one of them is not a rule about latency.
    """
    if value is None:
        return ()
    if isinstance(value, str):
        parts: list[object] = [part for part in value.split(";") if part.strip()]
    elif isinstance(value, (list, tuple)):
        parts = list(value)
    else:
        parts = [value]
    if not parts or len(parts) > 32:
        raise BadValueError("holds no rule, or more than 32", allowed=LATENCY_ALLOWED, example="p99 < 50ms")
    return tuple(part if isinstance(part, LatencyRule) else _latency_rule(part) for part in parts)


def _latency_rule(value: object) -> LatencyRule:
    example = "p99 < 50ms"
    text = decimal(bare) if (bare := number(value)) is not None else value
    if not isinstance(text, str):
        raise BadValueError("is not a rule", allowed=LATENCY_ALLOWED, example=example)
    text = text.strip()
    around = _ENDPOINT.fullmatch(text)
    metric = _METRICS[around[1].lower()] if around and around[1] else None
    concurrency = int(around[3]) if around and around[3] else None
    bounded = around[2] if around else text
    found = _LATENCY.fullmatch(bounded)
    if found is None:
        amount, unit = quantity(text, LATENCY_ALLOWED, example)
        return LatencyRule("p99", _milliseconds(amount, unit or "ms"), text=text)
    name, sign, limit = found.groups()
    statistic = _STATISTICS.get(name.lower())
    if statistic is None:
        raise BadValueError(f"has the unknown statistic `{shown(name, 40)}`", allowed=LATENCY_ALLOWED, example=example)
    if sign not in {"<", "<=", "≤"}:
        raise BadValueError(
            f"has `{sign}`, but a latency needs an upper limit", allowed=LATENCY_ALLOWED, example=example
        )
    amount, unit = quantity(limit, LATENCY_ALLOWED, example)
    limit_ms = _milliseconds(amount, unit)
    return LatencyRule(statistic, limit_ms, sign == "<", metric, concurrency, text)


def _milliseconds(amount: Decimal, unit: str) -> float:
    if unit not in SECONDS or unit in {"m", "min", "h"}:
        raise wrong_unit(unit, LATENCY_ALLOWED, "p99 < 50ms")
    limit = amount * SECONDS[unit] * 1000
    if not Decimal("0.000001") <= limit <= 10**8:
        raise BadValueError("has a limit out of range", allowed=LATENCY_ALLOWED, example="p99 < 50ms")
    return float(limit)


@dataclass(frozen=True)
class AccuracyDrop:
    """Largest loss of the task metric.

    `amount` is a fraction for `points` (0.005 = half a point of a metric in [0, 1]) and for `relative` (0.005 of the
    value that head is compared with), and in the metric's own unit for `unit`.
    """

    amount: float
    kind: Literal["points", "relative", "unit"]
    text: str = field(default="", compare=False)

    def __str__(self) -> str:
        if self.kind == "unit":
            return decimal(self.amount)
        return percent_text(self.amount) + (" relative" if self.kind == "relative" else "")


def accuracy_drop(value: object) -> AccuracyDrop:
    """`0.5%`, `0.5% relative`, or a bare number.

    Raises:
        BadValueError: another unit or above 100 %.
    """
    if isinstance(value, AccuracyDrop):
        return value
    amount, unit = quantity(value, DROP_ALLOWED, "0.5%")
    text = str(value).strip()
    kinds: dict[str, Literal["points", "relative", "unit"]] = {
        "": "unit", "%": "points", "%points": "points", "%absolute": "points", "%relative": "relative",
    }  # fmt: skip
    kind = kinds.get("".join(unit.lower().split()))
    if kind is None:
        raise wrong_unit(unit, DROP_ALLOWED, f"{decimal(float(amount))}%")
    if kind == "unit":
        return AccuracyDrop(float(amount), kind, text)
    if amount > 100:
        raise BadValueError("is above 100%", allowed=DROP_ALLOWED, example="0.5%")
    return AccuracyDrop(float(amount / 100), kind, text)


@dataclass(frozen=True)
class MinAccuracy:
    """Smallest task metric, as a fraction (0.97) or in the metric's own unit. `percent`: it was written with `%`."""

    value: float
    percent: bool
    text: str = field(default="", compare=False)

    def __str__(self) -> str:
        return percent_text(self.value) if self.percent else decimal(self.value)


def min_accuracy(value: object) -> MinAccuracy:
    """`97%` or `0.97`.

    Raises:
        BadValueError: another unit or above 100 %.
    """
    if isinstance(value, MinAccuracy):
        return value
    amount, unit = quantity(value, MIN_ALLOWED, "97%")
    if unit not in {"", "%"}:
        raise wrong_unit(unit, MIN_ALLOWED, f"{decimal_text(amount)}%")
    if unit == "%" and amount > 100:
        raise BadValueError("is above 100%", allowed=MIN_ALLOWED, example="97%")
    return MinAccuracy(float(amount / 100 if unit else amount), bool(unit), str(value).strip())


@dataclass(frozen=True)
class Rate:
    """Smallest throughput per second, in samples, or in output tokens of an endpoint."""

    per_second: float
    of: Literal["samples", "tokens"] = "samples"

    def __str__(self) -> str:
        return decimal(self.per_second) + ("/s" if self.of == "samples" else "tok/s")


def rate(value: object) -> Rate:
    """`2000/s` or `1000tok/s`, above 0.

    Raises:
        BadValueError: another unit, no unit, zero.
    """
    if isinstance(value, Rate):
        return value
    amount, unit = quantity(value, RATE_ALLOWED, "2000/s")
    kinds: dict[str, Literal["samples", "tokens"]] = {
        "/s": "samples", "samples/s": "samples", "tok/s": "tokens", "tokens/s": "tokens",
    }  # fmt: skip
    kind = kinds.get("".join(unit.lower().split()))
    if kind is None:
        raise wrong_unit(unit, RATE_ALLOWED, "2000/s")
    if amount <= 0:
        raise BadValueError("is out of range", allowed=RATE_ALLOWED, example="2000/s")
    return Rate(float(amount), kind)
