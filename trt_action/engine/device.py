"""What every session on a GPU is made of: buffers on both sides, and the loop that times them like trtexec."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from trt_action.engine.backend import Array, DeviceTimes
from trt_action.engine.cuda import Cuda

Step = Callable[[], None]


class Buffer:
    """One tensor twice: `pointer` on the device, `host` in page-locked memory."""

    def __init__(self, gpu: Cuda, shape: tuple[int, ...], dtype: np.dtype[Any], pointer: int | None = None) -> None:
        """With `pointer`, the device memory is somebody else's, who frees it."""
        nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self._gpu = gpu
        self._own = pointer is None
        self.pointer = gpu.allocate(nbytes) if pointer is None else pointer
        try:
            self._raw = gpu.pinned(nbytes)
        except BaseException:
            if self._own:
                gpu.free(self.pointer)
            raise
        self.host: Array = self._raw.view(dtype).reshape(shape)

    def free(self) -> None:
        self._gpu.free_pinned(self._raw)
        if self._own:
            self._gpu.free(self.pointer)


class Steps:
    """An inference in three parts, each of which enqueues: copies in, the engine, copies out. A session's own `run` goes
    through them, so that they may be exchanged (other shapes) under loops that hold `run`.

    `whole` is the engine as `run` calls it, where the fastest call is not the one that only enqueues.
    """

    __slots__ = ("compute", "download", "upload", "whole")

    def __init__(self, upload: Step, compute: Step, download: Step) -> None:
        self.upload = upload
        self.compute = self.whole = compute
        self.download = download


class Timeline:
    """Events around the parts of an inference. They are made once and kept: making one costs more than recording it."""

    def __init__(self, gpu: Cuda, stream: int) -> None:
        self._gpu = gpu
        self._stream = stream
        self._events: list[tuple[int, int, int, int]] = []

    def times(self, steps: Steps, iterations: int, *, transfers: bool, asynchronous: bool) -> DeviceTimes:
        """`iterations` inferences, one at a time: the next begins when the last is complete on the device.

        Args:
            transfers: copies in and out belong to an inference.
            asynchronous: `steps.compute` returns before the GPU is done, so that its duration is the enqueue time.
        """
        while len(self._events) < iterations:
            self._events.append((self._gpu.event(), self._gpu.event(), self._gpu.event(), self._gpu.event()))
        gpu, stream, clock, record = self._gpu, self._stream, time.perf_counter_ns, self._gpu.record
        enqueue, wall = [0] * iterations, [0] * iterations
        for i in range(iterations):
            start, ready, done, end = self._events[i]
            begin = clock()
            if transfers:
                record(start, stream)
                steps.upload()
            record(ready, stream)
            before = clock()
            steps.compute()
            after = clock()
            record(done, stream)
            if transfers:
                steps.download()
                record(end, stream)
            gpu.synchronize(stream)
            wall[i] = clock() - begin
            enqueue[i] = after - before
        used = self._events[:iterations]
        return DeviceTimes(
            h2d_ns=[self._ns(start, ready) if transfers else 0 for start, ready, _, _ in used],
            compute_ns=[self._ns(ready, done) for _, ready, done, _ in used],
            d2h_ns=[self._ns(done, end) if transfers else 0 for _, _, done, end in used],
            enqueue_ns=enqueue if asynchronous else [],
            wall_ns=wall,
        )

    def close(self) -> None:
        for events in self._events:
            for event in events:
                self._gpu.destroy_event(event)
        self._events = []

    def _ns(self, start: int, stop: int) -> int:
        return round(self._gpu.elapsed_ms(start, stop) * 1e6)


def current(session: Any) -> AbstractContextManager[None]:
    """For a thread that runs a session which another one loaded: on a GPU, its device is made this thread's."""
    entered: Callable[[], AbstractContextManager[None]] | None = getattr(session, "current", None)
    return contextlib.nullcontext() if entered is None else entered()


def notes(session: Any) -> list[str]:
    """What a reader of a session's times must know, e.g. which nodes run elsewhere than asked; most say nothing."""
    return list(getattr(session, "notes", ()))


@contextlib.contextmanager
def freed_on_failure(free: Callable[[], None]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        free()
        raise
