"""Which of the four words the pairs support. Pure: the same pairs give the same answer (docs/method.md).

All differences are d = ln(head / base); every threshold is symmetric on that scale, so that swapping head and base
swaps `regressed` and `improved`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trt_action.evidence import Estimate, GateStatus, Verdict
from trt_action.measure.martingale import log_evidence, pairs_needed, reaches
from trt_action.measure.stats import (
    hodges_lehmann,
    median_with_error,
    signed_rank_interval,
    student_quantile,
)

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

MIN_UNITS = 2
"""A single set of processes cannot tell the engine from its luck with memory layout."""

MIN_FLOOR_PAIRS = 2

EXPLAINED_SHARE = 0.5
"""Subtracting all of it would be unbiased, but then intervals cover too rarely; nothing, and noisy hosts need minutes."""

CHANGE_RULED_OUT = 0.5
"""`within-noise` is not called early while the evidence for a change is above this (1 = none either way)."""


@dataclass(frozen=True)
class Rule:
    """The questions: fractions as in `Plan`. `alpha` is the error allowed to each answer."""

    margin: float
    tolerance: float
    limit: float | None
    confidence: float

    @property
    def alpha(self) -> float:
        return 1 - self.confidence


@dataclass(frozen=True)
class Sample:
    """Differences d of the usable pairs and the unit of each; `floor` is base against base."""

    d: Floats
    unit: Integers
    floor: Floats
    floor_unit: Integers


@dataclass(frozen=True)
class Answer:
    """`allowance`: how much of d may be layout of the processes; None if it cannot be told (one unit, no floor)."""

    verdict: Verdict
    limit_status: GateStatus
    allowance: float | None

    @property
    def complete(self) -> bool:
        return self.verdict != "inconclusive" and self.limit_status != "inconclusive"


def answer(sample: Sample, rule: Rule, *, final: bool) -> Answer:
    """Answer every question that the pairs answer surely.

    Args:
        final: no more pairs will come. Else `within-noise` waits as long as a change is not ruled out.
    """
    allowance = layout_allowance(sample, rule.confidence)
    if allowance is None or len(np.unique(sample.unit)) < MIN_UNITS:
        return Answer("inconclusive", "not-checked" if rule.limit is None else "inconclusive", allowance)
    verdict = _verdict(sample.d, rule, allowance, final=final)
    return Answer(verdict, _limit_status(sample.d, rule, allowance), allowance)


def layout_allowance(sample: Sample, confidence: float) -> float | None:
    """Half-width of the interval of the mean layout effect over the units, in units of d.

    A fresh process places code and data elsewhere; that alone shifts an engine's time, by an amount that stays while
    the process lives, so that more pairs do not average it out. Its variance between units is estimated from the unit
    medians of head/base around their mean, and of base/base around zero (both bases run the same bytes), less half of
    the variance that the spread of single pairs explains. The allowance is Student's t times the standard error.
    """
    main = _unit_medians(sample.d, sample.unit, _full_units(sample.unit))
    floor = _unit_medians(sample.floor, sample.floor_unit, np.unique(sample.floor_unit))
    units, degrees = len(main), len(main) - 1 + len(floor)
    if units == 0 or degrees < 1:
        return None
    between = float(((main[:, 0] - main[:, 0].mean()) ** 2).sum() + (floor[:, 0] ** 2).sum())
    explained = float((main[:, 1] ** 2).sum()) * (units - 1) / units + float((floor[:, 1] ** 2).sum())
    variance = max(0.0, between - EXPLAINED_SHARE * explained) / degrees
    if variance == 0.0:
        return 0.0
    return student_quantile((1 + confidence) / 2, degrees) * math.sqrt(variance / units)


def estimate_ratio(d: Floats, confidence: float, allowance: float) -> Estimate | None:
    """Hodges-Lehmann estimate of exp(d) with the signed-rank interval, each end moved out by the layout allowance.

    None with too few pairs for an interval at this confidence (fewer than 8 at 99 %).
    """
    interval = signed_rank_interval(d, confidence) if len(d) else None
    if interval is None:
        return None
    return Estimate(
        estimate=math.exp(hodges_lehmann(d)),
        low=math.exp(max(interval[0] - allowance, -50.0)),
        high=math.exp(min(interval[1] + allowance, 50.0)),
        confidence=confidence,
    )


def more_pairs(sample: Sample, rule: Rule, given: Answer) -> int | None:
    """Pairs still needed if the shares of signs stay as they are; None if that would never settle it."""
    if given.complete or given.allowance is None or not len(sample.d):
        return None
    w = given.allowance

    def above(threshold: float) -> float:
        return pairs_needed(float((sample.d > threshold).mean()), rule.alpha)

    def below(threshold: float) -> float:
        return pairs_needed(float((sample.d < threshold).mean()), rule.alpha)

    needed = 0.0
    if given.verdict == "inconclusive":
        margin, tolerance = math.log1p(rule.margin), math.log1p(rule.tolerance)
        inside = max(below(tolerance - w), above(w - tolerance))
        needed = min(above(margin + w), below(-margin - w), inside)
    if given.limit_status == "inconclusive" and rule.limit is not None:
        limit = math.log1p(rule.limit)
        needed = max(needed, min(above(limit + w), below(limit - w)))
    return None if math.isinf(needed) else max(1, int(needed) - len(sample.d))


def surely_above(d: Floats, threshold: float, alpha: float) -> bool:
    """Whether the median of d is surely above `threshold`. A tie counts against it."""
    return reaches(int((d > threshold).sum()), len(d), alpha)


def surely_below(d: Floats, threshold: float, alpha: float) -> bool:
    """Whether the median of d is surely below `threshold`. A tie counts against it."""
    return surely_above(-d, -threshold, alpha)


def _verdict(d: Floats, rule: Rule, w: float, *, final: bool) -> Verdict:
    margin, tolerance = math.log1p(rule.margin), math.log1p(rule.tolerance)
    if surely_above(d, margin + w, rule.alpha):
        return "regressed"
    if surely_below(d, -margin - w, rule.alpha):
        return "improved"
    inside = surely_below(d, tolerance - w, rule.alpha) and surely_above(d, w - tolerance, rule.alpha)
    if inside and (final or not _change_plausible(d, margin)):
        return "within-noise"
    return "inconclusive"


def _change_plausible(d: Floats, margin: float) -> bool:
    evidence = log_evidence(len(d))
    beyond = max(int((d > margin).sum()), int((d < -margin).sum()))
    return float(evidence[beyond]) >= math.log(CHANGE_RULED_OUT)


def _limit_status(d: Floats, rule: Rule, w: float) -> GateStatus:
    if rule.limit is None:
        return "not-checked"
    limit = math.log1p(rule.limit)
    if surely_above(d, limit + w, rule.alpha):
        return "failed"
    return "passed" if surely_below(d, limit - w, rule.alpha) else "inconclusive"


def _full_units(unit: Integers) -> Integers:
    """Units with at least half as many pairs as the largest: the last one may have only begun."""
    indices, counts = np.unique(unit, return_counts=True)
    full: Integers = indices[2 * counts >= counts.max()] if len(indices) else indices
    return full


def _unit_medians(d: Floats, unit: Integers, units: Integers) -> Floats:
    """Median and its standard error of each unit with enough pairs. Shape (units, 2)."""
    groups = [d[unit == index] for index in units]
    rows = [median_with_error(group) for group in groups if len(group) >= MIN_FLOOR_PAIRS]
    return np.array(rows, dtype=np.float64).reshape(-1, 2)
