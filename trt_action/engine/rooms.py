"""Memory on a GPU for whoever serves: requests come in many sizes, and a warmed-up server allocates nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trt_action.engine.backend import Array
from trt_action.engine.cuda import Cuda
from trt_action.engine.device import Buffer

Shape = tuple[int, ...]
Wanted = Mapping[str, tuple[Shape, "np.dtype[Any]"]]
BYTES = np.dtype(np.uint8)

MAX_FITS = 256
"""Sets of shapes that a session remembers; batches of one model have as many as its largest batch has rows."""


@dataclass(frozen=True)
class Fit:
    """An inference of certain shapes, prepared: views of page-locked memory, and what is enqueued. `moves`: of the rooms
    that it was made for."""

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    upload: Callable[[], None]
    compute: Callable[[], None]
    download: Callable[[], None]
    moves: int


class Rooms:
    """One buffer per tensor, as large as the largest one that was ever needed."""

    def __init__(self, gpu: Cuda) -> None:
        self._gpu = gpu
        self._buffers: dict[str, Buffer] = {}
        self.moves = 0
        """Changes whenever an address does."""

    def make(self, wanted: Wanted) -> None:
        """Room for all of `wanted`. What is too small is freed first: there may be no memory for both.

        Raises:
            OutOfMemoryError: of the GPU, or of page-locked memory.
        """
        for name, (shape, dtype) in wanted.items():
            nbytes = max(math.prod(shape) * dtype.itemsize, 1)
            found = self._buffers.get(name)
            if found is None or found.host.nbytes < nbytes:
                self.moves += 1
                if found is not None:
                    del self._buffers[name]
                    found.free()
                self._buffers[name] = Buffer(self._gpu, (nbytes,), BYTES)

    def pointer(self, name: str) -> int:
        return self._buffers[name].pointer

    def views(self, wanted: Wanted) -> dict[str, Array]:
        """The host's sides, in these shapes."""
        return {
            name: self._buffers[name].host[: math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
            for name, (shape, dtype) in wanted.items()
        }

    def copies(self, views: Mapping[str, Array], stream: int, *, to_device: bool) -> Callable[[], None]:
        """What enqueues the copies of `views` to or from the device."""
        pairs = [(self.pointer(name), view) for name, view in views.items() if view.size]
        return self._gpu.copies(pairs, stream, to_device=to_device)

    def close(self) -> None:
        self.moves += 1
        while self._buffers:
            self._buffers.popitem()[1].free()


class Fits:
    """Prepared inferences by their shapes, as long as the rooms stay where they are."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._known: dict[tuple[Shape, ...], Fit] = {}

    def get(self, shapes: tuple[Shape, ...]) -> Fit | None:
        fit = self._known.get(shapes)
        return fit if fit is not None and fit.moves == self._rooms.moves else None

    def put(self, shapes: tuple[Shape, ...], fit: Fit) -> Fit:
        if len(self._known) >= MAX_FITS:
            self._known.clear()
        self._known[shapes] = fit
        return fit

    def clear(self) -> None:
        self._known.clear()


def run(fit: Fit, feeds: Mapping[str, Array], synchronize: Callable[[], None]) -> dict[str, Array]:
    """One inference; the outputs are copies: the rooms are the next inference's."""
    for name, view in fit.inputs.items():
        view[...] = feeds[name]
    fit.upload()
    fit.compute()
    fit.download()
    synchronize()
    return {name: np.array(view) for name, view in fit.outputs.items()}
