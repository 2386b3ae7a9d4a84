"""The figures of a run as OpenMetrics text, which CI hosts compare between branches.

Format: https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md. GitLab splits a line at its
spaces (https://docs.gitlab.com/ci/testing/metrics_reports/), so labels have none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from trt_action.evidence import Evidence
from trt_action.report.headline import distinct_names
from trt_action.report.writing import slug

PREFIX = "trt_action_"
METRICS = {
    "p50_milliseconds": "Median latency of head.",
    "p90_milliseconds": "90th percentile of the latency of head.",
    "p99_milliseconds": "99th percentile of the latency of head.",
    "p50_ratio_to_base": "Median latency of head over that of base, measured in the same run.",
    "throughput_samples_per_second": "Closed loop of head.",
    "host_memory_peak_bytes": "Of the process that serves head.",
    "device_memory_peak_bytes": "Of the process that serves head.",
    "engine_size_bytes": "Engine of head.",
    "speedup_ratio": "How many times faster than the FP32 baseline on the same device.",
    "accuracy": "Task metric of head.",
    "accuracy_drop": "Loss of the task metric.",
    "gates_failed": "Rules that are broken.",
}
"""Name without prefix → what it is. All are gauges."""


def metrics(evidences: Sequence[Evidence]) -> str:
    """Every figure that the runs have, labelled with its model."""
    names = (slug(name) for name in distinct_names(evidences))
    values = [(name, _figures(one)) for name, one in zip(names, evidences, strict=True)]
    lines = []
    for name, text in METRICS.items():
        rows = [(model, figures[name]) for model, figures in values if figures.get(name) is not None]
        if rows:
            lines += [f"# TYPE {PREFIX}{name} gauge", f"# HELP {PREFIX}{name} {text}"]
            lines += [f'{PREFIX}{name}{{model="{model}"}} {_shown(value)}' for model, value in rows]
    return "\n".join([*lines, "# EOF", ""])


def _figures(one: Evidence) -> dict[str, float | None]:
    head, task = one.head, one.accuracy.task
    latency, throughput, memory = (head.latency, head.throughput, head.memory) if head else (None, None, None)
    ratio = one.comparison.p50_ratio if one.comparison else None
    return {
        "p50_milliseconds": latency.p50_ms if latency else None,
        "p90_milliseconds": latency.p90_ms if latency else None,
        "p99_milliseconds": latency.p99_ms if latency else None,
        "p50_ratio_to_base": ratio.estimate if ratio else None,
        "throughput_samples_per_second": throughput.samples_per_second if throughput else None,
        "host_memory_peak_bytes": memory.host_peak_bytes if memory else None,
        "device_memory_peak_bytes": memory.device_peak_bytes if memory else None,
        "engine_size_bytes": head.engine.bytes if head else None,
        "speedup_ratio": one.speedup.ratio.estimate if one.speedup else None,
        "accuracy": task.head.estimate if task else None,
        "accuracy_drop": task.drop.estimate if task and task.drop else None,
        "gates_failed": sum(gate.status == "failed" for gate in one.gates),
    }


def _shown(value: float | None) -> str:
    """Five digits: GitLab compares texts, and more would call every run a change."""
    if value is None or not math.isfinite(value):
        return "NaN"
    return str(value) if isinstance(value, int) else f"{value:.5g}"
