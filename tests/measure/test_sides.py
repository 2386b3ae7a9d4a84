"""Workers as real processes with real engines."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.measure.conftest import Make
from trt_action.errors import BuildError, DataError, MeasureError, OutOfMemoryError, TrtActionError
from trt_action.measure import open_unit, usable_cpus
from trt_action.measure.sides import Worker, ready


def test_a_unit_has_three_processes_on_the_same_cpus(convs: Make, feeds: Path) -> None:
    cpus = usable_cpus(1)
    with open_unit(convs(2), convs(3), feeds, feeds, 0, cpus=cpus) as unit:
        assert unit.floor is not None
        workers = (unit.head, unit.base, unit.floor)
        pids = {worker.pid for worker in workers}
        assert len(pids) == 3
        assert all(os.sched_getaffinity(pid) == cpus for pid in pids)
        assert {worker.threads for worker in workers} == {1}
        for worker in workers:
            block = worker.block(6)
            assert len(block.wall_ns) == 6
            assert min(block.wall_ns) > 0
            assert 0 < block.cpu_ns <= 1.05 * sum(block.wall_ns[1:]) + 100_000
            worker.reload()
            assert len(worker.block(1).wall_ns) == 1
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_slower_engine_takes_longer(convs: Make, feeds: Path) -> None:
    with open_unit(convs(24), convs(2), feeds, feeds, 1, cpus=usable_cpus(1), floor=False) as unit:
        assert unit.floor is None
        pairs = [(min(unit.head.block(20).wall_ns), min(unit.base.block(20).wall_ns)) for _ in range(5)]
    assert all(head > 3 * base for head, base in pairs)


def test_a_side_that_dies_is_named(convs: Make, feeds: Path) -> None:
    with open_unit(convs(), convs(), feeds, feeds, 0, floor=False) as unit:
        os.kill(unit.base.pid, signal.SIGKILL)
        with pytest.raises(OutOfMemoryError, match=r"^base: .*SIGKILL"):
            unit.base.block(5)
        assert len(unit.head.block(5).wall_ns) == 5
        os.kill(unit.head.pid, signal.SIGSEGV)
        with pytest.raises(MeasureError, match=r"^head: .*SIGSEGV"):
            unit.head.block(5)


def test_outputs_that_turn_nan_are_an_error(draws: Make, feeds: Path) -> None:
    with Worker("head", draws(-1.0), feeds, cpus=None) as worker:
        worker.start()
        worker.load(min_warmup=0, max_warmup=0)

        def until_worse() -> None:
            for _ in range(200):  # each try sees more NaN than the first inference with a chance of about a third
                worker.block(1)
                worker.check()

        with pytest.raises(MeasureError, match=r"^head: Output `y` turned NaN or infinite"):
            until_worse()


@pytest.mark.parametrize(
    ("break_it", "error"),
    [
        (lambda engine, feeds: engine.write_bytes(b"not an engine"), BuildError),
        (lambda engine, feeds: engine.unlink(), TrtActionError),
        (lambda engine, feeds: feeds.write_bytes(b"not inputs"), DataError),
    ],
    ids=["garbage engine", "no engine", "garbage inputs"],
)
def test_what_cannot_be_loaded_is_said_with_its_side(break_it, error, convs: Make, feeds: Path) -> None:  # type: ignore[no-untyped-def]
    engine = convs()
    break_it(engine.path, feeds)
    with Worker("head", engine, feeds, cpus=None) as worker, pytest.raises(error, match=r"^head: "):
        ready([worker])
