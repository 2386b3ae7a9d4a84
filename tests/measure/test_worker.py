"""The warm-up rule and the timed loops, on a clock that moves only while the callable runs."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Iterable

import pytest

from trt_action.errors import MeasureError
from trt_action.measure import worker

MS = 1_000_000


Run = Callable[[Iterable[float]], Callable[[], None]]


@pytest.fixture
def run_of(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Durations in ms -> a callable whose calls take that long."""
    now = 0

    def make(durations_ms: Iterable[float]) -> Callable[[], None]:
        durations = iter(durations_ms)

        def run() -> None:
            nonlocal now
            now += int(next(durations) * MS)

        return run

    monkeypatch.setattr(time, "perf_counter_ns", lambda: now)
    return make


def test_a_worker_imports_nothing_heavy() -> None:
    heavy = {"pydantic", "onnx", "scipy", "jinja2", "rich", "trt_action.evidence"}
    code = "import sys, trt_action.measure.worker; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "numpy" in loaded.stdout.split()
    assert not heavy & set(loaded.stdout.split())


def test_warm_up_ends_when_windows_agree(run_of: Run) -> None:
    assert worker.warm_up(run_of(itertools.repeat(1.0)), 50 * MS, 3_000 * MS) == (50, True)


def test_warm_up_takes_ten_iterations_of_a_slow_model(run_of: Run) -> None:
    assert worker.warm_up(run_of(itertools.repeat(30.0)), 50 * MS, 3_000 * MS) == (10, True)


def test_warm_up_goes_on_while_it_is_getting_faster(run_of: Run) -> None:
    falling = [3.0 * 0.97**i for i in range(60)]
    iterations, stable = worker.warm_up(run_of([*falling, *[0.5] * 100]), 0, 3_000 * MS)
    assert stable
    assert iterations > 60


def test_warm_up_gives_up_at_its_limit_and_says_so(run_of: Run) -> None:
    growing = (2.0 * 1.1**i for i in itertools.count())
    iterations, stable = worker.warm_up(run_of(growing), 50 * MS, 150 * MS)
    assert not stable
    assert sum(2.0 * 1.1**i for i in range(iterations - 1)) < 150 <= sum(2.0 * 1.1**i for i in range(iterations))


def test_a_slow_model_warms_up_three_times_at_least(run_of: Run) -> None:
    assert worker.warm_up(run_of(itertools.repeat(30.0)), 50 * MS, 40 * MS) == (3, False)


def test_timed_loop_fills_its_part_of_the_buffer_with_durations(run_of: Run) -> None:
    wall = [-1] * 6
    worker.timed_loop(run_of([1, 2, 3, 4]), wall, 1, 5)
    assert wall == [-1, 1 * MS, 2 * MS, 3 * MS, 4 * MS, -1]


@pytest.mark.parametrize(("milliseconds", "at_least", "expected"), [(10, 1, 4), (0, 1, 1), (0, 7, 7)])
def test_timed_for_ends_with_time_and_iterations(run_of: Run, milliseconds: int, at_least: int, expected: int) -> None:
    wall = worker.timed_for(run_of(itertools.repeat(3.0)), milliseconds * MS, at_least)
    assert wall == [3 * MS] * expected


def test_a_clock_that_goes_backwards_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    stamps = iter([100, 200, 300, 250])
    monkeypatch.setattr(time, "perf_counter_ns", lambda: next(stamps))
    wall = [0, 0]
    worker.timed_loop(lambda: None, wall, 0, 2)
    with pytest.raises(MeasureError, match=r"did not move forward.*-50 ns"):
        worker.check_clock(wall)
