"""Who shares a run with whom, in what order, and who pays for a failure."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from trt_action.engine.backend import Array
from trt_action.errors import DataError
from trt_action.serve.batching import Batcher, Call, Limits
from trt_action.serve.engines import EngineThread
from trt_action.serve.refusal import RefusedError
from trt_action.serve.selftest import rows_are_independent, rows_may_move
from trt_action.serve.stats import Stats


class Engine:
    """Doubles its input. Waits for `gate` before each run, fails on a negative value, and remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        assert self.gate.wait(20)
        x = feeds["x"]
        self.batches.append(x[:, 0].tolist())
        if (x < 0).any():
            raise DataError("negative")
        return {"y": x * 2}


@pytest.fixture
def engine() -> Engine:
    return Engine()


def call(value: float, rows: int = 1, width: int = 1, **more: Any) -> Call:
    return Call({"x": np.full((rows, width), value, np.float32)}, rows, arrived=time.perf_counter_ns(), **more)


def run(engine: Engine, limits: Limits, story: Callable[[Batcher], Any], threads: int = 1) -> Stats:
    """Run `story(batcher)` on a loop of its own."""
    workers = [EngineThread(f"test-{n}") for n in range(threads)]
    stats = Stats()

    async def main() -> None:
        await story(Batcher([(worker, engine) for worker in workers], limits, stats))

    asyncio.run(asyncio.wait_for(main(), 30))
    for worker in workers:
        worker.end()
    return stats


def put(batcher: Batcher, one: Call) -> asyncio.Future[Call]:
    future = asyncio.get_running_loop().create_future()
    one.ended = lambda: future.set_result(one)
    batcher.put(one)
    return future


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("inline_ns", [0, 10**12])
def test_what_waits_is_batched_and_every_answer_is_its_own(engine: Engine, inline_ns: int) -> None:
    async def story(batcher: Batcher) -> None:
        (await put(batcher, call(0)))  # the first run says how long one takes
        calls = await asyncio.gather(*(put(batcher, call(n, rows=1 + n % 2)) for n in range(20)))
        for n, one in enumerate(calls):
            assert one.error is None
            np.testing.assert_array_equal(one.outputs["y"], np.full((1 + n % 2, 1), 2 * n))

    stats = run(engine, Limits(rows=8, inline_ns=inline_ns), story)
    sizes = [len(batch) for batch in engine.batches]
    assert sizes[0] == 1
    assert max(sizes) <= 8
    assert sum(sizes) == 31
    assert len(sizes) <= 6  # 30 rows in runs of 7 or 8
    assert stats.executions == len(sizes)


def test_a_run_that_does_not_come_back_is_seen(engine: Engine) -> None:
    async def story(batcher: Batcher) -> None:
        assert batcher.longest_run(time.perf_counter_ns()) == 0
        engine.gate.clear()
        hanging = put(batcher, call(1))
        await until(lambda: batcher.longest_run(time.perf_counter_ns()) > 0.01)
        other = put(batcher, call(2))  # by the second engine: what hangs still counts
        assert batcher.longest_run(time.perf_counter_ns() + 60 * 10**9) > 60
        engine.gate.set()
        await asyncio.gather(hanging, other)
        assert batcher.longest_run(time.perf_counter_ns()) == 0

    run(engine, Limits(rows=1), story, threads=2)


def test_an_idle_engine_waits_for_nobody(engine: Engine) -> None:
    async def story(batcher: Batcher) -> None:
        for n in range(3):
            await put(batcher, call(n))

    run(engine, Limits(rows=8), story)
    assert engine.batches == [[0], [1], [2]]


def test_only_equal_shapes_share_a_run_and_order_holds(engine: Engine) -> None:
    async def story(batcher: Batcher) -> None:
        engine.gate.clear()
        first = put(batcher, call(0))
        await until(lambda: batcher.waiting == 0)
        rest = [put(batcher, call(n, width=1 + n % 2)) for n in range(1, 7)]
        engine.gate.set()
        await asyncio.gather(first, *rest)

    run(engine, Limits(rows=8), story)
    assert engine.batches == [[0], [1, 3, 5], [2, 4, 6]]


def test_a_bad_request_fails_alone(engine: Engine) -> None:
    async def story(batcher: Batcher) -> None:
        calls = await asyncio.gather(*(put(batcher, call(n)) for n in (1, -2, 3)))
        assert [one.error is None for one in calls] == [True, False, True]
        assert [float(one.outputs["y"][0, 0]) for one in calls if one.error is None] == [2, 6]
        error = calls[1].error
        assert isinstance(error, RefusedError)
        assert (error.status, error.message) == (400, "negative")

    run(engine, Limits(rows=8), story)
    assert engine.batches == [[1, -2, 3], [1], [-2], [3]]


def test_a_full_queue_refuses_with_a_time_to_come_again(engine: Engine) -> None:
    async def story(batcher: Batcher) -> None:
        engine.gate.clear()
        running = put(batcher, call(0))
        await until(lambda: batcher.waiting == 0)
        waiting = [put(batcher, call(n)) for n in (1, 2)]
        with pytest.raises(RefusedError) as caught:
            batcher.put(call(3))
        assert (caught.value.status, caught.value.headers) == (503, {"retry-after": "1"})
        engine.gate.set()
        await asyncio.gather(running, *waiting)

    run(engine, Limits(rows=1, queue=2), story)


def test_nobody_computes_what_nobody_waits_for(engine: Engine) -> None:
    async def story(batcher: Batcher) -> None:
        engine.gate.clear()
        running = put(batcher, call(0))
        await until(lambda: batcher.waiting == 0)
        late = put(batcher, call(1, deadline=time.monotonic() + 0.05))
        left = put(batcher, call(2, gone=lambda: True))
        kept = put(batcher, call(3, deadline=time.monotonic() + 60))
        late_call, left_call = await late, await left  # told while the engine is busy
        assert late_call.error is not None
        assert left_call.error is not None
        assert (late_call.error.status, left_call.error.status) == (504, 499)
        engine.gate.set()
        await asyncio.gather(running, kept)

    run(engine, Limits(rows=8), story)
    assert engine.batches == [[0], [3]]


def test_a_fixed_batch_is_filled_up_and_cut(engine: Engine) -> None:
    async def story(batcher: Batcher) -> None:
        calls = await asyncio.gather(*(put(batcher, call(n, rows=2)) for n in (1, 2, 3)))
        for one, value in zip(calls, (2, 4, 6), strict=True):
            np.testing.assert_array_equal(one.outputs["y"], np.full((2, 1), value))

    run(engine, Limits(rows=4, pad_to=4), story)
    assert engine.batches == [[1, 1, 2, 2], [3, 3, 3, 3]]


def test_two_engines_work_side_by_side(engine: Engine) -> None:
    async def story(batcher: Batcher) -> None:
        engine.gate.clear()
        first = put(batcher, call(0))
        await until(lambda: batcher.waiting == 0)
        second = put(batcher, call(1))
        await until(lambda: batcher.waiting == 0)  # taken while the first engine is busy
        engine.gate.set()
        await asyncio.gather(first, second)

    run(engine, Limits(rows=8), story, threads=2)
    assert sorted(engine.batches) == [[0], [1]]


def rows(function: Callable[[Array], Array]) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    return lambda feeds: {"y": function(feeds["x"])}


INDEPENDENT: list[tuple[str, Callable[[Array], Array], bool]] = [
    ("scaled", lambda x: x * 3, True),
    ("softmax of a row", lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True), True),
    ("centred over the batch", lambda x: x - x.mean(0), False),
    ("points of one cloud", lambda x: x @ (x.T @ x), False),
    ("turned", lambda x: x[::-1].copy(), False),
    ("no batch in the output", lambda x: x.sum(0), False),
    ("one answer for all", lambda x: x.sum(0, keepdims=True), False),
]


@pytest.mark.parametrize(("name", "function", "expected"), INDEPENDENT, ids=[row[0] for row in INDEPENDENT])
def test_models_that_mix_rows_are_found_out(name: str, function: Callable[[Array], Array], expected: bool) -> None:
    x = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    assert rows_are_independent(rows(function), {"x": x[:1]}, 4) is expected
    assert rows_may_move(rows(function), {"x": x}) is expected


def test_an_output_whose_rows_are_not_those_of_the_inputs_is_never_cut(engine: Engine) -> None:
    """Detections: how many there are follows from the values."""

    def detections(feeds: Mapping[str, Array]) -> dict[str, Array]:
        engine(feeds)
        return {"y": np.repeat(feeds["x"], 2, axis=0)}

    async def story() -> None:
        worker = EngineThread("test")
        batcher = Batcher([(worker, detections)], Limits(rows=8), Stats())
        calls = await asyncio.gather(*(put(batcher, call(n)) for n in (1, 2)))
        assert [one.outputs["y"].tolist() for one in calls] == [[[1], [1]], [[2], [2]]]
        worker.end()

    asyncio.run(asyncio.wait_for(story(), 30))
    assert engine.batches == [[1, 2], [1], [2]]


def test_one_answer_that_cannot_be_sent_keeps_nobody_waiting(engine: Engine) -> None:
    async def story(batcher: Batcher) -> None:
        told: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
        bad, error = call(1), RuntimeError("gone")

        def fail() -> None:
            raise error

        bad.ended = fail
        batcher.put(bad)
        assert (await put(batcher, call(2))).error is None
        assert told == [error]

    run(engine, Limits(rows=8), story)
    assert engine.batches == [[1, 2]]


def test_a_large_request_after_small_ones_leaves_the_event_loop(engine: Engine) -> None:
    async def story(batcher: Batcher) -> None:
        threads: list[str] = []
        original = engine.gate.wait

        def wait(timeout: float | None = None) -> bool:
            threads.append(threading.current_thread().name)
            return original(timeout)

        engine.gate.wait = wait  # type: ignore[method-assign]
        for width in (1, 1, 100_000_000 // 4):
            await put(batcher, call(1, width=width))
        assert threads[1:] == ["MainThread", "test-0"]

    run(engine, Limits(rows=8, inline_ns=10**8), story)
