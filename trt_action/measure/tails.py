"""The ratio of 99th percentiles: much harder to know than that of medians, so it has its own margin and verdict."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from trt_action.evidence import Estimate, Verdict
from trt_action.measure.pairs import Integers, Pairs

PERCENTILE = 99.0
MARGIN = 0.10
"""On shared hosts the p99 ratio of equal engines spreads by 3-28 %."""

RESAMPLES = 1_000
MIN_ITERATIONS = 100
"""Fewer iterations have nothing above their p99."""

TAIL = 3
"""How many times the nominal tail of 1 % is kept for resampling; a resample never reaches beyond it in practice."""

_MOST_CELLS = 2_000_000
_LEAST_RESAMPLES = 400


def p99_ratio(pairs: Pairs, confidence: float, seed: int) -> Estimate | None:
    """Ratio of the p99 of all iterations, with a percentile bootstrap interval over pairs of blocks.

    Whole pairs are drawn, so that iterations of one block and the two blocks of one pair stay together (Davison &
    Hinkley, *Bootstrap Methods and their Application*, 1997, chapter 8). None with fewer than 100 iterations per side.
    """
    good = pairs.usable()
    owners = pairs.owners()
    keep = good[owners]
    if int(keep.sum()) < MIN_ITERATIONS:
        return None
    renumber = np.cumsum(good) - 1
    owners, first, second = renumber[owners[keep]], pairs.first[keep], pairs.second[keep]
    sizes = np.bincount(owners)
    rng = np.random.Generator(np.random.PCG64(seed))
    tail = min(len(owners), TAIL * math.ceil(len(owners) * (1 - PERCENTILE / 100)) + 20)
    rounds = min(RESAMPLES, max(_LEAST_RESAMPLES, _MOST_CELLS // (tail + len(sizes))))
    weights = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=rounds).astype(np.int32)
    weights[0] = 1  # the sample itself
    excluded = np.floor((1 - PERCENTILE / 100) * (weights @ sizes) + 1e-9)
    ratios = _resampled(first, owners, weights, excluded, tail) / _resampled(second, owners, weights, excluded, tail)
    low, high = np.quantile(ratios[1:], [(1 - confidence) / 2, (1 + confidence) / 2])
    estimate = float(ratios[0])
    return Estimate(
        estimate=estimate, low=min(float(low), estimate), high=max(float(high), estimate), confidence=confidence
    )


def p99_verdict(ratio: Estimate | None) -> Verdict:
    """The word for the p99 ratio: sure beyond, or sure within, 10 %."""
    if ratio is None:
        return "inconclusive"
    if ratio.low > 1 + MARGIN:
        return "regressed"
    if ratio.high < 1 / (1 + MARGIN):
        return "improved"
    inside = ratio.high < 1 + MARGIN and ratio.low > 1 / (1 + MARGIN)
    return "within-noise" if inside else "inconclusive"


def _resampled(
    values: Integers,
    owners: Integers,
    weights: npt.NDArray[np.int32],
    excluded: npt.NDArray[np.float64],
    tail: int,
) -> npt.NDArray[np.float64]:
    """p99 of each resample: walk down from the largest value until more than the excluded share is passed."""
    largest = np.argsort(values, kind="stable")[::-1][:tail]
    passed = np.cumsum(weights[:, owners[largest]], axis=1, dtype=np.int32)
    reached = passed > excluded[:, None]
    index = np.where(reached.any(axis=1), reached.argmax(axis=1), tail - 1)
    return values[largest[index]].astype(np.float64)
