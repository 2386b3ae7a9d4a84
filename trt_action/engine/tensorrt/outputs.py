"""Outputs whose size TensorRT knows only after the values: it asks for memory while it runs."""

from __future__ import annotations

from typing import Any

import numpy as np

from trt_action.engine.backend import Array
from trt_action.engine.cuda import Cuda
from trt_action.errors import TrtActionError


class Growing:
    """Memory of one output on both sides; it grows and never shrinks, so that a warmed-up inference allocates nothing."""

    def __init__(self, gpu: Cuda, dtype: np.dtype[Any]) -> None:
        self._gpu = gpu
        self._dtype = dtype
        self._capacity = 0
        self._pointer: int | None = None
        self._raw: Array | None = None
        self.shape: tuple[int, ...] = ()
        self.failure: TrtActionError | None = None

    def at_least(self, nbytes: int) -> int:
        """A device pointer to `nbytes` bytes; 0 where there is no memory (`failure` says why)."""
        self.failure = None  # of an earlier inference
        try:
            if self._pointer is None or nbytes > self._capacity:
                self.free()
                self._pointer = self._gpu.allocate(nbytes)
                self._capacity = nbytes
        except TrtActionError as error:  # nothing may leave a callback from C++
            self.failure = error.with_traceback(None)  # its frames hold what must be able to go
            return 0
        return self._pointer

    def download(self, stream: int) -> None:
        """Enqueue the copy of what the last inference wrote."""
        if self._pointer is not None:
            self._gpu.to_host(self._bytes(), self._pointer, stream)

    def host(self) -> Array:
        """What was downloaded last, in its shape."""
        return self._bytes().view(self._dtype).reshape(self.shape)

    def free(self) -> None:
        if self._raw is not None:
            self._gpu.free_pinned(self._raw)
            self._raw = None
        if self._pointer is not None:
            self._gpu.free(self._pointer)
            self._pointer, self._capacity = None, 0

    def _bytes(self) -> Array:
        if self._raw is None or self._raw.nbytes < self._capacity:
            if self._raw is not None:
                self._gpu.free_pinned(self._raw)
            self._raw = self._gpu.pinned(self._capacity)
        return self._raw[: int(np.prod(self.shape, dtype=np.int64)) * self._dtype.itemsize]


def allocator(trt: Any, growing: Growing) -> Any:
    """An `IOutputAllocator` over `growing`. TensorRT does not own it: keep it as long as the execution context."""

    class _Allocator(trt.IOutputAllocator):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)

        def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
            return growing.at_least(size)

        def reallocate_output_async(self, tensor_name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            return growing.at_least(size)

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            growing.shape = tuple(shape)

    return _Allocator()
