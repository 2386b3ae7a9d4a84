"""Greedy batching: whatever waits when an engine is free goes into the next run, up to the engine's largest batch.

Nobody waits for a batch to fill: with one request at a time there is no delay, and under load batches form by
themselves while the engine is busy. Everything here runs on the event loop but the runs themselves.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from trt_action.engine.backend import Array
from trt_action.serve import refusal
from trt_action.serve.engines import EngineThread
from trt_action.serve.execution import Executed, Infer, execute
from trt_action.serve.refusal import RefusedError
from trt_action.serve.stats import Stats

SWEEP_SECONDS = 0.05
"""How often waiting requests are looked through for those whose time is over."""


Engine = tuple[EngineThread, Infer]


class Call:
    """One request on its way through an engine. Times are `time.perf_counter_ns`."""

    __slots__ = (
        "arrived", "batch", "computed", "deadline", "ended", "error", "feeds", "gone", "kind", "merged", "outputs",
        "queued", "rows", "size", "started",
    )  # fmt: skip

    def __init__(
        self,
        feeds: Mapping[str, Array],
        rows: int,
        *,
        arrived: int,
        deadline: float = float("inf"),
        gone: Callable[[], bool] | None = None,
    ) -> None:
        self.feeds = feeds
        self.rows = rows
        self.size = sum(array.size for array in feeds.values())
        self.kind: tuple[tuple[int, ...], ...] = tuple(array.shape[1:] for array in feeds.values())
        self.arrived = arrived
        self.deadline = deadline
        self.gone = gone
        self.queued = self.started = self.merged = self.computed = 0
        self.batch = 0
        self.outputs: dict[str, Array] = {}
        self.error: RefusedError | None = None
        self.ended: Callable[[], None] = nobody

    def over(self, now: float) -> RefusedError | None:
        """Why it need not be computed any more: nobody waits for it."""
        if self.gone is not None and self.gone():
            return RefusedError(499, "The client went away.", "cancelled")
        return refusal.expired() if now > self.deadline else None


def nobody() -> None:
    """Nobody waits for the end of a call."""


@dataclass(frozen=True)
class Limits:
    """`rows`: of one run. `pad_to`: rows that every run has (a fixed batch); None = as many as there are."""

    rows: int = 1
    pad_to: int | None = None
    queue: int = 256
    inline_ns: int = 0
    """An engine whose runs usually take less runs on the event loop: changing threads would take longer (0 = never)."""


class Batcher:
    """The queue of one loaded version and the engines that empty it."""

    def __init__(self, engines: Sequence[Engine], limits: Limits, stats: Stats) -> None:
        self._limits = limits
        self._stats = stats
        self.engines = len(engines)
        self._idle = list(engines)
        self._running: dict[EngineThread, int] = {}
        self._queue: deque[Call] = deque()
        self._scheduled = False
        self._sweeping = False
        self._usual_ns = 1 << 62
        self._usual_size = 1

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def longest_run(self, now_ns: int) -> float:
        """Seconds that the oldest run on an engine's thread has taken so far; 0: none is running."""
        return (now_ns - min(self._running.values(), default=now_ns)) / 1e9

    def put(self, call: Call, *, alone: bool = False) -> None:
        """Into the queue; `call.ended` is called when it has its outputs or its error.

        Args:
            alone: nobody else can have asked in the same turn of the event loop, so there is nothing to wait for.

        Raises:
            RefusedError: the queue is full.
        """
        if len(self._queue) >= self._limits.queue:
            raise refusal.overloaded(f"{len(self._queue)} requests are waiting already.")
        loop = asyncio.get_running_loop()
        call.queued = time.perf_counter_ns()
        self._queue.append(call)
        if alone and self._idle:
            self._dispatch(loop)
        elif self._idle and not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._dispatch, loop)  # after everything that came in with the same turn of the loop
        elif not self._idle and not self._sweeping:
            self._sweeping = True
            loop.call_later(SWEEP_SECONDS, self._sweep, loop)

    def _dispatch(self, loop: asyncio.AbstractEventLoop) -> None:
        self._scheduled = False
        while self._idle and self._queue and (batch := self._take()):
            engine = self._idle.pop()
            size = sum(call.size for call in batch)
            if self._expected_ns(size) < self._limits.inline_ns:
                self._done(loop, engine, batch, size, execute(engine[1], batch, self._limits.pad_to))
            else:
                self._running[engine[0]] = time.perf_counter_ns()
                engine[0].post(partial(self._work, loop, engine, batch, size))

    def _expected_ns(self, size: int) -> int:
        """How long a run of `size` elements takes: as usual, or longer in proportion. A large request after many small
        ones must not hold up the event loop."""
        return self._usual_ns * max(size, self._usual_size) // self._usual_size

    def _take(self) -> list[Call]:
        """The oldest request and the others that fit into one run with it, in order."""
        now = time.monotonic()
        batch: list[Call] = []
        rows = 0
        left: deque[Call] = deque()
        late: list[Call] = []
        for call in self._queue:
            if over := call.over(now):
                call.error = over
                late.append(call)
            elif not batch or (call.kind == batch[0].kind and rows + call.rows <= self._limits.rows):
                batch.append(call)
                rows += call.rows
            else:
                left.append(call)
        self._queue = left
        if late:
            _end(asyncio.get_running_loop(), late)  # may put new requests into the queue
        return batch

    def _work(self, loop: asyncio.AbstractEventLoop, engine: Engine, batch: list[Call], size: int) -> None:
        """On the engine's thread."""
        done = execute(engine[1], batch, self._limits.pad_to)
        loop.call_soon_threadsafe(self._back, loop, engine, batch, size, done)

    def _back(
        self, loop: asyncio.AbstractEventLoop, engine: Engine, batch: list[Call], size: int, done: list[Executed]
    ) -> None:
        del self._running[engine[0]]
        self._done(loop, engine, batch, size, done)
        if self._queue:
            self._dispatch(loop)

    def _done(
        self, loop: asyncio.AbstractEventLoop, engine: Engine, batch: list[Call], size: int, done: list[Executed]
    ) -> None:
        self._idle.append(engine)
        self._count(done, size)
        _end(loop, batch)

    def _count(self, done: list[Executed], size: int) -> None:
        for rows, input_ns, infer_ns, output_ns in done:
            self._stats.executed(rows, input_ns, infer_ns, output_ns)
            if self._usual_ns == 1 << 62:
                self._usual_ns, self._usual_size = infer_ns, max(size, 1)
            else:
                self._usual_ns = (7 * self._usual_ns + infer_ns) // 8
                self._usual_size = max((7 * self._usual_size + size // len(done)) // 8, 1)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        now = time.monotonic()
        for call in [call for call in self._queue if call.over(now)]:
            self._queue.remove(call)
            call.error = call.over(now)
            _end(loop, [call])
        self._sweeping = bool(self._queue)
        if self._sweeping:
            loop.call_later(SWEEP_SECONDS, self._sweep, loop)


def _end(loop: asyncio.AbstractEventLoop, calls: Sequence[Call]) -> None:
    """Tell everybody; whatever happens to one, the others are told, too."""
    for call in calls:
        try:
            call.ended()
        except Exception as error:  # noqa: BLE001 - the boundary between requests
            loop.call_exception_handler(
                {"message": "An answer could not be sent; please report it.", "exception": error}
            )
