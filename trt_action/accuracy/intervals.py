"""Intervals and tests of the task metric. Pure functions on numbers and arrays.

For proportions on the same samples a table of four counts is enough: `both` right, `only_first`, `only_second`,
`neither`. The interval of their difference is Tango's score interval and not Newcombe's hybrid (method 10): where
models live (few discordant samples, proportions near 1) the hybrid covers 99–100 % instead of 95 % and is wider.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from trt_action.evidence import Estimate

_CHUNK = 1 << 21
"""Random indices held at once by the bootstrap (16 MiB)."""


@dataclass(frozen=True)
class PairedTable:
    """Counts of samples by who is right."""

    both: int
    only_first: int
    only_second: int
    neither: int

    @classmethod
    def of(cls, first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> PairedTable:
        """From two boolean arrays over the same samples, shape (n,)."""
        return cls(
            int(np.sum(first & second)),
            int(np.sum(first & ~second)),
            int(np.sum(~first & second)),
            int(np.sum(~first & ~second)),
        )

    @property
    def n(self) -> int:
        return self.both + self.only_first + self.only_second + self.neither


def wilson(successes: int, n: int, confidence: float) -> Estimate:
    """Score interval of a proportion.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).
    """
    z = _z(confidence)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # The bounds are exactly 0 and 1 at the ends; rounding must not say 1e-17.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Estimate(estimate=share, low=low, high=high, confidence=confidence)


def paired_difference(table: PairedTable, confidence: float) -> Estimate:
    """Score interval of p(first) − p(second) on the same samples.

    Source: T. Tango, Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design, Statistics in Medicine 17 (1998) 891–908.
    """
    estimate = (table.only_first - table.only_second) / table.n
    z = _z(confidence)
    low = _where_score_is(table, z, -1.0, estimate)
    high = _where_score_is(table, -z, estimate, 1.0)
    return Estimate(estimate=estimate, low=low, high=high, confidence=confidence)


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided p-value of equal proportions: twice the lower tail of Binomial(only_first + only_second, 1/2).

    Source: Q. McNemar, Psychometrika 12 (1947); the exact form conditions on the discordant samples.
    """
    n, smaller = only_first + only_second, min(only_first, only_second)
    if n == 0:
        return 1.0
    log_last = math.lgamma(n + 1) - math.lgamma(smaller + 1) - math.lgamma(n - smaller + 1) - n * math.log(2)
    k = np.arange(smaller, 0, -1, dtype=np.float64)
    steps = np.cumsum(np.log(k) - np.log(n - k + 1))  # log of pmf(k - 1) / pmf(smaller)
    return min(1.0, 2 * math.exp(log_last) * (1 + float(np.exp(steps).sum())))


def bootstrap_mean(values: npt.NDArray[np.float64], confidence: float, *, seed: int, resamples: int = 2000) -> Estimate:
    """Percentile interval of the mean over samples; for paired data pass the differences per sample.

    Args:
        values: shape (n,), finite.

    Source: B. Efron and R. Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, _CHUNK // values.size)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        means[start : start + rows] = values[generator.integers(0, values.size, (rows, values.size))].mean(axis=1)
    return percentile_interval(float(values.mean()), means, confidence)


def percentile_interval(estimate: float, replicates: npt.NDArray[np.float64], confidence: float) -> Estimate:
    """Central share of bootstrap replicates, shape (resamples,); the interval always holds the estimate."""
    low, high = np.quantile(replicates, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(
        estimate=estimate, low=min(float(low), estimate), high=max(float(high), estimate), confidence=confidence
    )


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _score(table: PairedTable, difference: float) -> float:
    """Tango's statistic for the hypothesis p(first) − p(second) = `difference`; falls as `difference` rises."""
    n, first, second = table.n, table.only_first, table.only_second
    # Constrained maximum-likelihood estimate of P(only second right), the larger root of A q² + B q + C = 0.
    b = -first - second + (2 * n - first + second) * difference
    c = -second * difference * (1 - difference)
    q = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
    variance = n * (2 * q + difference * (1 - difference))
    distance = first - second - n * difference
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def _where_score_is(table: PairedTable, target: float, low: float, high: float) -> float:
    """Bisection: 60 halvings of at most 2 leave less than a float's rounding."""
    for _ in range(60):
        middle = (low + high) / 2
        if _score(table, middle) > target:
            low = middle
        else:
            high = middle
    return (low + high) / 2
