"""What a GPU adds to the evidence: times as trtexec takes them, and how the GPU was while it was measured."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from trt_action.records import Name, Record, Text


class Distribution(Record):
    """Durations of one part of an inference, ms. Percentiles by trtexec's rule:
    `sorted[max(n - 1 - int((1 - p/100) * n), 0)]`; the median is the middle value, or the mean of the two middle ones."""

    n: int = Field(ge=1)
    min_ms: float
    max_ms: float
    mean_ms: float
    median_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    cv: float = Field(ge=0, description="Coefficient of variation: standard deviation / mean.")


class DeviceLatency(Record):
    """Latency as trtexec defines it, from a pass of its own with CUDA events around the parts of an inference
    (docs/gpu.md). Queueing is in none of them."""

    latency: Distribution = Field(description="H2D + GPU compute + D2H: trtexec's `Latency`.")
    h2d: Distribution | None = Field(None, description="`H2D Latency`; null without transfers.")
    compute: Distribution = Field(description="`GPU Compute Time`.")
    d2h: Distribution | None = Field(None, description="`D2H Latency`; null without transfers.")
    enqueue: Distribution | None = Field(
        None, description="`Enqueue Time`, of the host; null where the runtime waits for the GPU in the same call."
    )
    transfers: bool
    cuda_graph: bool
    set_aside: int = Field(
        0,
        ge=0,
        description="Windows that do not count, because the GPU's clocks were held down or moved; measured again.",
    )
    warnings: list[Text] = Field(default_factory=list, description="trtexec's own warnings, where they apply.")


class GpuProcess(Record):
    """Somebody else's process with a compute context on the GPU. No names: what runs there is nobody's business."""

    pid: int = Field(description="As NVML tells it; of the host's numbering, also in a container.")
    memory_bytes: int | None = None


class GpuSample(Record):
    """The GPU at one moment, as NVML tells it; null is what this GPU or driver does not tell. Taken while no inference
    is timed."""

    moment: Name = Field(
        description="`before`, `during`, `set-aside` (during, between windows that do not count) or `after`."
    )
    seconds: float = Field(ge=0, description="Since the first sample.")
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    performance_state: int | None = None
    clock_reasons: list[Name] | None = Field(None, description="Why clocks are not higher; idle is left out.")
    temperature_c: int | None = None
    power_watt: float | None = None
    energy_joule: float | None = None
    memory_used_bytes: int | None = None
    gpu_utilization: float | None = Field(
        None, ge=0, le=1, description="Share of the last moments with a kernel on it."
    )
    processes: list[GpuProcess] | None = None


class Telemetry(Record):
    """The measured GPU from the first to the last inference."""

    gpu: dict[Name, Any] = Field(description="Identity and settings: UUID, name, clocks, limits, ECC, MIG, PCIe, …")
    samples: list[GpuSample] = Field(default_factory=list)
    violation_seconds: dict[Name, float] = Field(
        default_factory=dict,
        description="Time for which clocks were held down, by cause, between first and last sample.",
    )
    set_aside: int = Field(
        0, ge=0, description="Timed windows with clocks held down, or moved by more than 10 %; measured again."
    )
    set_aside_thermal_seconds: float = Field(0, ge=0, description="The part of `violation_seconds.thermal` in them.")
    disturbed: int = Field(0, ge=0, description="Such windows that count, because no more were set aside.")
    held_down: int = Field(0, ge=0, description="Those of them with clocks held down: a doubt.")
    neighbours: list[GpuProcess] = Field(
        default_factory=list, description="Compute processes of others: seen before or after, when none of ours ran."
    )
    neighbour_utilization: float | None = Field(
        None, ge=0, le=1, description="Their largest share of the GPU meanwhile."
    )
    doubt: Text = Field("", description="Why times of this run cannot decide anything; empty if they can.")
    warnings: list[Text] = Field(default_factory=list)
