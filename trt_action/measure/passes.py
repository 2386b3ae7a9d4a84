"""Passes that need a fresh process of their own: throughput, and the first load (memory and cold start).

The first load because looking at memory disturbs latency, and only a new process is cold; throughput because it loads more sessions.
Every function raises MeasureError, OutOfMemoryError, BuildError or DataError with `label` in front of the message.
"""

from __future__ import annotations

from pathlib import Path

from trt_action.engine.backend import Loadable
from trt_action.evidence import ColdStart, Memory, Throughput
from trt_action.measure.sides import Worker, ready


def throughput(
    loadable: Loadable,
    feeds: Path,
    *,
    concurrency: int,
    seconds: float,
    batch: int,
    cpus: frozenset[int] | None = None,
    label: str = "engine",
) -> Throughput:
    """Samples per second in a closed loop: `concurrency` requests in flight for `seconds`, each from a thread with
    a session of its own, the next one sent when the last one returned.

    Args:
        batch: samples in one request (the batch axis of `feeds`).
        cpus: what the process is pinned to; None leaves it every CPU of the parent, as a server would have.
    """
    with Worker(label, loadable, feeds, cpus=cpus) as worker:
        ready([worker])
        answer = worker.ask("throughput", concurrency=concurrency, seconds=seconds)
        worker.check()
    return Throughput(
        samples_per_second=answer["requests"] * batch / answer["seconds"],
        batch=batch,
        concurrency=concurrency,
        seconds=answer["seconds"],
        requests=answer["requests"],
    )


def first_load(
    loadable: Loadable, feeds: Path, *, cpus: frozenset[int] | None = None, label: str = "engine"
) -> tuple[Memory, ColdStart]:
    """What a process sees that loads the engine and runs ten inferences.

    Memory: peak resident bytes, and how much of them came with the engine (the peak minus what was resident with the
    backend's library and the inputs loaded; both are read outside the timed parts). On a GPU also what its memory in use
    grew by: engine, buffers, workspaces, and code that CUDA loads with them. Cold start: milliseconds from the
    engine file to a ready session, and of the first inference, with the backend's library loaded and the file in the
    system's cache (it is read once before).
    """
    with Worker(label, loadable, feeds, cpus=cpus) as worker:
        worker.start()
        _read_once(loadable.path)
        answer = worker.ask("first_load")
    peak = answer["peak"]
    return (
        Memory(
            host_peak_bytes=peak,
            host_engine_bytes=max(peak - answer["before"], 0),
            device_peak_bytes=None if (grown := answer["device_peak"]) is None else max(grown, 0),
        ),
        ColdStart(load_ms=answer["load_ms"], first_inference_ms=answer["first_inference_ms"]),
    )


def _read_once(path: Path) -> None:
    if path.is_file():
        with path.open("rb") as file:
            while file.read(1 << 20):
                pass
