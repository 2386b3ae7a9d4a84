"""How much of a difference may be the luck of memory layout rather than the engine.

A fresh process, and a fresh load in it, places code and data elsewhere; that alone shifts an engine's time, by an
amount that stays until the next load, so that more pairs do not average it out (Mytkowicz et al., *Producing wrong
data without doing anything obviously wrong*, 2009; Kalibera & Jones, *Rigorous benchmarking in reasonable time*, 2013).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from trt_action.measure.pairs import Floats, Integers
from trt_action.measure.stats import median_with_error, student_quantile

TINY = 1e-18
"""Keeps weights finite where all pairs of a unit are equal."""

MIN_PAIRS = 2
"""Of a unit, for its median to count."""

EXPLAINED_SHARE = 0.25
"""Subtracting all of it would be unbiased, but then intervals cover too rarely; nothing, and noisy hosts need minutes."""


@dataclass(frozen=True)
class Differences:
    """One statistic of the usable pairs: d = ln(head / base) and the unit of each; `floor` is base against base."""

    d: Floats
    unit: Integers
    floor: Floats
    floor_unit: Integers


def layout_allowance(differences: Differences, confidence: float) -> float | None:
    """Half-width of the interval of the mean layout effect over the units, in units of d; None if it cannot be told.

    Its variance between units is estimated from the unit medians of head/base around their mean, and of base/base
    around zero (both bases run the same bytes), less a quarter of the variance that the spread of single pairs
    explains. Units whose own median is uncertain (a burst fell on them) count less. The allowance is Student's t
    times the standard error of the mean over units.
    """
    main = _unit_medians(differences.d, differences.unit, _full_units(differences.unit))
    floor = _unit_medians(differences.floor, differences.floor_unit, np.unique(differences.floor_unit))
    units, degrees = len(main), len(main) - 1 + len(floor)
    if units == 0 or degrees < 1:
        return None
    errors = np.concatenate([main[:, 1], floor[:, 1]]) ** 2
    weights = 1 / (errors + np.median(errors) + TINY)
    mean = float(np.average(main[:, 0], weights=weights[:units]))
    squares = np.concatenate([main[:, 0] - mean, floor[:, 0]]) ** 2
    variance = float(np.average(squares - EXPLAINED_SHARE * errors, weights=weights)) * (degrees + 1) / degrees
    return student_quantile((1 + confidence) / 2, degrees) * math.sqrt(max(0.0, variance) / units)


def _full_units(unit: Integers) -> Integers:
    """Units with at least half as many pairs as the largest: the last one may have only begun."""
    indices, counts = np.unique(unit, return_counts=True)
    full: Integers = indices[2 * counts >= counts.max()] if len(indices) else indices
    return full


def _unit_medians(d: Floats, unit: Integers, units: Integers) -> Floats:
    """Median and its standard error of each unit with enough pairs. Shape (units, 2)."""
    groups = [d[unit == index] for index in units]
    rows = [median_with_error(group) for group in groups if len(group) >= MIN_PAIRS]
    return np.array(rows, dtype=np.float64).reshape(-1, 2)
