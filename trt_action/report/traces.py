"""The recorded samples of an evidence as arrays, for drawing. What cannot be read is not drawn; nothing is raised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_action.errors import EvidenceError
from trt_action.evidence import Comparison, Latency, Series
from trt_action.measure.series import unpack

Floats = npt.NDArray[np.float64]

_MOST_SAMPLES = 5_000_000
"""More than any run takes; an evidence from a stranger may announce anything."""


@dataclass(frozen=True)
class Duet:
    """Per pair of blocks, in order: medians in ms, their ratio, and the unit (set of processes) of the pair."""

    head_ms: Floats
    base_ms: Floats
    unit: npt.NDArray[np.int64]

    @property
    def ratio(self) -> Floats:
        ratio: Floats = self.head_ms / self.base_ms
        return ratio


def latency_ms(latency: Latency | None) -> Floats | None:
    """Every sample of a latency pass, in the order taken; None if there is no usable series."""
    if latency is None or latency.series is None:
        return None
    values = _read(latency.series)
    return None if values is None or not (values > 0).all() else values / 1e6


def duet(comparison: Comparison | None) -> Duet | None:
    """Head against base, from the series of the comparison."""
    if comparison is None or comparison.series is None:
        return None
    s = comparison.series
    return _pairs(s.head, s.base, s.unit, s.block_iterations)


def floor(comparison: Comparison | None) -> Duet | None:
    """Base against base: the noise floor's pairs, in the same form."""
    if comparison is None or comparison.series is None:
        return None
    s = comparison.series
    if s.floor_a is None or s.floor_b is None or s.floor_unit is None:
        return None
    return _pairs(s.floor_a, s.floor_b, s.floor_unit, s.block_iterations)


def _pairs(head: Series, base: Series, unit: Series, block_iterations: list[int]) -> Duet | None:
    ours, theirs, units = _read(head), _read(base), _read(unit)
    if ours is None or theirs is None or units is None or not (units >= 0).all():
        return None
    units = units.astype(np.int64)
    sizes = np.asarray(block_iterations, dtype=np.int64)
    if units.max() >= len(sizes) or not (sizes > 0).all() or sizes.max() > _MOST_SAMPLES:
        return None
    ends = np.cumsum(sizes[units])
    if not ends[-1] == len(ours) == len(theirs) or not ((ours > 0).all() and (theirs > 0).all()):
        return None
    starts = ends - sizes[units]
    return Duet(_medians(ours, starts, ends) / 1e6, _medians(theirs, starts, ends) / 1e6, units)


def _medians(values: Floats, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> Floats:
    found = [np.median(values[start:end]) for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    return np.asarray(found, dtype=np.float64)


def _read(series: Series) -> npt.NDArray[Any] | None:
    """Finite numbers, at least one; None otherwise."""
    if not 0 < series.n <= _MOST_SAMPLES:
        return None
    try:
        values = unpack(series).astype(np.float64)
    except EvidenceError:
        return None
    return values if np.isfinite(values).all() else None
