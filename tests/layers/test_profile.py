"""ONNX Runtime's profile: what counts, what does not, and what is no profile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.layers.conftest import ONE_THREAD, built, model
from trt_action import engine
from trt_action.engine.backend import Loadable
from trt_action.errors import MeasureError
from trt_action.layers import graph, profile


def event(name: str, ts: float, dur: float, op: str = "Conv", **arguments: Any) -> dict[str, Any]:
    types = {"input_type_shape": [{"float": [1, 2]}], "output_type_shape": [{"float": [1, 2]}]}
    return {
        "cat": "Node",
        "name": f"{name}_kernel_time",
        "ts": ts,
        "dur": dur,
        "args": {"op_name": op, **types, **arguments},
    }


def run(*events: dict[str, Any]) -> list[dict[str, Any]]:
    return [*events, {"cat": "Session", "name": "model_run", "ts": 0, "dur": 1, "args": {}}]


def test_warm_up_does_not_count_and_single_interruptions_neither() -> None:
    slow, fast = run(event("a", 0, 900)), run(event("a", 0, 10))
    document = json.dumps([*slow, *slow, *(fast * 9), *run(event("a", 0, 500))])
    (layer,) = profile.parse(document, 10, graph.Graph(), graph.Graph())
    assert layer.ms == pytest.approx(0.010)


def test_several_nodes_of_one_name_are_kept_apart_and_what_runs_twice_adds_up() -> None:
    one = run(
        event("a", 0, 10, node_index="1"), event("a", 20, 30, node_index="2"), event("b", 60, 5), event("b", 70, 5)
    )
    layers = profile.parse(json.dumps(one), 1, graph.Graph(), graph.Graph())
    assert {layer.name: layer.ms for layer in layers} == pytest.approx({"a #1": 0.01, "a #2": 0.03, "b": 0.01})


def test_bodies_of_control_flow_are_inside_their_node(tmp_path: Path) -> None:
    """A real Loop of five additions: one layer."""
    body = helper.make_graph(
        [helper.make_node("Add", ["v", "x"], ["v2"], name="inner"), helper.make_node("Identity", ["c"], ["c2"], name="keep")],
        "body",
        [helper.make_tensor_value_info(n, t, s) for n, t, s in (("i", TensorProto.INT64, []), ("c", TensorProto.BOOL, []), ("v", TensorProto.FLOAT, [256, 256]))],
        [helper.make_tensor_value_info(n, t, s) for n, t, s in (("c2", TensorProto.BOOL, []), ("v2", TensorProto.FLOAT, [256, 256]))],
    )  # fmt: skip
    main = helper.make_graph(
        [helper.make_node("Loop", ["n", "", "x"], ["y"], name="loop", body=body)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [256, 256])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [256, 256])],
        [helper.make_tensor("n", TensorProto.INT64, [], [5])],
    )
    path = tmp_path / "loop.onnx"
    onnx.save(helper.make_model(main, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    layers = _profiled(built(path), path, np.zeros((256, 256), np.float32))
    assert [layer.kind for layer in layers if layer.kind in ("Loop", "Add")] == ["Loop"]


def test_nameless_nodes_are_traced_too(tmp_path: Path) -> None:
    path = model(tmp_path / "m.onnx", convolutions=2, names=lambda op, i: "")
    layers = _profiled(built(path), path, np.zeros((1, 16, 32, 32), np.float32))
    products = [layer.nodes for layer in layers if layer.role == "compute"]
    assert products == [("node_of_t1", "node_of_t2"), ("node_of_t3", "node_of_t4")]


def test_the_sum_and_activation_at_the_end_of_a_convolution_belong_to_it(tmp_path: Path) -> None:
    """Two residual blocks: in no name of ONNX Runtime's optimised graph, and not the next block's work."""
    rng = np.random.default_rng(0)
    stem = [
        helper.make_node("Conv", ["x", "a.w1"], ["0"], name="stem", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["0"], ["s"], name="stem.relu"),
    ]
    nodes, weights, x = stem, [], "s"
    for block in ("a", "b"):
        for i in (1, 2):
            weight = rng.standard_normal((16, 16, 3, 3), dtype=np.float32) * 0.1
            weights.append(onnx.numpy_helper.from_array(weight, f"{block}.w{i}"))
        ends = f"{block}.y"
        nodes += [
            helper.make_node("Conv", [x, f"{block}.w1"], [f"{block}.1"], name=f"{block}.conv1", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"{block}.1"], [f"{block}.2"], name=f"{block}.relu1"),
            helper.make_node("Conv", [f"{block}.2", f"{block}.w2"], [f"{block}.3"], name=f"{block}.conv2", pads=[1, 1, 1, 1]),
            helper.make_node("Add", [f"{block}.3", x], [f"{block}.4"], name=f"{block}.add"),
            helper.make_node("Relu", [f"{block}.4"], [ends], name=f"{block}.relu2"),
        ]  # fmt: skip
        x = ends
    shape = [1, 16, 32, 32]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", x)]
    main = helper.make_graph(nodes, "g", tensors[:1], tensors[1:], weights)
    path = tmp_path / "residual.onnx"
    onnx.save(helper.make_model(main, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    layers = _profiled(built(path), path, np.zeros(shape, np.float32))
    products = {layer.nodes for layer in layers if layer.role == "compute"}
    assert products == {
        ("stem", "stem.relu"), ("a.conv1", "a.relu1"), ("a.conv2", "a.add", "a.relu2"), ("b.conv1", "b.relu1"), ("b.conv2", "b.add", "b.relu2")
    }  # fmt: skip


def _profiled(loadable: Loadable, source: Path, x: np.ndarray[Any, Any]) -> list[Any]:
    session = engine.backend("onnxruntime").load(loadable)
    session.bind({"x": x})
    raw = session.layers(3)
    assert raw is not None
    assert loadable.options == ONE_THREAD
    return profile.parse(raw.document, raw.iterations, graph.read(loadable.path), graph.read(source))


@pytest.mark.parametrize("document", ["", "{", "{}", "[]", "[1, null]", "[" * 100_000, json.dumps(run())])
def test_what_is_no_profile_is_refused(document: str) -> None:
    with pytest.raises(MeasureError):
        profile.parse(document, 3, graph.Graph(), graph.Graph())


def test_wrong_types_are_read_as_nothing() -> None:
    odd: list[Any] = [None, 5, "x", [1], {"a": {"b": 1}}]
    events = [
        {"cat": "Node", "name": "a_kernel_time", "ts": 1, "dur": 2, "args": one} for one in [*odd, {"op_name": odd}]
    ]
    events += [event("b", 1, 2, input_type_shape=one, output_type_shape=[one], provider=one) for one in odd]
    events += [
        {"cat": "Node", "name": "c_kernel_time", "ts": one, "dur": one} for one in [*odd, True, -1, float("nan"), 1e300]
    ]
    layers = profile.parse(json.dumps(run(*events)), 1, graph.Graph(), graph.Graph())
    assert {layer.name for layer in layers} <= {"a", "b", "c"}
    assert all(layer.ms is not None and 0 <= layer.ms < 1 for layer in layers)
