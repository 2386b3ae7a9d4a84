"""Latency of single inferences, one request at a time, as trtexec reports it."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trt_action.engine.backend import Loadable, RuntimeOptions
from trt_action.evidence import Interval, Latency
from trt_action.gpu_records import DeviceLatency
from trt_action.inputs import quote, quote_all
from trt_action.measure.device_latency import PARTS, device_latency
from trt_action.measure.series import pack
from trt_action.measure.sides import Warmup, Worker, ready
from trt_action.measure.stats import percentile, percentile_interval
from trt_action.measure.windows import REWARM, SECONDS, Windows, in_windows
from trt_action.process import Message, Progress

MIN_ITERATIONS = 10
MIN_WARMUP = 0.2
"""With 3 s as the default length: the defaults of trtexec (`--iterations`, `--warmUp`, `--duration`)."""

MAX_WARMUP = 3.0
ITERATIONS_PER_SLICE = 3

DEVICE_SECONDS = 1.0
"""Of the pass with CUDA events, per side, at most."""

CONFIDENCE = 0.95
MAX_STORED = 200_000


def latencies(
    sides: Mapping[str, Loadable],
    feeds: Mapping[str, Path],
    *,
    seconds: float,
    cpus: frozenset[int] | None = None,
    progress: Progress | None = None,
    windows: Windows | None = None,
) -> dict[str, Latency]:
    """Latency of every side, measured in turns of 0.5 s in one fresh process each: drift of the host hits all alike.

    Args:
        sides: engines by label (`head`, `base`); the label is used in messages.
        feeds: the inputs (`.npz`) by the same labels.
        seconds: timed seconds per side; at least 10 iterations are timed, however long they take.
        cpus: what every process is pinned to.
        progress: called with a text and the finished share.
        windows: told and asked around every turn, and around every 0.5 s of the pass with CUDA events; one that it wants
            again is counted, and its samples are not.

    Raises:
        MeasureError: a worker died, hung, its clock stood still, or its outputs turned NaN; the label is named.
        BuildError, DataError: the engine does not load, the inputs do not fit.
    """
    with contextlib.ExitStack() as stack:
        workers = {
            label: stack.enter_context(Worker(label, loadable, feeds[label], cpus=cpus))
            for label, loadable in sides.items()
        }
        warmups = ready(list(workers.values()), min_warmup=MIN_WARMUP, max_warmup=MAX_WARMUP)
        passes = {
            label: _Pass(worker, warmup, sides[label].options)
            for (label, worker), warmup in zip(workers.items(), warmups, strict=True)
        }
        while any(not one.finished(seconds) for one in passes.values()):
            for label, one in passes.items():
                if not one.finished(seconds):
                    one.take_slice(seconds, windows)
                if progress is not None:
                    done = sum(min(each.seconds / seconds, 1.0) for each in passes.values() if seconds)
                    progress(f"latency of {label}", done / len(passes))
        for label, one in passes.items():
            if progress is not None and sides[label].options.gpu is not None:
                progress(f"parts of an inference of {label}", 1.0)
            one.take_device_times(min(DEVICE_SECONDS, seconds), windows)
        return {label: one.result() for label, one in passes.items()}


@dataclass
class _Pass:
    """The samples of one side while they are taken."""

    worker: Worker
    warmup: Warmup
    options: RuntimeOptions
    device: DeviceLatency | None = None
    samples: list[int] = field(default_factory=list)
    seconds: float = 0.0
    rewarmed: int = 0
    set_aside: int = 0

    def finished(self, seconds: float) -> bool:
        return self.seconds >= seconds and len(self.samples) >= MIN_ITERATIONS

    def take_slice(self, seconds: float, windows: Windows | None) -> None:
        left = max(seconds - self.seconds, 0.0)
        length = left if left < 1.5 * SECONDS else SECONDS
        if windows is not None:
            windows.begin()
        answer = self.worker.ask(
            "loop", seconds=length, min_iterations=ITERATIONS_PER_SLICE, rewarm_ns=int(REWARM * 1e9)
        )
        if windows is not None and windows.again():
            self.set_aside += 1
            return
        self.samples += answer["wall_ns"]
        self.seconds += answer["seconds"]
        self.rewarmed += answer["rewarmed"]

    def take_device_times(self, seconds: float, windows: Windows | None) -> None:
        """A pass of its own: recording events costs the host a few microseconds in every inference."""
        if self.options.gpu is None:
            return
        parts, set_aside = in_windows(windows, seconds, self._device_times)
        times = {name: [ns for part in parts for ns in part[name]] for name in PARTS}
        self.device = device_latency(
            times, transfers=self.options.transfers, cuda_graph=self.options.cuda_graph, set_aside=set_aside
        )

    def _device_times(self, seconds: float, rewarm_ns: int) -> Message:
        return self.worker.ask("device", seconds=seconds, min_iterations=MIN_ITERATIONS, rewarm_ns=rewarm_ns)

    def result(self) -> Latency:
        differ = self.worker.check()
        notes = list(self.warmup.notes)
        if not self.warmup.stable:
            notes.append(
                f"The warm-up did not settle within {MAX_WARMUP:g} s: medians of consecutive windows still "
                "differed by more than 2 %."
            )
        for name, count in self.warmup.not_finite.items():
            notes.append(f"Output {quote(name)} holds {count:,} NaN or infinite elements on the measured inputs.")
        if differ:
            notes.append(f"Outputs that differ between inferences on the same inputs: {quote_all(differ)}.")
        return summarize(
            np.array(self.samples, dtype=np.uint64),
            seconds=self.seconds,
            warmup_iterations=self.warmup.iterations + self.rewarmed,
            warmup_stable=self.warmup.stable,
            notes=notes,
            device=self.device,
        ).model_copy(update={"set_aside": self.set_aside})


def summarize(
    samples_ns: npt.NDArray[np.uint64],
    *,
    seconds: float,
    warmup_iterations: int,
    warmup_stable: bool,
    notes: list[str],
    device: DeviceLatency | None = None,
) -> Latency:
    """Percentiles with their 95 % order-statistic intervals from samples in the order they were taken (ns)."""
    ordered = np.sort(samples_ns) / 1e6
    n = len(ordered)
    intervals = {name: _interval(ordered, p) for name, p in _PERCENTILES.items()}
    stored = samples_ns[:: -(-n // MAX_STORED)]
    return Latency(
        n=n,
        seconds=seconds,
        warmup_iterations=warmup_iterations,
        warmup_stable=warmup_stable,
        mean_ms=float(ordered.mean()),
        min_ms=float(ordered[0]),
        p50_ms=percentile(ordered, 50),
        p90_ms=percentile(ordered, 90),
        p95_ms=percentile(ordered, 95),
        p99_ms=percentile(ordered, 99),
        max_ms=float(ordered[-1]),
        confidence=CONFIDENCE,
        intervals=intervals,
        series=pack(stored, "ns"),
        device=device,
        notes=[*notes, *_notes(ordered, intervals, len(stored))],
    )


_PERCENTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0}


def _interval(ordered: npt.NDArray[np.float64], p: float) -> Interval | None:
    indices = percentile_interval(len(ordered), p, CONFIDENCE)
    if indices is None:
        return None
    return Interval(low_ms=float(ordered[indices[0]]), high_ms=float(ordered[indices[1]]))


UNSTEADY = 0.25
"""Coefficient of variation above which a note is due. trtexec warns at 2.5 %, on a GPU of its own."""


def _notes(ordered: npt.NDArray[np.float64], intervals: Mapping[str, Interval | None], stored: int) -> list[str]:
    n = len(ordered)
    notes = []
    open_ended = [name for name, interval in intervals.items() if interval is None]
    if open_ended:
        notes.append(f"{n:,} samples are too few for a 95 % interval of {', '.join(open_ended)}; measure longer.")
    if n > 1:
        variation = statistics.stdev(ordered.tolist()) / float(ordered.mean())
        if variation > UNSTEADY:
            notes.append(
                f"Times scatter by {variation:.0%} (standard deviation / mean): the host interrupts the engine. p50 "
                "holds; p99 and the maximum say more about this host than about the engine."
            )
    if stored < n:
        notes.append(f"All {n:,} samples count; the stored series is one in {-(-n // stored)} of them.")
    return notes
