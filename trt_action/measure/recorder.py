"""Collects the blocks of a comparison while it runs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

import numpy as np

from trt_action.evidence import Unit
from trt_action.measure.layout import Differences
from trt_action.measure.pairs import Floats, Integers, Pairs, Recording
from trt_action.measure.verdict import Sample

BROKEN_CLOCK_BLOCKS = 5
BROKEN_CLOCK_SHARE = 0.05


class Recorder:
    """Nothing is deleted; a duration that is zero or negative is kept as 0, which marks the pair as not usable."""

    def __init__(self) -> None:
        self.kept: list[int] = []
        self.reloads: list[int] = []
        self.set_aside: list[int] = []
        """Rounds by unit that were measured and not recorded (measure/windows.py)."""
        self.unusable = 0
        self._unit: list[int] = []
        self._head_first: list[int] = []
        self._head: list[int] = []
        self._base: list[int] = []
        self._head_cpu: list[int] = []
        self._base_cpu: list[int] = []
        self._floor_unit: list[int] = []
        self._floor_a: list[int] = []
        self._floor_b: list[int] = []
        self._ratios = _Ratios()
        self._floor_ratios = _Ratios()

    def __len__(self) -> int:
        """Pairs of head and base."""
        return len(self._unit)

    def start_unit(self, index: int, kept: int) -> None:
        """`kept`: iterations per block that are recorded."""
        if index != len(self.kept):
            raise ValueError("units are recorded in order")
        self.kept.append(kept)
        self.reloads.append(0)
        self.set_aside.append(0)

    def add(self, head: Sequence[int], base: Sequence[int], head_cpu: int, base_cpu: int, *, head_first: bool) -> None:
        self._unit.append(len(self.kept) - 1)
        self._head_first.append(int(head_first))
        self._head += self._clean(head)
        self._base += self._clean(base)
        self._ratios.add(len(self.kept) - 1, head, base)
        self._head_cpu.append(max(0, head_cpu))
        self._base_cpu.append(max(0, base_cpu))

    def add_floor(self, a: Sequence[int], b: Sequence[int]) -> None:
        self._floor_unit.append(len(self.kept) - 1)
        self._floor_a += self._clean(a)
        self._floor_b += self._clean(b)
        self._floor_ratios.add(len(self.kept) - 1, a, b)

    def clock_is_broken(self) -> bool:
        blocks = 2 * (len(self._unit) + len(self._floor_unit))
        return self.unusable >= BROKEN_CLOCK_BLOCKS and self.unusable > BROKEN_CLOCK_SHARE * blocks

    def units(self) -> tuple[Unit, ...]:
        return tuple(
            Unit(
                index=i,
                pairs=self._unit.count(i),
                reloads=self.reloads[i],
                block_iterations=kept,
                set_aside=self.set_aside[i],
            )
            for i, kept in enumerate(self.kept)
        )

    def sample(self) -> Sample:
        """The same as `conclusion.sample_of(self.recording())`, without going through every iteration again."""
        return Sample(
            Differences(*self._ratios.arrays("medians"), *self._floor_ratios.arrays("medians")),
            Differences(*self._ratios.arrays("minima"), *self._floor_ratios.arrays("minima")),
        )

    def recording(self) -> Recording:
        sizes = tuple(self.kept)
        return Recording(
            Pairs(sizes, *(np.array(x, dtype=np.int64) for x in (self._unit, self._head, self._base))),
            np.array(self._head_first, dtype=np.int64),
            np.array(self._head_cpu, dtype=np.int64),
            np.array(self._base_cpu, dtype=np.int64),
            Pairs(sizes, *(np.array(x, dtype=np.int64) for x in (self._floor_unit, self._floor_a, self._floor_b))),
        )

    def _clean(self, durations: Sequence[int]) -> list[int]:
        if min(durations) <= 0:
            self.unusable += 1
        return [max(0, duration) for duration in durations]


class _Ratios:
    """Ratios of block medians and minima of the usable pairs, kept up to date for the looks."""

    def __init__(self) -> None:
        self._units: list[int] = []
        self._medians: list[float] = []
        self._minima: list[float] = []

    def add(self, unit: int, first: Sequence[int], second: Sequence[int]) -> None:
        if min(first) > 0 and min(second) > 0:
            self._units.append(unit)
            self._medians.append(statistics.median(first) / statistics.median(second))
            self._minima.append(min(first) / min(second))

    def arrays(self, which: Literal["medians", "minima"]) -> tuple[Floats, Integers]:
        """d = ln(ratio) and the unit of each pair."""
        values = self._medians if which == "medians" else self._minima
        d: Floats = np.log(np.array(values, dtype=np.float64))
        return d, np.array(self._units, dtype=np.int64)
