from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


def rich_model() -> onnx.ModelProto:
    """Small, with a bit of everything: convolution, branch, function, constant, external data."""

    def node(op: str, inputs: list[str], output: str, **more: object) -> onnx.NodeProto:
        return helper.make_node(op, inputs, [output], **more)  # type: ignore[arg-type]

    def value(name: str, *shape: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    branch = helper.make_graph([node("MatMul", ["x", "w"], "b")], "branch", [], [value("b", "N", 3)])
    nodes = [
        node("Conv", ["image", "kernel"], "c", kernel_shape=[3, 3]),
        node("GlobalAveragePool", ["c"], "p"),
        node("Reshape", ["p", "shape"], "x"),
        node("Twice", ["x"], "t", domain="own"),
        node("ReduceSum", ["t"], "s", keepdims=0),
        node("Cast", ["s"], "condition"),
        node("If", ["condition"], "y", then_branch=branch, else_branch=branch),
    ]
    nodes[5].attribute.append(helper.make_attribute("to", TensorProto.BOOL))  # `to` is the helper's own name
    weight = TensorProto(name="w", dims=[4, 3], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, text in (("location", "w.bin"), ("offset", "4"), ("length", "48")):
        weight.external_data.add(key=key, value=text)
    stored = [
        numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "kernel"),
        numpy_helper.from_array(np.array([-1, 4]), "shape"),
        weight,
    ]
    graph = helper.make_graph(nodes, "g", [value("image", "N", 3, 8, 8)], [value("y", "N", 3)], stored)
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
    twice = helper.make_function(
        "own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], imports[:1]
    )
    return helper.make_model(graph, opset_imports=imports, ir_version=10, functions=[twice])


@pytest.mark.parametrize("count", [300, pytest.param(5_000, marks=pytest.mark.fuzz)])
def test_mutated_models_are_accepted_or_refused(save: Callable[..., Path], count: int) -> None:
    path = save(rich_model())
    (path.parent / "w.bin").write_bytes(bytes(64))
    script = Path(__file__).with_name("mutate.py")
    done = subprocess.run(
        [sys.executable, str(script), str(path), "1", str(count)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    counted = json.loads(done.stdout)
    assert counted["accepted"] + counted["refused"] == count
    assert counted["accepted"] > count // 50  # the mutations are fine enough to reach every check
    assert counted["refused"] > count // 2
