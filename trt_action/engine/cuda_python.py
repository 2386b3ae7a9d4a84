"""`cuda.Cuda` on cuda-python (`cuda.bindings`, NVIDIA's own): the default."""

from __future__ import annotations

import contextlib
import ctypes
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from cuda.bindings import __version__, runtime

from trt_action.engine.cuda import Array, Cuda, Graph, failed, no_driver, no_such_gpu, old_driver

_OK = runtime.cudaError_t.cudaSuccess
_UP = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
_DOWN = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost


def open_device(device: int) -> Cuda:
    """See `cuda.cuda`."""
    error, count = runtime.cudaGetDeviceCount()
    if error != _OK or not count:
        if error == runtime.cudaError_t.cudaErrorNoDevice or error == _OK:
            raise no_driver("CUDA's driver sees no GPU (`CUDA_VISIBLE_DEVICES`, or the container has none).")
        driver = runtime.cudaDriverGetVersion()[1]
        if driver == 0:  # CUDA itself calls that an insufficient version
            raise no_driver("There is no driver of NVIDIA's here.")
        if error == runtime.cudaError_t.cudaErrorInsufficientDriver:
            raise old_driver(f"cuda-bindings {__version__}", _version(driver))
        raise no_driver(f"CUDA {_version(runtime.cudaRuntimeGetVersion()[1])} says {_name(error)}: {_words(error)}.")
    if device >= count:
        raise no_such_gpu(device, count)
    _check(runtime.cudaSetDevice(device), "cudaSetDevice")
    # Spinning is what trtexec does by default since TensorRT 11. Refused if a context is already open: no matter.
    runtime.cudaSetDeviceFlags(runtime.cudaDeviceScheduleSpin)
    return CudaPython(device)


class CudaPython:
    """See `cuda.Cuda`."""

    def __init__(self, device: int) -> None:
        self.binding = f"cuda-python {__version__}"
        self._device = device
        self._properties = _check(runtime.cudaGetDeviceProperties(device), "cudaGetDeviceProperties")

    def name(self) -> str:
        return str(self._properties.name.decode(errors="replace")).strip("\0 ")

    def uuid(self) -> str:
        return f"GPU-{uuid.UUID(bytes=bytes(bytearray(self._properties.uuid.bytes[:16])))}"

    def capability(self) -> tuple[int, int]:
        return int(self._properties.major), int(self._properties.minor)

    def versions(self) -> dict[str, str]:
        return {
            "driver": _version(_check(runtime.cudaDriverGetVersion(), "cudaDriverGetVersion")),
            "runtime": _version(_check(runtime.cudaRuntimeGetVersion(), "cudaRuntimeGetVersion")),
        }

    def memory(self) -> tuple[int, int]:
        free, total = _check(runtime.cudaMemGetInfo(), "cudaMemGetInfo")
        return int(free), int(total)

    def allocate(self, nbytes: int) -> int:
        return int(_check(runtime.cudaMalloc(max(nbytes, 1)), f"cudaMalloc({nbytes})"))

    def free(self, pointer: int) -> None:
        _check(runtime.cudaFree(pointer), "cudaFree")

    def pinned(self, nbytes: int) -> npt.NDArray[np.uint8]:
        size = max(nbytes, 1)
        address = int(_check(runtime.cudaHostAlloc(size, runtime.cudaHostAllocDefault), f"cudaHostAlloc({nbytes})"))
        memory: npt.NDArray[np.uint8] = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        return memory[:nbytes]

    def free_pinned(self, array: npt.NDArray[np.uint8]) -> None:
        _check(runtime.cudaFreeHost(array.ctypes.data), "cudaFreeHost")

    def stream(self) -> int:
        return int(_check(runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking), "cudaStreamCreate"))

    def destroy_stream(self, stream: int) -> None:
        _check(runtime.cudaStreamDestroy(stream), "cudaStreamDestroy")

    def to_device(self, pointer: int, host: Array, stream: int) -> None:
        _check(runtime.cudaMemcpyAsync(pointer, address(host), host.nbytes, _UP, stream), "cudaMemcpyAsync")

    def to_host(self, host: Array, pointer: int, stream: int) -> None:
        _check(runtime.cudaMemcpyAsync(address(host), pointer, host.nbytes, _DOWN, stream), "cudaMemcpyAsync")

    def copies(self, pairs: Sequence[tuple[int, Array]], stream: int, *, to_device: bool) -> Callable[[], None]:
        copy, handle, kind = runtime.cudaMemcpyAsync, runtime.cudaStream_t(stream), _UP if to_device else _DOWN
        chosen = [(pointer, host) for pointer, host in pairs if host.nbytes]
        ends = [(p, address(h), h.nbytes) if to_device else (address(h), p, h.nbytes) for p, h in chosen]

        def enqueue() -> None:
            for target, source, nbytes in ends:
                result = copy(target, source, nbytes, kind, handle)
                if result[0] != _OK:
                    _check(result, "cudaMemcpyAsync")

        return enqueue

    def synchronize(self, stream: int) -> None:
        result = runtime.cudaStreamSynchronize(stream)
        if result[0] != _OK:
            _check(result, "cudaStreamSynchronize")

    def event(self) -> int:
        return int(_check(runtime.cudaEventCreateWithFlags(runtime.cudaEventDefault), "cudaEventCreate"))

    def destroy_event(self, event: int) -> None:
        _check(runtime.cudaEventDestroy(event), "cudaEventDestroy")

    def record(self, event: int, stream: int) -> None:
        result = runtime.cudaEventRecord(event, stream)
        if result[0] != _OK:
            _check(result, "cudaEventRecord")

    def elapsed_ms(self, start: int, stop: int) -> float:
        return float(_check(runtime.cudaEventElapsedTime(start, stop), "cudaEventElapsedTime"))

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        _check(runtime.cudaSetDevice(self._device), "cudaSetDevice")
        yield

    def capture(self, stream: int, work: Callable[[], None]) -> Graph:
        # Thread-local: other threads of this process may allocate meanwhile.
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _check(runtime.cudaStreamBeginCapture(stream, mode), "cudaStreamBeginCapture")
        try:
            work()
        except BaseException:
            runtime.cudaStreamEndCapture(stream)  # or the stream could not be used again
            raise
        return _Graph(_check(runtime.cudaStreamEndCapture(stream), "cudaStreamEndCapture"))


class _Graph:
    def __init__(self, graph: Any) -> None:
        try:
            self._executable = _check(runtime.cudaGraphInstantiate(graph, 0), "cudaGraphInstantiate")
        finally:
            runtime.cudaGraphDestroy(graph)

    def launch(self, stream: int) -> None:
        result = runtime.cudaGraphLaunch(self._executable, stream)
        if result[0] != _OK:
            _check(result, "cudaGraphLaunch")

    def close(self) -> None:
        if self._executable is not None:
            _check(runtime.cudaGraphExecDestroy(self._executable), "cudaGraphExecDestroy")
            self._executable = None


def address(host: Array) -> int:
    """Where the values lie.

    Raises:
        ValueError: they do not lie in one piece.
    """
    if not host.flags.c_contiguous:
        raise ValueError("only C-contiguous arrays are copied to and from a GPU")
    return int(host.ctypes.data)


def _check(result: tuple[Any, ...], call: str) -> Any:
    """What a call of the runtime returned, without its status."""
    error, *values = result
    if error != _OK:
        raise failed(call, _name(error), _words(error))
    return values[0] if len(values) == 1 else values


def _name(error: Any) -> str:
    return str(runtime.cudaGetErrorName(error)[1].decode(errors="replace"))


def _words(error: Any) -> str:
    return str(runtime.cudaGetErrorString(error)[1].decode(errors="replace"))


def _version(number: int) -> str:
    """13000 → `13.0`."""
    return f"{number // 1000}.{number % 1000 // 10}"
