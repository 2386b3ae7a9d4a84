"""Which device does a run measure on? A name that a person asked for becomes `cpu` or `cuda:N`, and a GPU with a UUID.

No process but a short child opens CUDA here: the parent of the measuring workers must not be a neighbour of theirs.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from trt_action import process
from trt_action.engine import cuda
from trt_action.errors import BackendUnavailableError

DEVICE_FILES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg")
"""One of them is there wherever a GPU can be used: Linux and containers; WSL 2."""

TIMEOUT = 120.0


@dataclass(frozen=True)
class Device:
    """One GPU as CUDA tells it. `number` counts the GPUs that this process may see, `uuid` is how NVML finds it."""

    number: int
    name: str
    uuid: str
    capability: str
    driver_cuda: str
    total_bytes: int
    binding: str


def visible() -> bool:
    """Whether this host has device files of an NVIDIA GPU; the GPU may still be unusable."""
    return any(Path(name).exists() for name in DEVICE_FILES)


def resolve_device(backend: str, asked: str) -> str:
    """`auto`, `cpu`, `cuda` or `cuda:N` → `cpu` or `cuda:N`.

    `auto` is the first GPU where one is visible (for ONNX Runtime: and the library has the CUDA provider); from then on
    every failure of it is an error, never a fall-back. Without one, a backend that needs a GPU can build at most.

    Raises:
        BackendUnavailableError: no such device, or (`cuda` asked for) none that can be used.
    """
    if asked != "auto":
        number = cuda.parse_device(asked)
        if number is None:
            return "cpu"
        if not visible():
            raise cuda.no_driver("This host has no device files of an NVIDIA GPU (`/dev/nvidia*`).")
        return f"cuda:{number}"
    usable = visible() and (backend != "onnxruntime" or onnxruntime_has_cuda())
    return "cuda:0" if usable else "cpu"


@functools.cache
def facts(number: int) -> Device:
    """Asked once, from a child process.

    Raises:
        BackendUnavailableError: no binding, no driver, no such GPU.
    """
    answer = process.call(
        "trt_action.engine.worker:device", {"device": number}, timeout=TIMEOUT, died=BackendUnavailableError
    )
    return Device(number=number, **answer)


@functools.cache
def onnxruntime_has_cuda() -> bool:
    """Whether the installed library was built with the CUDA provider."""
    from trt_action.engine import ort_cuda

    try:
        import onnxruntime
    except ImportError:
        return False
    return ort_cuda.available(onnxruntime)
