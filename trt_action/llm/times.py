"""From answers to distributions with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from trt_action.evidence import Interval
from trt_action.llm.client import Answer
from trt_action.llm_records import Times
from trt_action.measure.series import pack
from trt_action.measure.stats import percentile, percentile_interval

CONFIDENCE = 0.95
RESAMPLES = 400
MAX_STORED = 20_000
_PERCENTILES: dict[Literal["p50", "p90", "p95", "p99"], float] = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0}


def of(samples_ns: Sequence[int]) -> Times | None:
    """Percentiles of one time per request, with order-statistic intervals. None of nothing."""
    if not samples_ns:
        return None
    ordered = np.sort(np.array(samples_ns, dtype=np.float64)) / 1e6
    intervals: dict[Literal["p50", "p90", "p95", "p99"], Interval | None] = {}
    for name, p in _PERCENTILES.items():
        found = percentile_interval(len(ordered), p, CONFIDENCE)
        intervals[name] = Interval(low_ms=float(ordered[found[0]]), high_ms=float(ordered[found[1]])) if found else None
    return _times(ordered, samples_ns, intervals)


def of_gaps(answers: Sequence[Answer], seed: int) -> Times | None:
    """Percentiles of the gaps of all answers together. Gaps of one answer are alike (the same batch, the same moment), so
    their intervals come from drawing whole answers again: a bootstrap over clusters (Davison & Hinkley, *Bootstrap Methods
    and their Application*, 1997, section 3.8), percentile interval."""
    groups = [np.array(one.gaps_ns, dtype=np.float64) / 1e6 for one in answers if one.gaps_ns]
    if not groups:
        return None
    every = np.concatenate(groups)
    order = np.argsort(every, kind="stable")
    ordered, owner = every[order], np.repeat(np.arange(len(groups)), [len(one) for one in groups])[order]
    generator = np.random.default_rng(seed)
    drawn = {name: np.empty(RESAMPLES) for name in _PERCENTILES}
    for i in range(RESAMPLES):
        times = np.bincount(generator.integers(0, len(groups), len(groups)), minlength=len(groups))
        reached = np.cumsum(times[owner])
        for name, p in _PERCENTILES.items():
            place = np.searchsorted(reached, _rank(int(reached[-1]), p), side="left")
            drawn[name][i] = ordered[min(int(place), len(ordered) - 1)]
    edges = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    intervals: dict[Literal["p50", "p90", "p95", "p99"], Interval | None] = {}
    for name, p in _PERCENTILES.items():
        value = percentile(ordered, p)
        low, high = np.quantile(drawn[name], edges)
        enough = percentile_interval(len(groups), min(p, 95.0), CONFIDENCE) is not None
        intervals[name] = Interval(low_ms=min(float(low), value), high_ms=max(float(high), value)) if enough else None
    return _times(ordered, [gap for one in answers for gap in one.gaps_ns], intervals)


def _rank(n: int, p: float) -> int:
    """The 1-based rank that `stats.percentile` takes of n values."""
    return max(n - int((1 - p / 100) * n), 1)


def _times(
    ordered: npt.NDArray[np.float64],
    samples_ns: Sequence[int],
    intervals: dict[Literal["p50", "p90", "p95", "p99"], Interval | None],
) -> Times:
    stored = np.array(samples_ns, dtype=np.uint64)[:: -(-len(samples_ns) // MAX_STORED)]
    return Times(
        n=len(ordered),
        mean_ms=float(ordered.mean()),
        min_ms=float(ordered[0]),
        p50_ms=percentile(ordered, 50),
        p90_ms=percentile(ordered, 90),
        p95_ms=percentile(ordered, 95),
        p99_ms=percentile(ordered, 99),
        max_ms=float(ordered[-1]),
        confidence=CONFIDENCE,
        intervals=intervals,
        series=pack(stored, "ns"),
    )
