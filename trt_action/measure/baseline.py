"""How much faster head is than the framework's own way of running the model."""

from __future__ import annotations

import math
import random
import statistics
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trt_action.engine.backend import Loadable
from trt_action.evidence import Estimate, Speedup
from trt_action.measure.sides import Worker, ready
from trt_action.measure.stats import hodges_lehmann, percentile, signed_rank_interval

CONFIDENCE = 0.95
MAX_SECONDS = 1.0
MIN_PAIRS = 6
"""The fewest pairs with a two-sided signed-rank interval at 95 %: 2 / 2**6 < 5 %."""

MAX_PAIRS = 100
BLOCK_SECONDS = 0.01


def speedup(
    head: Loadable,
    baseline: Loadable,
    feeds: Path,
    *,
    over: str,
    cpus: frozenset[int] | None = None,
    baseline_cpus: frozenset[int] | None = None,
    seed: int = 0,
) -> Speedup:
    """Baseline p50 ÷ head p50 from interleaved blocks of about 10 ms, one fresh process per side, for 1 s.

    A number to show, not a verdict: one pair of processes, no test. Ratio and 95 % interval: Hodges–Lehmann of the
    paired block medians.

    Args:
        over: what the baseline is called, e.g. `onnxruntime fp32 (cpu)`.
        cpus, baseline_cpus: what each process is pinned to: who feeds a GPU has one thread, who computes on the CPU all.
        seed: of the order of blocks.

    Raises:
        MeasureError, OutOfMemoryError, BuildError, DataError: `head` or `baseline` is named.
    """
    with Worker("head", head, feeds, cpus=cpus) as new, Worker("baseline", baseline, feeds, cpus=baseline_cpus) as old:
        ready([new, old])
        blocks = _interleaved(new, old, random.Random(seed))
        new.check()
        old.check()
    logs = [np.log(statistics.median(slow) / statistics.median(fast)) for fast, slow in blocks]
    every = np.sort(np.concatenate([slow for _, slow in blocks])) / 1e6
    return Speedup(over=over, ratio=ratio_estimate(np.array(logs)), baseline_p50_ms=percentile(every, 50))


def ratio_estimate(logs: npt.NDArray[np.float64]) -> Estimate:
    """Hodges–Lehmann estimate and signed-rank 95 % interval of paired log ratios, as a ratio.

    Raises:
        ValueError: fewer than 6 pairs, which have no interval.
    """
    interval = signed_rank_interval(logs, CONFIDENCE)
    if interval is None:
        raise ValueError(f"{len(logs)} pairs are too few for an interval")
    low, high = (math.exp(bound) for bound in interval)
    return Estimate(estimate=math.exp(hodges_lehmann(logs)), low=low, high=high, confidence=CONFIDENCE)


def _interleaved(head: Worker, baseline: Worker, order: random.Random) -> list[tuple[list[int], list[int]]]:
    """Pairs of blocks (head, baseline), ns, without the first iteration of each, which refills the caches."""
    lengths = {worker: _iterations(worker) for worker in (head, baseline)}
    pairs: list[tuple[list[int], list[int]]] = []
    deadline = time.monotonic() + MAX_SECONDS
    while len(pairs) < MIN_PAIRS or (len(pairs) < MAX_PAIRS and time.monotonic() < deadline):
        turn = [head, baseline]
        order.shuffle(turn)
        walls = {worker: worker.block(lengths[worker]).wall_ns[1:] for worker in turn}
        pairs.append((walls[head], walls[baseline]))
    return pairs


def _iterations(worker: Worker) -> int:
    once = min(worker.block(3).wall_ns) / 1e9
    return 1 + min(max(int(BLOCK_SECONDS / once), 1), 200)
