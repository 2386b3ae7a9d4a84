"""Every NVIDIA GPU of this host as the driver knows it, whether or not CUDA may use it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from trt_action.engine import nvml
from trt_action.errors import BackendUnavailableError
from trt_action.gpu_records import GpuSample

MOST = 64
"""GPUs and instances that are looked at."""


@dataclass(frozen=True)
class Found:
    """One GPU or MIG instance: `identity` as `nvml.Gpu.identity` gives it, and its state now."""

    identity: dict[str, Any]
    now: GpuSample

    @property
    def free_bytes(self) -> int | None:
        total, used = self.identity.get("memory_bytes"), self.now.memory_used_bytes
        return None if total is None or used is None else max(int(total) - used, 0)


@dataclass(frozen=True)
class Inventory:
    """Versions of the driver and of the newest CUDA that it runs, e.g. `580.95` and `13.0`; GPUs by their bus."""

    driver: str | None
    cuda: str | None
    gpus: tuple[Found, ...]


def inventory(library: Any = None) -> Inventory:
    """Ask NVML.

    Args:
        library: `pynvml`, or what behaves like it.

    Raises:
        BackendUnavailableError: it is not installed, or the driver does not answer.
    """
    n = library or _library()
    try:
        n.nvmlInit()
    except n.NVMLError as error:
        raise _no_driver(n, error) from None
    try:
        cuda = _get(n, n.nvmlSystemGetCudaDriverVersion)
        driver = _get(n, n.nvmlSystemGetDriverVersion)
        return Inventory(
            driver=None if driver is None else str(driver),
            cuda=f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else None,
            gpus=tuple(found for uuid in _uuids(n) if (found := _found(n, uuid))),
        )
    finally:
        with contextlib.suppress(n.NVMLError):
            n.nvmlShutdown()


def _library() -> Any:
    try:
        import pynvml
    except ImportError:
        raise BackendUnavailableError(
            "nvidia-ml-py is not installed, so that nobody can ask the driver.", fix="`pip install 'trt-action[cuda]'`."
        ) from None
    return pynvml


def _no_driver(n: Any, error: Exception) -> BackendUnavailableError:
    value = getattr(error, "value", None)
    fix = "Install NVIDIA's driver (`nvidia-smi` must list the GPU); in a container: `docker run --gpus all …`."
    if value == n.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
        fix = "The driver was updated while it runs: restart this host."
    elif value == n.NVML_ERROR_NO_PERMISSION:
        fix = "Give this user the GPU's device files (`ls -l /dev/nvidia*`)."
    return BackendUnavailableError(f"NVIDIA's driver does not answer: {error}.", fix=fix)


def _uuids(n: Any) -> list[str]:
    """Of every GPU; of its instances instead where it is split."""
    found: list[str] = []
    for index in range(min(_get(n, n.nvmlDeviceGetCount) or 0, MOST)):
        handle = _get(n, lambda index=index: n.nvmlDeviceGetHandleByIndex(index))
        if handle is not None:
            found += _instances(n, handle) or _uuid(n, handle)
    return found[:MOST]


def _instances(n: Any, handle: Any) -> list[str]:
    """UUIDs of a GPU's MIG instances; empty where MIG is off or unknown."""
    if not (_get(n, lambda: n.nvmlDeviceGetMigMode(handle)) or [0])[0]:
        return []
    found: list[str] = []
    for index in range(min(_get(n, lambda: n.nvmlDeviceGetMaxMigDeviceCount(handle)) or 0, MOST)):
        instance = _get(n, lambda index=index: n.nvmlDeviceGetMigDeviceHandleByIndex(handle, index))
        if instance is not None:
            found += _uuid(n, instance)
    return found


def _uuid(n: Any, handle: Any) -> list[str]:
    uuid = _get(n, lambda: n.nvmlDeviceGetUUID(handle))
    return [] if uuid is None else [uuid.decode() if isinstance(uuid, bytes) else str(uuid)]


def _found(n: Any, uuid: str) -> Found | None:
    try:
        gpu = nvml.Gpu(n, uuid)
    except n.NVMLError:
        return None
    try:
        return Found(gpu.identity(), gpu.sample("before", 0.0))
    finally:
        gpu.close()


def _get(n: Any, ask: Any) -> Any:
    """None where this driver does not tell."""
    try:
        return ask()
    except n.NVMLError:
        return None
