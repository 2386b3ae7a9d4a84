"""Gates on what the engine takes and gives: throughput, size, memory, and the precision that was really reached."""

from __future__ import annotations

from trt_action.evidence import Gate, GateStatus, Side
from trt_action.judge import words
from trt_action.settings import Settings
from trt_action.settings.units import size_text

_ROUNDING = 1e-9


def min_throughput(settings: Settings, head: Side) -> list[Gate]:
    """`min-throughput`, by the measured value."""
    asked, measured = settings.min_throughput, head.throughput
    if asked is None:
        return []
    limit = str(asked)
    name, rule = "min-throughput", f"throughput ≥ {limit}"
    if measured is None:
        return [_not_measured(name, rule, limit, "Throughput was not measured in this run.")]
    status: GateStatus = "passed" if measured.samples_per_second >= asked.per_second else "failed"
    reason = (
        f"Batch {measured.batch}, {measured.concurrency} in flight, {measured.seconds:.3g} s; one pass, no interval."
    )
    observed = words.rate(measured.samples_per_second, asked.per_second)
    return [Gate(name=name, rule=rule, observed=observed, limit=limit, status=status, reason=reason)]


def max_engine_size(settings: Settings, head: Side) -> list[Gate]:
    """`max-engine-size`, by the bytes of the engine's file."""
    asked = settings.max_engine_size
    if asked is None:
        return []
    limit, count = size_text(asked), head.engine.bytes
    status: GateStatus = "passed" if count <= asked else "failed"
    return [
        Gate(
            name="max-engine-size",
            rule=f"engine ≤ {limit}",
            observed=words.size(count, asked),
            limit=limit,
            status=status,
            reason=f"{count} of at most {asked} bytes.",
        )
    ]


def max_memory(settings: Settings, head: Side) -> list[Gate]:
    """`max-memory`: peak of the serving process, host or device, whichever is larger."""
    asked, measured = settings.max_memory, head.memory
    if asked is None:
        return []
    limit = size_text(asked)
    name, rule = "max-memory", f"peak memory ≤ {limit}"
    if measured is None:
        return [_not_measured(name, rule, limit, "Memory was not measured in this run.")]
    device = measured.device_peak_bytes or 0
    peak, kind = (device, "device") if device > measured.host_peak_bytes else (measured.host_peak_bytes, "host")
    status: GateStatus = "passed" if peak <= asked else "failed"
    reason = f"Peak {kind} memory of a fresh process after loading and inference, the runtime's libraries included."
    return [Gate(name=name, rule=rule, observed=words.size(peak, asked), limit=limit, status=status, reason=reason)]


def min_precision_share(settings: Settings, head: Side) -> list[Gate]:
    """`min-precision-share`: FLOPs (or weights, if FLOPs are unknown) in the asked precision, counted in the prepared
    graph; and on a GPU the time of products and convolutions that the engine spends in it: the smaller one decides
    (docs/precision.md). On a CPU the time is said and not judged. No gate for fp32.
    """
    proof = head.engine.achieved_precision
    if proof.asked == "fp32":
        return []
    share, of = (proof.weight_share, "weights") if proof.flop_share is None else (proof.flop_share, "FLOPs")
    limit = words.percent(settings.min_precision_share)
    kept = f"; {len(proof.kept_high)} compute nodes kept in higher precision" if proof.kept_high else ""
    reason = f"Counted in the prepared graph{kept}."
    timed = head.layers.asked_share if head.layers else None
    if head.layers and timed is not None:
        spent = f"{words.share(timed, settings.min_precision_share)} of the time of products and convolutions"
        if head.layers.device == "cpu":
            reason += f" This CPU spent {spent} in it, which is not judged here."
        elif timed >= share:
            reason += f" The engine spends {spent} in it."
        else:
            counted = f"{words.share(share, settings.min_precision_share)} of {of}"
            reason = f"Timed layer by layer on the GPU; the prepared graph has {counted} in {proof.asked}{kept}."
            share, of = timed, "the time of products and convolutions"
    status: GateStatus = "passed" if share >= settings.min_precision_share - _ROUNDING else "failed"
    return [
        Gate(
            name="min-precision-share",
            rule=f"≥ {limit} of {of} in {proof.asked}",
            observed=words.share(share, settings.min_precision_share),
            limit=limit,
            status=status,
            reason=reason,
        )
    ]


def _not_measured(name: str, rule: str, limit: str, reason: str) -> Gate:
    return Gate(name=name, rule=rule, observed="not measured", limit=limit, status="not-checked", reason=reason)
