"""Statistics of measured times. Pure functions on numpy arrays; no clock, no model, no I/O."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt


def percentile_index(n: int, p: float) -> int:
    """Index of the p-th percentile in `n` sorted samples: `max(n - 1 - int((1 - p/100) * n), 0)`.

    The definition of NVIDIA's trtexec (`findPercentile` in samples/common/sampleReporting.cpp). trtexec computes it in
    single precision, so where (1 - p/100) * n is a whole number the two may differ by one rank.
    """
    if n < 1:
        raise ValueError("a percentile needs at least one sample")
    if not 0 <= p <= 100:
        raise ValueError(f"a percentile is between 0 and 100, not {p}")
    return max(n - 1 - int((1 - p / 100) * n), 0)


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


def student_quantile(p: float, df: int) -> float:
    """Quantile of Student's t distribution with whole degrees of freedom, 1/2 <= p < 1.

    The distribution function is a finite sum (Abramowitz & Stegun 26.7.3 and 26.7.4); it is inverted by bisection.
    """
    if not 0.5 <= p < 1 or df < 1:
        raise ValueError(f"no Student quantile for p = {p}, df = {df}")
    low, high = 0.0, 1.0
    while student_cdf(high, df) < p:
        low, high = high, high * 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if student_cdf(middle, df) < p else (low, middle)
    return high


def student_cdf(t: float, df: int) -> float:
    """P(T <= t) of Student's t distribution with whole degrees of freedom, for t >= 0."""
    theta = math.atan(t / math.sqrt(df))
    cosine_squared = math.cos(theta) ** 2
    if df % 2:
        term, start = math.cos(theta), 3
    else:
        term, start = 1.0, 2
    total = term if df > 1 else 0.0
    for k in range(start, df - 1, 2):
        term *= cosine_squared * (k - 1) / k
        total += term
    total *= math.sin(theta)
    inside = 2 / math.pi * (theta + total) if df % 2 else total
    return 0.5 + inside / 2


def median_with_error(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Median and its standard error, from the distance of the order statistics that enclose it with 95 %.

    Distribution-free: bursts and heavy tails do not inflate it (McKean & Schrader, 1984).
    """
    ordered = np.sort(values)
    n = len(ordered)
    half = 0.98 * math.sqrt(n)  # 1.96 standard deviations of a binomial(n, 1/2)
    low = max(0, math.floor(n / 2 - half))
    high = min(n - 1, math.ceil(n / 2 + half) - 1)
    return float(np.median(ordered)), float(ordered[high] - ordered[low]) / 3.92


def hodges_lehmann(values: npt.NDArray[np.float64]) -> float:
    """Hodges-Lehmann estimate of location: the median of all Walsh averages (x_i + x_j)/2, i <= j.

    Hodges & Lehmann, *Estimates of location based on rank tests* (1963). O(n log n) per bisection step, no n² memory.
    """
    ordered = np.sort(values)
    count = _walsh_count(len(ordered))
    return (_walsh(ordered, (count + 1) // 2) + _walsh(ordered, count // 2 + 1)) / 2


def signed_rank_interval(values: npt.NDArray[np.float64], confidence: float) -> tuple[float, float] | None:
    """Interval of the location that Wilcoxon's signed-rank test does not reject; None if `n` is too small for it.

    Exact null distribution up to 60 values, normal approximation above (Hollander, Wolfe & Chicken, *Nonparametric
    Statistical Methods*, 2014, section 3.3).
    """
    ordered = np.sort(values)
    n = len(ordered)
    rank = _signed_rank_bound(n, (1 - confidence) / 2)
    if rank < 1:
        return None
    return _walsh(ordered, rank), _walsh(ordered, _walsh_count(n) + 1 - rank)


def _signed_rank_bound(n: int, tail: float) -> int:
    """Largest r with P(T <= r - 1) <= tail, T the signed-rank statistic of `n` values under the null."""
    if n <= 60:
        ways = np.zeros(_walsh_count(n) + 1)
        ways[0] = 1.0
        for rank in range(1, n + 1):
            ways[rank:] = ways[rank:] + ways[:-rank]
        cumulative = np.cumsum(ways) / 2.0**n
        return int(np.searchsorted(cumulative, tail, side="right"))
    mean = n * (n + 1) / 4
    deviation = math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
    return math.floor(mean - normal_quantile(1 - tail) * deviation - 0.5)


def normal_quantile(p: float) -> float:
    """Quantile of the standard normal distribution."""
    return NormalDist().inv_cdf(p)


def _walsh_count(n: int) -> int:
    return n * (n + 1) // 2


def _walsh(ordered: npt.NDArray[np.float64], rank: int) -> float:
    """The `rank`-th smallest (1-based) Walsh average of sorted values, by bisection over the value."""
    n = len(ordered)
    low, high = float(ordered[0]), float(ordered[-1])
    first = np.arange(n)
    for _ in range(64):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        not_above = np.searchsorted(ordered, 2 * middle - ordered, side="right") - first
        if int(np.maximum(not_above, 0).sum()) >= rank:
            high = middle
        else:
            low = middle
    return high
