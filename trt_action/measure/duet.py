"""Is head slower than base? Both measured in this run, interleaved, until the answer is clear (docs/method.md).

Knows no backend: what runs a block and what tells the time are passed in.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from trt_action.errors import EvidenceError, MeasureError, OutOfMemoryError
from trt_action.evidence import Comparison
from trt_action.measure import verdict
from trt_action.measure.conclusion import Facts, conclude, differences_text
from trt_action.measure.pairs import from_series
from trt_action.measure.recorder import Recorder
from trt_action.measure.stopwatch import Stopwatch
from trt_action.measure.verdict import Rule
from trt_action.measure.windows import Windows
from trt_action.process import Progress


@dataclass(frozen=True)
class Block:
    """Consecutive inferences of one side. `wall_ns`: one duration per iteration, in order; `cpu_ns`: thread CPU
    (or device event) time of the whole block without its first iteration, 0 if it cannot be had."""

    wall_ns: list[int]
    cpu_ns: int


class Runner(Protocol):
    """One side in its own process, loaded and warmed up."""

    def block(self, iterations: int) -> Block:
        """Run `iterations` inferences back to back.

        Raises:
            MeasureError: the process died, hung, or its outputs cannot be trusted (NaN that the first run had not).
        """

    def reload(self) -> None:
        """Close the session, load the engine again in the same process, warm up."""


class UnitSides(Protocol):
    """The processes of one unit, pinned alike. `floor` is a second process of the base, for the noise floor."""

    @property
    def head(self) -> Runner: ...
    @property
    def base(self) -> Runner: ...
    @property
    def floor(self) -> Runner | None: ...


OpenUnit = Callable[[int], AbstractContextManager[UnitSides]]


@dataclass(frozen=True)
class Plan:
    """What is asked of a comparison (docs/method.md has the reason for every default).

    Relative changes are fractions (0.005 = 0.5 %); `limit` is `max-latency-regression`, None if unset. Of
    `max_seconds`, loading engines takes only what is above `free_loading` seconds. A unit is a fresh set of processes; it
    is loaded 1 + `reloads` times with `pairs_per_load` pairs each. The first look comes after `units` units, then one every
    `look_every` pairs; units after the first look are twice as long. `kept`: iterations of a block after its first, None:
    as many as `BLOCK_SECONDS` take. `of`: what an iteration is; of requests, `Block.cpu_ns` is their time to first text.
    """

    max_seconds: float = 60.0
    free_loading: float = 0.0
    margin: float = 0.005
    tolerance: float = 0.02
    limit: float | None = None
    confidence: float = 0.99
    seed: int = 0
    units: int = 3
    reloads: int = 1
    pairs_per_load: int = 10
    look_every: int = 10
    kept: int | None = None
    of: Literal["inferences", "requests"] = "inferences"

    @property
    def rule(self) -> Rule:
        return Rule(self.margin, self.tolerance, self.limit, self.confidence)


BLOCK_SECONDS = 0.008
"""Length of a block, all iterations: long against the switch between processes, short against drift."""

MAX_BLOCK_ITERATIONS = 65
MAX_SERIES_VALUES = 1_000_000
"""Recorded iterations of all sides together: about 4 MB in the evidence."""

FREE_LOADING = 2.0
"""`Plan.free_loading` on a GPU, times `max_seconds`: engines load so slowly there that else too few sets of processes would
be seen for any answer (docs/gpu.md)."""

PROBE_ITERATIONS = 5
MAX_PAIRS = 100_000


class _Stopped(Exception):  # noqa: N818 - ends the measuring, is no failure of the program
    """Measuring cannot go on; the message is for the reader of the verdict."""


def compare(
    open_unit: OpenUnit,
    plan: Plan,
    *,
    clock: Callable[[], float] = time.monotonic,
    progress: Progress | None = None,
    windows: Windows | None = None,
) -> Comparison:
    """Measure head and base in interleaved blocks until the verdict is clear or the time is over.

    A side that crashes, hangs or returns NaN, and a clock that cannot be trusted, end the measuring with an
    `inconclusive` verdict that says so; the pairs so far are kept.

    Args:
        open_unit: opens the processes of unit 0, 1, …
        clock: seconds; need not be monotonic.
        progress: called at every look.
        windows: told and asked around every round; one that it wants again is counted, but not recorded.

    Raises:
        TrtActionError: a unit could not be opened for another reason than a crash (e.g. the engine does not load).
    """
    duet = _Duet(plan, clock, progress, windows)
    stopped = ""
    try:
        duet.measure(open_unit)
    except _Stopped as error:
        stopped = str(error)
    except (MeasureError, OutOfMemoryError) as error:
        stopped = _sentence("The measuring processes failed.", error)
    return duet.result(stopped)


def recompute(comparison: Comparison) -> Comparison:
    """The comparison once more, from its stored series alone.

    Raises:
        EvidenceError: no series were stored, or they do not fit together.
    """
    if comparison.series is None:
        raise EvidenceError(
            "The evidence holds no series of the comparison, so the verdict cannot be recomputed.",
            fix="Use evidence of a run that measured head and base.",
        )
    facts = Facts(
        Rule(comparison.margin, comparison.tolerance, comparison.limit, comparison.confidence),
        comparison.seed,
        comparison.seconds,
        tuple(comparison.units),
        comparison.stopped,
        tuple(comparison.warnings),
        comparison.of,
    )
    return conclude(from_series(comparison.series), facts)


class _Duet:
    """One comparison in progress."""

    def __init__(
        self, plan: Plan, clock: Callable[[], float], progress: Progress | None, windows: Windows | None
    ) -> None:
        self.plan = plan
        self.watch = Stopwatch(clock, free=plan.free_loading)
        self.progress = progress
        self.windows = windows
        self.coin = np.random.Generator(np.random.PCG64(plan.seed))
        self.recorder = Recorder()
        self.answered = False

    def measure(self, open_unit: OpenUnit) -> None:
        unit = 0
        while not self.done():
            with contextlib.ExitStack() as stack:
                with self.watch.loading():
                    sides = stack.enter_context(open_unit(unit))
                self.measure_unit(unit, sides)
            unit += 1
            if unit >= self.plan.units and not self.done():
                self.look()

    def measure_unit(self, unit: int, sides: UnitSides) -> None:
        """All loads of one unit. While the first units are made, each may take its share of the time only."""
        plan = self.plan
        first_units = unit < plan.units
        ends = plan.max_seconds * (unit + 1) / plan.units if first_units else plan.max_seconds
        if self.watch.counted() >= plan.max_seconds:
            return
        self.recorder.start_unit(unit, self.choose_kept(sides))
        for load in range(plan.reloads + 1):
            if load:
                with self.watch.loading():
                    self.reload(sides)
            wanted = len(self.recorder) + plan.pairs_per_load * (1 if first_units else 2)
            while len(self.recorder) < wanted:
                if self.done() or self.watch.counted() >= ends:
                    return
                if self.pair(sides) and not first_units and len(self.recorder) % plan.look_every == 0:
                    self.look()

    def choose_kept(self, sides: UnitSides) -> int:
        """Iterations per block after its first, chosen once: as many as make a block of about 8 ms, at least one.

        From the fastest iteration: a busy host must not make the blocks short, where it needs them long.
        """
        if self.plan.kept is not None:
            return self.plan.kept
        if self.recorder.kept:
            return self.recorder.kept[0]
        seconds = max(self.fastest("head", sides.head), self.fastest("base", sides.base))
        total = round(BLOCK_SECONDS / seconds) + 1 if seconds > 0 else 2
        blocks = self.plan.max_seconds / max(total * seconds, 0.001)
        affordable = max(3, int(MAX_SERIES_VALUES / max(blocks, 1.0)))
        return min(max(total, 2), MAX_BLOCK_ITERATIONS, affordable + 1) - 1

    def fastest(self, name: str, runner: Runner) -> float:
        """Seconds of the fastest of two inferences, or of a few more of a fast engine."""
        seconds = min(self.block(name, runner, 2).wall_ns) / 1e9
        if seconds < BLOCK_SECONDS:
            seconds = min(self.block(name, runner, PROBE_ITERATIONS).wall_ns) / 1e9
        return seconds

    def reload(self, sides: UnitSides) -> None:
        for name, runner in (("head", sides.head), ("base", sides.base), ("second base", sides.floor)):
            if runner is None:
                continue
            try:
                runner.reload()
            except (MeasureError, OutOfMemoryError) as error:
                raise _Stopped(
                    _sentence(f"The {name} process failed while loading its engine again.", error)
                ) from error
        self.recorder.reloads[-1] += 1

    def pair(self, sides: UnitSides) -> bool:
        """One block of every side, in random order: each side then follows each other side equally often. False if the
        round was set aside.

        With blocks of its own for the noise floor, base would run more often than head and find warmer caches: that
        alone made base look 0.6 % faster than an identical head of 3.7 MB (docs/method.md).
        """
        runners = {"head": sides.head, "base": sides.base}
        if sides.floor is not None:
            runners["second base"] = sides.floor
        order = [list(runners)[i] for i in self.coin.permutation(len(runners))]
        iterations = self.recorder.kept[-1] + 1
        if self.windows is not None:
            self.windows.begin()
        blocks = {name: self.block(name, runners[name], iterations) for name in order}
        if self.windows is not None and self.windows.again():
            self.recorder.set_aside[-1] += 1
            return False
        head, base = blocks["head"], blocks["base"]
        head_first = order.index("head") < order.index("base")
        self.recorder.add(head.wall_ns[1:], base.wall_ns[1:], head.cpu_ns, base.cpu_ns, head_first=head_first)
        if sides.floor is not None:
            self.recorder.add_floor(base.wall_ns[1:], blocks["second base"].wall_ns[1:])
        if self.recorder.clock_is_broken():
            raise _Stopped(
                f"The clock of this host ran backwards or stood still in {self.recorder.unusable} blocks: its times "
                "cannot be trusted. Run on another host, or check its clock source."
            )
        return True

    def block(self, name: str, runner: Runner, iterations: int) -> Block:
        try:
            block = runner.block(iterations)
        except (MeasureError, OutOfMemoryError) as error:
            raise _Stopped(_sentence(f"The {name} process failed after {len(self.recorder)} pairs.", error)) from error
        if len(block.wall_ns) != iterations:
            raise _Stopped(f"The {name} process answered {len(block.wall_ns)} durations instead of {iterations}.")
        self.watch.add_work(sum(block.wall_ns))
        return block

    def done(self) -> bool:
        over = self.watch.counted() >= self.plan.max_seconds
        return self.answered or over or len(self.recorder) >= MAX_PAIRS

    def look(self) -> None:
        sample = self.recorder.sample()
        self.answered = verdict.answer(sample, self.plan.rule, final=False).complete
        if self.progress is not None:
            share = min(1.0, self.watch.counted() / self.plan.max_seconds)
            text = f"{len(self.recorder)} pairs, head/base {differences_text(sample.typical.d)}"
            self.progress(text, 1.0 if self.answered else share)

    def result(self, stopped: str) -> Comparison:
        warnings = []
        if self.watch.jumps:
            warnings.append(f"The clock ran backwards {self.watch.jumps} times between blocks.")
        facts = Facts(
            self.plan.rule,
            self.plan.seed,
            self.watch.elapsed(),
            self.recorder.units(),
            stopped,
            tuple(warnings),
            self.plan.of,
        )
        return conclude(self.recorder.recording(), facts)


def _sentence(what: str, error: MeasureError | OutOfMemoryError) -> str:
    return " ".join(part for part in (what, error.what, error.why, error.fix) if part)
