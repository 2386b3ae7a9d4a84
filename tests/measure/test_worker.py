"""The warm-up rule and the timed loop, with a clock that a test can foresee: the callable itself burns the time."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from trt_action.errors import MeasureError
from trt_action.measure import worker

MS = 1_000_000


def burner(durations_ms: itertools.chain[float] | itertools.cycle[float]) -> Callable[[], None]:
    """A call that keeps the CPU for the next duration. No sleep: a sleep wakes up late by as much as it likes."""

    def burn() -> None:
        end = time.perf_counter_ns() + int(next(durations_ms) * MS)
        while time.perf_counter_ns() < end:
            pass

    return burn


def test_a_worker_imports_nothing_heavy() -> None:
    heavy = {"pydantic", "onnx", "scipy", "jinja2", "rich", "trt_action.evidence"}
    code = "import sys, trt_action.measure.worker; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "numpy" in loaded.stdout.split()
    assert not heavy & set(loaded.stdout.split())


def test_warm_up_ends_when_windows_agree() -> None:
    iterations, stable = worker.warm_up(burner(itertools.cycle([1.0])), 50 * MS, 3_000 * MS)
    assert stable
    assert iterations >= 20  # 50 ms at 1 ms each, in whole windows of 10 ms


def test_warm_up_sees_a_run_that_is_still_getting_faster() -> None:
    falling = [3.0 * 0.97**i for i in range(60)]
    iterations, stable = worker.warm_up(burner(itertools.chain(falling, itertools.repeat(1.0))), 0, 3_000 * MS)
    assert stable
    assert iterations > 60


def test_warm_up_gives_up_at_its_limit_and_says_so() -> None:
    growing = itertools.chain(2.0 * 1.1**i for i in itertools.count())
    begin = time.perf_counter()
    iterations, stable = worker.warm_up(burner(growing), 50 * MS, 150 * MS)
    assert not stable
    assert iterations >= 3
    assert time.perf_counter() - begin < 2


def test_a_slow_model_warms_up_three_times_at_least() -> None:
    assert worker.warm_up(burner(itertools.cycle([30.0])), 50 * MS, 40 * MS) == (3, False)


def test_timed_loop_fills_its_part_of_the_buffer_with_durations() -> None:
    wall = [-1] * 6
    worker.timed_loop(burner(itertools.cycle([0.5])), wall, 1, 5)
    assert wall[0] == wall[5] == -1
    assert all(duration >= MS // 2 for duration in wall[1:5])


def test_a_clock_that_goes_backwards_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    stamps = iter([100, 200, 300, 250])
    monkeypatch.setattr(time, "perf_counter_ns", lambda: next(stamps))
    wall = [0, 0]
    worker.timed_loop(lambda: None, wall, 0, 2)
    with pytest.raises(MeasureError, match=r"did not move forward.*-50 ns"):
        worker.check_clock(wall)
