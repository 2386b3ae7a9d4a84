"""fp8 by the light toolchain: own Q/DQ nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from trt_action import data, precision
from trt_action import model as models
from trt_action.precision import Recipe, fp8, rounding

Array = npt.NDArray[Any]
node = helper.make_node
X = np.random.default_rng(1).standard_normal((6, 8)).astype(np.float32)


def model(*nodes: onnx.NodeProto, opset: int = 19, **weights: Array) -> ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", None])],
        [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def run(proto: ModelProto) -> Array:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return np.asarray(onnxruntime.InferenceSession(proto.SerializeToString(), options).run(None, {"x": X})[0])


@pytest.mark.parametrize("transposed", [0, 1])
def test_the_graph_computes_what_the_formula_says(transposed: int) -> None:
    """Against E4M3 by ml_dtypes: one scale for the activation, one per output channel for the weight."""
    weight = np.random.default_rng(2).standard_normal((8, 4)).astype(np.float32) * [1, 10, 100, 1_000]
    stored = weight.T if transposed else weight
    proto = model(node("Gemm", ["x", "w"], ["y"], "product", transB=transposed), w=stored)
    made = fp8.insert(proto, {"product"}, {"x": float(np.abs(X).max())})
    onnx.checker.check_model(made, full_check=True)

    def through(values: Array, scale: Array) -> Array:
        return (values / scale).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale

    expected = through(X, np.abs(X).max() / 448) @ through(weight.astype(np.float32), np.abs(weight).max(0) / 448)
    assert np.allclose(run(made), expected, rtol=1e-3, atol=1e-3)
    scale = next(t for t in made.graph.initializer if t.name.endswith("scale") and t.dims)
    assert list(scale.dims) == [4]


def test_only_the_factors_of_targets_are_rounded() -> None:
    weight = np.random.default_rng(3).standard_normal((8, 8))
    nodes = (
        node("MatMul", ["x", "w"], ["a"], "first"),
        node("MatMul", ["x", "w"], ["b"], "second"),
        node("Add", ["a", "b"], ["c"], "sum"),
        node("Add", ["c", "x"], ["y"], "residual"),
    )
    made = fp8.insert(model(*nodes, w=weight), {"first"}, {"x": 3.0})
    inputs = {each.name: list(each.input) for each in made.graph.node}
    assert inputs["second"] == ["x", "w"]
    assert inputs["residual"] == ["c", "x"]
    assert inputs["first"] == ["x.fp8", "w.fp8.1"]
    both = fp8.insert(model(*nodes, w=weight), {"first", "second"}, {"x": 3.0})
    assert sum(each.op_type == "QuantizeLinear" for each in both.graph.node) == 1  # one for all readers of a tensor
    assert "w" not in {tensor.name for tensor in both.graph.initializer}


def test_zeros_stay_zeros() -> None:
    proto = model(node("MatMul", ["x", "w"], ["y"], "product"), w=np.zeros((8, 4)))
    assert not run(fp8.insert(proto, {"product"}, {"x": 0.0})).any()


@pytest.mark.parametrize(
    ("op", "index", "shape", "attributes", "axis"),
    [
        ("Conv", 1, (4, 3, 3, 3), {}, 0),
        ("MatMul", 1, (8, 4), {}, 1),
        ("MatMul", 1, (2, 8, 4), {}, 2),
        ("MatMul", 0, (8, 4), {}, None),
        ("Gemm", 1, (8, 4), {}, 1),
        ("Gemm", 1, (4, 8), {"transB": 1}, 0),
        ("MatMul", 1, (8,), {}, None),
    ],
)
def test_the_axis_of_output_channels(
    op: str, index: int, shape: tuple[int, ...], attributes: dict[str, Any], axis: int | None
) -> None:
    assert rounding.channel_axis(node(op, ["a", "b"], ["c"], **attributes), index, shape) == axis


@pytest.mark.parametrize("high", ["fp32", "fp16"])
def test_digits_in_fp8(digits: Path, tmp_path: Path, high: precision.recipe.Rest) -> None:
    """ONNX Runtime's own fp8 is at .124 here; judged without graph optimisation, which falsifies it."""
    head = models.load(digits / "model.onnx", label="model.onnx")
    calibration = data.load(
        "calibration.npz", head.info, origin="calibration", need_labels=False, limit=128, timeout=60, base_dir=digits
    )
    made = precision.prepare(head, Recipe("fp8", high_precision=high), calibration, tmp_path, timeout=120)
    assert made.proof.nodes == {"fp8": 6}
    assert made.path.stat().st_size < 0.27 * head.path.stat().st_size
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with np.load(digits / "validation.npz") as validation:
        reference, answer = (
            np.asarray(onnxruntime.InferenceSession(path, options).run(None, {"image": validation["image"]})[0])
            for path in (head.path, made.path)
        )
        assert np.linalg.norm(answer - reference) <= 0.035 * np.linalg.norm(reference)
        assert (answer.argmax(axis=1) == validation["labels"]).mean() >= 0.985
