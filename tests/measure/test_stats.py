"""Every formula against an independent one: scipy, brute force, or an exact recursion."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import special
from scipy import stats as oracle

from trt_action.measure import martingale, stats

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("n", "p", "index"),
    [(1, 99, 0), (2, 50, 0), (10, 90, 9), (10, 99, 9), (100, 99, 98), (1000, 99, 989), (1000, 50, 499), (5, 100, 4)],
)
def test_percentile_is_that_of_trtexec(n: int, p: float, index: int) -> None:
    assert stats.percentile_index(n, p) == index
    assert stats.percentile(np.arange(n), p) == stats.percentile_index(n, p)


@pytest.mark.parametrize("p", [50, 90, 95, 99])
@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_percentile_interval_covers_and_is_not_wider_than_needed(p: float, confidence: float) -> None:
    tail = (1 - confidence) / 2
    for n in (5, 20, 100, 300, 1_000, 20_000):
        found = stats.percentile_interval(n, p, confidence)
        if found is None:
            assert oracle.binom.cdf(0, n, p / 100) > tail or (p / 100) ** n > tail
            continue
        low, high = found
        below, above = oracle.binom.cdf([low, high], n, p / 100)
        assert below <= tail
        assert 1 - above <= tail + 1e-12
        assert oracle.binom.cdf(low + 1, n, p / 100) > tail
        assert high == 0 or 1 - oracle.binom.cdf(high - 1, n, p / 100) > tail


def test_interval_of_p99_needs_enough_samples() -> None:
    assert stats.percentile_interval(367, 99, 0.95) is None
    assert stats.percentile_interval(368, 99, 0.95) is not None


@pytest.mark.parametrize("df", [1, 2, 3, 4, 5, 6, 9, 10, 31, 100])
@pytest.mark.parametrize("p", [0.5, 0.9, 0.995, 0.9999])
def test_student_quantile(df: int, p: float) -> None:
    assert stats.student_quantile(p, df) == pytest.approx(oracle.t.ppf(p, df), rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("n", [1, 2, 7, 8, 33, 60, 61, 250])
@pytest.mark.parametrize("ties", [False, True])
def test_hodges_lehmann_and_its_interval_by_brute_force(n: int, ties: bool) -> None:
    values = np.random.default_rng(n).standard_t(2, n)
    values = np.round(values) if ties else values
    i, j = np.triu_indices(n)
    walsh = np.sort((values[i] + values[j]) / 2)
    assert stats.hodges_lehmann(values) == pytest.approx(float(np.median(walsh)), abs=1e-12)
    interval = stats.signed_rank_interval(values, 0.99)
    if n < 8:
        assert interval is None
        return
    assert interval is not None
    assert interval == pytest.approx([walsh[k] for k in _signed_rank_positions(n)], abs=1e-12)


def _signed_rank_positions(n: int) -> tuple[int, int]:
    """0-based positions of the Walsh averages that bound the 99 % interval."""
    count = n * (n + 1) // 2
    if n <= 60:
        distribution = np.array([1.0])
        for rank in range(1, n + 1):
            distribution = np.convolve(distribution, np.eye(1, rank + 1, 0)[0] / 2 + np.eye(1, rank + 1, rank)[0] / 2)
        rank = int((np.cumsum(distribution) <= 0.005).sum())
    else:
        rank = math.floor(n * (n + 1) / 4 - oracle.norm.ppf(0.995) * math.sqrt(n * (n + 1) * (2 * n + 1) / 24) - 0.5)
    return rank - 1, count - rank


def test_error_of_the_median_is_about_right_and_ignores_a_burst() -> None:
    rng = np.random.default_rng(1)
    errors, medians = [], []
    for _ in range(500):
        values = rng.standard_normal(30)
        values[:2] = 1_000
        median, error = stats.median_with_error(values)
        medians.append(median)
        errors.append(error)
    assert np.mean(errors) == pytest.approx(np.std(medians), rel=0.35)


@pytest.mark.parametrize("n", [0, 1, 10, 100, 400])
def test_evidence_is_the_mixture_it_claims_to_be(n: int) -> None:
    p = np.linspace(0.5, 1, 20_001)
    prior = oracle.beta.pdf(p, 20, 20)
    prior /= np.trapezoid(prior, p)
    for k in range(0, n + 1, max(1, n // 7)):
        likelihood = np.exp(n * math.log(2) + special.xlogy(k, p) + special.xlogy(n - k, 1 - p))
        expected = math.log(np.trapezoid(prior * likelihood, p))
        assert martingale.log_evidence(n)[k] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("n", [0, 1, 7, 100, 1_000])
def test_evidence_is_a_fair_game_under_the_null(n: int) -> None:
    """E[M_(n+1) | M_n] = M_n at p = 1/2, and less below: the property that makes looking free."""
    now, then = np.exp(martingale.log_evidence(n)), np.exp(martingale.log_evidence(n + 1))
    assert (then[:-1] + then[1:]) / 2 == pytest.approx(now, rel=1e-9)
    assert (then[1:] >= then[:-1]).all()


@pytest.mark.parametrize("alpha", [0.01, 0.05])
def test_crossing_probability_under_continuous_looking_is_below_alpha(alpha: float) -> None:
    """Exact, by recursion over the number of successes: no simulation error."""
    alive, crossed = np.array([1.0]), 0.0
    for n in range(1, 2_001):
        alive = (np.append(alive, 0.0) + np.append(0.0, alive)) / 2
        needed = martingale.successes_needed(n, alpha)
        crossed += float(alive[needed:].sum())
        alive[needed:] = 0.0
    assert 0.2 * alpha < crossed <= alpha


def test_pairs_needed_agrees_with_the_test_itself() -> None:
    for share in (0.55, 0.6, 0.8, 1.0):
        n = int(martingale.pairs_needed(share, 0.01))
        exact = next(m for m in range(1, 10_000) if martingale.successes_needed(m, 0.01) <= share * m)
        assert n == pytest.approx(exact, rel=0.15, abs=3)
    assert math.isinf(martingale.pairs_needed(0.5, 0.01))
    assert math.isinf(martingale.pairs_needed(0.5001, 0.01))


def test_synthetic_families_keep_the_promises() -> None:
    """The short form of the benchmark behind docs/method.md: every noise family, false alarms, coverage, power."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "stats.py"), "--quick"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
