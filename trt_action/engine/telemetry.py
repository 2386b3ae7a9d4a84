"""What samples of a GPU mean for the times that were taken meanwhile: warnings, and doubt that forbids a verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trt_action.gpu_records import GpuProcess, GpuSample, Telemetry

SLOWED = ("HwSlowdown", "SwThermalSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown")
"""Clocks are far below what they are otherwise, for a while: head and base may have met different GPUs."""

THERMAL_SHARE = 0.01
"""Of the measured time; below, a counter that moved is a warning and no doubt."""

MOVED = 0.1
"""Change of the SM clock within a window of some 10 to 500 ms after which its blocks did not meet the same GPU; steps of a
few percent are how clocks are governed, and hit head and base alike."""

COMPUTED = 0.01
BUSY = 0.1


def neighbours(samples: Sequence[GpuSample]) -> list[GpuProcess]:
    """Processes of others: those seen before or after, when none of ours was there. In a container the numbers are the
    host's, so that ours cannot be told from others' while they run."""
    quiet = [sample for sample in samples if sample.moment in ("before", "after")]
    found = {process.pid: process for sample in quiet for process in sample.processes or []}
    return [process for _, process in sorted(found.items())]


def judged(record: Telemetry, *, idle_utilization: float | None, seconds: float) -> Telemetry:
    """The record with `doubt` and `warnings`.

    Args:
        idle_utilization: of the GPU before our first inference, with none of our processes on it.
        seconds: from the first sample to the last.
    """
    doubts = [*_slowed(record, seconds), *_disturbed(record, idle_utilization)]
    return record.model_copy(update={"doubt": " ".join(doubts), "warnings": list(_warnings(record, seconds))})


def _slowed(record: Telemetry, seconds: float) -> Iterator[str]:
    counted = [sample for sample in record.samples if sample.moment != "set-aside"]
    seen = [name for name in SLOWED if any(name in (sample.clock_reasons or ()) for sample in counted)]
    thermal = _thermal(record)
    if not seen and not record.held_down and thermal <= THERMAL_SHARE * seconds:
        return
    temperatures = [sample.temperature_c for sample in record.samples if sample.temperature_c is not None]
    hot = f" at up to {max(temperatures)} °C" if temperatures else ""
    long = f" for {thermal:.3g} s" if thermal else ""
    names = f" ({', '.join(seen)})" if seen else ""
    often = (
        f", in {record.held_down} timed windows after {record.set_aside} that were set aside"
        if record.held_down
        else ""
    )
    yield (
        f"The GPU slowed itself down while it was measured{names}{long}{hot}{often}: times from before and after do not "
        "compare. Improve its cooling or power supply, lower its clocks (`nvidia-smi --lock-gpu-clocks`), or measure "
        "elsewhere."
    )


def _thermal(record: Telemetry) -> float:
    """Seconds that were not set aside; none where the counter was not told at the beginning or the end."""
    return max(record.violation_seconds.get("thermal", 0.0) - record.set_aside_thermal_seconds, 0.0)


def _disturbed(record: Telemetry, idle_utilization: float | None) -> Iterator[str]:
    advice = "End it, or measure on a GPU of your own (`nvidia-smi` lists who is there)."
    if (share := record.neighbour_utilization) is not None:
        if share > COMPUTED:
            yield f"Another process computed on this GPU meanwhile (up to {share:.0%} of it). {advice}"
    elif idle_utilization is not None and idle_utilization > BUSY:
        yield f"The GPU was busy ({idle_utilization:.0%}) before this run had started anything on it. {advice}"


def _warnings(record: Telemetry, seconds: float) -> Iterator[str]:
    count = len(record.neighbours)
    if count:
        memory = sum(process.memory_bytes or 0 for process in record.neighbours)
        held = f", holding {memory / 1e6:,.0f} MB" if memory else ""
        kind = "process has" if count == 1 else "processes have"
        yield (
            f"{count} other {kind} a compute context on the measured GPU{held}: end what is not needed, or the numbers "
            "hold for a shared GPU only."
        )
    if any("SwPowerCap" in (sample.clock_reasons or ()) for sample in record.samples):
        limit = record.gpu.get("power_limit_watt")
        yield (
            f"The GPU held its clocks down to stay within its power limit{f' of {limit:g} W' if limit else ''}: the same "
            "engine is faster where the limit is higher, and a change of power draw is a change of speed here."
        )
    if record.set_aside:
        windows = "1 timed window" if record.set_aside == 1 else f"{record.set_aside} timed windows"
        yield (
            f"The GPU held its clocks down, or changed them by more than {MOVED:.0%}, in {windows}: they do not count and "
            "were measured again. Lock its clocks (`nvidia-smi --lock-gpu-clocks`) or improve its cooling."
        )
    if moved := record.disturbed - record.held_down:
        windows = "1 more timed window" if moved == 1 else f"{moved} more timed windows"
        yield (
            f"The GPU's clocks moved by more than {MOVED:.0%} in {windows}, which count, because {record.set_aside} had been set "
            "aside already: head and base may have met different clocks in them. Lock them."
        )
    thermal = _thermal(record)
    if 0 < thermal <= THERMAL_SHARE * seconds:
        yield f"The GPU held its clocks down for heat for {1000 * thermal:.3g} ms: improve its cooling."
    if record.gpu.get("ecc_uncorrected"):
        yield "The GPU counts uncorrected memory errors since its driver was loaded: check `nvidia-smi -q -d ECC`."
    width, widest = record.gpu.get("pcie_width"), record.gpu.get("max_pcie_width")
    if width and widest and width < widest:
        yield (
            f"The GPU's bus has {width} of {widest} lanes: copies between host and GPU take longer than they must. "
            "Check its slot."
        )
