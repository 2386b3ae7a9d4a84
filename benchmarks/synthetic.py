"""Synthetic comparisons of known truth: noise as a machine makes it, at the level of single blocks, under the
product's own schedule (units, loads, fair coin, floor pairs) and its own rule, with a model of the time it takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from trt_action.evidence import Verdict
from trt_action.measure import verdict
from trt_action.measure.duet import Plan
from trt_action.measure.layout import Differences
from trt_action.measure.verdict import Sample

Floats = npt.NDArray[np.float64]
Noise = Callable[[np.random.Generator, int], Floats]
"""ln of the slow-down of `n` consecutive blocks, whichever side runs."""

SIDES = 3
"""Head, base, second base."""

MINIMUM_SHARE = 0.7
"""How much of the host's noise reaches the minimum of a block; measured: 0.4 to 1."""


@dataclass(frozen=True)
class Costs:
    """Seconds of the real thing, for a 2.5 ms engine: new processes of a unit, one reload of all sides, one block of each."""

    unit: float = 0.9
    reload: float = 0.25
    pair: float = 0.036


def quiet(rng: np.random.Generator, n: int) -> Floats:
    return 0.007 * rng.standard_normal(n)


@dataclass(frozen=True)
class Family:
    """`environment` hits whichever side runs at that moment; the other fields belong to a side.

    `unit_sd`, `load_sd`: layout offset of one side, redrawn with every process, and with every load.
    `own_ar`: AR(1) coefficient of noise that each process carries from block to block, with `own_sd`.
    `first`: added to the first block of a pair. `grid`: durations are rounded to this relative step.
    """

    name: str
    environment: Noise = quiet
    unit_sd: float = 0.0
    load_sd: float = 0.001
    own_ar: float = 0.0
    own_sd: float = 0.0
    first: float = 0.0
    grid: float = 0.0
    stress: bool = field(default=False)
    """Beyond what the rule promises; shown, not asserted."""

    costs: Costs = field(default_factory=Costs)
    free_loading: float = 0.0
    """As `Plan.free_loading`, s."""


ON_A_GPU = Costs(unit=4.2, reload=1.5, pair=0.04)
"""An fp32 network of 4.4 ms on an H200; so are the spreads of its families (18 loads of head, base and base)."""


def gpu(rng: np.random.Generator, n: int) -> Floats:
    return 0.014 * rng.standard_normal(n)


def heavy(rng: np.random.Generator, n: int) -> Floats:
    draws: Floats = 0.007 * rng.standard_t(2, n)
    return draws


def cauchy(rng: np.random.Generator, n: int) -> Floats:
    draws: Floats = np.clip(0.005 * rng.standard_cauchy(n), -3, 3)
    return draws


def autoregressive(rng: np.random.Generator, n: int, coefficient: float, deviation: float) -> Floats:
    """AR(1) with stationary standard deviation `deviation`."""
    shocks = rng.standard_normal(n) * deviation * math.sqrt(1 - coefficient**2)
    level = rng.standard_normal() * deviation
    out = np.empty(n)
    for i, shock in enumerate(shocks.tolist()):
        level = coefficient * level + shock
        out[i] = level
    return out


def drift(rng: np.random.Generator, n: int) -> Floats:
    """The machine becomes 10 % slower in 1,000 blocks, and wanders."""
    wander: Floats = np.cumsum(0.002 * rng.standard_normal(n))
    return 0.0001 * np.arange(n) + wander + quiet(rng, n)


def bursts(rng: np.random.Generator, n: int) -> Floats:
    """A neighbour that comes and goes: a third of the time, 35 % slower on average, several blocks long."""
    busy = np.zeros(n, dtype=bool)
    state = False
    for i, draw in enumerate(rng.random(n).tolist()):
        state = draw < 0.8 if state else draw < 0.1
        busy[i] = state
    slow: Floats = quiet(rng, n) + np.where(busy, rng.exponential(0.3, n), 0.0)
    return slow


FAMILIES = (
    Family("normal"),
    Family("heavy tails (Student, 2 degrees)", heavy),
    Family("Cauchy tails", cauchy),
    Family("AR(1) 0.5, host", lambda rng, n: autoregressive(rng, n, 0.5, 0.015)),
    Family("AR(1) 0.9, host", lambda rng, n: autoregressive(rng, n, 0.9, 0.03)),
    Family("AR(1) 0.5, own of each process", own_ar=0.5, own_sd=0.007),
    Family("AR(1) 0.9, own of each process", own_ar=0.9, own_sd=0.007),
    Family("drift", drift),
    Family("one-sided bursts", bursts),
    Family("first of a pair 0.5 % slower", first=0.005),
    Family("durations rounded to 1 %", grid=0.01),
    Family("layout: 0.6 % per load", load_sd=0.006),
    Family("layout: 0.2 % per load, 0.2 % per process", load_sd=0.002, unit_sd=0.002),
    Family("layout: 0.35 % per process", unit_sd=0.0035),
    Family("stress: first of a pair 2 % slower", first=0.02, stress=True),
    Family("stress: 0.35 % per process, bursts", bursts, unit_sd=0.0035, stress=True),
    Family("stress: 0.7 % per process (1 % head/base)", unit_sd=0.007, stress=True),
    Family("stress: the same with bursts", bursts, unit_sd=0.007, stress=True),
    Family("on a GPU, loading counts", gpu, unit_sd=0.008, load_sd=0.008, stress=True, costs=ON_A_GPU),
    Family("on a GPU", gpu, unit_sd=0.008, load_sd=0.008, stress=True, costs=ON_A_GPU, free_loading=120.0),
)


@dataclass(frozen=True)
class Unit:
    """Differences d of one unit, in order: rows are pairs, columns the block median and the block minimum."""

    main: Floats
    floor: Floats


def units(rng: np.random.Generator, family: Family, effect: float, plan: Plan) -> Iterator[Unit]:
    """Unit after unit by the product's schedule: loads, and rounds of one block of each side in random order."""
    unit = 0
    while True:
        per_load = plan.pairs_per_load * (1 if unit < plan.units else 2)
        rounds = per_load * (plan.reloads + 1)
        order = rng.permuted(np.tile(np.arange(SIDES), (rounds, 1)), axis=1)
        layout = family.unit_sd * rng.standard_normal(SIDES)
        loads = layout + family.load_sd * rng.standard_normal((plan.reloads + 1, SIDES))
        yield _blocks(rng, family, order, np.repeat(loads, per_load, axis=0), effect)
        unit += 1


def _blocks(
    rng: np.random.Generator, family: Family, order: npt.NDArray[np.int64], offsets: Floats, effect: float
) -> Unit:
    """One unit. `order`: the side at each place of each round; `offsets`: by round and side."""
    own = np.take_along_axis(offsets, order, axis=1) + np.where(order == 0, math.log1p(effect), 0.0)
    own[:, 0] += family.first
    if family.own_sd:
        flat, wanted = own.reshape(-1), order.reshape(-1)
        for side in range(SIDES):
            mine = np.flatnonzero(wanted == side)
            flat[mine] += autoregressive(rng, len(mine), family.own_ar, family.own_sd)
        own = flat.reshape(order.shape)
    host = family.environment(rng, order.size).reshape(order.shape)
    place = np.argsort(order, axis=1)
    main, floor = [], []
    for log_time in (own + host, own + MINIMUM_SHARE * host):
        seen = np.log(np.round(np.exp(log_time) / family.grid) * family.grid) if family.grid else log_time
        head, base, second_base = np.take_along_axis(seen, place, axis=1).T
        main.append(head - base)
        floor.append(base - second_base)
    return Unit(np.stack(main, axis=1), np.stack(floor, axis=1))


@dataclass(frozen=True)
class Run:
    verdict: Verdict
    seconds: float
    sample: Sample
    allowance: float


def simulate(rng: np.random.Generator, family: Family, effect: float, plan: Plan) -> Run:
    """One comparison by the product's schedule and rule."""
    done: list[Unit] = []
    costs = family.costs
    seconds, loading, next_look = 0.0, 0.0, 0
    for index, unit in enumerate(units(rng, family, effect, plan)):
        seconds, loading = seconds + costs.unit, loading + costs.unit
        per_load = len(unit.main) // (plan.reloads + 1)
        for load in range(plan.reloads + 1):
            loading += costs.reload * bool(load)
            seconds += costs.reload * bool(load) + costs.pair * per_load
            pairs = (load + 1) * per_load
            sofar = [*done, Unit(unit.main[:pairs], unit.floor[:pairs])]
            total = sum(len(one.main) for one in sofar)
            first_look = index == plan.units - 1 and load == plan.reloads
            over = seconds - min(loading, family.free_loading) >= plan.max_seconds
            if first_look or over or (index >= plan.units and total >= next_look):
                next_look = total + plan.look_every
                sample = _sample(sofar)
                given = verdict.answer(sample, plan.rule, final=over)
                if over or given.complete:
                    return Run(given.verdict, seconds, sample, given.typical_allowance or 0.0)
        done.append(unit)
    raise AssertionError("units never end")


def _sample(units: list[Unit]) -> Sample:
    main, floor = (np.concatenate(parts) for parts in zip(*((one.main, one.floor) for one in units), strict=True))
    unit, floor_unit = (
        np.repeat(np.arange(len(units)), [len(part) for part in parts])
        for parts in ([one.main for one in units], [one.floor for one in units])
    )
    typical, fastest = (Differences(main[:, k], unit, floor[:, k], floor_unit) for k in (0, 1))
    return Sample(typical, fastest)
