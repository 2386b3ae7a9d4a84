"""Statistics of measured times. Pure functions on numpy arrays; no clock, no model, no I/O."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt


def percentile_index(n: int, p: float) -> int:
    """Index of the p-th percentile in `n` sorted samples: `max(n - 1 - int((1 - p/100) * n), 0)`.

    The definition of NVIDIA's trtexec (`findPercentile` in samples/common/sampleReporting.cpp), computed in single
    precision as there: in double precision p90 of 10 samples would be another one.
    """
    if n < 1:
        raise ValueError("a percentile needs at least one sample")
    if not 0 <= p <= 100:
        raise ValueError(f"a percentile is between 0 and 100, not {p}")
    excluded = int((np.float32(1) - np.float32(p) / np.float32(100)) * np.float32(n))
    return max(n - 1 - excluded, 0)


def percentile(ordered: npt.NDArray[Any], p: float) -> float:
    """The p-th percentile (0–100) of samples that are already sorted, as trtexec defines it."""
    return float(ordered[percentile_index(len(ordered), p)])


def percentile_interval(n: int, p: float, confidence: float) -> tuple[int, int] | None:
    """Indices (low, high) into `n` sorted samples that enclose the true p-th percentile with at least `confidence`.

    Distribution-free, equal tails: the number of samples below the percentile is binomial(n, p/100)
    (David & Nagaraja, Order Statistics, 2003, section 7.1). None when `n` is too small for a two-sided interval.
    """
    tail = (1 - confidence) / 2
    below = binomial_cdf(n, p / 100)
    # P(X_(low+1) > percentile) = P(K <= low) and P(X_(high+1) < percentile) = P(K > high)
    low = int(np.searchsorted(below, tail, side="right")) - 1
    high = int(np.searchsorted(below, 1 - tail, side="left"))
    if low < 0 or high >= n:
        return None
    return low, high


def binomial_cdf(n: int, p: float) -> npt.NDArray[np.float64]:
    """P(K <= k) for k = 0 … n, K ~ binomial(n, p), 0 < p < 1. Shape (n + 1,)."""
    if n < 0 or not 0 < p < 1:
        raise ValueError(f"no binomial distribution with n = {n}, p = {p}")
    k = np.arange(n, dtype=np.float64)
    steps = np.log((n - k) / (k + 1)) + math.log(p) - math.log1p(-p)
    log_pmf = n * math.log1p(-p) + np.concatenate([[0.0], np.cumsum(steps)])
    cdf: npt.NDArray[np.float64] = np.minimum(np.cumsum(np.exp(log_pmf)), 1.0)
    return cdf
