"""Distributions and their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from trt_action.llm import times
from trt_action.llm.client import Answer
from trt_action.llm_records import Times


def answers(gaps: list[list[int]]) -> list[Answer]:
    return [Answer(1, 1 + sum(one), tuple(one), "", len(one) + 1, 1, "length", {}) for one in gaps]


def test_times_of_requests_have_order_statistics() -> None:
    found = times.of([n * 1_000_000 for n in range(1, 1001)])
    assert found is not None
    assert (found.n, found.p50_ms, found.p99_ms, found.max_ms) == (1000, 500.0, 990.0, 1000.0)
    interval = found.intervals["p99"]
    assert interval is not None
    assert 980 < interval.low_ms < 990 < interval.high_ms < 1000
    assert times.of([]) is None
    few = times.of([1_000_000] * 50)
    assert few is not None
    assert few.intervals["p99"] is None


def test_gaps_of_one_answer_are_no_independent_samples() -> None:
    """The same 6,400 numbers: in 64 answers of which each is fast or slow as a whole, the interval must be much wider than
    where every gap is fast or slow by itself."""
    random = np.random.default_rng(1)
    speeds = random.permutation([10_000_000] * 32 + [12_000_000] * 32)
    noise = random.integers(0, 100_000, (64, 100))
    together = times.of_gaps(answers((speeds[:, None] + noise).tolist()), seed=0)
    mixed = times.of_gaps(
        answers(random.permutation((speeds[:, None] + noise).ravel()).reshape(64, 100).tolist()), seed=0
    )
    assert together is not None
    assert mixed is not None
    assert together.p90_ms == mixed.p90_ms

    def width(found: Times) -> float:
        interval = found.intervals["p50"]
        assert interval is not None
        return float(interval.high_ms - interval.low_ms)

    assert width(together) > 10 * width(mixed) or width(together) > 1.5
    assert times.of_gaps(answers([[]]), seed=0) is None


@pytest.mark.parametrize("p", ["p50", "p90"])
def test_the_interval_of_gaps_covers(p: str) -> None:
    """200 samples of 64 answers with an effect of their own: at least 90 % of the 95 % intervals hold the true value."""
    random = np.random.default_rng(3)
    own = 1_000_000
    many = np.sort(
        (10_000_000 + own * random.standard_normal((4_000, 1)) + 200_000 * random.standard_normal((4_000, 50))).ravel()
    )
    truth = many[int({"p50": 0.5, "p90": 0.9}[p] * len(many))] / 1e6
    held = 0
    for _ in range(200):
        drawn = 10_000_000 + own * random.standard_normal((64, 1)) + 200_000 * random.standard_normal((64, 20))
        found = times.of_gaps(answers(drawn.astype(int).tolist()), seed=0)
        assert found is not None
        interval = next(value for name, value in found.intervals.items() if name == p)
        assert interval is not None
        held += interval.low_ms <= truth <= interval.high_ms
    assert held >= 180
