"""From recorded pairs to the `Comparison` of the evidence: verdict, estimates, witnesses, and the reason in words."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from trt_action.evidence import Comparison, Estimate, GateStatus, Unit
from trt_action.measure import tails, verdict
from trt_action.measure.layout import Differences
from trt_action.measure.pairs import Floats, Recording, Reduce, block_median, block_minimum
from trt_action.measure.verdict import Answer, Rule, Sample

Witness = Literal["block_min", "cpu_time", "ttft"]
Of = Literal["inferences", "requests"]

UNUSABLE_TRACE = 0.01
"""Share of pairs without a usable duration above which the clock is not trusted."""


@dataclass(frozen=True)
class Facts:
    """What the recording does not hold. `stopped`: why measuring ended before its rule did; empty if it did not."""

    rule: Rule
    seed: int
    seconds: float
    units: tuple[Unit, ...]
    stopped: str
    warnings: tuple[str, ...]
    of: Of = "inferences"


def sample_of(recording: Recording) -> Sample:
    """What the verdict is taken from."""
    return Sample(_differences(recording, block_median), _differences(recording, block_minimum))


def _differences(recording: Recording, reduce: Reduce) -> Differences:
    main, floor = recording.main, recording.floor
    return Differences(
        main.differences(reduce),
        main.unit[main.usable()],
        floor.differences(reduce),
        floor.unit[floor.usable()],
    )


def conclude(recording: Recording, facts: Facts) -> Comparison:
    """Compute everything from the pairs alone."""
    rule, main = facts.rule, recording.main
    sample = sample_of(recording)
    given = verdict.answer(sample, rule, final=True)
    allowance = given.typical_allowance or 0.0
    p50 = verdict.estimate_ratio(sample.typical.d, rule.confidence, allowance)
    p99 = tails.p99_ratio(main, rule.confidence, facts.seed)
    floor = verdict.estimate_ratio(sample.typical.floor, rule.confidence, allowance)
    witnesses = _witnesses(recording, sample, given, rule.confidence, facts.of)
    veto = facts.stopped or _clock_fault(recording) or _unsteady(floor, p50, rule, facts.of)
    if veto:
        limit_status: GateStatus = "not-checked" if rule.limit is None else "inconclusive"
        given = replace(given, verdict="inconclusive", limit_status=limit_status)
    return Comparison(
        verdict=given.verdict,
        reason=veto or _reason(given, sample, p50, witnesses.get("block_min"), facts),
        p50_ratio=p50,
        p99_ratio=p99,
        p99_verdict="inconclusive" if veto else tails.p99_verdict(p99),
        of=facts.of,
        witnesses=witnesses,
        noise_floor=floor,
        margin=rule.margin,
        tolerance=rule.tolerance,
        limit=rule.limit,
        limit_status=given.limit_status,
        confidence=rule.confidence,
        pairs=len(main),
        iterations=len(main.first),
        units=list(facts.units),
        seconds=facts.seconds,
        seed=facts.seed,
        more_pairs_needed=None if veto else verdict.more_pairs(sample, rule, given),
        warnings=_merged(facts.warnings, _warnings(recording, given, p50, witnesses, facts)),
        stopped=facts.stopped,
        series=recording.to_series() if len(main) else None,
    )


def _witnesses(
    recording: Recording, sample: Sample, given: Answer, confidence: float, of: Of
) -> dict[Witness, Estimate]:
    main = recording.main
    found: dict[Witness, Estimate | None] = {}
    found["block_min"] = verdict.estimate_ratio(sample.fastest.d, confidence, given.fastest_allowance or 0.0)
    head, base = recording.head_cpu, recording.base_cpu
    if len(head) == len(main) and len(head) and head.min() > 0 and base.min() > 0:
        second: Witness = "ttft" if of == "requests" else "cpu_time"
        found[second] = verdict.estimate_ratio(np.log(head / base), confidence, given.typical_allowance or 0.0)
    return {name: estimate for name, estimate in found.items() if estimate is not None}


def _clock_fault(recording: Recording) -> str:
    unusable = _unusable(recording)
    total = len(recording.main) + len(recording.floor)
    if unusable <= UNUSABLE_TRACE * total:
        return ""
    return (
        f"The clock gave no usable duration in {unusable} of {total} pairs (zero, or running backwards): "
        "times from this host cannot be trusted. Run on another host, or check its clock source."
    )


def _unusable(recording: Recording) -> int:
    return int((~recording.main.usable()).sum() + (~recording.floor.usable()).sum())


def _unsteady(floor: Estimate | None, p50: Estimate | None, rule: Rule, of: Of) -> str:
    """The same engine must not surely differ from itself, unless head differs by surely more than that."""
    if floor is None or (floor.low <= 1 + rule.margin and floor.high >= 1 / (1 + rule.margin)):
        return ""
    farthest = max(floor.high, 1 / floor.low)
    if p50 is not None and (p50.low > farthest or p50.high < 1 / farthest):
        return ""
    second, place, sides = (
        ("a second process of", "host", "engines")
        if of == "inferences"
        else ("second connections to", "host, network or server", "servers")
    )
    return (
        f"Base differs from {second} itself by {change(floor)}, more than the margin of {percent(rule.margin)}: this {place} "
        f"is too unsteady to compare {sides}. Run on a quieter or dedicated host."
    )


def _reason(given: Answer, sample: Sample, p50: Estimate | None, fastest: Estimate | None, facts: Facts) -> str:
    rule, pairs = facts.rule, len(sample.typical.d)
    if not pairs:
        return (
            f"Nothing was measured: the time limit was over ({facts.seconds:.1f} s) before the first pair of blocks. "
            "Raise `max-seconds`."
        )
    seen = f"head/base p50 {change(p50)}" if p50 else f"{pairs} pairs are too few for an interval"
    if p50 and fastest and fastest.high / fastest.low < p50.high / p50.low:
        seen += f"; fastest iterations, less disturbed, {change(fastest)}"
    if given.verdict == "regressed":
        return f"Head is surely slower than base by more than the margin of {percent(rule.margin)}: {seen}."
    if given.verdict == "improved":
        return f"Head is surely faster than base by more than the margin of {percent(rule.margin)}: {seen}."
    if given.verdict == "within-noise":
        return f"The difference is surely smaller than the tolerance of {percent(rule.tolerance)}: {seen}."
    units = len(np.unique(sample.typical.unit))
    if units < verdict.MIN_UNITS:
        what, luck = (
            ("processes", "the engine from the luck of memory layout")
            if facts.of == "inferences"
            else ("connections", "the server from the luck of a connection")
        )
        return (
            f"Only {units} set of {what} was measured within the time limit; {verdict.MIN_UNITS} are needed to tell {luck} "
            f"({seen}). Raise `max-seconds`."
        )
    return (
        f"{pairs} pairs do not decide between a change of more than {percent(rule.margin)} and a difference "
        f"below {percent(rule.tolerance)}: {seen}. Raise `max-seconds`, or measure on a quieter host."
    )


def _warnings(
    recording: Recording, given: Answer, p50: Estimate | None, witnesses: dict[Witness, Estimate], facts: Facts
) -> list[str]:
    found, rule = [], facts.rule
    if unusable := _unusable(recording):
        found.append(f"{unusable} pairs hold a duration that is zero or negative; they are kept but not used.")
    allowance = given.typical_allowance
    if allowance and allowance > math.log1p(rule.tolerance):
        what = (
            "The same engines differ from one set of processes to the next: memory layout, or the host,"
            if facts.of == "inferences"
            else "The same servers differ from one set of connections to the next: the network, or a busy host,"
        )
        found.append(f"{what} may be worth {percent(math.expm1(allowance))} here. Every interval was widened by that.")
    if p50 is not None:
        thing = "engine" if facts.of == "inferences" else "server"
        names = {"block_min": "The fastest iteration of each block", "cpu_time": "CPU time"}
        for name, witness in witnesses.items():
            if name == "ttft" or not _disagree(p50, witness, rule.margin):
                continue  # the time to first text may well have changed otherwise than the whole
            found.append(
                f"{names[name]} says {change(witness)}, wall time says {change(p50)}: the difference may come "
                f"from the host (waiting, frequency, neighbours) rather than from the {thing}."
            )
    return found


def _disagree(one: Estimate, other: Estimate, margin: float) -> bool:
    """Intervals that do not meet, and another answer: 13 % faster and 16 % faster are the same one."""
    apart = one.low > other.high or other.low > one.high
    return apart and _direction(one, margin) != _direction(other, margin)


def _direction(ratio: Estimate, margin: float) -> int:
    """1 slower by more than the margin, -1 faster, 0 neither."""
    d = math.log(ratio.estimate)
    return (d > math.log1p(margin)) - (d < -math.log1p(margin))


def _merged(before: tuple[str, ...], now: list[str]) -> list[str]:
    return [*before, *(text for text in now if text not in before)]


def percent(fraction: float) -> str:
    """`0.5 %`, with as many digits as a person would write."""
    return f"{100 * fraction:.3g} %"


def change(ratio: Estimate) -> str:
    """`+2.1 % (99 %: +1.6 % to +2.6 %)`."""
    low, middle, high = (f"{100 * (value - 1):+.2f} %" for value in (ratio.low, ratio.estimate, ratio.high))
    return f"{middle} ({percent(ratio.confidence)}: {low} to {high})"


def differences_text(d: Floats) -> str:
    """`+0.3 %`: the running median, for progress lines."""
    return f"{100 * math.expm1(float(np.median(d))):+.2f} %" if len(d) else "no pair yet"
