"""Does `trt-action history` cry wolf, and how soon does it see a step? On synthetic series of known truth.

    python benchmarks/history.py [--runs 2000] [--write docs/history.md]        about 3 minutes on one core

Ends with exit code 1 if false alarms are above 1 % in a family that is held to it.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import sections
from trt_action.history.changes import change_points
from trt_action.history.points import METRICS

PROMISE = 0.01
RUNS_OF_SERIES = 30
STEP = 0.05


@dataclass(frozen=True)
class Family:
    """Noise between runs of the same model: p50 as a factor around 1.

    Args:
        deviation: of the logarithm.
        memory: correlation of neighbouring runs (a host that drifts).
        disturbed: share of runs that are 2 to 15 % slower.
        tails: Student's t with so many degrees of freedom instead of a normal distribution.
        held: to the promise; the others are shown.
    """

    name: str
    deviation: float
    memory: float = 0.0
    disturbed: float = 0.05
    tails: int | None = None
    held: bool = True

    def draw(self, rng: np.random.Generator, n: int) -> npt.NDArray[np.float64]:
        steps = (
            rng.standard_t(self.tails, n) / np.sqrt(self.tails / (self.tails - 2))
            if self.tails
            else rng.normal(0, 1, n)
        )
        values = np.empty(n)
        values[0] = steps[0]
        for place in range(1, n):
            values[place] = self.memory * values[place - 1] + np.sqrt(1 - self.memory**2) * steps[place]
        slower = np.where(rng.random(n) < self.disturbed, rng.uniform(0.02, 0.15, n), 0.0)
        return np.exp(values * self.deviation + slower)


FAMILIES = (
    Family("quiet host: 0.5 %, neighbours alike (0.3)", 0.005, memory=0.3),
    Family("1 %, independent", 0.01),
    Family("1 %, neighbours alike (0.3)", 0.01, memory=0.3),
    Family("1 %, heavy tails (t, 3)", 0.01, tails=3),
    Family("1 %, a tenth of the runs disturbed", 0.01, disturbed=0.1, held=False),
    Family("1 %, drifting host (0.5)", 0.01, memory=0.5, held=False),
    Family("2 %, independent", 0.02),
    Family("2 %, neighbours alike (0.3)", 0.02, memory=0.3, held=False),
    Family("3 %, neighbours alike (0.3)", 0.03, memory=0.3, held=False),
)


def found(values: npt.NDArray[np.float64]) -> list[int]:
    """As `history` looks at p50."""
    metric = METRICS["p50"]
    return change_points(np.log(values), float(np.log1p(metric.smallest)), metric.floor)


def false_alarms(family: Family, runs: int) -> float:
    """Share of series of one model with any change."""
    return (
        sum(bool(found(family.draw(np.random.default_rng([1, seed]), RUNS_OF_SERIES))) for seed in range(runs)) / runs
    )


def ever(family: Family, runs: int) -> float:
    """The same, if the series is looked at after every run and the marks of all looks are counted."""
    count = 0
    for seed in range(runs):
        values = family.draw(np.random.default_rng([1, seed]), RUNS_OF_SERIES)
        count += any(found(values[:n]) for n in range(6, RUNS_OF_SERIES + 1))
    return count / runs


def found_within(family: Family, *, before: int, after: int, step: float, runs: int) -> float:
    """Share of series in which a step is marked, at most two runs off, when `after` runs hold the new level."""
    count = 0
    for seed in range(runs):
        values = family.draw(np.random.default_rng([2, seed]), before + after)
        values[before:] *= 1 + step
        count += any(abs(place - before) <= 2 for place in found(values))
    return count / runs


def row(family: Family, runs: int) -> tuple[str, float]:
    alarms = false_alarms(family, runs)
    power: dict[Any, float] = {
        (before, after): found_within(family, before=before, after=after, step=STEP, runs=runs // 4)
        for before in (10, 20)
        for after in (3, 4, 5, 8)
    }
    cells = " | ".join(f"{share:.0%}" for share in power.values())
    return f"| {family.name} | {alarms:.2%} | {ever(family, runs // 10):.1%} | {cells} |", alarms


HEADER = """| noise between runs of one model | false alarms, series of 30 | at any of 25 looks | +5 %: 10 before, 3 after | 4 | 5 | 8 | 20 before, 3 after | 4 | 5 | 8 |
|---|---|---|---|---|---|---|---|---|---|---|"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--write", type=Path, help="Markdown file whose section `changes` is replaced")
    arguments = parser.parse_args()
    rows, broken = [HEADER], []
    for family in FAMILIES:
        text, alarms = row(family, arguments.runs)
        print(text, flush=True)
        rows.append(text if family.held else text.replace("| ", "| *", 1).replace(" |", "* |", 1))
        if family.held and alarms > PROMISE:
            broken.append(family.name)
    if arguments.write:
        command = f"python benchmarks/history.py --runs {arguments.runs}"
        sections.write(arguments.write, "changes", f"`{command}`:\n\n" + "\n".join(rows))
    for name in broken:
        print(f"false alarms above {PROMISE:.0%}: {name}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
