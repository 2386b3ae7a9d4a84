"""Gates on time: absolute limits by the order-statistic interval, regression by the interleaved comparison."""

from __future__ import annotations

import math

from trt_action.evidence import Comparison, Gate, GateStatus, Interval, Latency, Side
from trt_action.judge import words
from trt_action.settings import Settings
from trt_action.settings.rules import LatencyRule
from trt_action.settings.values import decimal

_LONGEST = 600.0
"""A latency pass that would have to be longer than this (seconds) is not proposed to anybody."""


def thresholds(settings: Settings, head: Side) -> list[Gate]:
    """One gate per rule of `latency-threshold`.

    A percentile passes when its order-statistic interval lies below the limit, fails when it lies above, and is
    inconclusive when the limit is inside or the samples are too few for an interval. mean and max have no interval
    and are judged by the value.
    """
    return [_threshold(rule, head.latency) for rule in settings.latency_threshold]


def _threshold(rule: LatencyRule, latency: Latency | None) -> Gate:
    limit = f"{decimal(rule.limit_ms)} ms"
    if latency is None:
        return _threshold_gate(rule, "not measured", limit, "not-checked", "Latency was not measured in this run.")
    value: float = getattr(latency, f"{rule.statistic}_ms")
    if rule.statistic == "mean" or rule.statistic == "max":
        status: GateStatus = "passed" if _below(value, rule) else "failed"
        reason = f"The {rule.statistic} of {latency.n} samples has no interval here: judged by its value."
        return _threshold_gate(rule, words.milliseconds(value, rule.limit_ms), limit, status, reason)
    interval = latency.intervals.get(rule.statistic)
    observed = words.milliseconds_interval(value, interval, rule.limit_ms)
    if interval is None:
        return _threshold_gate(rule, observed, limit, "inconclusive", _too_few(rule, latency))
    sure = f"at {words.percent(latency.confidence)} confidence, from {latency.n} samples."
    if _below(interval.high_ms, rule):
        return _threshold_gate(rule, observed, limit, "passed", f"{rule.statistic} is surely below the limit {sure}")
    if not _below(interval.low_ms, rule):
        return _threshold_gate(rule, observed, limit, "failed", f"{rule.statistic} is surely above the limit {sure}")
    return _threshold_gate(rule, observed, limit, "inconclusive", _undecided(rule, value, interval, latency))


def _threshold_gate(rule: LatencyRule, observed: str, limit: str, status: GateStatus, reason: str) -> Gate:
    return Gate(name="latency-threshold", rule=str(rule), observed=observed, limit=limit, status=status, reason=reason)


def _below(value: float, rule: LatencyRule) -> bool:
    return value < rule.limit_ms if rule.strict else value <= rule.limit_ms


def samples_for_interval(percent: int, confidence: float) -> int:
    """Smallest n for a two-sided order-statistic interval: both tails p^n and (1 - p)^n at most (1 - confidence) / 2
    (David & Nagaraja, Order Statistics, 3rd ed., section 7.1). 368 for p99 at 95 %."""
    share = max(percent, 100 - percent) / 100
    return math.ceil(math.log((1 - confidence) / 2) / math.log(share))


def _too_few(rule: LatencyRule, latency: Latency) -> str:
    needed = max(samples_for_interval(int(rule.statistic[1:]), latency.confidence), latency.n + 1)
    return f"{latency.n} samples are too few for an interval of {rule.statistic}; it takes {needed}: " + _longer(
        latency, needed / latency.n
    )


def _undecided(rule: LatencyRule, value: float, interval: Interval, latency: Latency) -> str:
    """The interval narrows with the square root of n, so the pass that decides is (half width / distance)² as long."""
    distance = abs(value - rule.limit_ms)
    half = interval.high_ms - value if value < rule.limit_ms else value - interval.low_ms
    factor = (half / distance) ** 2 if distance > 0 else math.inf
    return f"The limit lies inside the interval of {rule.statistic}: " + _longer(latency, factor)


def _longer(latency: Latency, factor: float) -> str:
    seconds = max(latency.seconds, 0.1) * factor * 1.5
    if seconds > _LONGEST:
        return "no reasonable measuring time decides it. Move the limit, or judge a lower percentile."
    return f"`measure-seconds: {max(math.ceil(round(seconds, 6)), 1)}s` would probably decide it."


def regression(settings: Settings, has_base: bool, comparison: Comparison | None) -> list[Gate]:
    """`max-latency-regression` as the comparison decided it; unset, the comparison's verdict against `margin`.

    Without a base there is no gate, except when the rule was asked for: then it says that it was not checked.
    """
    asked = settings.max_latency_regression
    most = settings.margin if asked is None else asked
    limit = words.percent(most)
    rule = f"not slower than base by more than {limit}"
    if comparison is None:
        if asked is None:
            return []
        reason = "Head and base were not compared in this run." if has_base else "There is no base to compare with."
        return [_regression_gate(rule, "not compared", limit, "not-checked", reason)]
    observed = words.change_interval(comparison.p50_ratio, most) if comparison.p50_ratio else "not measured"
    status = by_verdict(comparison) if asked is None else _by_limit(comparison, asked)
    return [_regression_gate(rule, observed, limit, status, _regression_reason(comparison, status, asked))]


def _regression_gate(rule: str, observed: str, limit: str, status: GateStatus, reason: str) -> Gate:
    return Gate(name="max-latency-regression", rule=rule, observed=observed, limit=limit, status=status, reason=reason)


def by_verdict(comparison: Comparison) -> GateStatus:
    """The comparison's verdict as a gate: only `regressed` fails."""
    if comparison.verdict == "regressed":
        return "failed"
    return "inconclusive" if comparison.verdict == "inconclusive" else "passed"


def _by_limit(comparison: Comparison, asked: float) -> GateStatus:
    """The comparison's own answer, if it was made for this very limit."""
    if not _decided_for(comparison, asked) or comparison.limit_status == "not-checked":
        return "inconclusive"
    return comparison.limit_status


def _decided_for(comparison: Comparison, asked: float) -> bool:
    return comparison.limit is not None and math.isclose(comparison.limit, asked, abs_tol=1e-12)


def _regression_reason(comparison: Comparison, status: GateStatus, asked: float | None) -> str:
    if asked is None:
        return comparison.reason
    sure = f"at {words.percent(comparison.confidence)} confidence, from {comparison.pairs} pairs of blocks"
    if status == "passed":
        return f"The p50 of head is surely not slower than base by {words.percent(asked)} or more, {sure}."
    if status == "failed":
        return f"The p50 of head is surely slower than base by more than {words.percent(asked)}, {sure}."
    if not _decided_for(comparison, asked):
        return "The comparison was made for another limit. Run it again with this one."
    return f"{comparison.pairs} pairs of blocks did not decide this limit; raise `max-seconds`. {comparison.reason}"
