"""What NVIDIA's management library tells about the measured GPU: identity, clocks, throttling, neighbours.

Asked while nothing is timed: a query takes up to milliseconds. The GPU is found by its UUID, never by an index: NVML
counts by bus, CUDA by speed and by `CUDA_VISIBLE_DEVICES`. Whatever a GPU, a driver or a container hides is None.

Source: NVML API reference (docs.nvidia.com/deploy/nvml-api): nvmlClocksEventReasons, nvmlPerfPolicyType_t.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from trt_action.engine import telemetry
from trt_action.gpu_records import GpuProcess, GpuSample, Telemetry

T = TypeVar("T")

REASONS = {
    "ApplicationsClocksSetting": 0x2,
    "SwPowerCap": 0x4,
    "HwSlowdown": 0x8,
    "SyncBoost": 0x10,
    "SwThermalSlowdown": 0x20,
    "HwThermalSlowdown": 0x40,
    "HwPowerBrakeSlowdown": 0x80,
    "DisplayClockSetting": 0x100,
}
"""Bits of nvmlDeviceGetCurrentClocksEventReasons; idle (0x1) says nothing about a measurement."""

VIOLATIONS = {"power": 0, "thermal": 1, "sync-boost": 2, "board-limit": 3, "reliability": 5}
"""nvmlPerfPolicyType_t: counters of the time (ns) for which clocks were held down."""

BETWEEN_SAMPLES = 1.0
SETTLE = 2.0
"""Seconds for which our own processes may still be listed after they have ended."""

MAX_SET_ASIDE = 50
MAX_SET_ASIDE_SECONDS = 30.0
"""Windows measured again in a run, and the time they may take (those of a slow engine are long); a GPU that is slowed down
for longer is measured as it is, and doubted."""

BUSY = 0.1
"""Utilization with none of our processes running above which somebody else computes."""


class Gpu:
    """One GPU, or one MIG instance of it."""

    def __init__(self, library: Any, uuid: str) -> None:
        """Raises:
        library.NVMLError: no driver, or no such GPU.
        """
        self._nvml = library
        library.nvmlInit()
        try:
            self._instance = self._find(uuid)
        except library.NVMLError:
            library.nvmlShutdown()
            raise
        # Clocks, power and temperature belong to the whole GPU, memory and processes to the instance.
        self._whole = self._get(lambda: library.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self._instance))
        self.mig = self._whole is not None
        if self._whole is None:
            self._whole = self._instance

    def _find(self, uuid: str) -> Any:
        try:
            return self._nvml.nvmlDeviceGetHandleByUUID(uuid)
        except self._nvml.NVMLError:
            return self._nvml.nvmlDeviceGetHandleByUUID(uuid.replace("GPU-", "MIG-", 1))

    def close(self) -> None:
        self._nvml.nvmlShutdown()

    def identity(self) -> dict[str, Any]:
        """What stays as it is while it is measured: hardware, driver, and settings. Clocks in MHz, power in W."""
        n, whole, instance = self._nvml, self._whole, self._instance
        memory = self._get(lambda: n.nvmlDeviceGetMemoryInfo(instance))
        capability = self._get(lambda: n.nvmlDeviceGetCudaComputeCapability(whole))
        limit = self._get(lambda: n.nvmlDeviceGetEnforcedPowerLimit(whole))
        cuda = self._get(n.nvmlSystemGetCudaDriverVersion)
        return {
            "name": _text(self._get(lambda: n.nvmlDeviceGetName(whole))),
            "uuid": _text(self._get(lambda: n.nvmlDeviceGetUUID(instance))),
            "capability": f"{capability[0]}.{capability[1]}" if capability else None,
            "memory_bytes": memory.total if memory else None,
            "vbios": _text(self._get(lambda: n.nvmlDeviceGetVbiosVersion(whole))),
            "driver": _text(self._get(n.nvmlSystemGetDriverVersion)),
            "cuda_driver": f"{cuda // 1000}.{cuda % 1000 // 10}" if cuda else None,
            "max_sm_clock_mhz": self._get(lambda: n.nvmlDeviceGetMaxClockInfo(whole, n.NVML_CLOCK_SM)),
            "max_memory_clock_mhz": self._get(lambda: n.nvmlDeviceGetMaxClockInfo(whole, n.NVML_CLOCK_MEM)),
            "application_sm_clock_mhz": self._get(lambda: n.nvmlDeviceGetApplicationsClock(whole, n.NVML_CLOCK_SM)),
            "power_limit_watt": limit / 1000 if limit is not None else None,
            "persistence": _flag(self._get(lambda: n.nvmlDeviceGetPersistenceMode(whole))),
            "ecc": _flag((self._get(lambda: n.nvmlDeviceGetEccMode(whole)) or [None])[0]),
            "ecc_uncorrected": self._get(
                lambda: n.nvmlDeviceGetTotalEccErrors(whole, n.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, n.NVML_VOLATILE_ECC)
            ),
            "mig": _flag((self._get(lambda: n.nvmlDeviceGetMigMode(whole)) or [None])[0]),
            "mig_instance": self.mig,
            "compute_mode": _named(_COMPUTE_MODES, self._get(lambda: n.nvmlDeviceGetComputeMode(whole))),
            "max_pcie_generation": self._get(lambda: n.nvmlDeviceGetMaxPcieLinkGeneration(whole)),
            "max_pcie_width": self._get(lambda: n.nvmlDeviceGetMaxPcieLinkWidth(whole)),
            "pcie_width": self._get(lambda: n.nvmlDeviceGetCurrPcieLinkWidth(whole)),
        }

    def sample(self, moment: str, seconds: float) -> GpuSample:
        n, whole, instance = self._nvml, self._whole, self._instance
        memory = self._get(lambda: n.nvmlDeviceGetMemoryInfo(instance))
        power = self._get(lambda: n.nvmlDeviceGetPowerUsage(whole))
        energy = self._get(lambda: n.nvmlDeviceGetTotalEnergyConsumption(whole))
        return GpuSample(
            moment=moment,
            seconds=round(max(seconds, 0.0), 3),
            sm_clock_mhz=self._get(lambda: n.nvmlDeviceGetClockInfo(whole, n.NVML_CLOCK_SM)),
            memory_clock_mhz=self._get(lambda: n.nvmlDeviceGetClockInfo(whole, n.NVML_CLOCK_MEM)),
            performance_state=self._get(lambda: n.nvmlDeviceGetPerformanceState(whole)),
            clock_reasons=self._reasons(),
            temperature_c=self._get(lambda: n.nvmlDeviceGetTemperature(whole, n.NVML_TEMPERATURE_GPU)),
            power_watt=power / 1000 if power is not None else None,
            energy_joule=energy / 1000 if energy is not None else None,
            memory_used_bytes=memory.used if memory else None,
            gpu_utilization=self.utilization(),
            processes=self.processes(),
        )

    def utilization(self) -> float | None:
        """Share of the last moments in which a kernel ran."""
        found = self._get(lambda: self._nvml.nvmlDeviceGetUtilizationRates(self._instance))
        return None if found is None else min(max(found.gpu / 100, 0.0), 1.0)

    def minor(self) -> int | None:
        """The number of the device file (`/dev/nvidia3`): the same on the host and in every container."""
        number = self._get(lambda: self._nvml.nvmlDeviceGetMinorNumber(self._whole))
        return None if number is None else int(number)

    def memory_used(self) -> int | None:
        """Bytes in use by everybody."""
        memory = self._get(lambda: self._nvml.nvmlDeviceGetMemoryInfo(self._instance))
        return int(memory.used) if memory else None

    def processes(self) -> list[GpuProcess] | None:
        found = self._get(lambda: self._nvml.nvmlDeviceGetComputeRunningProcesses(self._instance))
        if found is None:
            return None
        return [GpuProcess(pid=int(one.pid), memory_bytes=_memory(one.usedGpuMemory)) for one in found]

    def violations(self) -> dict[str, float]:
        """Seconds since the driver was loaded for which clocks were held down, by cause; what it does not count is
        left out."""
        found = {
            name: self._get(lambda policy=policy: self._nvml.nvmlDeviceGetViolationStatus(self._whole, policy))  # type: ignore[misc]
            for name, policy in VIOLATIONS.items()
        }
        return {name: status.violationTime / 1e9 for name, status in found.items() if status is not None}

    def clocks(self) -> Clocks:
        """The three questions about a timed window; some 10 µs each."""
        n, whole = self._nvml, self._whole
        thermal = self._get(lambda: n.nvmlDeviceGetViolationStatus(whole, VIOLATIONS["thermal"]))
        return Clocks(
            held_down=not set(telemetry.SLOWED).isdisjoint(self._reasons() or ()),
            sm_mhz=self._get(lambda: n.nvmlDeviceGetClockInfo(whole, n.NVML_CLOCK_SM)),
            thermal_seconds=None if thermal is None else thermal.violationTime / 1e9,
        )

    def utilization_of(self, pids: Sequence[int], since_us: int) -> float | None:
        """Largest share of the GPU that these processes had together at one moment; None if it is not told."""
        found = self._get(lambda: self._nvml.nvmlDeviceGetProcessUtilization(self._whole, since_us))
        if found is None:
            return None
        moments: dict[int, int] = {}
        for one in found:
            if one.pid in pids:
                moments[one.timeStamp] = moments.get(one.timeStamp, 0) + one.smUtil
        return min(max(moments.values(), default=0) / 100, 1.0)

    def _reasons(self) -> list[str] | None:
        n = self._nvml
        ask = getattr(n, "nvmlDeviceGetCurrentClocksEventReasons", None)  # ThrottleReasons before driver 535
        bits = self._get(lambda: (ask or n.nvmlDeviceGetCurrentClocksThrottleReasons)(self._whole))
        return None if bits is None else [name for name, bit in REASONS.items() if bits & bit]

    def _get(self, ask: Callable[[], T]) -> T | None:
        try:
            return ask()
        except self._nvml.NVMLError:
            return None


@dataclass(frozen=True)
class Clocks:
    """`held_down`: for heat or by the hardware. `thermal_seconds`: counted since the driver was loaded. None: not told."""

    held_down: bool
    sm_mhz: int | None
    thermal_seconds: float | None

    def heated_since(self, before: Clocks) -> float:
        """Seconds held down for heat; 0 where one of the two answers is missing: the counter is of weeks."""
        if self.thermal_seconds is None or before.thermal_seconds is None:
            return 0.0
        return max(self.thermal_seconds - before.thermal_seconds, 0.0)

    def moved_since(self, before: Clocks) -> bool:
        low, high = sorted((before.sm_mhz or 0, self.sm_mhz or 0))
        return low > 0 and high - low > telemetry.MOVED * high


class Watch:
    """Watches the measured GPU from before the first inference until after the last one. Is `measure.windows.Windows`."""

    def __init__(
        self,
        gpu: Gpu,
        *,
        clock: Callable[[], float] = time.monotonic,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Takes the first sample; none of our processes may be on the GPU."""
        self._gpu, self._clock, self._sleep = gpu, clock, sleep
        self._start, self._last = clock(), clock()
        self._since_us = now_us()
        self._identity = gpu.identity()
        self._violations = gpu.violations()
        self._idle = self._settled_utilization()
        self._samples = [gpu.sample("before", 0.0)]
        self._clocks, self._begun = Clocks(held_down=False, sm_mhz=None, thermal_seconds=None), clock()
        self._set_aside = 0
        self._set_aside_seconds = self._set_aside_thermal = 0.0
        self._disturbed = self._held_down = 0

    @property
    def identity(self) -> dict[str, Any]:
        return self._identity

    @property
    def first(self) -> GpuSample:
        return self._samples[0]

    def look(self, *, windows: bool = False) -> None:
        """Between two timed parts; at most one sample per second is taken. `windows`: the parts are windows, so that clocks
        held down between them are no doubt."""
        if self._clock() - self._last < BETWEEN_SAMPLES:
            return
        excused = windows and self._sets_aside and self._gpu.clocks().held_down
        self._take("set-aside" if excused else "during")

    @property
    def _sets_aside(self) -> bool:
        return self._set_aside < MAX_SET_ASIDE and self._set_aside_seconds < MAX_SET_ASIDE_SECONDS

    def begin(self) -> None:
        """See `measure.windows.Windows`."""
        self._clocks, self._begun = self._gpu.clocks(), self._clock()

    def again(self) -> bool:
        """See `measure.windows.Windows`."""
        seconds = self._clock() - self._begun
        before, after = self._clocks, self._gpu.clocks()
        heated = after.heated_since(before)
        held_down = before.held_down or after.held_down or heated > 0
        if not (held_down or after.moved_since(before)):
            return False
        if not self._sets_aside:
            self._disturbed += 1
            self._held_down += held_down
            return False
        self._set_aside += 1
        self._set_aside_seconds += seconds
        self._set_aside_thermal += heated
        return True

    def finish(self) -> Telemetry:
        """The last sample, and what all of them mean. None of our processes is on the GPU any more."""
        self._wait_for_own_to_go()
        self._take("after")
        neighbours = telemetry.neighbours(self._samples)
        pids = [process.pid for process in neighbours]
        computed = self._gpu.utilization_of(pids, self._since_us) if pids else None
        after = self._gpu.violations()
        violated = {name: after[name] - before for name, before in self._violations.items() if name in after}
        with contextlib.suppress(self._gpu._nvml.NVMLError):
            self._gpu.close()
        return telemetry.judged(
            Telemetry(
                gpu=self._identity,
                samples=self._samples,
                violation_seconds={name: round(seconds, 6) for name, seconds in violated.items() if seconds > 0},
                set_aside=self._set_aside,
                set_aside_thermal_seconds=round(self._set_aside_thermal, 6),
                disturbed=self._disturbed,
                held_down=self._held_down,
                neighbours=neighbours,
                neighbour_utilization=computed,
            ),
            idle_utilization=self._idle,
            seconds=self._samples[-1].seconds,
        )

    def _take(self, moment: str) -> None:
        self._last = self._clock()
        self._samples.append(self._gpu.sample(moment, self._last - self._start))

    def _settled_utilization(self) -> float | None:
        """It is an average over the last second, in which we may have built an engine: wait until it falls."""
        least = self._gpu.utilization()
        for _ in range(20):
            if least is None or least <= BUSY:
                return least
            self._sleep(SETTLE / 20)
            now = self._gpu.utilization()
            least = least if now is None else min(least, now)
        return least

    def _wait_for_own_to_go(self) -> None:
        """The driver lists a process for a moment longer than it lives. Who came meanwhile and stays is a neighbour."""
        before = {process.pid for process in self._samples[0].processes or []}
        for _ in range(20):
            if not {process.pid for process in self._gpu.processes() or []} - before:
                return
            self._sleep(SETTLE / 20)


def watch(uuid: str) -> tuple[Watch | None, str]:
    """A watch over the GPU of that UUID, or None and why there is none."""
    gpu, why = find(uuid)
    return (Watch(gpu), "") if gpu is not None else (None, why)


def find(uuid: str) -> tuple[Gpu | None, str]:
    """The GPU in NVML, or None and why it is not there."""
    try:
        import pynvml
    except ImportError:
        return None, "nvidia-ml-py is not installed: `pip install 'trt-action[cuda]'`."
    try:
        return Gpu(pynvml, uuid), ""
    except pynvml.NVMLError as error:
        return None, f"NVML says: {error}."


def minor(uuid: str) -> int:
    """See `Gpu.minor`; 0 where nobody tells."""
    gpu, _ = find(uuid)
    if gpu is None:
        return 0
    with contextlib.closing(gpu):
        return gpu.minor() or 0


_COMPUTE_MODES = ("default", "exclusive-thread", "prohibited", "exclusive-process")


def _named(names: Sequence[str], index: int | None) -> str | None:
    return names[index] if index is not None and 0 <= index < len(names) else None


def _flag(value: Any) -> bool | None:
    return None if value is None else bool(value)


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return (value.decode(errors="replace") if isinstance(value, bytes) else str(value))[:200]


def _memory(value: Any) -> int | None:
    """None and the largest 64-bit number both mean that it is not told."""
    return int(value) if value is not None and 0 <= int(value) < 2**63 else None
