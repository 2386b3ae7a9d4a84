"""Small real engines for the workers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from trt_action import arrays
from trt_action.engine.backend import Loadable, RuntimeOptions

ONE_THREAD = RuntimeOptions(threads=1)
Make = Callable[..., Loadable]


@pytest.fixture
def feeds(tmp_path: Path) -> Path:
    """`x`, float32 [1, 8, 16, 16]."""
    path = tmp_path / "feeds.npz"
    arrays.save_npz(path, {"x": np.random.default_rng(0).standard_normal((1, 8, 16, 16), dtype=np.float32)})
    return path


@pytest.fixture
def convs(tmp_path: Path) -> Make:
    """Chain of `depth` 3 × 3 convolutions of `width` channels; time is proportional to `depth`."""

    def make(depth: int = 2, width: int = 8) -> Loadable:
        rng = np.random.default_rng(0)
        channels = [8, *[width] * depth]
        weights = [
            numpy_helper.from_array(rng.standard_normal((after, before, 3, 3), dtype=np.float32) / 10, f"w{i}")
            for i, (before, after) in enumerate(pairwise(channels))
        ]
        names = ["x", *(f"y{i}" for i in range(depth - 1)), "y"]
        nodes = [helper.make_node("Conv", [names[i], f"w{i}"], [names[i + 1]], pads=[1] * 4) for i in range(depth)]
        return _write(tmp_path / f"convs-{depth}-{width}.onnx", nodes, weights, [1, width, 16, 16])

    return make


@pytest.fixture
def draws(tmp_path: Path) -> Make:
    """Eight outputs: the log of a uniform draw from [low, high], new in every inference; NaN where that is below 0."""

    def make(low: float, high: float = 1.0) -> Loadable:
        nodes = [
            helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
            helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
            helper.make_node("RandomUniform", [], ["draw"], low=low, high=high, shape=[8]),
            helper.make_node("Log", ["draw"], ["log"]),
            helper.make_node("Add", ["log", "nothing"], ["y"]),
        ]
        return _write(tmp_path / "draws.onnx", nodes, [numpy_helper.from_array(np.array(0, np.float32), "zero")], [8])

    return make


def _write(
    path: Path, nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto], output_shape: list[int]
) -> Loadable:
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output_shape)],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return Loadable("onnxruntime", path, ONE_THREAD, prepared=False)
