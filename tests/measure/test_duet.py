"""The whole comparison on a synthetic machine: processes that load, age and crash, and a clock that can be broken."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from trt_action.errors import EvidenceError, MeasureError, OutOfMemoryError
from trt_action.evidence import Comparison, Estimate
from trt_action.measure.duet import Block, Plan, Runner, compare, recompute
from trt_action.measure.pairs import from_series
from trt_action.measure.series import unpack


@dataclass
class Machine:
    """`head`, `base`, `second`: seconds of one inference. Starting a process and loading take time, as they do.

    `crash`: (side, unit, block number) at which that side dies. `layout`: spread of the processes' own speed.
    """

    head: float = 0.0025
    base: float = 0.0025
    second: float = 0.0025
    noise: float = 0.005
    layout: float = 0.001
    seed: int = 1
    crash: tuple[str, int, int] | None = None
    crash_error: type[MeasureError] | type[OutOfMemoryError] = MeasureError
    spoil: Callable[[list[int], int], list[int]] = lambda wall, _: wall
    floor: bool = True
    start: float = 0.8
    now: float = 0.0
    opened: list[int] = field(default_factory=list)
    closed: int = 0
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def clock(self) -> float:
        return self.now

    @contextlib.contextmanager
    def open(self, unit: int) -> Iterator[Sides]:
        self.opened.append(unit)
        self.now += self.start
        try:
            yield Sides(
                Side(self, "head", self.head, unit),
                Side(self, "base", self.base, unit),
                Side(self, "second base", self.second, unit) if self.floor else None,
            )
        finally:
            self.closed += 1


class Side:
    def __init__(self, machine: Machine, name: str, seconds: float, unit: int) -> None:
        self.machine, self.name, self.unit = machine, name, unit
        self.seconds = seconds * math.exp(machine.layout * machine.rng.standard_normal())
        self.blocks = 0

    def block(self, iterations: int) -> Block:
        machine = self.machine
        self.blocks += 1
        if machine.crash == (self.name, self.unit, self.blocks):
            raise machine.crash_error(f"{self.name}: killed.", why="Its last words: boom.")
        machine.log.append(self.name)
        spread = np.exp(machine.noise * machine.rng.standard_normal(iterations))
        wall = [int(self.seconds * 1e9 * x) for x in spread]
        wall[0] *= 3  # the cache refill that must not count
        machine.now += sum(wall) / 1e9 + 0.0005
        return Block(machine.spoil(wall, self.blocks), sum(wall[1:]))

    def reload(self) -> None:
        self.machine.log.append(f"reload {self.name}")
        self.machine.now += 0.08
        if self.machine.crash == (self.name, self.unit, -1):
            raise self.machine.crash_error("the engine does not load again.")


@dataclass(frozen=True)
class Sides:
    head: Runner
    base: Runner
    floor: Runner | None


def run(machine: Machine, plan: Plan | None = None) -> Comparison:
    return compare(machine.open, plan or Plan(), clock=machine.clock)


def same_numbers(one: Comparison, other: Comparison) -> bool:
    return one.model_dump(mode="json") == other.model_dump(mode="json")


@pytest.mark.parametrize(
    ("slower", "verdict"),
    [(0.0, "within-noise"), (0.02, "regressed"), (0.10, "regressed"), (1.5, "regressed"), (-0.03, "improved")],
)
@pytest.mark.parametrize("base_ms", [0.05, 0.5, 2.5, 30.0])
def test_known_effects_get_their_word_in_time(slower: float, verdict: str, base_ms: float) -> None:
    seconds = base_ms / 1e3
    comparison = run(Machine(head=seconds * (1 + slower), base=seconds, second=seconds))
    assert comparison.verdict == verdict, comparison.reason
    assert comparison.p50_ratio is not None
    assert comparison.p50_ratio.low <= 1 + slower <= comparison.p50_ratio.high
    assert comparison.seconds < (9 if base_ms < 30 else 60)
    assert same_numbers(recompute(comparison), comparison)


def test_swapping_the_sides_swaps_the_verdict() -> None:
    assert run(Machine(head=0.0024)).verdict == "improved"
    assert run(Machine(base=0.0024, second=0.0024)).verdict == "regressed"


def test_a_small_effect_is_found_when_the_margin_asks_for_it() -> None:
    machine = Machine(head=0.0025 * 1.01, noise=0.01)
    assert run(machine, Plan(margin=0.003)).verdict == "regressed"


@pytest.mark.parametrize(
    ("slower", "status"), [(0.0, "passed"), (0.02, "passed"), (0.05, "inconclusive"), (0.10, "failed")]
)
def test_the_asked_limit_is_decided_by_the_same_pairs(slower: float, status: str) -> None:
    comparison = run(Machine(head=0.0025 * (1 + slower)), Plan(limit=0.05, max_seconds=20))
    assert (comparison.limit, comparison.limit_status) == (0.05, status)
    assert same_numbers(recompute(comparison), comparison)


def test_what_is_recorded_is_what_was_run() -> None:
    machine = Machine()
    plan = Plan(seed=5)
    comparison = run(machine, plan)
    series = comparison.series
    assert series is not None
    kept = comparison.units[0].block_iterations
    assert 0.004 < 0.0025 * (kept + 1) < 0.011
    assert unpack(series.head).max() < 0.0025 * 1.5e9  # the first iteration of each block is not in it
    head_first = unpack(series.head_first)
    assert 0.3 < head_first.mean() < 0.7
    blocks = [name for name in machine.log if name in ("head", "base")]
    probes = 4
    order = [blocks[i] == "head" for i in range(probes, probes + 2 * 3, 2)]
    assert order == [bool(x) for x in head_first[:3]]
    assert comparison.pairs == sum(unit.pairs for unit in comparison.units) == len(unpack(series.unit))
    assert comparison.iterations == series.head.n == comparison.pairs * kept
    assert series.floor_unit is not None
    assert series.floor_unit.n == comparison.pairs
    assert [unit.reloads for unit in comparison.units[: plan.units]] == [plan.reloads] * plan.units
    assert machine.closed == len(machine.opened) >= plan.units


def test_the_seed_decides_the_order() -> None:
    first, again, other = (run(Machine(), Plan(seed=seed)) for seed in (7, 7, 8))
    assert first.series is not None
    assert again.series is not None
    assert other.series is not None
    assert first.series.head_first == again.series.head_first
    assert first.series.head_first != other.series.head_first


@pytest.mark.parametrize("side", ["head", "base", "second base"])
@pytest.mark.parametrize("error", [MeasureError, OutOfMemoryError])
@pytest.mark.parametrize("block", [1, 12, -1])
def test_a_side_that_dies_is_named_and_the_pairs_are_kept(
    side: str, error: type[MeasureError] | type[OutOfMemoryError], block: int
) -> None:
    machine = Machine(crash=(side, 1, block), crash_error=error)
    if side == "second base" and block == 12:
        machine.crash = (side, 1, 5)
    comparison = run(machine)
    assert comparison.verdict == "inconclusive"
    assert f"The {side} process failed" in comparison.reason
    assert comparison.stopped == comparison.reason
    assert comparison.pairs >= Plan().pairs_per_load * 2
    assert comparison.p50_ratio is not None
    assert machine.closed == len(machine.opened)
    assert same_numbers(recompute(comparison), comparison)


def test_a_unit_that_cannot_be_opened_again_keeps_the_pairs() -> None:
    machine = Machine()

    @contextlib.contextmanager
    def open_once(unit: int) -> Iterator[Sides]:
        if unit:
            raise MeasureError("base: the process gave no answer within 600 s.")
        with machine.open(unit) as sides:
            yield sides

    comparison = compare(open_once, Plan(), clock=machine.clock)
    assert comparison.verdict == "inconclusive"
    assert "gave no answer" in comparison.reason
    assert comparison.pairs == Plan().pairs_per_load * 2


@pytest.mark.parametrize("bad", [0, -5])
def test_a_clock_that_runs_backwards_decides_nothing(bad: int) -> None:
    def spoil(wall: list[int], number: int) -> list[int]:
        return [*wall[:-1], bad] if number % 3 == 0 else wall

    comparison = run(Machine(spoil=spoil))
    assert comparison.verdict == "inconclusive"
    assert "clock" in comparison.reason
    assert comparison.pairs > 0
    assert same_numbers(recompute(comparison), comparison)


def test_a_trace_of_bad_durations_is_counted_and_kept_but_not_used() -> None:
    def spoil(wall: list[int], number: int) -> list[int]:
        return [*wall[:-1], -1] if number == 40 else wall

    comparison = run(Machine(spoil=spoil, head=0.00254, noise=0.02), Plan(max_seconds=30))
    assert "are kept but not used" in " ".join(comparison.warnings)
    assert comparison.series is not None
    assert int((unpack(comparison.series.head) == 0).sum()) >= 1
    assert same_numbers(recompute(comparison), comparison)


@pytest.mark.parametrize("clock", [lambda: 0.0, iter(range(10**9, 0, -1)).__next__], ids=["still", "backwards"])
def test_a_broken_wall_clock_does_not_make_it_run_for_ever(clock: Callable[[], float]) -> None:
    machine = Machine(head=0.0025 * 1.02, noise=1.0)
    comparison = compare(machine.open, Plan(max_seconds=5), clock=clock)
    assert comparison.seconds >= 5
    assert comparison.pairs > 5


@pytest.mark.parametrize(
    ("budget", "word"), [(0.0, "Nothing was measured"), (0.5, "Nothing was measured"), (1.0, "Only 1 set")]
)
def test_a_budget_too_small_says_so(budget: float, word: str) -> None:
    comparison = run(Machine(), Plan(max_seconds=budget, units=1))
    assert comparison.verdict == "inconclusive"
    assert word in comparison.reason
    assert "max-seconds" in comparison.reason
    if comparison.pairs:
        assert same_numbers(recompute(comparison), comparison)


@pytest.mark.parametrize("seconds", [0.3, 1.0])
def test_slow_models_share_the_time_between_units(seconds: float) -> None:
    comparison = run(Machine(head=seconds * 1.2, base=seconds, second=seconds))
    assert [unit.block_iterations for unit in comparison.units] == [1] * len(comparison.units)
    assert min(unit.pairs for unit in comparison.units) >= 1
    assert comparison.seconds < 80


def test_the_verdict_waits_for_the_time_limit_and_says_what_is_missing() -> None:
    comparison = run(Machine(head=0.0025 * 1.019, noise=0.12), Plan(margin=0.0189, max_seconds=8))
    assert comparison.verdict == "inconclusive"
    assert "max-seconds" in comparison.reason
    assert comparison.seconds < 9


def test_a_host_on_which_base_differs_from_itself_gives_no_verdict() -> None:
    unsteady = Machine(head=0.0025 * 1.05, second=0.0025 * 1.05, layout=0.0001, noise=0.002)
    comparison = run(unsteady, Plan(max_seconds=20))
    assert comparison.verdict == "inconclusive"
    assert comparison.noise_floor is not None
    assert "too unsteady" in comparison.reason


def test_a_change_far_beyond_the_noise_floor_stands() -> None:
    unsteady = Machine(head=0.0025 * 3, second=0.0025 * 1.05, layout=0.0001, noise=0.002)
    assert run(unsteady, Plan(max_seconds=20)).verdict == "regressed"


def test_layout_of_memory_is_not_taken_for_a_change() -> None:
    """Equal engines whose every process is 1 % faster or slower than the next: 25 runs, each with its own luck."""
    verdicts = [run(Machine(layout=0.01, noise=0.002, seed=seed)).verdict for seed in range(25)]
    assert sum(verdict in ("regressed", "improved") for verdict in verdicts) <= 2


def test_without_a_second_base_more_units_are_needed_not_fewer() -> None:
    comparison = run(Machine(floor=False, head=0.00255))
    assert comparison.noise_floor is None
    assert comparison.verdict == "regressed"
    assert same_numbers(recompute(comparison), comparison)


@pytest.mark.parametrize(("wall", "waiting", "warned"), [(1.05, 1.05, True), (1.05, 0.97, False)])
def test_a_witness_that_contradicts_is_a_warning(wall: float, waiting: float, warned: bool) -> None:
    """Wall says slower: CPU time that sees no change contradicts, CPU time that sees more of it does not."""

    class Waiting(Side):
        def block(self, iterations: int) -> Block:
            block = super().block(iterations)
            return Block([*block.wall_ns], int(sum(block.wall_ns[1:]) / (waiting if self.name == "head" else 1.0)))

    machine = Machine(head=0.0025 * wall)

    @contextlib.contextmanager
    def open_unit(unit: int) -> Iterator[Sides]:
        with machine.open(unit):
            yield Sides(
                *(Waiting(machine, n, s, unit) for n, s in (("head", 0.0025 * wall), ("base", 0.0025), ("b", 0.0025)))
            )

    comparison = compare(open_unit, Plan(), clock=machine.clock)
    assert comparison.verdict == "regressed"
    assert ("CPU time says" in " ".join(comparison.warnings)) is warned


def test_evidence_without_series_or_with_broken_ones_is_refused() -> None:
    comparison = run(Machine())
    assert comparison.series is not None
    with pytest.raises(EvidenceError):
        recompute(comparison.model_copy(update={"series": None}))
    broken = {
        "block_iterations": [1],
        "head": comparison.series.base.model_copy(update={"n": 3}),
        "head_first": comparison.series.floor_a,
        "head_cpu": None,
    }
    for name, value in broken.items():
        with pytest.raises(EvidenceError):
            from_series(comparison.series.model_copy(update={name: value}))


def test_the_p99_verdict_is_its_own() -> None:
    comparison = run(Machine(head=0.00005 * 1.3, base=0.00005, second=0.00005))
    assert isinstance(comparison.p99_ratio, Estimate)
    assert comparison.p99_verdict == "regressed"
    assert run(replace(Machine(base=0.00005, head=0.00005, second=0.00005))).p99_verdict == "within-noise"


def test_the_evidence_stays_small() -> None:
    machine = Machine(head=0.00005 * 1.005, base=0.00005, second=0.00005, noise=0.3)
    comparison = run(machine, Plan(max_seconds=20, margin=0.0049))
    assert len(comparison.model_dump_json()) < 4_000_000


class Restless:
    """The windows that are wanted again, by number."""

    def __init__(self, *again: int) -> None:
        self.wanted, self.seen, self.is_open = again, 0, False

    def begin(self) -> None:
        assert not self.is_open
        self.is_open = True

    def again(self) -> bool:
        assert self.is_open
        self.is_open = False
        self.seen += 1
        return self.seen in self.wanted


def test_rounds_that_are_wanted_again_are_counted_and_not_recorded() -> None:
    def slow(wall: list[int], block: int) -> list[int]:
        return [3 * ns for ns in wall] if block in (5, 6) else wall  # of every side of a unit; two are the probes

    windows = Restless(3, 4, 25)
    found = compare((machine := Machine(spoil=slow)).open, Plan(), clock=machine.clock, windows=windows)
    assert [unit.set_aside for unit in found.units] == [2, 1, 0]
    assert [unit.pairs for unit in found.units] == [20, 20, 20]
    assert windows.seen == 63
    assert found.verdict == "within-noise"
    assert same_numbers(recompute(found), found)
    series = from_series(found.series) if found.series else None
    assert series
    assert series.main.first[series.main.unit[series.main.owners()] == 0].max() < 1.5 * 2.5e6


class Throttled:
    """A device that slows down threefold for the blocks of some rounds; asked about each round, it tells the truth."""

    def __init__(self, machine: Machine, *, of_ten: int, after: str = "") -> None:
        self.machine, self.of_ten, self.after = machine, of_ten, after
        self.rng = np.random.default_rng(5)
        self.slow, self.left = False, 50

    def spoil(self, wall: list[int], _: int) -> list[int]:
        return [3 * ns for ns in wall] if self.slow else wall

    def begin(self) -> None:
        self.slow = bool(self.rng.integers(10) < self.of_ten)

    def again(self) -> bool:
        """`after`: rounds that end with this side disturb the device, too: being set aside depends on the order."""
        disturbed, self.slow = self.slow or self.machine.log[-1] == self.after, False
        self.left -= disturbed
        return disturbed and self.left >= 0


@pytest.mark.parametrize("after", ["", "head", "base"])
@pytest.mark.parametrize(("slower", "verdict"), [(0.0, "within-noise"), (0.02, "regressed"), (-0.02, "improved")])
def test_rounds_set_aside_favour_neither_side(slower: float, verdict: str, after: str) -> None:
    machine = Machine(head=0.0025 * (1 + slower))
    device = Throttled(machine, of_ten=3, after=after)
    machine.spoil = device.spoil
    found = compare(machine.open, Plan(), clock=machine.clock, windows=device)
    assert found.verdict == verdict, found.reason
    assert found.p50_ratio
    assert found.p50_ratio.low <= 1 + slower <= found.p50_ratio.high
    assert sum(unit.set_aside for unit in found.units) > 10
    assert sum(unit.pairs for unit in found.units) == found.pairs
    recording = from_series(found.series) if found.series else None
    assert recording
    assert len(recording.main) == len(recording.floor) == found.pairs  # whole rounds, of all sides
    assert same_numbers(recompute(found), found)


def test_a_cpu_run_is_what_it_was_without_windows() -> None:
    plain = run(Machine())
    asked = compare((machine := Machine()).open, Plan(), clock=machine.clock, windows=Restless())
    assert same_numbers(plain, asked)
    assert {unit.set_aside for unit in plain.units} == {0}


def test_evidence_from_before_windows_were_set_aside_is_recomputed() -> None:
    found = run(Machine())
    old = found.model_dump(mode="json")
    for unit in old["units"]:
        del unit["set_aside"]
    assert same_numbers(recompute(Comparison.model_validate(old)), found)


def test_a_device_that_is_never_still_ends_with_the_time() -> None:
    machine = Machine()
    found = compare(machine.open, Plan(max_seconds=5), clock=machine.clock, windows=Restless(*range(10_000)))
    assert (found.verdict, found.pairs) == ("inconclusive", 0)
    assert found.seconds < 6


@pytest.mark.parametrize(("free", "seconds"), [(0.0, 20), (40.0, 60)])
def test_loading_may_be_free_up_to_a_bound(free: float, seconds: float) -> None:
    machine = Machine(layout=0.5, start=5.0)  # processes so unlike each other that nothing is decided
    found = compare(machine.open, Plan(max_seconds=20, free_loading=free), clock=machine.clock)
    assert found.verdict == "inconclusive"
    assert seconds - 1 < found.seconds < seconds + 7
    assert len(found.units) >= seconds / 7
