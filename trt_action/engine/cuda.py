"""CUDA as this product needs it: memory, copies, streams, events, graphs. The only door to a CUDA library.

Two bindings stand behind it (docs/decisions/0010-cuda-python.md): cuda-python (`cuda.bindings`), and pycuda for those
who have it already. The first that imports is taken; `TRT_ACTION_CUDA=cuda-python` or `=pycuda` names one. Neither is
imported before `cuda()` is called, and no process but a worker's should call it: it opens a context on the GPU.

Pointers, streams and events are plain integers, as TensorRT and ONNX Runtime take them.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from trt_action.errors import BackendUnavailableError, MeasureError, OutOfMemoryError, TrtActionError
from trt_action.inputs import quote

Array = npt.NDArray[Any]

CHOICE = "TRT_ACTION_CUDA"
_BINDINGS = {
    "cuda-python": ("cuda.bindings", "trt_action.engine.cuda_python"),
    "pycuda": ("pycuda", "trt_action.engine.cuda_pycuda"),
}
INSTALL = "Install it for this Python: `pip install 'trt-action[cuda]'`."


class Graph(Protocol):
    """A captured sequence of work."""

    def launch(self, stream: int) -> None:
        """Enqueue everything that was captured; returns before it has run."""

    def close(self) -> None: ...


class Cuda(Protocol):
    """One GPU, current in the thread that asked for it. Every method raises `OutOfMemoryError` where memory runs out
    and `MeasureError` for any other error of CUDA, with its own name and words for it.

    A copy is asynchronous only from and to memory of `pinned`. Work on one stream is done in the order it was put there.
    """

    binding: str
    """For the record, e.g. `cuda-python 13.5.0`."""

    def name(self) -> str: ...
    def uuid(self) -> str:
        """As NVML writes it: `GPU-8-4-4-4-12` in lower-case hexadecimal. A MIG instance has its own, behind `GPU-` too."""

    def capability(self) -> tuple[int, int]: ...
    def versions(self) -> dict[str, str]:
        """`driver`: the newest CUDA that the driver can run; `runtime`: the one of the library. E.g. `13.0`."""

    def memory(self) -> tuple[int, int]:
        """Free and total bytes of the GPU (or of the MIG instance)."""

    def allocate(self, nbytes: int) -> int:
        """Device memory; `nbytes` may be 0 (the pointer is valid, and to be freed)."""

    def free(self, pointer: int) -> None: ...
    def pinned(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """Page-locked host memory; must not be used after `free_pinned`."""

    def free_pinned(self, array: npt.NDArray[np.uint8]) -> None: ...
    def stream(self) -> int:
        """A new stream that does not wait for the default one."""

    def destroy_stream(self, stream: int) -> None: ...
    def to_device(self, pointer: int, host: Array, stream: int) -> None:
        """Enqueue a copy of the whole C-contiguous `host`."""

    def to_host(self, host: Array, pointer: int, stream: int) -> None:
        """Enqueue a copy that fills the whole C-contiguous `host`."""

    def copies(self, pairs: Sequence[tuple[int, Array]], stream: int, *, to_device: bool) -> Callable[[], None]:
        """A function that enqueues the copies of all (pointer, host) pairs: for timed loops, everything is looked up
        now. The arrays must outlive it."""

    def synchronize(self, stream: int) -> None:
        """Wait until everything on the stream is done; the CPU spins meanwhile."""

    def event(self) -> int:
        """A new event that takes times."""

    def destroy_event(self, event: int) -> None: ...
    def record(self, event: int, stream: int) -> None: ...
    def elapsed_ms(self, start: int, stop: int) -> float:
        """GPU time between two recorded events whose work is done."""

    def current(self) -> AbstractContextManager[None]:
        """For another thread than the one that opened this GPU: in it, work and memory are of this GPU."""

    def capture(self, stream: int, work: Callable[[], None]) -> Graph:
        """What `work` enqueues on `stream`, not run but kept.

        Raises:
            BackendUnavailableError: the binding has no graphs (pycuda).
        """


def cuda(device: int = 0) -> Cuda:
    """The GPU of that number among those that this process may see (`CUDA_VISIBLE_DEVICES` counts).

    Raises:
        BackendUnavailableError: no binding is installed, there is no driver, or no such GPU.
    """
    found: Cuda = importlib.import_module(_binding()).open_device(device)
    return found


def parse_device(text: str) -> int | None:
    """`cpu` → None; `cuda` or `cuda:N` → N.

    Raises:
        BackendUnavailableError: something else.
    """
    if text == "cpu":
        return None
    found = re.fullmatch(r"cuda(?::(\d{1,4}))?", text)
    if found is None:
        raise BackendUnavailableError(f"There is no device {quote(text)}.", fix="Use `cpu`, `cuda` or `cuda:N`.")
    return int(found[1] or 0)


def _binding() -> str:
    asked = os.environ.get(CHOICE, "")
    if asked and asked not in _BINDINGS:
        raise BackendUnavailableError(
            f"`{CHOICE}={quote(asked)}` names no CUDA binding.", fix=f"Use one of: {', '.join(_BINDINGS)}."
        )
    said = []
    for name in [asked] if asked else _BINDINGS:
        library, ours = _BINDINGS[name]
        try:
            importlib.import_module(library)
        except ImportError as error:
            said.append(f"{name}: {' '.join(str(error).split())[:200]}")
        else:
            return ours
    raise BackendUnavailableError("No CUDA binding for Python is usable.", why="; ".join(said), fix=INSTALL)


def no_driver(words: str) -> BackendUnavailableError:
    """For the bindings: the library is there, the GPU is not."""
    return BackendUnavailableError(
        "No NVIDIA GPU can be used here.",
        why=words,
        fix="Check that `nvidia-smi` works here (in a container: `--gpus all`), or set `device: cpu`.",
    )


def old_driver(library: str, newest: str) -> BackendUnavailableError:
    """For the bindings: there is a GPU, whose driver is older than what `library` was made for. `newest`: CUDA's version that
    the driver can run."""
    return BackendUnavailableError(
        f"The driver of this host's GPU is too old for {library}.",
        why=f"The driver runs CUDA {newest} at most.",
        fix=f"Update the driver (CUDA 13 needs 580 or newer), or install libraries for CUDA {newest.partition('.')[0]}: "
        f"`pip install 'cuda-bindings<{int(newest.partition('.')[0]) + 1}'`, and builds of TensorRT or ONNX Runtime for it.",
    )


def no_such_gpu(device: int, count: int) -> BackendUnavailableError:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return BackendUnavailableError(
        f"There is no GPU {device}: {count} {'is' if count == 1 else 'are'} visible, counted from 0.",
        why=f"`CUDA_VISIBLE_DEVICES` is {quote(visible)}." if visible is not None else "",
        fix="Use a smaller number in `device: cuda:N`, or give the process more GPUs.",
    )


def failed(call: str, name: str, words: str) -> TrtActionError:
    """CUDA's own error as ours. `name` as CUDA writes it, e.g. `cudaErrorMemoryAllocation`."""
    if "MemoryAllocation" in name or "OUT_OF_MEMORY" in name:
        return OutOfMemoryError(
            f"The GPU ran out of memory in {call}.",
            why=f"{name}: {words}",
            fix="Use a smaller batch or shape profile, or end the other processes on this GPU (`nvidia-smi`).",
        )
    return MeasureError(
        f"CUDA failed in {call}: {name} ({words}).",
        why="An error of CUDA is reported by the next call, so its cause may lie before it.",
        fix="Run again with `CUDA_LAUNCH_BLOCKING=1` to find the place; check `nvidia-smi -q` and `dmesg` for Xid errors.",
    )
