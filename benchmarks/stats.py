"""Do the statistics keep their promises? False alarms, coverage and power on synthetic comparisons of known truth.

    python benchmarks/stats.py [--runs 2000] [--write docs/method.md]        about 5 minutes on one core
    python benchmarks/stats.py --quick                                       a few seconds, looser bounds, for the tests

Ends with exit code 1 if a promise is broken (stress families are shown and not held to it).
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import sections
from benchmarks.synthetic import FAMILIES, Family, Run, simulate, units
from trt_action.measure.duet import Plan
from trt_action.measure.martingale import successes_needed
from trt_action.measure.stats import binomial_cdf, signed_rank_interval

SEED = 20_240_601
LOOKED_AT = 1_000
"""Pairs of the check of the bare sign test, looked at after every single one."""


@dataclass(frozen=True)
class Row:
    """Shares are fractions; times are seconds (median, 95th percentile)."""

    family: Family
    sign_test: float | None
    false_alarms: float
    passed: float
    pass_times: tuple[float, float]
    coverage: float
    caught: float
    caught_times: tuple[float, float]
    small_caught: float

    def markdown(self) -> str:
        sign_test = "–" if self.sign_test is None else f"{self.sign_test:.2%}"
        return (
            f"| {self.family.name} | {sign_test} | {self.false_alarms:.2%} | {self.passed:.1%} | "
            f"{self.pass_times[0]:.1f} / {self.pass_times[1]:.1f} | {self.coverage:.2%} | {self.caught:.1%} | "
            f"{self.caught_times[0]:.1f} / {self.caught_times[1]:.1f} | {self.small_caught:.1%} |"
        )


HEADER = """| noise | bare sign test on the boundary, any of 1,000 looks | A/A false alarms | A/A passed | A/A time, s | interval covers | +2 % regressed | its time, s | +1 % regressed (margin 0.3 %) |
|---|---|---|---|---|---|---|---|---|"""


def measure(family: Family, runs: int, small_runs: int, index: int) -> Row:
    rng = np.random.Generator(np.random.PCG64([SEED, index]))
    aa = [simulate(rng, family, 0.0, Plan()) for _ in range(runs)]
    slow = [simulate(rng, family, 0.02, Plan()) for _ in range(max(runs // 4, 20))]
    small = [simulate(rng, family, 0.01, Plan(margin=0.003)) for _ in range(small_runs)]
    exchangeable = family.own_sd == 0 and family.unit_sd == 0
    return Row(
        family=family,
        sign_test=_sign_test(rng, family, runs) if exchangeable else None,
        false_alarms=_share(aa, "regressed") + _share(aa, "improved"),
        passed=_share(aa, "within-noise"),
        pass_times=_times(aa),
        coverage=sum(_covers(run, 0.0) for run in aa) / runs,
        caught=_share(slow, "regressed"),
        caught_times=_times(slow),
        small_caught=_share(small, "regressed"),
    )


def _sign_test(rng: np.random.Generator, family: Family, runs: int) -> float:
    """Share of series, with the median of d exactly on the threshold, that ever cross within `LOOKED_AT` looks."""
    plan = Plan(units=1, reloads=0, pairs_per_load=LOOKED_AT)
    still = Family(family.name, family.environment, load_sd=0.0, first=family.first, grid=family.grid)
    needed = np.array([successes_needed(n, 0.01) for n in range(1, LOOKED_AT + 1)])
    crossed = 0
    for _ in range(runs):
        d = next(units(rng, still, 0.0, plan)).main[:, 0]
        crossed += bool((np.cumsum(d > 0) >= needed).any())
    return crossed / runs


def _covers(run: Run, effect: float) -> bool:
    interval = signed_rank_interval(run.sample.typical.d, Plan().confidence)
    truth = math.log1p(effect)
    return interval is not None and interval[0] - run.allowance <= truth <= interval[1] + run.allowance


def _share(runs: list[Run], word: str) -> float:
    return sum(run.verdict == word for run in runs) / len(runs)


def _times(runs: list[Run]) -> tuple[float, float]:
    middle, late = np.percentile([run.seconds for run in runs], [50, 95])
    return float(middle), float(late)


def broken(row: Row, runs: int) -> list[str]:
    """Promises that this row breaks, beyond what chance explains with this many runs (one in 10,000)."""
    if row.family.stress:
        return []
    allowed = int(np.searchsorted(binomial_cdf(runs, 0.01), 0.9999))
    uncovered = int(np.searchsorted(binomial_cdf(runs, 0.015), 0.9999))
    found = []
    if row.false_alarms * runs > allowed:
        found.append(f"{row.family.name}: {row.false_alarms:.2%} false alarms")
    if row.sign_test is not None and row.sign_test * runs > allowed:
        found.append(f"{row.family.name}: the sign test alone crosses in {row.sign_test:.2%}")
    if (1 - row.coverage) * runs > uncovered:
        found.append(f"{row.family.name}: intervals cover {row.coverage:.2%}")
    if row.caught < 0.9:
        found.append(f"{row.family.name}: +2 % is caught in {row.caught:.1%}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2_000, help="synthetic A/A runs per family")
    parser.add_argument("--quick", action="store_true", help="60 runs per family")
    parser.add_argument("--only", default="", help="families whose names contain this")
    parser.add_argument("--write", type=Path, help="Markdown file whose section `stats` is replaced")
    arguments = parser.parse_args()
    if arguments.only and arguments.write:
        parser.error("--write replaces the whole table, --only makes a part of it")
    runs = 60 if arguments.quick else arguments.runs
    begin = time.monotonic()
    rows = []
    print(HEADER)
    for index, family in enumerate(FAMILIES):
        if arguments.only not in family.name:
            continue
        rows.append(measure(family, runs, max(runs // 20, 5), index))
        print(rows[-1].markdown(), flush=True)
    command = " ".join(["python benchmarks/stats.py", *sys.argv[1:]])
    print(f"\n{runs} A/A runs per family, {time.monotonic() - begin:.0f} s (`{command}`).")
    if arguments.write:
        table = "\n".join([HEADER, *(row.markdown() for row in rows)])
        sections.write(arguments.write, "stats", f"`{command}`, {runs} A/A runs per family:\n\n{table}")
    problems = [problem for row in rows for problem in broken(row, runs)]
    for problem in problems:
        print(f"BROKEN: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
