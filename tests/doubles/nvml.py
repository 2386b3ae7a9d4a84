"""`pynvml` with one GPU (or one MIG instance) in it: values to set, the real library's errors and constants.

Strict: nothing works before `nvmlInit` or after the last `nvmlShutdown`, a handle of the wrong kind is refused, and what
this GPU `lacks` raises what the real one raises.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pynvml

UUID = "GPU-11111111-2222-3333-4444-555555555555"
WHOLE, INSTANCE = object(), object()

H200: dict[str, Any] = {
    "nvmlDeviceGetName": "NVIDIA H200",
    "nvmlDeviceGetUUID": UUID,
    "nvmlDeviceGetMinorNumber": 0,
    "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=150_754_820_096, used=600_000_000, free=150_154_820_096),
    "nvmlDeviceGetCudaComputeCapability": (9, 0),
    "nvmlDeviceGetVbiosVersion": "96.00.A0.00.01",
    "nvmlDeviceGetMaxClockInfo": 1980,
    "nvmlDeviceGetApplicationsClock": 1980,
    "nvmlDeviceGetEnforcedPowerLimit": 700_000,
    "nvmlDeviceGetPersistenceMode": 1,
    "nvmlDeviceGetEccMode": [1, 1],
    "nvmlDeviceGetTotalEccErrors": 0,
    "nvmlDeviceGetMigMode": [0, 0],
    "nvmlDeviceGetComputeMode": 0,
    "nvmlDeviceGetMaxPcieLinkGeneration": 5,
    "nvmlDeviceGetMaxPcieLinkWidth": 16,
    "nvmlDeviceGetCurrPcieLinkWidth": 16,
    "nvmlDeviceGetClockInfo": 1980,
    "nvmlDeviceGetPerformanceState": 0,
    "nvmlDeviceGetCurrentClocksEventReasons": 0x1,
    "nvmlDeviceGetTemperature": 41,
    "nvmlDeviceGetPowerUsage": 121_500,
    "nvmlDeviceGetTotalEnergyConsumption": 9_000_000,
    "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=0, memory=0),
    "nvmlDeviceGetComputeRunningProcesses": [],
    "nvmlDeviceGetViolationStatus": SimpleNamespace(referenceTime=0, violationTime=0),
    "nvmlDeviceGetProcessUtilization": [],
}
OF_THE_INSTANCE = {
    "nvmlDeviceGetUUID",
    "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetUtilizationRates",
    "nvmlDeviceGetComputeRunningProcesses",
}


def process(pid: int, memory: int | None = 500_000_000) -> Any:
    return SimpleNamespace(pid=pid, usedGpuMemory=memory)


class FakeNvml:
    """`values` by function: what it returns, or a function of the arguments behind the handle."""

    NVMLError = pynvml.NVMLError

    def __init__(self, *, mig: bool = False, lacks: tuple[str, ...] = (), **values: Any) -> None:
        assert set(values) <= set(H200), "a function that the double does not know"
        self.values = {**H200, **values}
        self.mig, self.lacks = mig, lacks
        self.open = 0
        self.asked: list[str] = []

    def nvmlInit(self) -> None:  # noqa: N802 - the library's name
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        assert self.open, "shut down more often than initialised"
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        self._check()
        return "580.159.03"

    def nvmlSystemGetCudaDriverVersion(self) -> int:  # noqa: N802
        self._check()
        return 13000

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        self._check()
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> object:  # noqa: N802
        self._check()
        if index != 0:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return WHOLE

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: object) -> int:  # noqa: N802
        self._check()
        return 7 if handle is WHOLE else 0

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: object, index: int) -> object:  # noqa: N802
        self._check()
        if handle is not WHOLE or not self.mig or index != 2:  # one of seven places is taken
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return INSTANCE

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> object:  # noqa: N802
        self._check()
        if uuid == (UUID.replace("GPU", "MIG") if self.mig else UUID):
            return INSTANCE if self.mig else WHOLE
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle: object) -> object:  # noqa: N802
        self._check()
        if handle is not INSTANCE:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return WHOLE

    def __getattr__(self, name: str) -> Any:
        if name in H200:
            return self._function(name)
        if name.startswith("NVML_"):
            return getattr(pynvml, name)
        raise AttributeError(name)

    def _function(self, name: str) -> Callable[..., Any]:
        def ask(handle: object, *arguments: Any) -> Any:
            self._check()
            self.asked.append(name)
            expected = INSTANCE if self.mig and name in OF_THE_INSTANCE else WHOLE
            if name in self.lacks:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            if handle is not expected and name != "nvmlDeviceGetUUID":  # both have one
                raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
            value = self.values[name]
            if name == "nvmlDeviceGetUUID" and handle is INSTANCE:
                return UUID.replace("GPU", "MIG")
            return value(*arguments) if callable(value) else value

        return ask

    def _check(self) -> None:
        if not self.open:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)
