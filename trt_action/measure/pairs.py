"""The recorded pairs of a comparison as arrays: what every number of the verdict is computed from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trt_action.errors import EvidenceError
from trt_action.evidence import DuetSeries, Series
from trt_action.measure.series import pack, unpack

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Reduce = Callable[[Integers], Floats]
"""From blocks of shape (pairs, iterations) to one number per pair."""


@dataclass(frozen=True)
class Pairs:
    """Aligned blocks of two sides, in the order taken.

    `unit`: index of the unit of each pair. `first`, `second`: durations (ns) of the kept iterations, pair after pair,
    `sizes[unit]` per pair; 0 where the clock gave no usable duration.
    """

    sizes: tuple[int, ...]
    unit: Integers
    first: Integers
    second: Integers

    def __len__(self) -> int:
        return len(self.unit)

    def reduce(self, values: Integers, reduce: Reduce) -> Floats:
        """`reduce` of each block. Shape (pairs,)."""
        result = np.empty(len(self.unit))
        ends = np.cumsum(np.asarray(self.sizes, dtype=np.int64)[self.unit])
        for unit, size in enumerate(self.sizes):
            chosen = self.unit == unit
            starts = ends[chosen] - size
            result[chosen] = reduce(values[starts[:, None] + np.arange(size)])
        return result

    def usable(self) -> npt.NDArray[np.bool_]:
        """Pairs in which every duration is positive. Shape (pairs,)."""
        least = np.minimum(self.reduce(self.first, block_minimum), self.reduce(self.second, block_minimum))
        return least > 0

    def differences(self, reduce: Reduce) -> Floats:
        """ln(first / second) of the reduced blocks, usable pairs only."""
        good = self.usable()
        ratios: Floats = np.log(self.reduce(self.first, reduce)[good] / self.reduce(self.second, reduce)[good])
        return ratios

    def owners(self) -> Integers:
        """Pair index of every iteration."""
        return np.repeat(np.arange(len(self.unit)), np.asarray(self.sizes, dtype=np.int64)[self.unit])


def block_median(blocks: Integers) -> Floats:
    medians: Floats = np.median(blocks, axis=1)
    return medians


def block_minimum(blocks: Integers) -> Floats:
    minima: Floats = blocks.min(axis=1).astype(np.float64)
    return minima


@dataclass(frozen=True)
class Recording:
    """Everything that was measured. `main`: head against base; `floor`: base against a second base process."""

    main: Pairs
    head_first: Integers
    head_cpu: Integers
    base_cpu: Integers
    floor: Pairs

    def to_series(self) -> DuetSeries:
        """The compact form for the evidence."""
        main, floor = self.main, self.floor
        return DuetSeries(
            block_iterations=list(main.sizes),
            unit=pack(main.unit, "index"),
            head_first=pack(self.head_first, "index", "uint8"),
            head=pack(main.first, "ns"),
            base=pack(main.second, "ns"),
            head_cpu=pack(self.head_cpu, "ns"),
            base_cpu=pack(self.base_cpu, "ns"),
            floor_a=pack(floor.first, "ns"),
            floor_b=pack(floor.second, "ns"),
            floor_unit=pack(floor.unit, "index"),
        )


def from_series(series: DuetSeries) -> Recording:
    """The inverse of `Recording.to_series`, for evidence from anywhere.

    Raises:
        EvidenceError: lengths that do not fit each other, or values that no measurement gives.
    """
    sizes = tuple(series.block_iterations)
    main = Pairs(sizes, _integers(series.unit), _integers(series.head), _integers(series.base))
    floor = Pairs(sizes, _integers(series.floor_unit), _integers(series.floor_a), _integers(series.floor_b))
    _check(main)
    _check(floor)
    head_first, head_cpu, base_cpu = (_integers(s) for s in (series.head_first, series.head_cpu, series.base_cpu))
    if len(head_first) != len(main) or len(head_cpu) != len(base_cpu) or len(head_cpu) not in (0, len(main)):
        raise EvidenceError("The series of the comparison have different numbers of pairs.")
    if not np.isin(head_first, (0, 1)).all():
        raise EvidenceError("The series `head_first` of the comparison holds something else than 0 and 1.")
    return Recording(main, head_first, head_cpu, base_cpu, floor)


def _integers(series: Series | None) -> Integers:
    if series is None:
        return np.zeros(0, dtype=np.int64)
    values = unpack(series)
    if values.dtype.kind not in "iu" or (values.size and (values.min() < 0 or values.max() > 2**62)):
        raise EvidenceError("A series of the comparison holds values that are no counts and no durations.")
    return values.astype(np.int64)


def _check(pairs: Pairs) -> None:
    sizes = np.asarray(pairs.sizes, dtype=np.int64)
    if len(pairs) and (int(pairs.unit.max()) >= len(sizes) or int(sizes.min()) < 1 or (np.diff(pairs.unit) < 0).any()):
        raise EvidenceError("The comparison's pairs name units that it does not have.")
    expected = int(sizes[pairs.unit].sum()) if len(pairs) else 0
    if not expected == len(pairs.first) == len(pairs.second):
        raise EvidenceError(f"The comparison's series should hold {expected} iterations per side and do not.")
