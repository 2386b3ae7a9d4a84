"""A GPU in memory, for `trt_action.engine.cuda.Cuda`: strict, recording, with a clock of its own.

Nothing that is put on a stream is done before `synchronize` (or a later one on that stream): who reads the host's
memory too early reads what was there before. Every pointer is looked up when the work is done, so that memory which
was freed too early is found. Work of one's own (a kernel, an engine) goes on a stream with `enqueue`.

    gpu = FakeCuda()
    ...
    assert not gpu.leaks()
"""

from __future__ import annotations

import contextlib
import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_action.engine.cuda import Array, Graph, failed

Work = Callable[[], None]


@dataclass
class Operation:
    """One piece of work on a stream: what it does, and how long the GPU takes for it."""

    kind: str
    milliseconds: float
    work: Work


@dataclass
class FakeCuda:
    """`total` bytes of memory. `log` holds every call by name, with its arguments; `done` the kinds of work done, in
    order. Copies take `copy_ms` each and `ms_per_byte` for every byte."""

    total: int = 1 << 30
    copy_ms: float = 0.01
    ms_per_byte: float = 1e-7
    binding: str = "fake 1.0"
    graphs: bool = True
    log: list[tuple[Any, ...]] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    pageable_copies: int = 0
    """Copies that CUDA would not have done asynchronously."""

    def __post_init__(self) -> None:
        self._handles = itertools.count(0x1000, 0x10)
        self._memory: dict[int, npt.NDArray[np.uint8]] = {}
        self._freed: set[int] = set()
        self._pinned: dict[int, npt.NDArray[np.uint8]] = {}
        self._streams: dict[int, list[Operation]] = {}
        self._now: dict[int, float] = defaultdict(float)
        self._events: dict[int, tuple[int, float] | None] = {}
        self._pending: dict[int, int] = defaultdict(int)
        self._graphs = 0
        self._capturing: int | None = None
        self._next_address = 0x7F0000000000

    def name(self) -> str:
        return "Fake GPU"

    def uuid(self) -> str:
        return "GPU-00000000-0000-0000-0000-0000000000aa"

    def capability(self) -> tuple[int, int]:
        return 9, 0

    def versions(self) -> dict[str, str]:
        return {"driver": "13.0", "runtime": "13.0"}

    def memory(self) -> tuple[int, int]:
        return self.total - sum(block.nbytes for block in self._memory.values()), self.total

    def allocate(self, nbytes: int) -> int:
        self._note("allocate", nbytes)
        self._not_while_capturing("cudaMalloc")
        if nbytes > self.memory()[0]:
            raise failed(f"cudaMalloc({nbytes})", "cudaErrorMemoryAllocation", "out of memory")
        pointer = self._next_address
        self._next_address += max(nbytes, 1) + 0x1000  # a gap behind every block, as a guard
        self._memory[pointer] = np.full(nbytes, 0xCD, dtype=np.uint8)
        return pointer

    def free(self, pointer: int) -> None:
        self._note("free", pointer)
        if pointer not in self._memory:
            words = "freed twice" if pointer in self._freed else "never allocated"
            raise failed("cudaFree", "cudaErrorInvalidValue", words)
        for stream in self._streams:  # cudaFree waits for the device
            self._drain(stream)
        del self._memory[pointer]
        self._freed.add(pointer)

    def device(self, pointer: int, nbytes: int) -> npt.NDArray[np.uint8]:
        """A view of device memory, for work of one's own. Interior pointers are fine; freed or foreign ones are not."""
        for start, block in self._memory.items():
            if start <= pointer and pointer + nbytes <= start + block.nbytes:
                return block[pointer - start : pointer - start + nbytes]
        raise failed("a kernel or copy", "cudaErrorIllegalAddress", f"{nbytes} bytes at {pointer:#x} are not allocated")

    def pinned(self, nbytes: int) -> npt.NDArray[np.uint8]:
        self._note("pinned", nbytes)
        self._not_while_capturing("cudaHostAlloc")
        array = np.full(nbytes, 0xAB, dtype=np.uint8)
        self._pinned[array.ctypes.data] = array
        return array

    def free_pinned(self, array: npt.NDArray[np.uint8]) -> None:
        self._note("free_pinned", array.nbytes)
        if self._pinned.pop(array.ctypes.data, None) is None:
            raise failed("cudaFreeHost", "cudaErrorInvalidValue", "not allocated, or freed twice")

    def stream(self) -> int:
        stream = next(self._handles)
        self._note("stream", stream)
        self._streams[stream] = []
        return stream

    def destroy_stream(self, stream: int) -> None:
        self._note("destroy_stream", stream)
        self._drain(stream)
        del self._streams[stream]

    def enqueue(self, stream: int, work: Work, milliseconds: float, kind: str = "kernel") -> None:
        """Work of one's own: done in its turn, `milliseconds` long on the GPU's clock."""
        self._put(stream, Operation(kind, milliseconds, work))

    def to_device(self, pointer: int, host: Array, stream: int) -> None:
        self._note("to_device", pointer, host.nbytes, stream)
        source = self._bytes_of(host)

        def work() -> None:
            self.device(pointer, source.nbytes)[:] = source

        self._copy(stream, "to_device", source, work)

    def to_host(self, host: Array, pointer: int, stream: int) -> None:
        self._note("to_host", pointer, host.nbytes, stream)
        target = self._bytes_of(host)

        def work() -> None:
            target[:] = self.device(pointer, target.nbytes)

        self._copy(stream, "to_host", target, work)

    def copies(self, pairs: Sequence[tuple[int, Array]], stream: int, *, to_device: bool) -> Callable[[], None]:
        def enqueue() -> None:
            for pointer, host in pairs:
                if to_device:
                    self.to_device(pointer, host, stream)
                else:
                    self.to_host(host, pointer, stream)

        return enqueue

    def synchronize(self, stream: int) -> None:
        self._note("synchronize", stream)
        if stream == self._capturing:
            raise failed("cudaStreamSynchronize", "cudaErrorStreamCaptureUnsupported", "the stream is capturing")
        self._drain(stream)

    def event(self) -> int:
        event = next(self._handles)
        self._note("event", event)
        self._events[event] = None
        return event

    def destroy_event(self, event: int) -> None:
        self._note("destroy_event", event)
        self._known(event)
        del self._events[event]

    def record(self, event: int, stream: int) -> None:
        self._note("record", event, stream)
        self._known(event)
        self._pending[event] += 1

        def work() -> None:
            self._pending[event] -= 1
            self._events[event] = (stream, self._now[stream])

        self._put(stream, Operation("event", 0.0, work))

    def elapsed_ms(self, start: int, stop: int) -> float:
        self._known(start)
        self._known(stop)
        first, last = self._events[start], self._events[stop]
        if self._pending[start] or self._pending[stop]:
            raise failed("cudaEventElapsedTime", "cudaErrorNotReady", "device not ready")
        if first is None or last is None or first[0] != last[0]:
            raise failed("cudaEventElapsedTime", "cudaErrorInvalidResourceHandle", "not recorded on one stream")
        return last[1] - first[1]

    def current(self) -> AbstractContextManager[None]:
        self._note("current")
        return contextlib.nullcontext()

    def capture(self, stream: int, work: Callable[[], None]) -> Graph:
        from trt_action.errors import BackendUnavailableError

        self._note("capture", stream)
        if not self.graphs:
            raise BackendUnavailableError("This binding has no graphs.", fix="Use cuda-python.")
        before = list(self._stream(stream))
        self._capturing = stream
        try:
            work()
        finally:
            self._capturing = None
            captured = self._streams[stream][len(before) :]
            self._streams[stream] = before
        self._graphs += 1
        return FakeGraph(self, tuple(captured))

    def leaks(self) -> dict[str, int]:
        """What was taken and not given back, by kind."""
        counts = {
            "device": len(self._memory),
            "pinned": len(self._pinned),
            "streams": len(self._streams),
            "events": len(self._events),
            "graphs": self._graphs,
        }
        return {kind: count for kind, count in counts.items() if count}

    def calls(self, name: str) -> list[tuple[Any, ...]]:
        """The arguments of every call of that name."""
        return [entry[1:] for entry in self.log if entry[0] == name]

    def _note(self, *entry: Any) -> None:
        self.log.append(entry)

    def _copy(self, stream: int, kind: str, host: npt.NDArray[np.uint8], work: Work) -> None:
        self._put(stream, Operation(kind, self.copy_ms + host.nbytes * self.ms_per_byte, work))
        if not self._is_pinned(host):
            self.pageable_copies += 1
            if self._capturing != stream:
                self._drain(stream)

    def _is_pinned(self, host: npt.NDArray[np.uint8]) -> bool:
        start = host.ctypes.data
        return any(at <= start and start + host.nbytes <= at + array.nbytes for at, array in self._pinned.items())

    @staticmethod
    def _bytes_of(host: Array) -> npt.NDArray[np.uint8]:
        if not host.flags.c_contiguous:
            raise ValueError("only C-contiguous arrays are copied to and from a GPU")
        return host.reshape(-1).view(np.uint8)

    def _stream(self, stream: int) -> list[Operation]:
        if stream not in self._streams:
            raise failed("a call", "cudaErrorInvalidResourceHandle", f"there is no stream {stream:#x}")
        return self._streams[stream]

    def _known(self, event: int) -> None:
        if event not in self._events:
            raise failed("a call", "cudaErrorInvalidResourceHandle", f"there is no event {event:#x}")

    def _put(self, stream: int, operation: Operation) -> None:
        self._stream(stream).append(operation)

    def _drain(self, stream: int) -> None:
        queue = self._stream(stream)
        while queue:
            operation = queue.pop(0)
            self._now[stream] += operation.milliseconds
            operation.work()
            self.done.append(operation.kind)

    def _not_while_capturing(self, call: str) -> None:
        if self._capturing is not None:
            raise failed(call, "cudaErrorStreamCaptureUnsupported", "a stream is capturing")


class FakeGraph:
    """See `cuda.Graph`."""

    def __init__(self, gpu: FakeCuda, operations: tuple[Operation, ...]) -> None:
        self._gpu = gpu
        self._operations: tuple[Operation, ...] | None = operations

    def launch(self, stream: int) -> None:
        if self._operations is None:
            raise failed("cudaGraphLaunch", "cudaErrorInvalidValue", "the graph is closed")
        self._gpu.log.append(("launch", stream))
        for operation in self._operations:
            self._gpu.enqueue(stream, operation.work, operation.milliseconds, operation.kind)

    def close(self) -> None:
        if self._operations is not None:
            self._operations = None
            self._gpu._graphs -= 1
