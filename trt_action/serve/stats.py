"""What one loaded version has done: plain counters that the hot path adds to. `/stats` and `/metrics` read them.

Only the thread of the event loop writes and reads; so no locks.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trt_action.serve.batching import Call

SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the latency buckets: 100 µs (a small model on a GPU) to 10 s."""

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Histogram:
    """Counts per bucket (the last one has no upper bound), and the sum of what was observed."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> list[tuple[str, float]]:
        """`(upper bound, observations up to it)` as Prometheus wants them."""
        total = 0
        found = []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            found.append((bound, float(total)))
        return found


@dataclass
class Total:
    """A count and a duration, as Triton's statistics pair them."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        self.count += 1
        self.ns += ns

    def as_json(self) -> dict[str, int]:
        return {"count": self.count, "ns": self.ns}


@dataclass
class BatchTotals:
    input: Total = field(default_factory=Total)
    infer: Total = field(default_factory=Total)
    output: Total = field(default_factory=Total)


@dataclass
class Stats:
    """Requests (`success`, `failures`), samples (`inferences`: rows of the batch axis) and executions of the engine."""

    success: Total = field(default_factory=Total)
    fail: Total = field(default_factory=Total)
    queue: Total = field(default_factory=Total)
    input: Total = field(default_factory=Total)
    infer: Total = field(default_factory=Total)
    output: Total = field(default_factory=Total)
    failures: Counter[str] = field(default_factory=Counter)
    inferences: int = 0
    executions: int = 0
    last_ms: int = 0
    batches: dict[int, BatchTotals] = field(default_factory=dict)
    total_seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    queue_seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    compute_seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    batch_sizes: Histogram = field(default_factory=lambda: Histogram(BATCHES))

    def answered(self, call: Call, ended_ns: int) -> None:
        """One request that got its answer."""
        total, queued = ended_ns - call.arrived, call.started - call.queued
        self.success.add(total)
        self.queue.add(queued)
        self.input.add(call.merged - call.started)
        self.infer.add(call.computed - call.merged)
        self.output.add(ended_ns - call.computed)
        self.inferences += call.rows
        self.total_seconds.observe(total / 1e9)
        self.queue_seconds.observe(queued / 1e9)
        self.compute_seconds.observe((call.computed - call.merged) / 1e9)
        self.last_ms = time.time_ns() // 1_000_000

    def failed(self, cause: str, ns: int) -> None:
        """One request that was refused or failed."""
        self.fail.add(ns)
        self.failures[cause] += 1

    def executed(self, rows: int, input_ns: int, infer_ns: int, output_ns: int) -> None:
        """One run of the engine, with `rows` of the batch axis."""
        self.executions += 1
        self.batch_sizes.observe(rows)
        if rows not in self.batches:
            self.batches[rows] = BatchTotals()
        totals = self.batches[rows]
        totals.input.add(input_ns)
        totals.infer.add(infer_ns)
        totals.output.add(output_ns)

    def as_json(self, model: str, version: str) -> dict[str, Any]:
        """As Triton's "Statistics Extension" has it."""
        none = {"count": 0, "ns": 0}
        return {
            "name": model,
            "version": version,
            "last_inference": self.last_ms,
            "inference_count": self.inferences,
            "execution_count": self.executions,
            "inference_stats": {
                "success": self.success.as_json(),
                "fail": self.fail.as_json(),
                "queue": self.queue.as_json(),
                "compute_input": self.input.as_json(),
                "compute_infer": self.infer.as_json(),
                "compute_output": self.output.as_json(),
                "cache_hit": none,
                "cache_miss": none,
            },
            "batch_stats": [
                {
                    "batch_size": size,
                    "compute_input": totals.input.as_json(),
                    "compute_infer": totals.infer.as_json(),
                    "compute_output": totals.output.as_json(),
                }
                for size, totals in sorted(self.batches.items())
            ],
        }
