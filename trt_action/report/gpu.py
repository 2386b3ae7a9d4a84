"""What a GPU adds to the details: the parts of an inference in trtexec's words, and how the GPU was meanwhile."""

from __future__ import annotations

from collections.abc import Sequence

from trt_action.gpu_records import DeviceLatency, Distribution, GpuSample, Telemetry
from trt_action.report import format as fmt
from trt_action.report.escape import clip
from trt_action.report.parts import Cell, Limits, Section, Table

_PARTS = {
    "latency": "Latency (H2D + compute + D2H)",
    "h2d": "H2D Latency",
    "compute": "GPU Compute Time",
    "d2h": "D2H Latency",
    "enqueue": "Enqueue Time",
}
"""trtexec's names of its lines."""


def parts(sides: Sequence[tuple[str, DeviceLatency]]) -> tuple[tuple[Table, ...], tuple[str, ...]]:
    """A table with a row per side and part, and the sentences below it; nothing for sides on the CPU."""
    if not sides:
        return (), ()
    rows = [
        (role, word, *_cells(part))
        for role, device in sides
        for name, word in _PARTS.items()
        if (part := getattr(device, name)) is not None
    ]
    header = ("side", "as trtexec prints it", "median", "min", "max", "mean", "p90", "p95", "p99", "CV")
    lines = [
        "Parts of an inference on the GPU: CUDA events in a pass of their own; queueing is in none of them "
        f"({', '.join(dict.fromkeys(_how(device) for _, device in sides))})."
    ]
    lines += [f"{role}: {warning}" for role, device in sides for warning in device.warnings]
    return (Table(header, tuple(rows), numbers=True),), tuple(lines)


def line(role: str, device: DeviceLatency) -> str:
    """For the terminal: the medians in one line."""
    shown = ("h2d", "compute", "d2h")
    medians = {name: getattr(device, name).median_ms for name in (*shown, "enqueue") if getattr(device, name)}
    unit = fmt.time_unit([device.latency.median_ms])
    parts = " + ".join(f"{_PARTS[name]} {fmt.ms(medians[name], unit)}" for name in shown if name in medians)
    enqueue = f", {_PARTS['enqueue']} {fmt.ms(medians['enqueue'], unit)}" if "enqueue" in medians else ""
    return f"{role}: {parts}{enqueue} (medians, {_how(device)})"


def telemetry(found: Telemetry | None, limits: Limits) -> Section | None:
    """The GPU from the first to the last inference."""
    if found is None:
        return None
    rows: list[tuple[Cell, ...]] = [
        (sample.moment, fmt.seconds(sample.seconds), *_state(sample)) for sample in found.samples[: limits.rows]
    ]
    lines = [clip(found.doubt, limits.text)] if found.doubt else []
    lines += [clip(warning, limits.text) for warning in found.warnings]
    if found.violation_seconds:
        held = ", ".join(f"{clip(name, 40)} {fmt.seconds(s)}" for name, s in found.violation_seconds.items())
        lines.append(f"Clocks were held down: {held}.")
    header = ("sample", "at", "SM clock", "memory clock", "temperature", "power", "memory in use", "held down by")
    table = Table(header, tuple(rows), numbers=True, left_out=max(len(found.samples) - limits.rows, 0))
    name = clip(str(found.gpu.get("name") or "GPU"), limits.name)
    return Section("gpu", f"{name} while it was measured", tuple(lines), (table,))


def _cells(part: Distribution) -> tuple[str, ...]:
    unit = fmt.time_unit([part.median_ms])
    values = (
        part.median_ms, part.min_ms, part.max_ms, part.mean_ms, part.p90_ms, part.p95_ms, part.p99_ms,
    )  # fmt: skip
    return (*(fmt.ms(value, unit) for value in values), fmt.percent(round(part.cv, 4)))


def _how(device: DeviceLatency) -> str:
    copies = "with copies" if device.transfers else "without copies"
    return f"{copies}, CUDA graph" if device.cuda_graph else copies


def _state(sample: GpuSample) -> tuple[str, ...]:
    def shown(value: float | None, unit: str) -> str:
        return fmt.NONE if value is None else f"{value:,.0f} {unit}"

    memory = None if sample.memory_used_bytes is None else sample.memory_used_bytes / 1e6
    return (
        shown(sample.sm_clock_mhz, "MHz"),
        shown(sample.memory_clock_mhz, "MHz"),
        shown(sample.temperature_c, "°C"),
        shown(sample.power_watt, "W"),
        shown(memory, "MB"),
        ", ".join(sample.clock_reasons) or "nothing" if sample.clock_reasons is not None else fmt.NONE,
    )
