"""The child side of every measurement: loads one engine, warms it up, times it.

Runs in a fresh interpreter (`process.Child`, target `trt_action.measure.worker:main`), one per side. Answers the
methods of `Worker` as requests. Imports nothing heavy: start-up of a worker is part of every comparison.
"""

from __future__ import annotations

import gc
import os
import statistics
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trt_action import arrays, engine
from trt_action.engine import device
from trt_action.engine.backend import Array, Backend, Loadable, Session
from trt_action.errors import MeasureError
from trt_action.inputs import quote
from trt_action.process import Channel, Message

if TYPE_CHECKING:
    from concurrent.futures import Executor

    Stream = tuple[Session, Executor]

WINDOW_ITERATIONS = 5
WINDOW_NS = 10_000_000
AGREEMENT = 0.02
MIN_WARMUP_ITERATIONS = 10
MIN_WARMUP_NS = 50_000_000
EVENTS_AT_ONCE = 32


def main(channel: Channel) -> None:
    """Serve requests until the parent closes its end. An error ends the worker: its state cannot be trusted."""
    gc.disable()  # a collection inside a timed loop would be charged to the engine
    worker = Worker()
    while (request := channel.receive()) is not None:
        name = request.pop("request")
        channel.send(getattr(worker, name)(**request))
    worker.close()


class Worker:
    """One engine in this process. Every public method is one request; arguments and answers are plain JSON.

    CPU time is this thread's where an inference has one thread, and the whole process's where it has more: the
    threads of the pool show only there.
    """

    def __init__(self) -> None:
        self._backend: Backend
        self._loadable: Loadable
        self._feeds: dict[str, Array] = {}
        self._session: Session | None = None
        self._streams: list[Stream] = []
        self._cpu_clock: Callable[[], int] = time.thread_time_ns
        self._first: dict[str, tuple[int, int]] = {}

    def start(self, loadable: Message, feeds: str, cpus: list[int] | None) -> Message:
        """Import the backend's library, pin, read the inputs: everything before the engine itself. Not pinned from
        the first moment, so that the workers of a unit import side by side."""
        self._loadable = Loadable.from_json(loadable)
        self._backend = engine.backend(self._loadable.backend)
        self._backend.version()
        if cpus:
            os.sched_setaffinity(0, cpus)
        self._feeds = arrays.load_npz(Path(feeds))
        threads = self._loadable.options.threads or len(os.sched_getaffinity(0))
        self._cpu_clock = time.thread_time_ns if threads == 1 else time.process_time_ns
        return {"threads": threads}

    def load(self, min_warmup_ns: int, max_warmup_ns: int) -> Message:
        """Load, run and fetch once, warm up. Outputs are fetched at the same point on every side, so that first
        touches of memory and caches are alike."""
        self.close()
        session = self._backend.load(self._loadable)
        self._session = session
        session.bind(self._feeds)
        session.run()
        self._first = _signatures(session.fetch())
        gc.collect()
        gc.freeze()
        iterations, stable = warm_up(session.run, min_warmup_ns, max_warmup_ns)
        return {
            "warmup_iterations": iterations + 1,
            "warmup_stable": stable,
            "not_finite": {name: bad for name, (bad, _) in self._first.items() if bad},
            "notes": device.notes(session),
        }

    def block(self, iterations: int) -> Message:
        """Wall time of each iteration, and CPU time of all but the first (ns); on a GPU, the time between CUDA events
        around the computing."""
        session = self._ready()
        if self._loadable.options.gpu is not None and (times := session.device_times(iterations)) is not None:
            check_clock(times.wall_ns)
            return {"wall_ns": times.wall_ns, "cpu_ns": sum(times.compute_ns[1:])}
        run = session.run
        wall = [0] * iterations
        timed_loop(run, wall, 0, 1)
        cpu_start = self._cpu_clock()
        timed_loop(run, wall, 1, iterations)
        cpu_ns = self._cpu_clock() - cpu_start
        check_clock(wall)
        return {"wall_ns": wall, "cpu_ns": cpu_ns}

    def loop(self, seconds: float, min_iterations: int, rewarm_ns: int) -> Message:
        """Untimed iterations for `rewarm_ns` (at least one), then wall times for `seconds`."""
        run = self._ready().run
        rewarmed = _run_for(run, rewarm_ns)
        begin = time.perf_counter_ns()
        wall = timed_for(run, int(seconds * 1e9), min_iterations)
        elapsed = time.perf_counter_ns() - begin
        check_clock(wall)
        return {"wall_ns": wall, "seconds": elapsed / 1e9, "rewarmed": rewarmed}

    def device(self, seconds: float, min_iterations: int, rewarm_ns: int) -> Message:
        """Times as trtexec takes them (`backend.DeviceTimes`) for about `seconds`, after untimed iterations for
        `rewarm_ns` (none if 0); empty lists on the CPU."""
        session = self._ready()
        found: dict[str, list[int]] = {name: [] for name in ("h2d", "compute", "d2h", "enqueue", "wall")}
        if rewarm_ns:
            _run_for(session.run, rewarm_ns)
        begin = time.perf_counter_ns()
        deadline = begin + int(seconds * 1e9)
        while time.perf_counter_ns() < deadline or len(found["wall"]) < min_iterations:
            times = session.device_times(EVENTS_AT_ONCE)
            if times is None:
                break
            for name, values in found.items():
                values += getattr(times, f"{name}_ns")
        return {**found, "seconds": (time.perf_counter_ns() - begin) / 1e9}

    def streams(self, concurrency: int) -> Message:
        """Load sessions until there are `concurrency`, each with a thread, and warm them up there: what a runtime keeps
        by thread (handles, a captured CUDA graph) stays for all windows. One after the other, as graphs are captured."""
        from concurrent.futures import ThreadPoolExecutor

        while len(self._streams) < concurrency:
            session = self._backend.load(self._loadable) if self._streams else self._ready()
            self._streams.append((session, ThreadPoolExecutor(max_workers=1)))
            session.bind(self._feeds)
            self._streams[-1][1].submit(_warm_up_stream, session).result()
        return {}

    def throughput(self, seconds: float, rewarm_ns: int) -> Message:
        """Closed loop: every thread has its own session and sends its next request when the last one returned. Untimed
        requests of each for `rewarm_ns` (none if 0) come before."""
        requests, elapsed = _closed_loop(self._streams, seconds, rewarm_ns)
        return {"requests": requests, "seconds": elapsed}

    def check(self) -> Message:
        """Compare the last outputs with the first ones of this load.

        Raises:
            MeasureError: an output now holds NaN or infinity that it did not hold at first.
        """
        differ = []
        for name, (bad, digest) in _signatures(self._ready().fetch()).items():
            bad_at_first, first_digest = self._first[name]
            if bad > bad_at_first:
                raise MeasureError(
                    f"Output {quote(name)} turned NaN or infinite during the measurement "
                    f"({bad:,} elements; {bad_at_first:,} after the first inference on the same inputs).",
                    why="The engine writes where it should not or keeps state; its times say nothing.",
                    fix="Run the model with the same inputs repeatedly outside this tool; try another precision "
                    "or runtime version.",
                )
            if digest != first_digest:
                differ.append(name)
        return {"differ": differ}

    def first_load(self) -> Message:
        """Milliseconds from the engine file to a ready session and of the first inference; resident memory before,
        and its peak after ten inferences (bytes)."""
        gc.collect()
        gpu = self._device_memory()
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak to the present size
        before = _status_bytes("VmRSS")
        clock = time.perf_counter_ns
        start = clock()
        session = self._session = self._backend.load(self._loadable)
        loaded = clock()
        session.bind(self._feeds)
        bound = clock()
        session.run()
        end = clock()
        for _ in range(MIN_WARMUP_ITERATIONS - 1):
            session.run()
        session.fetch()
        return {
            "load_ms": (loaded - start) / 1e6,
            "first_inference_ms": (end - bound) / 1e6,
            "before": before,
            "peak": _status_bytes("VmHWM"),
            "device_peak": self._device_memory(since=gpu),
        }

    def _device_memory(self, since: int | None = None) -> int | None:
        """Bytes of the GPU's memory in use; with `since`, how many more than then. Read when nothing is timed: after the
        inferences, for an arena gives nothing back and so stands at its peak. None on the CPU."""
        number = self._loadable.options.gpu
        if number is None:
            return None
        from trt_action.engine.cuda import cuda

        free, total = cuda(number).memory()
        return total - free - (since or 0)

    def close(self) -> None:
        """Free the engine, so that a reload starts from nothing."""
        while self._streams:
            session, thread = self._streams.pop()
            thread.shutdown()
            if session is not self._session:
                session.close()
        if self._session is not None:
            self._session.close()
            self._session = None

    def _ready(self) -> Session:
        if self._session is None:
            raise MeasureError("The measuring worker was asked to run before an engine was loaded.")
        return self._session


def timed_loop(run: Callable[[], None], wall: list[int], start: int, stop: int) -> None:
    """Fill `wall[start:stop]` with the duration of one `run()` each, ns. Nothing else happens between the stamps."""
    clock = time.perf_counter_ns
    for i in range(start, stop):
        begin = clock()
        run()
        wall[i] = clock() - begin


def timed_for(run: Callable[[], None], nanoseconds: int, min_iterations: int) -> list[int]:
    """Durations of `run()` until `nanoseconds` are over, ns; at least `min_iterations` (and one)."""
    clock = time.perf_counter_ns
    wall: list[int] = []
    deadline = clock() + nanoseconds
    while True:
        begin = clock()
        run()
        end = clock()
        wall.append(end - begin)
        if end >= deadline and len(wall) >= min_iterations:
            return wall


def warm_up(run: Callable[[], None], min_ns: int, max_ns: int) -> tuple[int, bool]:
    """Run until two consecutive windows have medians within 2 %, after at least 10 iterations and `min_ns`.

    A window is at least 5 iterations and 10 ms. Ends unstable after `max_ns`, then with at least 3 iterations.

    Returns:
        Iterations, and whether the rule held.
    """
    clock = time.perf_counter_ns
    begin = clock()
    iterations = 0
    previous = 0.0
    while True:
        window: list[int] = []
        window_begin = clock()
        while len(window) < WINDOW_ITERATIONS or clock() - window_begin < WINDOW_NS:
            start = clock()
            run()
            window.append(clock() - start)
            if clock() - begin >= max_ns and iterations + len(window) >= 3:
                return iterations + len(window), False
        iterations += len(window)
        median = statistics.median(window)
        long_enough = iterations >= MIN_WARMUP_ITERATIONS and clock() - begin >= min_ns
        if long_enough and abs(median - previous) <= AGREEMENT * previous:
            return iterations, True
        previous = median


def check_clock(wall: list[int]) -> None:
    """Refuse durations that no clock can give.

    Raises:
        MeasureError: a duration is zero or negative.
    """
    if min(wall) <= 0:
        raise MeasureError(
            f"The clock did not move forward during an inference ({min(wall)} ns).",
            why="Times from this host cannot be trusted; virtual machines with a broken time source do this.",
            fix="Run on another host, or check `cat /sys/devices/system/clocksource/clocksource0/current_clocksource`.",
        )


def _run_for(run: Callable[[], None], nanoseconds: int) -> int:
    deadline = time.perf_counter_ns() + nanoseconds
    count = 0
    while count == 0 or time.perf_counter_ns() < deadline:
        run()
        count += 1
    return count


def _warm_up_stream(session: Session) -> None:
    with device.current(session):
        warm_up(session.run, MIN_WARMUP_NS, 10 * MIN_WARMUP_NS)


def _closed_loop(streams: Sequence[Stream], seconds: float, rewarm_ns: int) -> tuple[int, float]:
    """Completed calls of all threads after the untimed ones, and the time from the first start to the last completion (s)."""
    counts = [0] * len(streams)
    starts, ends = [0.0] * len(streams), [0.0] * len(streams)
    failures: list[BaseException] = []
    barrier = threading.Barrier(len(streams) + 1)

    def drive(index: int) -> None:
        session, _ = streams[index]
        run = session.run
        try:
            with device.current(session):
                if rewarm_ns:
                    _run_for(run, rewarm_ns)
                barrier.wait()
                starts[index] = time.perf_counter()
                deadline = starts[index] + seconds
                while time.perf_counter() < deadline or counts[index] == 0:
                    run()
                    counts[index] += 1
        except Exception as error:  # noqa: BLE001 - a thread's boundary: raised again in the main thread
            failures.append(error)
            barrier.abort()  # who waits for this thread waits no longer
        ends[index] = time.perf_counter()

    driven = [thread.submit(drive, index) for index, (_, thread) in enumerate(streams)]
    with suppress(threading.BrokenBarrierError):
        barrier.wait()
    for one in driven:
        one.result()
    if failures:
        raise next((error for error in failures if not isinstance(error, threading.BrokenBarrierError)), failures[0])
    return sum(counts), max(ends) - min(starts)


def _signatures(outputs: dict[str, Array]) -> dict[str, tuple[int, int]]:
    """Per output: number of elements that are not finite, and a checksum of its bytes."""
    return {name: (_not_finite(array), _checksum(array)) for name, array in outputs.items()}


def _not_finite(array: Array) -> int:
    if array.dtype.kind not in "fcV":  # V: bfloat16 and its kind register as void
        return 0
    return int(array.size - np.count_nonzero(np.isfinite(array)))


def _checksum(array: Array) -> int:
    if array.dtype.kind == "O":
        return zlib.crc32(repr(array.tolist()).encode("utf-8", "replace"))
    return zlib.crc32(array.tobytes())


def _status_bytes(field: str) -> int:
    """A field of /proc/self/status in bytes (the file says kB)."""
    lines: Iterator[str] = iter(Path("/proc/self/status").read_text().splitlines())
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
