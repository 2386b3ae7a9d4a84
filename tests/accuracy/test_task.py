from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from trt_action.accuracy import task
from trt_action.accuracy.store import Store, Writer
from trt_action.data import Dataset
from trt_action.errors import DataError, MetricError
from trt_action.evidence import TaskMetric

Array = npt.NDArray[Any]
SHA = "0" * 64


def store(folder: Path, **outputs: Array) -> Store:
    with Writer(folder) as writer:
        for name, values in outputs.items():
            for start in range(0, len(values), 64):
                writer.append(name, values[start : start + 64])
    return Store(folder)


def dataset(labels: Array | None, n: int, origin: Any = "validation") -> Dataset:
    return Dataset(inputs={"x": np.zeros((n, 1), np.float32)}, labels=labels, sha256=SHA, origin=origin, n=n)


def scores_with(right: Array, labels: Array, classes: int = 10) -> Array:
    """Logits whose arg-max is the label where `right` is true, the next class elsewhere."""
    guess = np.where(right, labels, (labels + 1) % classes)
    return np.eye(classes, dtype=np.float32)[guess]


@pytest.fixture
def rights() -> dict[str, Array]:
    """600 samples: the reference misses 4, base 6, head 14 (10 that base gets, 2 that base misses it gets)."""
    reference, base, head = (np.ones(600, bool) for _ in range(3))
    reference[:4] = False
    base[:6] = False
    head[2:16] = False
    return {"reference": reference, "base": base, "head": head}


@pytest.fixture
def labels() -> Array:
    return np.random.default_rng(0).integers(0, 10, 600)


def evaluate(
    metric: str, sides: dict[str, Store], data: Dataset, folder: Path, timeout: float = 60
) -> TaskMetric | str:
    return task.evaluate(metric, sides, data, timeout=timeout, base_dir=folder, folder=folder, confidence=0.95, seed=0)


def measured(metric: str, sides: dict[str, Store], data: Dataset, folder: Path) -> TaskMetric:
    found = evaluate(metric, sides, data, folder)
    assert isinstance(found, TaskMetric), found
    return found


def sides_of(rights: dict[str, Array], labels: Array, folder: Path, **more: Array) -> dict[str, Store]:
    return {side: store(folder / side, **more, logits=scores_with(right, labels)) for side, right in rights.items()}


def test_top1_of_head_base_and_reference(tmp_path: Path, rights: dict[str, Array], labels: Array) -> None:
    found = measured("top1", sides_of(rights, labels, tmp_path), dataset(labels, 600), tmp_path)
    assert found.reference is not None
    assert found.base is not None
    assert found.drop is not None
    assert (found.reference.estimate, found.base.estimate, found.head.estimate) == (596 / 600, 594 / 600, 586 / 600)
    assert found.drop.estimate == pytest.approx(8 / 600)
    assert 0 < found.drop.low < 8 / 600 < found.drop.high < 0.03
    assert found.p_value == pytest.approx(2 * (1 + 12 + 66) / 2**12)  # 12 discordant samples, 2 for head
    assert (found.drop_from, found.samples) == ("base", 600)


def test_without_base_the_drop_is_from_the_reference(tmp_path: Path, rights: dict[str, Array], labels: Array) -> None:
    del rights["base"]
    found = measured("top1", sides_of(rights, labels, tmp_path), dataset(labels, 600), tmp_path)
    assert found.drop_from == "reference"
    assert found.base is None
    assert found.drop is not None
    assert found.drop.estimate == pytest.approx(10 / 600)


def test_the_first_class_output_is_scored_wherever_it_is(
    tmp_path: Path, rights: dict[str, Array], labels: Array
) -> None:
    """Other outputs before it, (n, c, 1, 1), labels as a column, another output name on the base."""
    other: dict[str, Array] = {"ids": np.zeros((600, 10), np.int64), "maps": np.zeros((600, 2, 2), np.float32)}
    sides = {}
    for side, right in rights.items():
        logits = scores_with(right, labels)[:, :, None, None]
        sides[side] = store(tmp_path / side, **other, **{side: logits}, late=np.ones((600, 10)))
    sides["head"] = store(tmp_path / "h", **other, reference=scores_with(rights["head"], labels))
    found = measured("top1", sides, dataset(labels[:, None].astype(np.float32), 600), tmp_path)
    assert found.head.estimate == 586 / 600
    assert found.base is not None
    assert found.base.estimate == 594 / 600


def test_a_dead_output_is_not_right(tmp_path: Path) -> None:
    labels = np.arange(100) % 10
    dead = {"reference": np.zeros((100, 10), np.float32), "head": np.full((100, 10), np.nan, np.float32)}
    sides = {side: store(tmp_path / side, o=values) for side, values in dead.items()}
    found = measured("top5", sides, dataset(labels, 100), tmp_path)
    assert found.reference is not None
    assert (found.reference.estimate, found.head.estimate) == (0.5, 0.0)


@pytest.mark.parametrize(
    ("labels", "origin", "output", "said"),
    [
        (None, "validation", np.ones((4, 3)), "no `labels`"),
        (None, "synthetic", np.ones((4, 3)), "synthetic"),
        (None, "calibration", np.ones((4, 3)), "calibration"),
        (np.zeros(4, int), "validation", np.ones((4, 3, 2)), "top1 needs an output"),
        (np.zeros(4, int), "validation", np.ones((4, 1)), "top1 needs an output"),
        (np.zeros((4, 3), int), "validation", np.ones((4, 3)), "argmax"),
        (np.full(4, 0.5), "validation", np.ones((4, 3)), "not whole numbers"),
        (np.full(4, np.nan), "validation", np.ones((4, 3)), "not whole numbers"),
    ],
)
def test_why_there_is_no_task_metric(tmp_path: Path, labels: Any, origin: str, output: Array, said: str) -> None:
    sides = {side: store(tmp_path / side, o=output) for side in ("reference", "head")}
    found = evaluate("top1", sides, dataset(labels, 4, origin), tmp_path)
    assert isinstance(found, str)
    assert said in found


@pytest.mark.parametrize("label", [10, -1])
def test_a_label_that_is_no_class_is_named(tmp_path: Path, label: int) -> None:
    labels = np.zeros(100, int)
    labels[70] = label
    sides = {side: store(tmp_path / side, o=np.ones((100, 10), np.float32)) for side in ("reference", "head")}
    with pytest.raises(DataError, match=rf"Label {label} of sample 70"):
        evaluate("top1", sides, dataset(labels, 100), tmp_path)


METRICS = """
import numpy as np
def right(outputs, labels): return outputs["logits"].argmax(1) == labels
def number(outputs, labels): return float(right(outputs, labels).mean())
def samples(outputs, labels):
    r = right(outputs, labels)
    return {"value": r.mean(), "per_sample": r}
def loss(outputs, labels):
    e = 1.0 - outputs["logits"][np.arange(len(labels)), labels] + 0.01 * np.arange(len(labels)) / len(labels)
    return {"value": e.mean(), "per_sample": e, "higher_is_better": False}
def sometimes(outputs, labels):
    if len(set(outputs["row"].tolist())) < 600 and outputs["row"][0] % 3 == 0: raise ValueError("no such class")
    return number(outputs, labels)
def never(outputs, labels):
    if len(set(outputs["row"].tolist())) < 600: raise SystemExit(4)
    return number(outputs, labels)
def talks(outputs, labels):
    print("x" * 200_000)
    return number(outputs, labels)
def half(outputs, labels): return float(str(outputs["half"].dtype) == "float32")
def raises(outputs, labels): return outputs["nope"]
def nothing(outputs, labels): pass
def nan(outputs, labels): return float("nan")
def text(outputs, labels): return "good"
def leaves(outputs, labels): raise SystemExit(0)
def dies(outputs, labels):
    import os
    os._exit(3)
def hangs(outputs, labels):
    while True: pass
def short(outputs, labels): return {"value": 1.0, "per_sample": np.ones(3)}
def holes(outputs, labels): return {"value": 1.0, "per_sample": np.where(labels == 3, np.nan, 1.0)}
def other(outputs, labels): return {"value": 0.5, "per_sample": np.ones(len(labels))}
def no_value(outputs, labels): return {"accuracy": 0.5}
def which(outputs, labels): return {"value": 0.5, "higher_is_better": "yes"}
def fickle(outputs, labels): return {"value": 0.5, "higher_is_better": bool((outputs["logits"].argmax(1) != labels).sum() > 5)}
def cube(outputs, labels): return np.ones((2, 2, 2))
"""


@pytest.fixture
def user(tmp_path: Path, rights: dict[str, Array], labels: Array) -> tuple[dict[str, Store], Dataset, Path]:
    (tmp_path / "metrics.py").write_text(METRICS)
    sides = sides_of(rights, labels, tmp_path, row=np.arange(600))
    return sides, dataset(labels, 600), tmp_path


def test_a_users_right_or_wrong_is_treated_like_top1(user: tuple[dict[str, Store], Dataset, Path]) -> None:
    sides, data, folder = user
    theirs = measured("metrics.py:samples", sides, data, folder)
    ours = measured("top1", sides, data, folder)
    assert theirs.model_dump(exclude={"metric"}) == ours.model_dump(exclude={"metric"})


def test_a_users_loss_is_bootstrapped_and_a_rise_is_a_drop(user: tuple[dict[str, Store], Dataset, Path]) -> None:
    found = measured("metrics.py:loss", *user)
    assert not found.higher_is_better
    assert found.drop is not None
    assert found.base is not None
    assert found.drop.estimate == pytest.approx(8 / 600)
    assert found.drop.estimate == pytest.approx(found.head.estimate - found.base.estimate)
    # Paired: narrower than the interval of either side. Normal theory: 1.96 * sqrt(12 / 600 - (8 / 600)^2) / sqrt(600)
    assert found.drop.high - found.drop.low == pytest.approx(2 * 0.01127, rel=0.1)
    assert (found.method, found.p_value) == (task.MEAN, None)


@pytest.mark.parametrize("function", ["number", "sometimes", "talks"])
def test_a_users_number_is_bootstrapped_by_calling_it_again(
    user: tuple[dict[str, Store], Dataset, Path], function: str
) -> None:
    found = measured(f"metrics.py:{function}", *user)
    assert found.drop is not None
    assert found.head.estimate == 586 / 600
    assert found.drop.estimate == pytest.approx(8 / 600)
    assert found.drop.high - found.drop.low == pytest.approx(2 * 0.01127, rel=0.2)
    assert found.method == task.REPLICATES


def test_a_number_that_cannot_be_resampled_has_no_interval(user: tuple[dict[str, Store], Dataset, Path]) -> None:
    found = measured("metrics.py:never", *user)
    assert (found.method, found.head.low, found.head.high) == (task.NO_INTERVAL, 586 / 600, 586 / 600)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("raises", "KeyError"),
        ("nothing", "None"),
        ("nan", "nan"),
        ("text", "no number as `value`"),
        ("leaves", "SystemExit"),
        ("dies", "exit code 3"),
        ("short", r"shape \[3\] for 600 samples"),
        ("holes", "nan for sample"),
        ("other", "mean of `per_sample` is 1"),
        ("no_value", "no number as `value`"),
        ("which", "`yes` as `higher_is_better`"),
        ("fickle", "for one side and not for another"),
        ("cube", "no number as `value`"),
        ("numbr", "no function `numbr`"),
    ],
)
def test_a_users_function_that_fails_is_a_metric_error(
    user: tuple[dict[str, Store], Dataset, Path], function: str, said: str
) -> None:
    with pytest.raises(MetricError, match=said) as caught:
        evaluate(f"metrics.py:{function}", *user)
    assert "Traceback" not in caught.value.what + caught.value.why
    assert caught.value.fix


def test_a_users_function_that_hangs_is_ended(user: tuple[dict[str, Store], Dataset, Path]) -> None:
    with pytest.raises(MetricError, match="did not finish within 2 s"):
        evaluate("metrics.py:hangs", *user, timeout=2)


def test_bfloat16_reaches_the_user_as_float32(tmp_path: Path) -> None:
    import ml_dtypes

    (tmp_path / "metrics.py").write_text(METRICS)
    sides = {s: store(tmp_path / s, half=np.ones((8, 2), ml_dtypes.bfloat16)) for s in ("reference", "head")}
    assert measured("metrics.py:half", sides, dataset(np.zeros(8, int), 8), tmp_path).head.estimate == 1.0


def test_an_unknown_metric_is_named(user: tuple[dict[str, Store], Dataset, Path]) -> None:
    with pytest.raises(MetricError, match="`top3` is not known"):
        evaluate("top3", *user)
