"""Passes that need a fresh process of their own: throughput, and the first load (memory and cold start).

The first load because looking at memory disturbs latency, and only a new process is cold; throughput because it loads more sessions.
Every function raises MeasureError, OutOfMemoryError, BuildError or DataError with `label` in front of the message.
"""

from __future__ import annotations

from pathlib import Path

from trt_action.engine import devices, nvml
from trt_action.engine.backend import Loadable, RuntimeOptions
from trt_action.evidence import ColdStart, Memory, Throughput
from trt_action.measure.sides import Worker, ready
from trt_action.measure.windows import Windows, in_windows


def throughput(
    loadable: Loadable,
    feeds: Path,
    *,
    concurrency: int,
    seconds: float,
    batch: int,
    cpus: frozenset[int] | None = None,
    label: str = "engine",
    windows: Windows | None = None,
) -> Throughput:
    """Samples per second in a closed loop: `concurrency` requests in flight for `seconds`, each from a thread with
    a session of its own, the next one sent when the last one returned.

    Args:
        batch: samples in one request (the batch axis of `feeds`).
        cpus: what the process is pinned to; None leaves it every CPU of the parent, as a server would have.
        windows: told and asked around every 0.5 s; what it wants again is counted, and its requests are not.
    """
    with Worker(label, loadable, feeds, cpus=cpus) as worker:
        ready([worker])
        worker.ask("streams", concurrency=concurrency)
        parts, set_aside = in_windows(
            windows, seconds, lambda length, rewarm_ns: worker.ask("throughput", seconds=length, rewarm_ns=rewarm_ns)
        )
        worker.check()
    requests, elapsed = sum(part["requests"] for part in parts), sum(part["seconds"] for part in parts)
    return Throughput(
        samples_per_second=requests * batch / elapsed,
        batch=batch,
        concurrency=concurrency,
        seconds=elapsed,
        requests=requests,
        set_aside=set_aside,
    )


def first_load(
    loadable: Loadable, feeds: Path, *, cpus: frozenset[int] | None = None, label: str = "engine"
) -> tuple[Memory, ColdStart]:
    """What a process sees that loads the engine and runs ten inferences.

    Memory: peak resident bytes, and how much of them came with the engine (the peak minus what was resident with the
    backend's library and the inputs loaded; both are read outside the timed parts). On a GPU also what its memory in use
    grew by: CUDA's own part, engine, buffers and workspaces. Cold start: milliseconds from the
    engine file to a ready session, and of the first inference, with the backend's library loaded and the file in the
    system's cache (it is read once before).
    """
    with Worker(label, loadable, feeds, cpus=cpus) as worker:
        worker.start()
        _read_once(loadable.path)
        device = _DeviceMemory(loadable.options)
        answer = worker.ask("first_load")
        device_peak = device.grown(answer["device_peak"])
    peak = answer["peak"]
    return (
        Memory(
            host_peak_bytes=peak,
            host_engine_bytes=max(peak - answer["before"], 0),
            device_peak_bytes=device_peak,
        ),
        ColdStart(load_ms=answer["load_ms"], first_inference_ms=answer["first_inference_ms"]),
    )


class _DeviceMemory:
    """What the GPU's memory in use grows by while a worker opens CUDA, loads and infers: NVML sees CUDA's own part, too.
    Without NVML, what the worker saw of it, which is what came after CUDA's own."""

    def __init__(self, options: RuntimeOptions) -> None:
        self._gpu: nvml.Gpu | None = None
        if options.gpu is not None:
            self._gpu, _ = nvml.find(devices.facts(options.gpu).uuid)
        self._before = self._gpu.memory_used() if self._gpu else None

    def grown(self, seen_by_worker: int | None) -> int | None:
        """While the worker still holds everything; bytes, None on the CPU."""
        after = self._gpu.memory_used() if self._gpu else None
        if self._gpu is not None:
            self._gpu.close()
        if seen_by_worker is None:
            return None
        own = None if after is None or self._before is None else after - self._before
        return max(own if own is not None and own >= seen_by_worker else seen_by_worker, 0)


def _read_once(path: Path) -> None:
    if path.is_file():
        with path.open("rb") as file:
            while file.read(1 << 20):
                pass
