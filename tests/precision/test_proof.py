"""Shares and counts, checked by hand on graphs that are small enough for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from trt_action.errors import PrecisionError
from trt_action.evidence import Precision
from trt_action.precision import proof

Array = npt.NDArray[Any]
node = helper.make_node


def model(nodes: Sequence[Any], weights: dict[str, Array], shape: Sequence[int | str] = ("n", 4)) -> ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def half_int8() -> ModelProto:
    """a: int8, [n, 4] · [4, 8]. b: float32, [n, 8] · [8, 2]."""
    return model(
        [
            node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
            node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
            node("DequantizeLinear", ["aq", "s", "z"], ["at"]),
            node("Transpose", ["at"], ["a"], perm=[1, 0]),
            node("MatMul", ["xd", "a"], ["h"], "int8 product"),
            node("Gemm", ["h", "b", "bias"], ["y"], "float product"),
        ],
        {
            "s": np.array(0.1, np.float32),
            "z": np.array(0, np.int8),
            "aq": np.ones((8, 4), np.int8),
            "b": np.ones((8, 2), np.float32),
            "bias": np.ones(2, np.float32),
            "an index": np.array([1, 2, 3]),
        },
    )


def test_shares_by_hand() -> None:
    achieved = proof.count(half_int8(), "int8", {"x": [5, 4]}, ["A note."])
    assert achieved.nodes == {"fp32": 1, "int8": 1}
    assert achieved.flop_share == pytest.approx((5 * 4 * 8) / (5 * 4 * 8 + 5 * 8 * 2))
    assert achieved.weight_share == pytest.approx(32 / (32 + 16 + 2))
    assert achieved.quantize_nodes == 3
    assert achieved.kept_high == ["float product"]
    assert achieved.note == "A note."


def test_flops_without_shapes_are_null() -> None:
    achieved = proof.count(half_int8(), "int8", {})
    assert achieved.flop_share is None
    assert achieved.weight_share == pytest.approx(0.64)


def test_a_quantized_weight_alone_is_not_int8() -> None:
    weights: dict[str, Array] = {
        "w": np.ones((4, 4), np.int8),
        "s": np.array(0.1, np.float32),
        "z": np.array(0, np.int8),
    }
    proto = model([node("DequantizeLinear", ["w", "s", "z"], ["d"]), node("MatMul", ["x", "d"], ["y"])], weights)
    achieved = proof.count(proto, "int8", {"x": [1, 4]})
    assert achieved.nodes == {"fp32": 1}
    assert achieved.flop_share == 0
    assert achieved.weight_share == 1
    with pytest.raises(PrecisionError) as caught:
        proof.require(achieved, proto, ("MatMul",), ())
    assert caught.value.exit_code == 4


def test_weights_that_the_graph_quantizes_itself() -> None:
    """As quantisation-aware training exports them: float32 weight → QuantizeLinear → DequantizeLinear."""
    weights: dict[str, Array] = {"w": np.ones((4, 4), np.float32), "s": np.array(0.1, np.float32)}
    weights["z"] = np.array(0, np.int8)
    pairs = [
        node(f"{kind}Linear", [f"{name}{end}", "s", "z"], [f"{name}{result}"])
        for name in "xw"
        for kind, end, result in (("Quantize", "", "q"), ("Dequantize", "q", "d"))
    ]
    achieved = proof.count(model([*pairs, node("MatMul", ["xd", "wd"], ["y"])], weights), "int8", {"x": [1, 4]})
    assert (achieved.weight_share, achieved.flop_share) == (1, 1)


@pytest.mark.parametrize(
    ("asked", "excluded", "nodes", "words"),
    [
        ("int8", (), [node("Relu", ["x"], ["y"])], "has no Conv"),
        ("fp16", (), [node("MatMul", ["x", "w"], ["y"])], "stayed as they were (1 × fp32)"),
        ("fp16", ("*",), [node("MatMul", ["x", "w"], ["y"])], "`exclude-nodes` covers"),
        ("int8", (), [node("MatMul", ["x", "w"], ["y"])], "`op-types` is Conv; the model has MatMul"),
    ],
)
def test_nothing_achieved_is_refused_with_the_likely_reason(
    asked: Precision, excluded: tuple[str, ...], nodes: list[Any], words: str
) -> None:
    proto = model(nodes, {"w": np.ones((4, 4), np.float32)})
    achieved = proof.count(proto, asked, {"x": [1, 4]})
    with pytest.raises(PrecisionError) as caught:
        proof.require(achieved, proto, ("Conv",), excluded)
    assert words in caught.value.why


def test_element_wise_models_may_be_half() -> None:
    proto = model(
        [node("Cast", ["x"], ["h"], to=10), node("Mul", ["h", "w"], ["m"]), node("Cast", ["m"], ["y"], to=1)],
        {"w": np.ones(4, np.float16)},
    )
    achieved = proof.count(proto, "fp16", {"x": [1, 4]})
    assert (achieved.nodes, achieved.flop_share, achieved.weight_share) == ({}, None, 1)
    proof.require(achieved, proto, (), ())
