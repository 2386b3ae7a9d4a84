"""The whole room on real models and real engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper

from trt_action import accuracy, data, engine, model
from trt_action.accuracy.infer import Children, Feeds
from trt_action.accuracy.store import Writer
from trt_action.data import Dataset
from trt_action.engine.backend import Loadable, RuntimeOptions
from trt_action.engine.cache import Cache
from trt_action.errors import BuildError, DataError, MeasureError, MetricError
from trt_action.evidence import Accuracy
from trt_action.model import Model
from trt_action.precision import Recipe

pytest.importorskip("onnxruntime", reason="the engines are ONNX Runtime's")
Array = npt.NDArray[Any]
DIGITS = Path(__file__).parents[2] / "examples" / "digits"


def shipped(path: Path, level: str = "all") -> Loadable:
    return Loadable("onnxruntime", path, RuntimeOptions(threads=1, graph_optimization=level), prepared=False)


def check(
    head: Model,
    dataset: Dataset,
    folder: Path,
    *,
    engine_path: Path | None = None,
    base: Model | None = None,
    base_reference: Loadable | None = None,
    unoptimized: Path | None = None,
    metric: str = "top1",
    progress: Any = None,
) -> Accuracy:
    return accuracy.check(
        info=head.info,
        reference=engine.reference(head),
        head=shipped(engine_path or head.path),
        base=shipped(base.path) if base else None,
        base_info=base.info if base else None,
        base_reference=base_reference or (engine.reference(base) if base else None),
        head_unoptimized=shipped(unoptimized, "disabled") if unoptimized else None,
        dataset=dataset,
        metric=metric,
        metric_timeout=60,
        base_dir=folder,
        work_dir=folder / "work",
        seed=0,
        progress=progress,
    )


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    *,
    inputs: dict[str, list[Any]] | None = None,
    outputs: dict[str, list[Any]] | None = None,
    dtypes: dict[str, int] | None = None,
) -> Path:
    """A small graph; float32 unless `dtypes` says otherwise."""

    def values(named: dict[str, list[Any]]) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(name, (dtypes or {}).get(name, TensorProto.FLOAT), shape)
            for name, shape in named.items()
        ]

    constants = [
        helper.make_tensor("w", TensorProto.FLOAT, [4, 6], np.linspace(-1, 1, 24).round(3)),
        helper.make_tensor("minus", TensorProto.FLOAT, [], [-1.0]),
    ]
    graph = helper.make_graph(
        nodes, "g", values(inputs or {"x": ["N", 4]}), values(outputs or {"y": ["N", 6]}), constants
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def loaded(path: Path, batch_size: int = 4) -> Model:
    return model.load(path, label=path.name, batch_size=batch_size)


PLAIN = [helper.make_node("MatMul", ["x", "w"], ["y"])]
BROKEN = [
    helper.make_node("MatMul", ["x", "w"], ["a"]),
    helper.make_node("Abs", ["a"], ["b"]),
    helper.make_node("Mul", ["b", "minus"], ["c"]),
    helper.make_node("Log", ["c"], ["y"]),
]


def rows(n: int, labels: Array | None = None) -> Dataset:
    inputs = {"x": np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)}
    return Dataset(inputs, labels, "0" * 64, "validation", n)


@pytest.fixture
def plain(tmp_path: Path) -> Model:
    return model.load(save(tmp_path / "plain.onnx", PLAIN), label="plain", batch_size=4)


@pytest.fixture(scope="module")
def digits() -> tuple[Model, Dataset]:
    head = model.load(DIGITS / "model.onnx", label="model.onnx", batch_size=64)
    dataset = data.load(
        "validation.npz", head.info, origin="validation", need_labels=True, limit=None, timeout=60, base_dir=DIGITS
    )
    return head, dataset


def test_digits_against_itself(digits: tuple[Model, Dataset], tmp_path: Path) -> None:
    """600 samples in batches of 64: the last batch is padded and its padding must not count."""
    head, dataset = digits
    told: list[tuple[str, float | None]] = []
    found = check(head, dataset, tmp_path, progress=lambda text, share: told.append((text, share)))
    assert found.parity is not None
    assert found.task is not None
    parity = found.parity.head["logits"]
    assert parity.relative_l2 is not None
    assert parity.relative_l2 < 1e-5  # the same arithmetic in another order
    assert (parity.top1_agreement, parity.top5_agreement, parity.nan) == (1.0, 1.0, 0)
    assert (found.parity.samples, found.task.samples, found.parity.missing_outputs) == (600, 600, [])
    assert found.task.reference == found.task.head
    assert found.task.head.estimate >= 0.97
    assert found.task.drop is not None
    assert (found.task.drop.estimate, found.task.p_value, found.task.drop_from) == (0.0, 1.0, "reference")
    assert (found.not_checked, found.notes) == ("", [])
    assert ("head: 600 of 600 samples", 1.0) in told
    assert [share for _, share in told] == sorted(share for _, share in told if share is not None)
    assert list((tmp_path / "work").iterdir()) == []


def test_digits_at_the_reference_level_is_bit_identical(digits: tuple[Model, Dataset], tmp_path: Path) -> None:
    head, dataset = digits
    found = accuracy.check(
        info=head.info, reference=engine.reference(head), head=engine.reference(head), base=None, base_info=None,
        base_reference=None, head_unoptimized=None, dataset=dataset, metric="top5", metric_timeout=60, base_dir=tmp_path,
        work_dir=tmp_path, seed=0, progress=None,
    )  # fmt: skip
    assert found.parity is not None
    assert (found.parity.head["logits"].max_abs, found.parity.head["logits"].relative_l2) == (0.0, 0.0)


def test_digits_head_and_base(digits: tuple[Model, Dataset], tmp_path: Path) -> None:
    """The base has other weights: its parity is the error of its own engine, not the distance to head's model."""
    head, dataset = digits
    base = model.load(DIGITS / "base.onnx", label="base.onnx", batch_size=64)
    found = check(head, dataset, tmp_path, base=base)
    assert found.parity is not None
    assert found.parity.base is not None
    assert found.parity.base["logits"].relative_l2 is not None
    assert found.parity.base["logits"].relative_l2 < 1e-5
    assert found.notes == []
    assert found.task is not None
    assert found.task.base is not None
    assert found.task.drop is not None
    assert found.task.drop_from == "base"
    assert found.task.drop.estimate == pytest.approx(found.task.base.estimate - found.task.head.estimate)
    labels = dataset.labels
    assert labels is not None
    # The same number the straight way: one session, one batch.
    session = engine.backend("onnxruntime").load(shipped(DIGITS / "base.onnx"))
    session.bind(dataset.inputs)
    session.run()
    assert found.task.base.estimate == float((session.fetch()["logits"].argmax(axis=1) == labels).mean())


def test_digits_in_int8(digits: tuple[Model, Dataset], tmp_path: Path) -> None:
    """A real quantised engine: its error is there, is that of int8, and the unoptimised graph is measured beside it."""
    head, dataset = digits
    calibration = data.load(
        "calibration.npz", head.info, origin="calibration", need_labels=False, limit=64, timeout=60, base_dir=DIGITS
    )
    (tmp_path / "build").mkdir()
    built = engine.obtain(
        head, Recipe("int8", calibration_samples=64), calibration, backend="onnxruntime",
        options=RuntimeOptions(threads=1), cache=Cache(None, 0), work_dir=tmp_path / "build", timeout=200,
    )  # fmt: skip
    found = accuracy.check(
        info=head.info, reference=engine.reference(head), head=built.loadable, base=None, base_info=None,
        base_reference=None, head_unoptimized=engine.unoptimized(built), dataset=dataset, metric="top1", metric_timeout=60,
        base_dir=tmp_path, work_dir=tmp_path / "work", seed=0, progress=None,
    )  # fmt: skip
    assert found.parity is not None
    assert found.parity.head_unoptimized is not None
    assert found.task is not None
    quantization = found.parity.head_unoptimized["logits"].relative_l2
    assert quantization is not None
    assert 1e-3 < quantization < 0.1
    assert found.task.head_unoptimized is not None
    assert found.task.head_unoptimized >= 0.97
    assert found.task.drop is not None
    assert found.task.drop.low <= 0.0 <= found.task.drop.high


def test_an_engine_that_gives_nan_is_named(plain: Model, tmp_path: Path) -> None:
    broken = save(tmp_path / "broken.onnx", BROKEN)
    found = check(plain, rows(10, np.zeros(10, np.int64)), tmp_path, engine_path=broken)
    assert found.parity is not None
    assert found.task is not None
    assert (found.parity.head["y"].nan, found.parity.head["y"].max_abs) == (60, None)
    assert found.task.head.estimate == 0.0
    assert found.notes == ["Head gives 60 NaN and 0 infinite values in `y`; the FP32 reference gives 0 and 0."]


def test_a_reference_that_gives_nan_is_named(tmp_path: Path) -> None:
    broken = model.load(save(tmp_path / "broken.onnx", BROKEN), label="broken", batch_size=4)
    found = check(broken, rows(5), tmp_path)
    assert found.parity is not None
    assert (found.parity.head["y"].nan, found.parity.head["y"].max_abs) == (30, None)
    assert found.notes == ["The FP32 reference itself gives NaN or infinity in `y`."]


def test_what_the_optimizer_changes_is_named(plain: Model, tmp_path: Path) -> None:
    """Stand-ins for one quantised graph with and without the optimiser: far from the reference, and close to it."""
    far = save(
        tmp_path / "far.onnx", [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Neg", ["a"], ["y"])]
    )
    labels = rows(50).inputs["x"] @ np.linspace(-1, 1, 24).round(3).reshape(4, 6)
    found = check(plain, rows(50, labels.argmax(axis=1)), tmp_path, engine_path=far, unoptimized=plain.path)
    assert found.parity is not None
    assert found.task is not None
    assert found.parity.head_unoptimized is not None
    assert found.parity.head["y"].relative_l2 == pytest.approx(2.0)
    assert (found.task.head.estimate, found.task.head_unoptimized) == (0.0, 1.0)
    assert len(found.notes) == 1
    assert "relative L2 of `y` 0 → 2" in found.notes[0]
    assert "`top1` 1 → 0" in found.notes[0]


def test_a_base_with_other_inputs_is_left_out_with_a_note(plain: Model, tmp_path: Path) -> None:
    other = save(
        tmp_path / "other.onnx", [helper.make_node("MatMul", ["features", "w"], ["y"])], inputs={"features": ["N", 4]}
    )
    found = check(plain, rows(5, np.zeros(5, np.int64)), tmp_path, base=loaded(other))
    assert found.parity is not None
    assert found.parity.base is None
    assert found.task is not None
    assert (found.task.base, found.task.drop_from) == (None, "reference")
    assert len(found.notes) == 1
    assert "Base is left out" in found.notes[0]
    assert "features" in found.notes[0]


def test_a_base_with_other_outputs_is_compared_where_it_can_be(plain: Model, tmp_path: Path) -> None:
    other = save(
        tmp_path / "other.onnx",
        [*PLAIN, helper.make_node("ArgMax", ["y"], ["id"], axis=1, keepdims=0)],
        outputs={"y": ["N", 6], "id": ["N"]},
        dtypes={"id": TensorProto.INT64},
    )
    found = check(plain, rows(6), tmp_path, base=loaded(other))
    assert found.parity is not None
    assert found.parity.base is not None
    assert list(found.parity.base) == ["y", "id"]
    assert found.parity.missing_outputs == ["id"]
    assert "no `labels`" in found.not_checked


def test_a_base_of_the_same_model_shares_the_reference(plain: Model, tmp_path: Path) -> None:
    """Its own reference is a file that no runtime loads: the check fails if it is touched."""
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"not a model")
    found = check(plain, rows(6), tmp_path, base=loaded(plain.path), base_reference=shipped(garbage))
    assert found.parity is not None
    assert found.parity.base == found.parity.head
    assert found.notes == []


def test_a_base_at_another_measured_shape(tmp_path: Path) -> None:
    """Head is measured with an open batch of 4, base has a fixed one of 3: 10 samples are 3 and 4 inferences."""
    x = rows(10).inputs["x"]
    labels = (x @ np.linspace(-1, 1, 24).round(3).reshape(4, 6)).argmax(axis=1)
    head = loaded(save(tmp_path / "head.onnx", PLAIN))
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Mul", ["a", "minus"], ["y"])]
    base = model.load(save(tmp_path / "base.onnx", nodes, inputs={"x": [3, 4]}, outputs={"y": [3, 6]}), label="base")
    found = check(head, rows(10, labels), tmp_path, base=base)
    assert found.notes == []
    assert found.parity is not None
    assert found.parity.base is not None
    assert found.parity.base["y"].max_abs == pytest.approx(0, abs=1e-6)
    assert found.task is not None
    assert found.task.base is not None
    assert (found.task.head.estimate, found.task.base.estimate) == (1.0, 0.0)


@pytest.mark.parametrize("known", [True, False])
def test_a_base_without_a_reference_that_runs_has_no_parity(plain: Model, tmp_path: Path, *, known: bool) -> None:
    """Known: its reference is broken. Not known: it is an engine that was kept without its model."""
    other = loaded(save(tmp_path / "other.onnx", [*PLAIN, helper.make_node("Neg", ["y"], ["unused"])]))
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"not a model")
    found = accuracy.check(
        info=plain.info, reference=engine.reference(plain), head=shipped(plain.path), base=shipped(other.path),
        base_info=other.info, base_reference=shipped(garbage) if known else None, head_unoptimized=None,
        dataset=rows(6, np.zeros(6, np.int64)), metric="top1", metric_timeout=60, base_dir=tmp_path,
        work_dir=tmp_path / "work", seed=0, progress=None,
    )  # fmt: skip
    assert found.parity is not None
    assert found.parity.base is None
    assert found.task is not None
    assert found.task.base is not None
    assert len(found.notes) == 1
    assert found.notes[0].startswith("Base has no parity: ")


def test_a_base_whose_reference_gives_nan_is_named(plain: Model, tmp_path: Path) -> None:
    broken = loaded(save(tmp_path / "broken.onnx", BROKEN))
    found = check(plain, rows(5), tmp_path, base=broken)
    assert found.parity is not None
    assert found.parity.base is not None
    assert (found.parity.base["y"].nan, found.parity.base["y"].reference_nan) == (30, 30)
    assert found.notes == ["Base's FP32 reference itself gives NaN or infinity in `y`."]


def test_a_base_with_another_number_of_classes(plain: Model, tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Concat", ["a", "a"], ["y"], axis=1)]
    other = save(tmp_path / "other.onnx", nodes, outputs={"y": ["N", 12]})
    found = check(plain, rows(6, np.zeros(6, np.int64)), tmp_path, base=loaded(other))
    assert found.parity is not None
    assert found.parity.base is not None
    assert found.parity.base["y"].max_abs is not None
    assert found.notes == []
    assert found.task is not None
    assert found.task.base is not None


def test_outputs_without_the_batch_axis_and_without_any_axis(tmp_path: Path) -> None:
    nodes = [
        *PLAIN,
        helper.make_node("ReduceMax", ["y"], ["peak"], keepdims=0),
        helper.make_node("Transpose", ["y"], ["t"]),
    ]
    path = save(tmp_path / "m.onnx", nodes, outputs={"peak": [], "t": [6, "N"], "y": ["N", 6]})
    head = model.load(path, label="m", batch_size=4)
    found = check(head, rows(10, np.zeros(10, np.int64)), tmp_path)
    assert found.parity is not None
    assert list(found.parity.head) == ["peak", "t", "y"]
    assert all(result.max_abs is not None and result.max_abs < 1e-6 for result in found.parity.head.values())
    assert found.task is not None


def test_a_model_without_a_batch_axis(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", PLAIN, inputs={"x": [3, 4]}, outputs={"y": [3, 6]})
    head = model.load(path, label="m")
    found = check(head, data.synthetic(head.info, 7, 0), tmp_path)
    assert found.parity is not None
    assert (found.parity.samples, found.parity.data) == (7, "synthetic")
    assert found.parity.head["y"].max_abs is not None
    assert "synthetic" in found.not_checked


def test_shapes_that_depend_on_the_data(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("NonZero", ["r"], ["where"]),
        *PLAIN,
    ]
    path = save(
        tmp_path / "m.onnx", nodes, outputs={"where": [2, "k"], "y": ["N", 6]}, dtypes={"where": TensorProto.INT64}
    )
    head = model.load(path, label="m")
    found = check(head, rows(8), tmp_path)
    assert found.parity is not None
    assert (found.parity.head["where"].max_abs, found.parity.head["where"].top1_agreement) == (0.0, 1.0)


def test_a_users_metric_end_to_end(plain: Model, tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("def mean(outputs, labels):\n    return abs(outputs['y'][:, 0] - labels).mean()\n")
    found = check(plain, rows(300, np.zeros(300, np.float32)), tmp_path, metric="m.py:mean")
    assert found.task is not None
    assert found.task.head.low < found.task.head.estimate < found.task.head.high
    with pytest.raises(MetricError, match=r"On the outputs of reference: .* no function `median`"):
        check(plain, rows(4, np.zeros(4)), tmp_path, metric="m.py:median")
    renamed = save(tmp_path / "o.onnx", [helper.make_node("MatMul", ["x", "w"], ["z"])], outputs={"z": ["N", 6]})
    found = check(plain, rows(4, np.zeros(4)), tmp_path, metric="m.py:mean", base=loaded(renamed))
    assert found.task is not None
    assert (found.task.base, found.task.drop_from) == (None, "reference")
    assert found.notes == ["`m.py:mean` is not computed for base, which lacks the output `y`."]


def test_failures_say_whose_they_are(plain: Model, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"not a model")
    with pytest.raises(BuildError, match="Accuracy of head: "):
        check(plain, rows(4), tmp_path, engine_path=garbage)
    other = save(tmp_path / "o.onnx", [helper.make_node("MatMul", ["z", "w"], ["y"])], inputs={"z": ["N", 4]})
    with pytest.raises(DataError, match="Accuracy of head: "):
        check(plain, rows(4), tmp_path, engine_path=other)
    assert list((tmp_path / "work").iterdir()) == []


def test_time_is_limited(plain: Model, tmp_path: Path) -> None:
    with Writer(tmp_path / "feeds") as writer:
        for _ in range(3):
            writer.append("x", np.ones((1, 4), np.float32))
    feeds = Feeds(tmp_path / "feeds", [1, 1, 1], 1)
    engine_of_head = shipped(plain.path)
    with Children() as children:
        with pytest.raises(MeasureError, match="of 3 samples were done within 0 s"):
            children.outputs(engine_of_head, feeds, tmp_path / "late", label="head", timeout=0, progress=None)
        again = children.outputs(engine_of_head, feeds, tmp_path / "out", label="head", timeout=60, progress=None)
    assert again.shapes("y") == [(1, 6)] * 3
