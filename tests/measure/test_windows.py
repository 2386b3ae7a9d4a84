"""The passes in windows, under the real watch over a GPU that throttles when a test says so."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

from tests.doubles.nvml import H200, UUID, FakeNvml
from tests.doubles.windows import Once
from tests.measure.conftest import Make
from trt_action.engine import nvml
from trt_action.engine.backend import DeviceTimes, RuntimeOptions, Session
from trt_action.measure import latency, throughput, worker
from trt_action.measure.sides import Warmup, Worker
from trt_action.measure.windows import SECONDS, in_windows
from trt_action.process import Message

pytest.importorskip("pynvml")
MS = 1_000_000
THROTTLED = {"nvmlDeviceGetCurrentClocksEventReasons": 0x40}
SLOWER = {"nvmlDeviceGetClockInfo": 1200}


class Gpu:
    """A worker on a GPU that holds its clocks down, or moves them, in windows of these numbers (from 1): its times are three
    times as long there."""

    def __init__(self, disturbed: Callable[[int], bool], how: dict[str, Any] = THROTTLED) -> None:
        self.disturbed, self.how = disturbed, how
        self.now = 0.0
        self.library = FakeNvml()
        self.watch = nvml.Watch(nvml.Gpu(self.library, UUID), clock=lambda: self.now, sleep=lambda _: None)
        self.asked: list[tuple[float, int]] = []

    def measure(self, seconds: float, rewarm_ns: int) -> Message:
        self.asked.append((seconds, rewarm_ns))
        slow = self.disturbed(len(self.asked))
        self.library.values.update(self.how if slow else {})
        self.now += seconds
        took = 6 * MS if slow else 2 * MS
        n = round(seconds * 1e9 / took)
        parts = {"h2d": [MS] * n, "compute": [took] * n, "d2h": [MS] * n, "enqueue": [MS] * n, "wall": [took] * n}
        return {**parts, "seconds": seconds}

    def begin(self) -> None:
        self.library.values.update(H200)
        self.watch.begin()

    def again(self) -> bool:
        return self.watch.again()

    def ask(self, request: str, *, seconds: float, rewarm_ns: int, **_: Any) -> Message:
        assert request == "device"
        return self.measure(seconds, rewarm_ns)

    def device_pass(self, *, watched: bool = True, seconds: float = 1.0) -> latency._Pass:
        warmup = Warmup(iterations=1, stable=True, not_finite={}, notes=())
        one = latency._Pass(cast(Worker, self), warmup, RuntimeOptions(device="cuda:0"))
        one.take_device_times(seconds, self if watched else None)
        return one


@pytest.mark.parametrize("how", [THROTTLED, SLOWER])
def test_a_window_of_a_throttled_gpu_is_measured_again_and_its_times_are_in_no_percentile(how: dict[str, Any]) -> None:
    gpu = Gpu(lambda number: number in (1, 3), how)
    found = gpu.device_pass().device
    assert found
    assert (found.set_aside, found.compute.n, found.compute.max_ms) == (2, 500, 2.0)
    assert found.latency.max_ms == 4.0
    assert [seconds for seconds, _ in gpu.asked] == [SECONDS] * 4
    assert all(rewarm_ns > 0 for _, rewarm_ns in gpu.asked)
    gpu.library.values.update(H200)
    told = gpu.watch.finish()
    assert (told.set_aside, told.disturbed, told.doubt) == (2, 0, "")
    assert any("in 2 timed windows" in warning for warning in told.warnings)


def test_a_gpu_that_always_throttles_is_measured_as_it_is_and_doubted() -> None:
    gpu = Gpu(lambda _: True)
    found = gpu.device_pass().device
    assert found
    assert found.compute.median_ms == 6.0
    assert found.set_aside == nvml.MAX_SET_ASIDE
    assert len(gpu.asked) == nvml.MAX_SET_ASIDE + 2
    told = gpu.watch.finish()
    assert (told.set_aside, told.held_down) == (nvml.MAX_SET_ASIDE, 2)
    assert "HwThermalSlowdown" in told.doubt


def test_windows_set_aside_for_long_are_bounded_by_time() -> None:
    gpu = Gpu(lambda _: True)
    parts, set_aside = in_windows(gpu, 1.0, lambda _, rewarm_ns: gpu.measure(12.0, rewarm_ns))
    assert (len(parts), set_aside) == (1, 3)


def test_where_nobody_watches_a_pass_is_in_one_piece_as_ever() -> None:
    gpu = Gpu(lambda _: True)
    found = gpu.device_pass(watched=False).device
    assert found
    assert gpu.asked == [(1.0, 0)]
    assert found.set_aside == 0


@pytest.mark.parametrize(("seconds", "windows"), [(0.0, [0.0]), (0.2, [0.2]), (0.7, [0.7]), (1.3, [0.5, 0.5, 0.3])])
def test_lengths_of_windows(seconds: float, windows: list[float]) -> None:
    gpu = Gpu(lambda _: False)
    in_windows(gpu, seconds, gpu.measure)
    assert [length for length, _ in gpu.asked] == pytest.approx(windows)


@pytest.mark.parametrize("concurrency", [1, 3])
def test_throughput_of_windows(convs: Make, feeds: Path, concurrency: int) -> None:
    windows = Once()
    found = throughput(convs(), feeds, concurrency=concurrency, seconds=1.0, batch=4, windows=windows)
    assert (found.set_aside, windows.asked) == (1, 3)
    assert 1.0 <= found.seconds < 1.4
    assert found.samples_per_second == pytest.approx(found.requests * 4 / found.seconds)


class Counting:
    """A session whose runs are counted."""

    def __init__(self) -> None:
        self.runs, self.before = 0, -1

    def run(self) -> None:
        self.runs += 1

    def device_times(self, iterations: int) -> DeviceTimes:
        if self.before < 0:
            self.before = self.runs
        one = [MS] * iterations
        return DeviceTimes(h2d_ns=one, compute_ns=one, d2h_ns=one, enqueue_ns=one, wall_ns=one)


@pytest.mark.parametrize(("rewarm_ns", "rewarmed"), [(0, False), (1, True)])
def test_a_window_of_the_events_begins_with_inferences_that_are_not_timed(rewarm_ns: int, rewarmed: bool) -> None:
    child, session = worker.Worker(), Counting()
    child._session = cast(Session, session)
    answer = child.device(seconds=0.0, min_iterations=10, rewarm_ns=rewarm_ns)
    assert (session.before > 0) is rewarmed
    assert len(answer["compute"]) == worker.EVENTS_AT_ONCE


@pytest.mark.parametrize("rewarm_ns", [0, MS])
def test_requests_of_the_beginning_of_a_window_do_not_count(rewarm_ns: int) -> None:
    sessions = [Counting(), Counting()]
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        streams = [(cast(Session, session), thread) for session, thread in zip(sessions, (one, other), strict=True)]
        requests, _ = worker._closed_loop(streams, 0.0, rewarm_ns)
    assert requests == 2  # one of each, the least
    assert all((session.runs > 1) is bool(rewarm_ns) for session in sessions)


def test_a_session_keeps_its_thread_over_all_windows(convs: Make, feeds: Path) -> None:
    """A runtime keeps handles and captured graphs by thread: another thread in every window would pay for them again."""
    child = worker.Worker()
    child.start(convs().as_json(), str(feeds), None)
    child.load(0, MS)
    child.streams(2)
    threads: list[list[int]] = [[], []]
    for (session, _), seen in zip(child._streams, threads, strict=True):
        run = session.run
        session.run = lambda run=run, seen=seen: (seen.append(threading.get_ident()), run())  # type: ignore[assignment,method-assign,misc]
    for _ in range(3):
        assert child.throughput(0.01, MS)["requests"] >= 2
    assert [len(set(seen)) for seen in threads] == [1, 1]
    assert threads[0][0] != threads[1][0]
    child.close()
    assert threading.active_count() == 1
