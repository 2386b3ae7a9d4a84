"""What is called a change of level, and how often nothing is. The long form is `benchmarks/history.py`."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.history import FAMILIES, Family, false_alarms, found_within
from trt_action.history.changes import change_points, deviation

SMALLEST, FLOOR = np.log1p(0.02), 0.002


def points(values: object) -> list[int]:
    return change_points(np.log(np.array(values, dtype=np.float64)), SMALLEST, FLOOR)


@pytest.mark.parametrize("family", [one for one in FAMILIES if one.held], ids=lambda one: one.name)
def test_series_without_a_change_have_none(family: Family) -> None:
    """1 % of 300 series would be 3; more than 9 has a chance of 0.03 % then."""
    assert false_alarms(family, 300) * 300 <= 9


def test_a_step_of_five_percent_is_found_soon() -> None:
    quiet = next(one for one in FAMILIES if one.deviation == 0.005)
    assert found_within(quiet, before=20, after=3, step=0.05, runs=100) >= 0.85
    assert found_within(quiet, before=20, after=5, step=-0.05, runs=100) >= 0.9


def test_one_or_two_disturbed_runs_are_no_change() -> None:
    rng = np.random.default_rng(5)
    for place in (0, 7, 18):
        for many in (1, 2):
            values = np.exp(rng.normal(0, 0.005, 20))
            values[place : place + many] *= 3
            assert points(values) == []


def test_where_and_how_often() -> None:
    rng = np.random.default_rng(2)
    steps = np.repeat([1.0, 1.1, 1.1, 0.9], 10)
    assert points(steps * np.exp(rng.normal(0, 0.006, 40))) == [10, 30]


@pytest.mark.parametrize("values", [[], [1.0], [1.0] * 5, [1.0] * 200, [1.0, 2.0] * 3])
def test_too_little_or_nothing_to_tell(values: list[float]) -> None:
    assert points(values) == []


def test_a_number_that_never_varies_changes_when_it_changes() -> None:
    """Sizes and accuracies have no noise: the floor stands in for it."""
    assert points([5.0] * 8 + [5.2] * 3) == [8]
    assert points([5.0] * 8 + [5.2] * 2) == []
    assert points([5.0] * 8 + [5.05] * 9) == []  # 1 %: below what matters


def test_a_step_and_a_disturbed_run_do_not_touch_the_deviation() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1.0, 200)
    stepped = values + np.repeat([0.0, 50.0], 100)
    stepped[20] += 1_000
    assert deviation(values) == pytest.approx(1, abs=0.2)
    assert deviation(stepped) == pytest.approx(deviation(values), rel=0.1)
