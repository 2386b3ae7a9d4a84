"""Where a series of numbers of different runs changes its level. Pure; the same numbers give the same answer.

The fit is that of P. Fearnhead & G. Rigaill, *Changepoint Detection in the Presence of Outliers*, JASA 114 (2019): piecewise
constant, least squares cut off at `CUT` deviations (the biweight loss), so that a single disturbed run costs no more than its
share and makes no change; a constant price for each change, found exactly by dynamic programming. Price, smallest length and
smallest size are set by simulation: how often nothing is taken for something, and what is found how soon, stands in
docs/history.md (`benchmarks/history.py`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

CUT = 4.0
"""Deviations from the level beyond which a run counts as disturbed."""
PRICE = 18.0
"""Of one change, in squared deviations."""
SHORTEST = 3
"""Runs that a level must hold: one or two runs are never a change."""
LEAST = 2 * SHORTEST
"""Runs among which a change can be found."""
SMALLEST = 2.0
"""Deviations that two levels must lie apart."""
LAG = 3
"""Runs between which differences are taken for the deviation: neighbours are alike on a host that drifts."""


def deviation(values: Floats) -> float:
    """Standard deviation around the level, from the median of absolute differences `LAG` runs apart: neither a change
    of level nor single disturbed runs touch it."""
    apart = np.abs(values[LAG:] - values[:-LAG])
    return float(1.4826 * np.median(apart) / np.sqrt(2)) if len(apart) else 0.0


def change_points(values: Floats, smallest: float, floor: float) -> list[int]:
    """Indices at which a new level begins.

    Args:
        values: one number per run, in order; finite. Shape (n,).
        smallest: smallest difference of two levels that matters, in the unit of `values`.
        floor: the deviation is taken as at least this.
    """
    if len(values) < LEAST:
        return []
    scale = max(deviation(values), floor)
    least = max(smallest, SMALLEST * scale)
    found = _fit(values / scale)
    while found:  # levels that are too close become one, the closest pair first
        levels = _levels(values, found)
        steps = np.abs(np.diff(levels))
        closest = int(steps.argmin())
        if steps[closest] >= least:
            break
        del found[closest]
    return found


def _levels(values: Floats, found: list[int]) -> Floats:
    return np.array([np.median(piece) for piece in np.split(values, found)])


def _fit(values: Floats) -> list[int]:
    """The cheapest division into levels of at least `SHORTEST` values; a level is one of the values. O(n³) steps of
    numpy's: 200 values take about 0.1 s."""
    n = len(values)
    losses = np.minimum((values[:, None] - values[None, :]) ** 2, CUT**2)  # of value i at level j
    sums = np.vstack([np.zeros(n), np.cumsum(losses, axis=0)])
    cheapest = np.full(n + 1, np.inf)
    cheapest[0] = -PRICE
    before = np.zeros(n + 1, dtype=np.int64)
    for end in range(SHORTEST, n + 1):
        starts = np.arange(end - SHORTEST + 1)
        costs = (sums[end][None, :] - sums[starts]).min(axis=1) + cheapest[starts] + PRICE
        best = int(costs.argmin())
        cheapest[end], before[end] = costs[best], starts[best]
    found, end = [], n
    while (end := int(before[end])) > 0:
        found.append(end)
    return found[::-1]
