"""The parent's side of the workers: one process per engine, pinned alike, asked one at a time.

Blocks of two sides never overlap: the parent asks one worker and waits; the others sleep in a read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from trt_action.engine.backend import Loadable
from trt_action.errors import TrtActionError, record, restore
from trt_action.measure.duet import Block
from trt_action.process import Child, Message

TARGET = "trt_action.measure.worker:main"
REQUEST_TIMEOUT = 600.0
"""Seconds until a silent worker counts as hung; the longest honest request is loading a large engine."""

MIN_WARMUP = 0.05
MAX_WARMUP = 1.0
"""Seconds of warm-up after each load of a comparison; slow models end unstable after a few iterations."""


@dataclass(frozen=True)
class Warmup:
    """What the worker reports after a load."""

    iterations: int
    stable: bool
    not_finite: dict[str, int]
    """Elements by output that were NaN or infinite after the first inference already."""

    notes: tuple[str, ...] = ()
    """What the engine's session says that readers of its times must know."""


class Worker:
    """One engine in one fresh process. A context manager: leaving it ends the process.

    Raises (from every method):
        MeasureError, OutOfMemoryError, BuildError, DataError: with `label` in front of the message.
    """

    def __init__(self, label: str, loadable: Loadable, feeds: Path, *, cpus: frozenset[int] | None) -> None:
        """Starts the interpreter and returns at once; `start` waits for it."""
        self.label = label
        self.threads = 0
        self.failed = False
        self._settings: Message = {
            "loadable": loadable.as_json(),
            "feeds": str(feeds),
            "cpus": sorted(cpus) if cpus else None,
        }
        self._child = Child(TARGET)

    @property
    def pid(self) -> int:
        return self._child.pid

    def start(self) -> None:
        """Import the backend, pin the process, read the inputs."""
        self.threads = self.ask("start", **self._settings)["threads"]

    def load(self, *, min_warmup: float = MIN_WARMUP, max_warmup: float = MAX_WARMUP) -> Warmup:
        """Load the engine (again) and warm up; seconds."""
        answer = self.ask("load", min_warmup_ns=int(min_warmup * 1e9), max_warmup_ns=int(max_warmup * 1e9))
        return Warmup(
            answer["warmup_iterations"], answer["warmup_stable"], answer["not_finite"], tuple(answer["notes"])
        )

    def reload(self) -> None:
        """Check the outputs, close the session, load the engine again in the same process, warm up."""
        self.check()
        self.load()

    def block(self, iterations: int) -> Block:
        """`iterations` inferences back to back."""
        answer = self.ask("block", iterations=iterations)
        return Block(answer["wall_ns"], answer["cpu_ns"])

    def check(self) -> list[str]:
        """Names of outputs whose bytes differ from the first inference's on the same inputs.

        Raises:
            MeasureError: an output turned NaN or infinite.
        """
        differ: list[str] = self.ask("check")["differ"]
        return differ

    def ask(self, request: str, **arguments: object) -> Message:
        """One request to the worker (measure/worker.py); errors name this side."""
        try:
            return self._child.request({"request": request, **arguments}, timeout=REQUEST_TIMEOUT)
        except TrtActionError as error:
            self.failed = True
            raise _named(error, self.label) from error

    def close(self) -> None:
        self._child.close()

    def interrupt(self) -> None:
        """End the process while another thread waits for it."""
        self._child.interrupt()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()


@dataclass(frozen=True)
class Unit:
    """The workers of one unit of a comparison (`duet.UnitSides`)."""

    head: Worker
    base: Worker
    floor: Worker | None


@contextlib.contextmanager
def open_unit(
    head: Loadable,
    base: Loadable,
    head_feeds: Path,
    base_feeds: Path,
    unit: int,
    *,
    cpus: frozenset[int] | None = None,
    floor: bool = True,
) -> Iterator[Unit]:
    """Fresh processes of head and base (and of base again, for the noise floor), loaded and warmed up.

    Bind everything but `unit` with `functools.partial` and pass that to `duet.compare`. The order of loading turns
    with `unit`, so that neither side is always the first on the machine. Leaving checks every side's outputs once more.

    Args:
        head_feeds, base_feeds: the inputs (`.npz`); the same values where the two models' inputs agree.
        unit: index of the unit.
        cpus: what all workers are pinned to; None leaves them where the parent is.
        floor: also start the second base.
    """
    asked = {"head": (head, head_feeds), "base": (base, base_feeds)}
    if floor:
        asked["second base"] = (base, base_feeds)
    with contextlib.ExitStack() as stack:
        workers = {
            label: stack.enter_context(Worker(label, loadable, path, cpus=cpus))
            for label, (loadable, path) in asked.items()
        }
        ready(list(workers.values()), first=unit)
        yield Unit(workers["head"], workers["base"], workers.get("second base"))
        if not any(worker.failed for worker in workers.values()):
            for worker in workers.values():
                worker.check()


def ready(workers: list[Worker], *, first: int = 0, **warmup: float) -> list[Warmup]:
    """Start the workers side by side, then load and warm up each alone, beginning with the worker at `first`
    modulo their number. Returns the warm-ups in the order of `workers`."""
    with ThreadPoolExecutor(len(workers)) as pool:
        try:
            list(pool.map(Worker.start, workers))
        except BaseException:
            for worker in workers:  # the pool waits for its threads, and they for their processes
                worker.interrupt()
            raise
    order = [(first + i) % len(workers) for i in range(len(workers))]
    done = {i: workers[i].load(**warmup) for i in order}
    return [done[i] for i in range(len(workers))]


def _named(error: TrtActionError, label: str) -> TrtActionError:
    return restore({**record(error), "what": f"{label}: {error.what}"})
