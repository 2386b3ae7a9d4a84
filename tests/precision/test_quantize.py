"""int8 by Q/DQ: what is quantized, what is kept, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from trt_action.errors import PrecisionError, SettingsError
from trt_action.precision import calibrate, large, proof, quantize
from trt_action.precision import graph as graphs
from trt_action.precision.recipe import Recipe

Array = npt.NDArray[Any]
node = helper.make_node
X = np.random.default_rng(1).standard_normal((6, 8)).astype(np.float32)


def weight(*shape: int) -> Array:
    return np.asarray(np.random.default_rng(shape[0]).standard_normal(shape) / np.sqrt(shape[0]), np.float32)


def model(nodes: Sequence[onnx.NodeProto], weights: dict[str, Array], opset: int = 17) -> ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", None])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def perceptron(**attributes: int) -> ModelProto:
    """first: MatMul + Add, which ONNX Runtime merges into a Gemm; its result meets a second weight behind a Transpose."""
    return model(
        [
            node("MatMul", ["x", "w1"], ["h1"], "first"),
            node("Add", ["h1", "b1"], ["h2"], "first_bias"),
            node("Relu", ["h2"], ["h3"], "relu"),
            node("Transpose", ["w2"], ["w2t"], "turn", perm=[1, 0]),
            node("MatMul", ["h3", "w2t"], ["y"], "second"),
        ],
        {"w1": weight(8, 16), "b1": weight(16), "w2": weight(4, 16)},
        **attributes,
    )


def run(proto: ModelProto, x: Array = X) -> Array:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    return np.asarray(session.run(None, {"x": x})[0])


def quantized(proto: ModelProto, folder: Path, x: Array = X, **recipe: Any) -> tuple[ModelProto, list[str]]:
    def batches() -> Iterator[dict[str, Array]]:
        yield {"x": x[:3]}
        yield {"x": x[3:]}

    source = folder / "model.onnx"
    onnx.save(proto, source)
    return quantize.quantize(graphs.read(source), Recipe("int8", **recipe), batches, folder, lambda text: None)


def error(changed: ModelProto, original: ModelProto) -> float:
    reference = run(original)
    return float(np.linalg.norm(run(changed) - reference) / np.linalg.norm(reference))


@pytest.mark.parametrize("method", ["minmax", "percentile"])
@pytest.mark.parametrize("opset", [11, 13, 17, 21])
def test_every_matrix_product_becomes_int8(tmp_path: Path, method: str, opset: int) -> None:
    original = perceptron(opset=opset)
    changed, _ = quantized(original, tmp_path, calibration_method=method)
    onnx.checker.check_model(changed, full_check=True)
    achieved = proof.count(changed, "int8", {"x": [6, 8]})
    assert achieved.nodes == {"int8": 2}
    assert achieved.flop_share == 1.0
    assert error(changed, original) < 0.03


def test_form_is_the_one_that_tensorrt_reads(tmp_path: Path) -> None:
    """Symmetric int8 (zero points 0), weights by channel, no quantized bias, standard operators only."""
    changed, _ = quantized(perceptron(), tmp_path)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in changed.graph.initializer}
    for each in changed.graph.node:
        assert each.domain == ""
        if each.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert stored[each.input[2]].dtype == np.int8
            assert not stored[each.input[2]].any()
    integers = {name: array for name, array in stored.items() if array.dtype == np.int8 and array.ndim == 2}
    assert len(integers) == 2
    assert not any(array.dtype == np.int32 for array in stored.values())
    scales = [each.input[1] for each in changed.graph.node if each.input[0] in integers]
    assert sorted(stored[name].shape for name in scales) == [(4,), (16,)]


@pytest.mark.parametrize(
    ("excluded", "kept"),
    [
        ("second", ["second"]),
        ("first", ["h2"]),  # merged with its bias: found by the result that it makes
        ("sec*", ["second"]),
    ],
)
def test_excluded_nodes_stay_float32(tmp_path: Path, excluded: str, kept: list[str]) -> None:
    changed, _ = quantized(perceptron(), tmp_path, exclude_nodes=(excluded,))
    achieved = proof.count(changed, "int8", {"x": [6, 8]})
    assert achieved.nodes == {"fp32": 1, "int8": 1}
    names = {n.name: list(n.output) for n in changed.graph.node}
    assert [n if n in kept else names[n][0] for n in achieved.kept_high] == kept


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"exclude_nodes": ("secnd",)}, ["`secnd`", "`second`"]),
        ({"exclude_nodes": ("/layer/*",)}, ["`/layer/*`"]),
        ({"op_types": ("MatMull",)}, ["`MatMull`", "`MatMul`"]),
    ],
)
def test_names_that_do_not_exist(tmp_path: Path, recipe: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        quantized(perceptron(), tmp_path, **recipe)
    told = f"{caught.value.what} {caught.value.why} {caught.value.fix}"
    assert all(word in told for word in words)


def test_operators_outside_op_types_are_left(tmp_path: Path) -> None:
    changed, _ = quantized(perceptron(), tmp_path, op_types=("Conv",))
    achieved = proof.count(changed, "int8", {"x": [6, 8]})
    assert achieved.quantize_nodes == 0
    with pytest.raises(PrecisionError, match="not one of its compute nodes") as caught:
        proof.require(achieved, changed, ("Conv",), ())
    assert "`op-types` is Conv" in caught.value.why


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_a_nan_in_the_middle_of_a_batch_is_found(tmp_path: Path, method: str) -> None:
    """ONNX Runtime's ReduceMax passes over it; the node that made it is named."""
    proto = model(
        [node("Log", ["x"], ["l"], "logarithm"), node("MatMul", ["l", "w"], ["y"], "product")], {"w": weight(8, 4)}
    )
    x = np.abs(X) + 1
    x[4, 3] = -1
    with pytest.raises(PrecisionError, match="NaN or infinity") as caught:
        quantized(proto, tmp_path, x, calibration_method=method)
    assert "`logarithm`" in caught.value.what


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_an_activation_that_is_always_zero(tmp_path: Path, method: str) -> None:
    proto = model(
        [
            node("Clip", ["x", "zero", "zero"], ["silent"]),
            node("MatMul", ["silent", "w"], ["s"]),
            node("MatMul", ["x", "w"], ["t"]),
            node("Add", ["s", "t"], ["y"]),
        ],
        {"w": weight(8, 4), "zero": np.array(0, np.float32)},
    )
    changed, notes = quantized(proto, tmp_path, calibration_method=method)
    assert "zero in every calibration sample" in notes[0]
    assert error(changed, proto) < 0.03


def test_percentile_ignores_a_lonely_outlier(tmp_path: Path) -> None:
    x = np.random.default_rng(0).uniform(-1, 1, (40_000, 8)).astype(np.float32)
    x[17, 3] = 1_000
    proto = model([node("MatMul", ["x", "w"], ["y"])], {"w": weight(8, 4)})

    def batches() -> Iterator[dict[str, Array]]:
        yield {"x": x[:20_000]}
        yield {"x": x[20_000:]}

    found = {m: calibrate.magnitudes(proto, ["x"], batches, m, tmp_path)["x"] for m in ("minmax", "percentile")}
    assert found["minmax"] == 1_000
    # 1 of 320,000 is beyond the 99.999 % mark; the mark falls into the first bins, which are 1,000 / 4,096 wide
    assert 1 <= found["percentile"] <= 1.3


def test_groups_bound_what_is_fetched_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "GROUP_BYTES", 200)
    original = perceptron()
    one_by_one, _ = quantized(original, tmp_path, calibration_method="percentile")
    monkeypatch.undo()
    together, _ = quantized(original, tmp_path, calibration_method="percentile")
    assert one_by_one.SerializeToString() == together.SerializeToString()


def test_a_layer_that_is_half_already_stays_half(tmp_path: Path) -> None:
    """ONNX Runtime's optimiser for the CPU would bring it back to float32."""
    half, single = TensorProto.FLOAT16, TensorProto.FLOAT
    proto = model(
        [
            node("MatMul", ["x", "w1"], ["a"]),
            node("Cast", ["a"], ["b"], to=half),
            node("MatMul", ["b", "w2"], ["c"]),
            node("Cast", ["c"], ["y"], to=single),
        ],
        {"w1": weight(8, 8), "w2": weight(8, 4).astype(np.float16)},
    )
    changed, _ = quantized(proto, tmp_path)
    assert proof.count(changed, "int8", {"x": [6, 8]}).nodes == {"fp16": 1, "int8": 1}
    assert error(changed, proto) < 0.03


def test_models_too_large_for_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of a model above 1.5 GB, with the limit lowered."""
    small, _ = quantized(perceptron(), tmp_path)
    monkeypatch.setattr(large, "SELF_CONTAINED_LIMIT", 100)
    big = model([node("MatMul", ["x", "w"], ["y"])], {"w": weight(8, 512)})
    changed, _ = quantized(big, tmp_path)
    graphs.write(changed, tmp_path / "prepared.onnx")
    assert (tmp_path / "prepared.onnx.data").stat().st_size >= 8 * 512
    assert error(onnx.load(tmp_path / "prepared.onnx"), big) < 0.03
    monkeypatch.undo()
    graphs.write(small, tmp_path / "prepared.onnx")
    assert not (tmp_path / "prepared.onnx.data").exists()


def test_a_name_of_a_node_is_no_glob() -> None:
    graph = perceptron().graph
    first, second = (node for node in graph.node if node.op_type in ("MatMul", "Gemm"))
    first.name, second.name = "layer[1]", "layer1"
    assert graphs.matching(graph, ("layer[1]",)) == {"layer[1]"}
    assert graphs.matching(graph, ("layer[12]",)) == {"layer1"}
