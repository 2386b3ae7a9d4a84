"""Which of the four words the pairs support. Pure: the same pairs give the same answer (docs/method.md).

All differences are d = ln(head / base); every threshold is symmetric on that scale, so that swapping head and base
swaps `regressed` and `improved`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trt_action.evidence import Estimate, GateStatus, Verdict
from trt_action.measure.layout import Differences, layout_allowance
from trt_action.measure.martingale import log_evidence, pairs_needed
from trt_action.measure.pairs import Floats
from trt_action.measure.stats import hodges_lehmann, signed_rank_interval

MIN_UNITS = 2
"""A single set of processes cannot tell the engine from its luck with memory layout."""

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
    """The same pairs seen twice: medians of their blocks (what p50 is about), and minima (what interruptions spare)."""

    typical: Differences
    fastest: Differences


@dataclass(frozen=True)
class Answer:
    """The allowances say how much of d may be layout; None if that cannot be told (one unit and no floor)."""

    verdict: Verdict
    limit_status: GateStatus
    typical_allowance: float | None
    fastest_allowance: float | None

    @property
    def complete(self) -> bool:
        return self.verdict != "inconclusive" and self.limit_status != "inconclusive"


Widened = Sequence[tuple[Floats, float]]
"""Differences of each statistic, with its layout allowance."""


def answer(sample: Sample, rule: Rule, *, final: bool) -> Answer:
    """Answer every question that the pairs answer surely.

    Args:
        final: no more pairs will come. Else `within-noise` waits as long as a change is not ruled out.
    """
    typical, fastest = (layout_allowance(x, rule.confidence) for x in (sample.typical, sample.fastest))
    if typical is None or fastest is None or len(np.unique(sample.typical.unit)) < MIN_UNITS:
        return Answer("inconclusive", "not-checked" if rule.limit is None else "inconclusive", typical, fastest)
    pairs = ((sample.typical.d, typical), (sample.fastest.d, fastest))
    return Answer(_verdict(pairs, rule, final=final), _limit_status(pairs, rule), typical, fastest)


def surely_above(pairs: Widened, threshold: float, alpha: float) -> bool:
    """Whether the differences are surely above `threshold` by at least one of the statistics.

    The evidence of the sign tests is averaged: an average of fair games is a fair game, so the error stays `alpha`
    however much the statistics depend on each other (Vovk & Wang, *E-values: calibration, combination and
    applications*, 2021). A tie counts against. The median of the block medians must lie above, too: a sure
    change of the minima alone is not a change of p50.
    """
    typical = pairs[0][0]
    return bool(np.median(typical) > threshold) and _log_evidence_above(pairs, threshold) >= -math.log(alpha)


def surely_below(pairs: Widened, threshold: float, alpha: float) -> bool:
    """The mirror of `surely_above`."""
    return surely_above(_mirrored(pairs), -threshold, alpha)


def _log_evidence_above(pairs: Widened, threshold: float) -> float:
    evidence = log_evidence(len(pairs[0][0]))
    logs = [evidence[int((d > threshold + allowance).sum())] for d, allowance in pairs]
    return float(np.logaddexp.reduce(logs)) - math.log(len(logs))


def _mirrored(pairs: Widened) -> Widened:
    return [(-d, allowance) for d, allowance in pairs]


def _verdict(pairs: Widened, rule: Rule, *, final: bool) -> Verdict:
    margin, tolerance = math.log1p(rule.margin), math.log1p(rule.tolerance)
    if surely_above(pairs, margin, rule.alpha):
        return "regressed"
    if surely_below(pairs, -margin, rule.alpha):
        return "improved"
    inside = surely_below(pairs, tolerance, rule.alpha) and surely_above(pairs, -tolerance, rule.alpha)
    if inside and (final or not _change_plausible(pairs, margin)):
        return "within-noise"
    return "inconclusive"


def _change_plausible(pairs: Widened, margin: float) -> bool:
    bare = [(d, 0.0) for d, _ in pairs]
    evidence = max(_log_evidence_above(bare, margin), _log_evidence_above(_mirrored(bare), margin))
    return evidence >= math.log(CHANGE_RULED_OUT)


def _limit_status(pairs: Widened, rule: Rule) -> GateStatus:
    if rule.limit is None:
        return "not-checked"
    limit = math.log1p(rule.limit)
    if surely_above(pairs, limit, rule.alpha):
        return "failed"
    return "passed" if surely_below(pairs, limit, rule.alpha) else "inconclusive"


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
    typical, fastest = given.typical_allowance, given.fastest_allowance
    if given.complete or typical is None or fastest is None or not len(sample.typical.d):
        return None
    pairs: Widened = ((sample.typical.d, typical), (sample.fastest.d, fastest))
    needed = 0.0
    if given.verdict == "inconclusive":
        margin, tolerance = math.log1p(rule.margin), math.log1p(rule.tolerance)
        inside = max(_needed_below(pairs, tolerance, rule.alpha), _needed_above(pairs, -tolerance, rule.alpha))
        needed = min(_needed_above(pairs, margin, rule.alpha), _needed_below(pairs, -margin, rule.alpha), inside)
    if given.limit_status == "inconclusive" and rule.limit is not None:
        limit = math.log1p(rule.limit)
        needed = max(needed, min(_needed_above(pairs, limit, rule.alpha), _needed_below(pairs, limit, rule.alpha)))
    return None if math.isinf(needed) else max(1, int(needed) - len(sample.typical.d))


def _needed_above(pairs: Widened, threshold: float, alpha: float) -> float:
    """The better of the two statistics; its evidence alone must reach twice as far, for it is averaged."""
    shares = [float((d > threshold + allowance).mean()) for d, allowance in pairs]
    return min(pairs_needed(share, alpha / len(pairs)) for share in shares)


def _needed_below(pairs: Widened, threshold: float, alpha: float) -> float:
    return _needed_above(_mirrored(pairs), -threshold, alpha)
