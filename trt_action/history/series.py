"""Points become series: one per model, GPU, precision, backend and measured shapes; with breaks and changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from trt_action.history import changes
from trt_action.history.points import METRICS, Key, Metric, Name, Point, Value

MAX_POINTS = 500
"""Of one series; the newest stay."""
NAMED = 4
"""Conditions that a break names."""


@dataclass(frozen=True)
class Break:
    """From this point on the numbers are measured otherwise: a step here says nothing about the model."""

    index: int
    words: str


@dataclass(frozen=True)
class Change:
    """The level of one metric is another one from this point on, under the same conditions.

    Args:
        since: index of the first point of the new level; `after`: of the last one of the old level.
        size: relative, or in the metric's own unit where that is not relative.
        runs: how many runs hold the new level.
    """

    metric: Name
    since: int
    after: int
    before_level: float
    level: float
    size: float
    better: bool
    runs: int


@dataclass(frozen=True)
class Series:
    """One trend, oldest point first."""

    key: Key
    points: tuple[Point, ...]
    breaks: tuple[Break, ...]
    changes: tuple[Change, ...]

    def values(self, metric: Name) -> dict[int, Value]:
        """By index of the point."""
        return {place: one.values[metric] for place, one in enumerate(self.points) if metric in one.values}

    @property
    def comparable(self) -> int:
        """The most runs that were measured under the same conditions."""
        return max(Counter(one.host for one in self.points).values())

    def as_json(self) -> dict[str, Any]:
        """For other programs."""
        return {
            **vars(self.key),
            "points": [_point(one) for one in self.points],
            "breaks": [vars(one) for one in self.breaks],
            "changes": [
                {**vars(one), "commit": self.points[one.since].commit, "last-before": self.points[one.after].commit}
                for one in self.changes
            ],
        }


def series(points: Iterable[Point]) -> list[Series]:
    """Every trend, the one with the newest point first. The same run twice counts once."""
    unique = {one.identity: one for one in points}.values()
    ordered = sorted(unique, key=lambda one: (one.key, one.created, one.commit, one.identity))
    found = [_series(key, list(group)[-MAX_POINTS:]) for key, group in groupby(ordered, key=lambda one: one.key)]
    return sorted(found, key=lambda one: one.points[-1].created, reverse=True)


def _series(key: Key, points: Sequence[Point]) -> Series:
    found = [change for metric in METRICS.values() for change in _changes(points, metric)]
    return Series(
        key, tuple(points), tuple(_breaks(points)), tuple(sorted(found, key=lambda one: (one.since, one.metric)))
    )


def _breaks(points: Sequence[Point]) -> Iterable[Break]:
    for index in range(1, len(points)):
        if points[index].host != points[index - 1].host:
            yield Break(index, _difference(points[index - 1].conditions, points[index].conditions))
        elif points[index].data and points[index - 1].data and points[index].data != points[index - 1].data:
            yield Break(index, "other validation data or another metric")


def _difference(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """What is not the same any more, the first few in words."""
    names = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    said = [f"{name}: {old.get(name, 'none')[:60]} → {new.get(name, 'none')[:60]}" for name in names[:NAMED]]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return "; ".join(said) + more if said else "another fingerprint of the host"


def _changes(points: Sequence[Point], metric: Metric) -> Iterable[Change]:
    """Runs under the same conditions are held against each other, also where others lie between them."""
    tracks: dict[str, list[int]] = {}
    for index, one in enumerate(points):
        if metric.name in one.values:
            tracks.setdefault(one.under(metric), []).append(index)
    for track in tracks.values():
        numbers = np.array([points[index].values[metric.name].value for index in track])
        if metric.relative and not (numbers > 0).all():
            continue
        scaled = np.log(numbers) if metric.relative else numbers
        smallest = float(np.log1p(metric.smallest)) if metric.relative else metric.smallest
        starts = changes.change_points(scaled, smallest, metric.floor)
        levels = [float(np.median(piece)) for piece in np.split(numbers, starts)]
        for place, start in enumerate(starts):
            old, new = levels[place], levels[place + 1]
            end = starts[place + 1] if place + 1 < len(starts) else len(track)
            higher = _higher_is_better(points[track[start]], metric)
            yield Change(
                metric.name,
                track[start],
                track[start - 1],
                old,
                new,
                new / old - 1 if metric.relative else new - old,
                (new > old) == higher,
                end - start,
            )


def _higher_is_better(point: Point, metric: Metric) -> bool:
    return point.higher_is_better if metric.name == "accuracy" else metric.better == "higher"


def _point(one: Point) -> dict[str, Any]:
    return {
        "commit": one.commit,
        "ref": one.ref,
        "created": one.created.isoformat(),
        "place": one.place,
        "outcome": one.outcome,
        "verdict": one.verdict or None,
        "conditions": one.host,
        "values": {name: vars(value) for name, value in one.values.items()},
    }
