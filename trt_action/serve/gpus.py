"""The GPUs of this host as NVML sees them right now, for `/metrics`. None of it is there without `nvidia-ml-py`, a driver
or a GPU; whatever a GPU hides is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Reading = tuple[str, str, str, float]
"""UUID, metric, its help, value."""


class Gpus:
    """Every GPU that this process may see."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self._handles: list[tuple[str, Any]] = []
        try:
            import pynvml
        except ImportError:
            return
        try:
            pynvml.nvmlInit()
            for index in range(pynvml.nvmlDeviceGetCount()):
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                self._handles.append((_text(pynvml.nvmlDeviceGetUUID(handle)), handle))
        except pynvml.NVMLError:
            return
        self._nvml = pynvml

    def readings(self) -> Iterator[Reading]:
        """Triton's names where it has one; utilization is a share, power in W, energy in J."""
        for uuid, handle in self._handles if self._nvml is not None else ():
            for name, words, read in self._wanted(handle):
                try:
                    yield uuid, name, words, float(read())
                except self._nvml.NVMLError:
                    continue

    def _wanted(self, handle: Any) -> list[tuple[str, str, Callable[[], float]]]:
        n = self._nvml
        return [
            ("nv_gpu_utilization", "Share of the last moments in which a kernel ran.",
             lambda: n.nvmlDeviceGetUtilizationRates(handle).gpu / 100),
            ("nv_gpu_memory_total_bytes", "Memory of the GPU.", lambda: n.nvmlDeviceGetMemoryInfo(handle).total),
            ("nv_gpu_memory_used_bytes", "Memory in use by everybody.", lambda: n.nvmlDeviceGetMemoryInfo(handle).used),
            ("nv_gpu_power_usage", "Power, W.", lambda: n.nvmlDeviceGetPowerUsage(handle) / 1000),
            ("nv_gpu_power_limit", "Enforced limit of the power, W.",
             lambda: n.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000),
            ("nv_energy_consumption", "Energy since the driver was loaded, J.",
             lambda: n.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000),
            ("trt_action_gpu_temperature_celsius", "Temperature of the GPU.",
             lambda: n.nvmlDeviceGetTemperature(handle, n.NVML_TEMPERATURE_GPU)),
            ("trt_action_gpu_sm_clock_hertz", "Clock of the multiprocessors.",
             lambda: n.nvmlDeviceGetClockInfo(handle, n.NVML_CLOCK_SM) * 1e6),
        ]  # fmt: skip


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
