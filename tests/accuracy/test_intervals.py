"""Against published tables, scipy, and a simulation of coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from trt_action.accuracy.intervals import (
    PairedTable,
    bootstrap_mean,
    mcnemar_exact,
    paired_difference,
    percentile_interval,
    wilson,
)

counts = st.integers(0, 60)
tables = st.builds(PairedTable, counts, counts, counts, counts).filter(lambda table: table.n > 0)


# Newcombe, Statistics in Medicine 17 (1998) 857–872, table I: the score method without continuity correction.
@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718), (29, 29, 0.8830, 1.0)],
)  # fmt: skip
def test_wilson_against_the_published_table(successes: int, n: int, low: float, high: float) -> None:
    found = wilson(successes, n, 0.95)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert found.estimate == successes / n


@given(st.integers(1, 5000), st.data(), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_is_scipys(n: int, data: st.DataObject, confidence: float) -> None:
    successes = data.draw(st.integers(0, n))
    expected = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    found = wilson(successes, n, confidence)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert 0 <= found.low <= found.estimate <= found.high <= 1


# Fagerland, Lydersen and Laake, Statistics in Medicine 33 (2014) 2850–2875: airway hyper-responsiveness.
def test_paired_difference_against_the_published_example() -> None:
    found = paired_difference(PairedTable(1, 1, 7, 12), 0.95)
    assert found.estimate == pytest.approx(-6 / 21)
    assert (found.low, found.high) == pytest.approx((-0.517, -0.026), abs=5e-4)


def test_no_discordant_sample_still_has_an_interval() -> None:
    found = paired_difference(PairedTable(594, 0, 0, 6), 0.95)
    z2 = stats.norm.ppf(0.975) ** 2
    assert (found.low, found.high) == pytest.approx((-z2 / (600 + z2), z2 / (600 + z2)), abs=1e-9)


@given(tables)
def test_paired_difference_is_antisymmetric_and_in_range(table: PairedTable) -> None:
    found = paired_difference(table, 0.95)
    swapped = paired_difference(PairedTable(table.both, table.only_second, table.only_first, table.neither), 0.95)
    assert -1 <= found.low <= found.estimate <= found.high <= 1
    assert (found.low, found.high) == pytest.approx((-swapped.high, -swapped.low), abs=1e-9)


@pytest.mark.parametrize("table", [PairedTable(590, 6, 2, 2), PairedTable(40, 9, 21, 30), PairedTable(1, 1, 7, 12)])
def test_bounds_solve_the_score_equation(table: PairedTable) -> None:
    """The statistic computed the slow way: the constrained likelihood is maximised numerically."""

    def score(difference: float) -> float:
        n = table.n

        def loss(q: float) -> float:  # multinomial, p(only first) = q + difference, p(only second) = q
            rest = 1 - 2 * q - difference
            return -(
                table.only_first * math.log(q + difference)
                + table.only_second * math.log(q)
                + (n - table.only_first - table.only_second) * math.log(rest)
            )

        low, high = max(0.0, -difference) + 1e-12, (1 - difference) / 2 - 1e-12
        q = optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
        variance = n * (2 * q + difference - difference**2)
        return float((table.only_first - table.only_second - n * difference) / math.sqrt(variance))

    found = paired_difference(table, 0.95)
    assert (score(found.low), score(found.high)) == pytest.approx((1.95996, -1.95996), abs=1e-3)


@given(st.integers(0, 3000), st.integers(0, 3000))
def test_mcnemar_is_the_exact_binomial_test(first: int, second: int) -> None:
    expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar_exact(first, second) == pytest.approx(expected, rel=1e-8, abs=1e-250)


def test_mcnemar_of_many_samples_is_fast_and_finite() -> None:
    assert mcnemar_exact(500_000, 501_500) == pytest.approx(stats.binomtest(500_000, 1_001_500).pvalue, rel=1e-5)


# Rates of the four outcomes, by what happens to models. Coverage at 95 % from 2,000 draws has a standard error of
# 0.5 points. The first row fails a Wald interval (0.916), every row one that takes the sides as independent (0.994 and up).
@pytest.mark.parametrize(
    ("rates", "n"),
    [
        ((0.977, 0.012, 0.001, 0.01), 400),  # a good model that gets a little worse
        ((0.97, 0.01, 0.01, 0.01), 600),
        ((0.65, 0.10, 0.05, 0.20), 300),
        ((0.71, 0.02, 0.02, 0.25), 2000),
    ],
)
def test_coverage_of_the_paired_interval(rates: tuple[float, ...], n: int) -> None:
    truth = rates[1] - rates[2]
    draws, times = np.unique(np.random.default_rng(1).multinomial(n, rates, 2000), axis=0, return_counts=True)
    intervals = [paired_difference(PairedTable(*map(int, draw)), 0.95) for draw in draws]
    held = np.array([found.low <= truth <= found.high for found in intervals])
    assert 0.935 <= held @ times / times.sum() <= 0.985


def test_coverage_of_the_bootstrap() -> None:
    generator = np.random.default_rng(2)
    held = 0
    for seed in range(300):
        found = bootstrap_mean(generator.gamma(2.0, 1.0, 80), 0.95, seed=seed, resamples=400)
        held += found.low <= 2.0 <= found.high
    assert 0.89 <= held / 300 <= 0.98


def test_bootstrap_is_seeded_and_holds_its_estimate() -> None:
    values = np.random.default_rng(0).normal(size=5000)
    assert bootstrap_mean(values, 0.95, seed=3) == bootstrap_mean(values, 0.95, seed=3)
    assert bootstrap_mean(values, 0.95, seed=3) != bootstrap_mean(values, 0.95, seed=4)
    assert percentile_interval(2.0, np.array([0.0, 1.0]), 0.95).high == 2.0
