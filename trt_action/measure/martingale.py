"""An anytime-valid sign test: it may be looked at after every pair without spending its error.

Null hypothesis: each sign is a success with probability at most 1/2, whatever the past. The mixture over p > 1/2
(a Beta prior cut at 1/2) of the likelihood ratios against p = 1/2 is then a supermartingale that starts at 1, so by
Ville's inequality it ever reaches 1/alpha with probability at most alpha.

Sources: Ville, *Étude critique de la notion de collectif* (1939); Robbins, *Statistical methods related to the law of
the iterated logarithm* (1970); Howard, Ramdas, McAuliffe & Sekhon, *Time-uniform, nonparametric, nonasymptotic
confidence sequences* (2021).
"""

from __future__ import annotations

import math
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt

from trt_action.measure.stats import binomial_cdf

PRIOR = 20
"""Both parameters of the Beta prior. It puts most weight on p between 0.5 and 0.7: small effects, found early."""


@lru_cache(maxsize=8)
def log_evidence(n: int) -> npt.NDArray[np.float64]:
    """Logarithm of the evidence against the null for k = 0 … n successes among `n` signs. Shape (n + 1,).

    2^n · B(a+k, a+n-k) / B(a, a) · P(p > 1/2 | k) / P(p > 1/2), a = `PRIOR`. For whole parameters the regularised
    incomplete beta function at 1/2 is a binomial tail (Abramowitz & Stegun 26.5.24):
    P(p > 1/2 | k) = P(K <= a + k - 1) with K ~ binomial(n + 2a - 1, 1/2).
    """
    if n < 0:
        raise ValueError("there is no negative number of signs")
    successes = np.arange(n + 1)
    log_gamma = np.array([math.lgamma(PRIOR + k) for k in range(n + 1)])
    log_beta = log_gamma + log_gamma[::-1] - math.lgamma(2 * PRIOR + n)
    prior_beta = 2 * math.lgamma(PRIOR) - math.lgamma(2 * PRIOR)
    above_half = binomial_cdf(n + 2 * PRIOR - 1, 0.5)[PRIOR + successes - 1]
    with np.errstate(divide="ignore"):  # no weight left above 1/2: evidence 0
        log_mass = np.log(above_half)
    evidence: npt.NDArray[np.float64] = n * math.log(2) + log_beta - prior_beta + log_mass - math.log(0.5)
    evidence.flags.writeable = False
    return evidence


@cache
def successes_needed(n: int, alpha: float) -> int:
    """Smallest number of successes among `n` signs whose evidence reaches 1/alpha; n + 1 if none does."""
    reached = log_evidence(n) >= -math.log(alpha)
    return int(np.argmax(reached)) if reached.any() else n + 1


def pairs_needed(share: float, alpha: float, limit: int = 200_000) -> float:
    """Number of signs after which the evidence reaches 1/alpha if the share of successes stays; infinity beyond `limit`."""
    if share <= 0.5:
        return math.inf

    def enough(n: int) -> bool:
        return _log_evidence_one(n, share * n) >= -math.log(alpha)

    high = 16
    while not enough(high):
        high *= 2
        if high > limit:
            return math.inf
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _log_evidence_one(n: int, successes: float) -> float:
    """The evidence at one point, with the normal approximation of P(p > 1/2 | k): good enough to extrapolate."""
    a, b = PRIOR + successes, PRIOR + n - successes
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    prior_beta = 2 * math.lgamma(PRIOR) - math.lgamma(2 * PRIOR)
    z = (a / (a + b) - 0.5) / math.sqrt(a * b / (a + b) ** 2 / (a + b + 1))
    above_half = 0.5 * math.erfc(-z / math.sqrt(2))
    return n * math.log(2) + log_beta - prior_beta + math.log(above_half / 0.5)
