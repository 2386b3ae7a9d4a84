"""The way of a model above protobuf's 2 GiB, walked by a small one with the limit lowered: it leads to the same place.

(A real one of 2.4 GB takes minutes and 6 GB of memory.)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from trt_action import data
from trt_action import model as models
from trt_action.evidence import Precision
from trt_action.precision import Recipe, large, worker
from trt_action.precision import graph as graphs

Array = npt.NDArray[Any]
X = np.random.default_rng(0).standard_normal((6, 64), dtype=np.float32)


def perceptron(opset: int = 21, nodes: list[onnx.NodeProto] | None = None, **extra: Any) -> ModelProto:
    rng = np.random.default_rng(1)
    weights = {f"w{i}": rng.standard_normal((64, 64), dtype=np.float32) / np.float32(6) for i in range(3)}
    chain = [
        helper.make_node("MatMul", ["x", "w0"], ["a"], "m0"),
        helper.make_node("Relu", ["a"], ["b"], "r0"),
        helper.make_node("MatMul", ["b", "w1"], ["c"], "m1"),
        helper.make_node("Add", ["c", "bias"], ["d"], "a1"),
        helper.make_node("MatMul", ["d", "w2"], ["y"], "m2"),
    ]
    graph = helper.make_graph(
        nodes or chain,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])],
        [
            numpy_helper.from_array(weights["w2"], "w2"),
            helper.make_tensor("w1", TensorProto.FLOAT, [64, 64], weights["w1"].ravel()),  # not as raw bytes
            numpy_helper.from_array(weights["w0"], "w0"),
            numpy_helper.from_array(np.full(64, 0.5, np.float32), "bias"),
        ],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid("local", 1) for _ in extra)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8, **extra)


def run(path: Path) -> Array:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return np.asarray(onnxruntime.InferenceSession(path, options).run(None, {"x": X})[0])


def prepare(source: Path, recipe: Recipe, folder: Path) -> Path:
    folder.mkdir()
    loaded = models.load(source, label="m.onnx")
    data.Dataset({"x": X}, None, "0" * 64, "calibration", len(X)).save(folder / "calibration.npz")
    request = {
        "model": str(source),
        "info": loaded.info.model_dump(),
        "recipe": json.loads(json.dumps(recipe.crossing())),
        "calibration": str(folder / "calibration.npz"),
        "out_dir": str(folder),
    }
    answer = worker.prepare(request, lambda *_: None)
    (folder / "calibration.npz").unlink()
    assert answer["proof"]["nodes"] == {recipe.precision: 3}
    return Path(answer["path"])


@pytest.mark.parametrize("method", ["minmax", "percentile"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "fp8"])
def test_weights_beside_the_file_change_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision, method: str
) -> None:
    source = tmp_path / "m.onnx"
    onnx.save(perceptron(), source)
    recipe = Recipe(precision, calibration_method=method)
    inside = prepare(source, recipe, tmp_path / "inside")
    monkeypatch.setattr(large, "SELF_CONTAINED_LIMIT", 4_096)
    outside = prepare(source, recipe, tmp_path / "outside")
    assert [p.name for p in inside.parent.iterdir()] == ["prepared.onnx"]
    assert sorted(p.name for p in outside.parent.iterdir()) == ["prepared.onnx", "prepared.onnx.data"]
    assert large.data_of(outside).stat().st_size >= 3 * 64 * 64 * {"fp32": 4, "fp16": 2, "int8": 1, "fp8": 1}[precision]
    assert np.array_equal(run(outside), run(inside))
    again = models.load(outside, label="again.onnx")  # hashed and checked like any model with external data
    assert again.info.bytes == sum(p.stat().st_size for p in outside.parent.iterdir())


def test_an_older_opset_is_raised_without_serialising_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large, "SELF_CONTAINED_LIMIT", 4_096)
    onnx.save(perceptron(opset=11), tmp_path / "m.onnx")
    raised = graphs.raise_opset(graphs.read(tmp_path / "m.onnx"), 22, "bf16")
    assert graphs.opset(raised) == 22
    assert [value.name for value in raised.graph.input] == ["x"]
    graphs.write(raised, tmp_path / "raised.onnx")
    assert np.array_equal(run(tmp_path / "raised.onnx"), run(tmp_path / "m.onnx"))


def test_functions_are_inlined_without_serialising_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = [helper.make_node("MatMul", ["l", "r"], ["m"]), helper.make_node("Relu", ["m"], ["o"])]
    layer = helper.make_function("local", "Layer", ["l", "r"], ["o"], body, [helper.make_opsetid("", 21)])
    call = helper.make_node("Layer", ["x", "w1"], ["y"], "layer", domain="local")
    onnx.save(perceptron(nodes=[call], functions=[layer]), tmp_path / "m.onnx")
    monkeypatch.setattr(large, "SELF_CONTAINED_LIMIT", 4_096)
    graphs.write(graphs.read(tmp_path / "m.onnx"), tmp_path / "inlined.onnx")
    assert [n.op_type for n in onnx.load(tmp_path / "inlined.onnx").graph.node] == ["MatMul", "Relu"]
    assert np.array_equal(run(tmp_path / "inlined.onnx"), run(tmp_path / "m.onnx"))


def test_the_size_of_weights_is_known_without_them() -> None:
    """A model above 2 GiB cannot be serialised, so its size is not asked for."""
    proto = perceptron()
    assert not large.is_large(proto)
    proto.graph.initializer.append(TensorProto(name="huge", data_type=TensorProto.FLOAT, dims=[30_000, 30_000]))
    assert large.is_large(proto)
