"""Times of the parts of an inference on a GPU, summarized and warned about as trtexec does.

Source: NVIDIA/TensorRT, samples/common/sampleReporting.cpp (percentile rule, `Latency` as a sum, the three warnings).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from trt_action.gpu_records import DeviceLatency, Distribution
from trt_action.measure.stats import percentile

PARTS = ("h2d", "compute", "d2h", "enqueue")
ENQUEUE_SHARE = 0.8
UNSTABLE = 0.025


def device_latency(
    times: Mapping[str, Sequence[int]], *, transfers: bool, cuda_graph: bool, set_aside: int = 0
) -> DeviceLatency | None:
    """From the lists of `backend.DeviceTimes` (ns, by `PARTS`); None without any. `set_aside`: windows that are not in
    them."""
    if not times["compute"]:
        return None
    total = [a + b + c for a, b, c in zip(times["h2d"], times["compute"], times["d2h"], strict=True)]
    compute = distribution(times["compute"])
    h2d, d2h = (distribution(times[name]) if transfers else None for name in ("h2d", "d2h"))
    enqueue = distribution(times["enqueue"]) if times["enqueue"] else None
    return DeviceLatency(
        latency=distribution(total),
        h2d=h2d,
        compute=compute,
        d2h=d2h,
        enqueue=enqueue,
        transfers=transfers,
        cuda_graph=cuda_graph,
        set_aside=set_aside,
        warnings=_warnings(h2d, compute, d2h, enqueue),
    )


def distribution(nanoseconds: Sequence[int]) -> Distribution:
    """Of at least one duration."""
    ordered = np.sort(np.asarray(nanoseconds, dtype=np.float64)) / 1e6
    mean = float(ordered.mean())
    return Distribution(
        n=len(ordered),
        min_ms=float(ordered[0]),
        max_ms=float(ordered[-1]),
        mean_ms=mean,
        median_ms=float(statistics.median(ordered.tolist())),
        p90_ms=percentile(ordered, 90),
        p95_ms=percentile(ordered, 95),
        p99_ms=percentile(ordered, 99),
        cv=float(ordered.std()) / mean if mean else 0.0,
    )


def _warnings(
    h2d: Distribution | None, compute: Distribution, d2h: Distribution | None, enqueue: Distribution | None
) -> list[str]:
    found = []
    if enqueue is not None and enqueue.median_ms > ENQUEUE_SHARE * compute.median_ms:
        found.append(
            f"The host needs {enqueue.median_ms:.3g} ms to enqueue what the GPU computes in {compute.median_ms:.3g} ms: "
            "throughput may be limited by the CPU. `cuda-graph: true` takes the work off it."
        )
    for name, copy in (("Copying inputs", h2d), ("Copying outputs", d2h)):
        if copy is not None and copy.median_ms >= compute.median_ms:
            found.append(
                f"{name} takes {copy.median_ms:.3g} ms, the computing {compute.median_ms:.3g} ms: throughput may be limited "
                "by the bus. Keep data on the GPU, or measure without copies (`transfers: false`)."
            )
    if compute.cv > UNSTABLE:
        found.append(
            f"GPU compute time is not stable: its coefficient of variation is {compute.cv:.1%} (trtexec warns above "
            f"{UNSTABLE:.1%}). Lock the clocks (`nvidia-smi --lock-gpu-clocks`), or measure for longer."
        )
    return found
