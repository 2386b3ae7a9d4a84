"""`cuda.Cuda` on pycuda: for environments that have it already. It has no graphs, and opens the primary context."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pycuda
import pycuda.driver as driver

from trt_action.engine.cuda import Array, Cuda, Graph, failed, no_driver, no_such_gpu
from trt_action.errors import BackendUnavailableError

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, which pycuda does not name


def open_device(device: int) -> Cuda:
    """See `cuda.cuda`."""
    try:
        driver.init()
        count = driver.Device.count()
    except driver.Error as error:
        raise no_driver(f"pycuda says: {error}") from None
    if not count:
        raise no_driver("CUDA's driver sees no GPU (`CUDA_VISIBLE_DEVICES`, or the container has none).")
    if device >= count:
        raise no_such_gpu(device, count)
    return PyCuda(device)


class PyCuda:
    """See `cuda.Cuda`. pycuda frees what its objects hold when they go: they are kept here, by the numbers that the
    contract hands out."""

    def __init__(self, device: int) -> None:
        self.binding = f"pycuda {pycuda.VERSION_TEXT}"
        self._number = device
        self._device = driver.Device(device)
        self._context = self._device.retain_primary_context()
        self._context.push()
        self._home = threading.get_ident()
        atexit.register(self._context.pop)  # pycuda aborts the process when a context is left on its stack
        self._held: dict[int, Any] = {}

    def name(self) -> str:
        return str(self._device.name())

    def uuid(self) -> str:
        raw, handle = (ctypes.c_uint8 * 16)(), ctypes.c_int()
        library = ctypes.CDLL("libcuda.so.1")  # loaded already; pycuda does not ask for UUIDs
        ask = getattr(library, "cuDeviceGetUuid_v2", library.cuDeviceGetUuid)
        status = library.cuDeviceGet(ctypes.byref(handle), self._number) or ask(raw, handle)
        if status:
            raise failed("cuDeviceGetUuid", f"CUresult {status}", "the driver does not tell it")
        return f"GPU-{uuid.UUID(bytes=bytes(raw))}"

    def capability(self) -> tuple[int, int]:
        major, minor = self._device.compute_capability()
        return int(major), int(minor)

    def versions(self) -> dict[str, str]:
        number = driver.get_driver_version()
        return {
            "driver": f"{number // 1000}.{number % 1000 // 10}",
            "runtime": ".".join(str(part) for part in driver.get_version()[:2]),
        }

    def memory(self) -> tuple[int, int]:
        with _errors("cuMemGetInfo"):
            free, total = driver.mem_get_info()
        return int(free), int(total)

    def allocate(self, nbytes: int) -> int:
        with _errors(f"cuMemAlloc({nbytes})"):
            return self._keep(driver.mem_alloc(max(nbytes, 1)))

    def free(self, pointer: int) -> None:
        with _errors("cuMemFree"):
            self._held.pop(pointer).free()

    def pinned(self, nbytes: int) -> npt.NDArray[np.uint8]:
        with _errors(f"cuMemHostAlloc({nbytes})"):
            array: npt.NDArray[np.uint8] = driver.pagelocked_empty(max(nbytes, 1), np.uint8)
        self._held[array.ctypes.data] = array
        return array[:nbytes]

    def free_pinned(self, array: npt.NDArray[np.uint8]) -> None:
        with _errors("cuMemFreeHost"):
            self._held.pop(array.ctypes.data).base.free()

    def stream(self) -> int:
        with _errors("cuStreamCreate"):
            stream = driver.Stream(_NON_BLOCKING)
        self._held[int(stream.handle)] = stream
        return int(stream.handle)

    def destroy_stream(self, stream: int) -> None:
        self.synchronize(stream)
        del self._held[stream]

    def to_device(self, pointer: int, host: Array, stream: int) -> None:
        with _errors("cuMemcpyHtoDAsync"):
            driver.memcpy_htod_async(pointer, host, self._held[stream])

    def to_host(self, host: Array, pointer: int, stream: int) -> None:
        with _errors("cuMemcpyDtoHAsync"):
            driver.memcpy_dtoh_async(host, pointer, self._held[stream])

    def copies(self, pairs: Sequence[tuple[int, Array]], stream: int, *, to_device: bool) -> Callable[[], None]:
        held, chosen = self._held[stream], [(pointer, host) for pointer, host in pairs if host.nbytes]

        def upload() -> None:
            with _errors("cuMemcpyHtoDAsync"):
                for pointer, host in chosen:
                    driver.memcpy_htod_async(pointer, host, held)

        def download() -> None:
            with _errors("cuMemcpyDtoHAsync"):
                for pointer, host in chosen:
                    driver.memcpy_dtoh_async(host, pointer, held)

        return upload if to_device else download

    def synchronize(self, stream: int) -> None:
        with _errors("cuStreamSynchronize"):
            self._held[stream].synchronize()

    def event(self) -> int:
        with _errors("cuEventCreate"):
            event = driver.Event()
        self._held[id(event)] = event
        return id(event)

    def destroy_event(self, event: int) -> None:
        del self._held[event]

    def record(self, event: int, stream: int) -> None:
        with _errors("cuEventRecord"):
            self._held[event].record(self._held[stream])

    def elapsed_ms(self, start: int, stop: int) -> float:
        with _errors("cuEventElapsedTime"):
            return float(self._held[start].time_till(self._held[stop]))

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        if threading.get_ident() == self._home:
            yield
            return
        self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    def capture(self, stream: int, work: Callable[[], None]) -> Graph:
        raise BackendUnavailableError(
            "pycuda has no CUDA graphs.", fix="Install cuda-python: `pip install 'trt-action[cuda]'`."
        )

    def _keep(self, allocation: Any) -> int:
        self._held[int(allocation)] = allocation
        return int(allocation)


@contextlib.contextmanager
def _errors(call: str) -> Iterator[None]:
    """pycuda's exceptions as ours; their text begins with CUDA's own name of the error."""
    try:
        yield
    except driver.Error as error:
        name = "CUDA_ERROR_OUT_OF_MEMORY" if isinstance(error, driver.MemoryError) else type(error).__name__
        raise failed(call, name, str(error)) from None
