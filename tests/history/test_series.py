"""From runs to trends: keys, order, breaks, changes."""

from __future__ import annotations

import numpy as np
import pytest

from tests.history.samples import commit, level, points, run
from tests.report import samples
from trt_action.evidence import Evidence, ShapeRange, ValueRange
from trt_action.history import series
from trt_action.history.points import Point, point


def test_a_step_is_a_change_of_each_metric_that_steps() -> None:
    values = level(26)
    values[18:] *= 1.06
    (found,) = series(reversed(points(values)))
    assert [one.commit for one in found.points] == [commit(n) for n in range(26)]
    assert {(one.metric, one.since, one.better) for one in found.changes} == {("p50", 18, False), ("p99", 18, False)}
    change = next(one for one in found.changes if one.metric == "p50")
    assert change.size == pytest.approx(0.06, abs=0.01)
    assert (change.after, change.runs) == (17, 8)
    assert found.breaks == ()


def test_another_host_is_a_break_and_no_change() -> None:
    old, new = level(12), level(12, 1) * 1.3
    first = points(old, host={"gpu": {"name": "NVIDIA L4", "driver": "570.10"}})
    evidences = [run(12 + n, v, host={"gpu": {"name": "NVIDIA L4", "driver": "575.51"}}) for n, v in enumerate(new)]
    second = [one for e in evidences if isinstance(one := point(e, "x"), Point)]
    (found,) = series([*first, *second])
    assert found.changes == ()
    (gap,) = found.breaks
    assert gap.index == 12
    assert "570.10" in gap.words
    assert "575.51" in gap.words


def test_runs_of_two_kinds_of_hosts_in_turn() -> None:
    """Each kind is held against itself: a step that both see is found, the hosts' own difference is none."""
    quick, slow = level(40), level(40, 1) * 1.5
    values = np.where(np.arange(40) % 2, slow, quick)
    kinds = [{"cpu_model": "A"}, {"cpu_model": "B"}]
    made = [point(run(n, v, host=kinds[n % 2]), str(n)) for n, v in enumerate(values)]
    (found,) = series([one for one in made if isinstance(one, Point)])
    assert found.changes == ()
    assert len(found.breaks) == 39
    values[30:] *= 1.08
    made = [point(run(n, v, host=kinds[n % 2]), str(n)) for n, v in enumerate(values)]
    (found,) = series([one for one in made if isinstance(one, Point)])
    assert sorted(one.since for one in found.changes if one.metric == "p50") == [30, 31]


def test_other_data_is_a_break_of_the_task_metric_alone() -> None:
    def with_data(number: int, digit: str, top1: float) -> Point:
        task = samples.task()
        task = task.model_copy(update={"data_sha256": digit * 64, "head": samples.estimate(top1, 0.004)})
        accuracy = samples.passed().accuracy.model_copy(update={"task": task})
        made = point(run(number, 0.36, accuracy=accuracy), "x")
        assert isinstance(made, Point)
        return made

    same = [with_data(n, "a", 0.97) for n in range(10)]
    (found,) = series([*same, *(with_data(10 + n, "b", 0.9) for n in range(6))])
    assert [(one.index, one.words) for one in found.breaks] == [(10, "other validation data or another metric")]
    assert found.changes == ()
    (found,) = series([*same, *(with_data(10 + n, "a", 0.9) for n in range(6))])
    (change,) = found.changes
    assert (change.metric, change.since, change.better) == ("accuracy", 10, False)
    assert change.size == pytest.approx(-0.07)


def test_one_trend_per_model_gpu_precision_and_backend_and_each_run_once() -> None:
    twice = points([0.3, 0.31])
    other = point(run(3, settings={"name": "other"}), "x")
    gpu = point(run(2, host={"gpu": {"name": "NVIDIA L4"}}), "x")
    assert isinstance(other, Point)
    assert isinstance(gpu, Point)
    found = series([*twice, *points([0.3, 0.31]), other, gpu])
    assert [(one.key.model, one.key.gpu, len(one.points)) for one in found] == [
        ("other", "CPU", 1),
        ("digits", "NVIDIA L4", 1),
        ("digits", "CPU", 2),
    ]


def test_the_legs_of_a_matrix_are_trends_of_their_own() -> None:
    """In one history, one after another or in turn: no leg breaks another's line, and none is a change of another."""

    def leg(number: int, p50_ms: float, batch: int, engine_bytes: int, **recipe: str) -> Point:
        opt = {"image": ShapeRange(min=[1, 1, 8, 8], opt=[batch, 1, 8, 8], max=[64, 1, 8, 8])}
        evidence = run(number, p50_ms)
        assert evidence.model is not None
        assert evidence.head is not None
        engine = evidence.head.engine.model_copy(update={"bytes": engine_bytes, **recipe})
        made = point(
            evidence.model_copy(
                update={
                    "model": evidence.model.model_copy(update={"shapes": opt}),
                    "head": evidence.head.model_copy(update={"engine": engine}),
                }
            ),
            "x",
        )
        assert isinstance(made, Point)
        return made

    values = level(8)
    later = [leg(8 + n, value * 7, 8, 400_000) for n, value in enumerate(values)]
    turns = [leg(n, value, 1, 200_000) for n, value in enumerate(values)]
    others = [leg(n, value * 2, 1, 300_000, backend="tensorrt", precision="fp16") for n, value in enumerate(values)]
    found = series([*later, *turns, *others])
    assert sorted((one.key.backend, one.key.precision, one.key.shapes, len(one.points)) for one in found) == [
        ("onnxruntime", "int8", "1×1×8×8", 8),
        ("onnxruntime", "int8", "8×1×8×8", 8),
        ("tensorrt", "fp16", "1×1×8×8", 8),
    ]
    assert [(one.breaks, one.changes) for one in found] == [((), ())] * 3


def test_sizes_that_an_input_holds_are_measured_shapes() -> None:
    evidence = run(0, 1.0)
    assert evidence.model is not None
    values = ValueRange(min=[1, 1], opt=[8, 16], max=[64, 64])
    shapes = {**evidence.model.shapes, "size": ShapeRange(min=[2], opt=[2], max=[2], values=values)}
    made = point(evidence.model_copy(update={"model": evidence.model.model_copy(update={"shapes": shapes})}), "x")
    assert isinstance(made, Point)
    assert made.key.shapes.endswith(", [8, 16]")
    assert made.conditions["values of size"] == "[8, 16]"


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        (samples.error(), "ended before"),
        (run(0, created="yesterday"), "no time"),
        (run(0, created="9999-12-31T23:59:59-23:59"), "no time"),
    ],
)
def test_what_is_no_point(evidence: Evidence, words: str) -> None:
    said = point(evidence, "x")
    assert isinstance(said, str)
    assert words in said


def test_absurd_numbers_are_left_out() -> None:
    made = point(run(0, 1e300), "x")
    assert isinstance(made, Point)
    assert set(made.values) == {"throughput", "accuracy", "engine"}
