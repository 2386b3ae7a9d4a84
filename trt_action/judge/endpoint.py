"""Gates on a served language model: times at a number of requests in flight, tokens per second, requests that failed."""

from __future__ import annotations

import math

from trt_action.evidence import Gate, GateStatus
from trt_action.judge import words
from trt_action.judge.latency import samples_for_interval
from trt_action.llm_records import LlmLevel, LlmReport, Times
from trt_action.settings import Settings
from trt_action.settings.rules import LatencyRule
from trt_action.settings.values import decimal

MOST_REQUESTS = 20_000
"""More are proposed to nobody."""


def thresholds(settings: Settings, head: LlmReport) -> list[Gate]:
    """One gate per rule of `latency-threshold`: at the number of requests in flight that it names, else at the most that
    were measured; by the interval of the percentile, as for an engine. A rule that names no time is about end to end."""
    return [_threshold(rule, head) for rule in settings.latency_threshold]


def _threshold(rule: LatencyRule, head: LlmReport) -> Gate:
    limit = f"{decimal(rule.limit_ms)} ms"
    level = _level(head, rule.concurrency)
    if level is None:
        return _gate(rule, str(rule), "not measured", limit, "not-checked", "Requests were not timed in this run.")
    metric = rule.metric or "e2e"
    shown = str(rule) if rule.concurrency else f"{rule} at {level.concurrency}"
    times: Times | None = getattr(level, metric)
    if times is None:
        reason = f"There is no {metric}: no answer had a second piece of text."
        return _gate(rule, shown, "not measured", limit, "not-checked", reason)
    value: float = getattr(times, f"{rule.statistic}_ms")
    where = f"from {level.requests} requests with {level.concurrency} in flight"
    if rule.statistic == "mean" or rule.statistic == "max":
        status: GateStatus = "passed" if _below(value, rule) else "failed"
        reason = f"The {rule.statistic} has no interval: judged by its value, {where}."
        return _gate(rule, shown, words.milliseconds(value, rule.limit_ms), limit, status, reason)
    interval = times.intervals.get(rule.statistic)
    observed = words.milliseconds_interval(value, interval, rule.limit_ms)
    if interval is None:
        asked = int(rule.statistic[1:])
        enough = samples_for_interval(min(asked, 95) if metric == "itl" else asked, times.confidence)  # as in `of_gaps`
        needed = max(enough, level.requests + 1)
        reason = f"{level.requests} requests are too few for an interval of {rule.statistic}: set `requests: {needed}`."
        return _gate(rule, shown, observed, limit, "inconclusive", reason)
    sure = f"at {words.percent(times.confidence)} confidence, {where}."
    if _below(interval.high_ms, rule):
        return _gate(rule, shown, observed, limit, "passed", f"{rule.statistic} is surely below the limit {sure}")
    if not _below(interval.low_ms, rule):
        return _gate(rule, shown, observed, limit, "failed", f"{rule.statistic} is surely above the limit {sure}")
    distance = abs(value - rule.limit_ms)
    half = interval.high_ms - value if value < rule.limit_ms else value - interval.low_ms
    needed = math.ceil(1.5 * level.requests * (half / distance) ** 2) if distance > 0 else MOST_REQUESTS + 1
    step = (
        f"`requests: {needed}` would probably decide it."
        if needed <= MOST_REQUESTS
        else "no reasonable number of requests decides it. Move the limit, or judge a lower percentile."
    )
    reason = f"The limit lies inside the interval of {rule.statistic}, {where}: {step}"
    return _gate(rule, shown, observed, limit, "inconclusive", reason)


def _gate(rule: LatencyRule, shown: str, observed: str, limit: str, status: GateStatus, reason: str) -> Gate:
    return Gate(name="latency-threshold", rule=shown, observed=observed, limit=limit, status=status, reason=reason)


def _below(value: float, rule: LatencyRule) -> bool:
    return value < rule.limit_ms if rule.strict else value <= rule.limit_ms


def _level(head: LlmReport, concurrency: int | None) -> LlmLevel | None:
    found = [one for one in head.levels if concurrency in (None, one.concurrency)]
    return max(found, key=lambda one: one.concurrency) if found else None


def min_throughput(settings: Settings, head: LlmReport) -> list[Gate]:
    """`min-throughput`: output tokens per second with the most requests in flight, by the measured value."""
    asked = settings.min_throughput
    if asked is None:
        return []
    limit, level = str(asked), _level(head, None)
    name, rule = "min-throughput", f"throughput ≥ {limit}"
    if level is None:
        reason = "Requests were not timed in this run."
        return [Gate(name=name, rule=rule, observed="not measured", limit=limit, status="not-checked", reason=reason)]
    value = level.output_tokens_per_second
    status: GateStatus = "passed" if value >= asked.per_second else "failed"
    observed = f"{words.rate(value, asked.per_second).removesuffix('/s')} tok/s"
    reason = f"Output tokens of {level.requests} requests, {level.concurrency} in flight, {level.seconds:.3g} s; no interval."
    return [Gate(name=name, rule=rule, observed=observed, limit=limit, status=status, reason=reason)]


def failed_requests(head: LlmReport, base: LlmReport | None) -> list[Gate]:
    """Every timed request is answered. Always there: times of the requests that were answered say nothing about those
    that were not."""
    if not head.levels:
        return []
    failed, total = _failed(head)
    observed = f"{failed} of {total}"
    if not failed:
        reason = f"{total} requests were answered to their end."
    else:
        kinds = sorted({kind for level in head.levels for kind in level.failed})
        reason = f"Kinds: {', '.join(kinds)}."
        if base is not None and base.levels:
            reason += f" Of base {_failed(base)[0]} of {_failed(base)[1]} failed."
    status: GateStatus = "failed" if failed else "passed"
    return [
        Gate(
            name="failed-requests",
            rule="every request is answered",
            observed=observed,
            limit="0",
            status=status,
            reason=reason,
        )
    ]


def _failed(report: LlmReport) -> tuple[int, int]:
    failed = sum(sum(level.failed.values()) for level in report.levels)
    return failed, failed + sum(level.requests for level in report.levels)
