from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from trt_action.model import flops


def count(nodes: list[onnx.NodeProto], weights: dict[str, tuple[int, ...]], shape: list[int]) -> int | None:
    stored = [numpy_helper.from_array(np.zeros(dims, np.float32), name) for name, dims in weights.items()]
    stored.append(numpy_helper.from_array(np.array([0, -1], np.int64), "flat"))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape[1:]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", None])],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return flops.count(model, {"x": shape})


def node(op: str, *inputs: str, to: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), [to], **attributes)


@pytest.mark.parametrize(
    ("nodes", "weights", "shape", "expected"),
    [
        # 8x8 image, 3x3 kernel, padded: 64 outputs x 16 channels x (3 x 9) products
        ([node("Conv", "x", "w", pads=[1, 1, 1, 1])], {"w": (16, 3, 3, 3)}, [2, 3, 8, 8], 2 * 2 * 64 * 16 * 27),
        ([node("Conv", "x", "w", group=4)], {"w": (4, 1, 3, 3)}, [1, 4, 5, 5], 2 * 9 * 4 * 9),
        ([node("ConvTranspose", "x", "w", strides=[2, 2])], {"w": (3, 5, 2, 2)}, [1, 3, 4, 4], 2 * 48 * 20),
        ([node("Gemm", "x", "w")], {"w": (7, 5)}, [2, 7], 2 * 2 * 7 * 5),
        ([node("Gemm", "x", "w", transA=1, transB=1)], {"w": (5, 2)}, [2, 7], 2 * 7 * 2 * 5),
        ([node("MatMul", "x", "w")], {"w": (7, 5)}, [2, 3, 7], 2 * 2 * 3 * 7 * 5),
        ([node("Relu", "x")], {}, [2, 7], 0),
        # the shape of the product is known only if the small integer tensor is kept
        ([node("Reshape", "x", "flat", to="f"), node("MatMul", "f", "w")], {"w": (12, 5)}, [2, 3, 4], 2 * 2 * 12 * 5),
        # how many rows NonZero finds depends on the values
        (
            [node("NonZero", "x", to="i"), node("Cast", "i", to="f"),
             node("MatMul", "f", "w")],
            {"w": (7, 5)}, [2, 7], None,
        ),
    ],
)  # fmt: skip
def test_counts(
    nodes: list[onnx.NodeProto], weights: dict[str, tuple[int, ...]], shape: list[int], expected: int | None
) -> None:
    for entry in nodes:
        if entry.op_type == "Cast":
            entry.attribute.append(helper.make_attribute("to", TensorProto.FLOAT))  # `to` is the helper's own name
    assert count(nodes, weights, shape) == expected


def test_a_loop_is_unknown() -> None:
    body = helper.make_graph(
        [node("MatMul", "x", "w", to="b")], "then", [], [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)]
    )
    nodes = [
        node("ReduceSum", "x", to="s", keepdims=0),
        node("Cast", "s", to="c"),
        node("If", "c", then_branch=body, else_branch=body),
    ]
    nodes[1].attribute.append(helper.make_attribute("to", TensorProto.BOOL))
    assert count(nodes, {"w": (7, 5)}, [2, 7]) is None
