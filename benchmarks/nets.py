"""Two convolutional networks whose slowdown is real and known: a chain of 100 equal layers, and the same chain with
1, 2 or 5 more of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LAYERS = 100
SIZES = {"small": (8, 10), "medium": (32, 12)}
"""Channels and width: about 0.5 and 2.4 ms on one thread of a 2023 server CPU."""

GPU_SIZES = {"gpu": (128, 28)}
"""The same for a GPU: about 1 ms, mostly computing."""

MATMULS = {"gpu-matmul": (512, 512)}
"""Rows and width of a chain of matrix products, for a GPU as well: no algorithm is searched when it is loaded."""


def make(folder: Path, net: str, extra: int) -> Path:
    """Write `net` with `extra` layers more than 100 (3 × 3 convolution and ReLU); seeded weights, input `x`."""
    if net in MATMULS:
        return _matmuls(folder, net, extra)
    channels, width = (SIZES | GPU_SIZES)[net]
    path = folder / f"{net}-{extra}.onnx"
    rng = np.random.default_rng(0)
    scale = np.float32(np.sqrt(2 / (9 * channels)))  # keeps the variance through ReLU (He et al. 2015)
    nodes, weights, last = [], [], "x"
    for i in range(LAYERS + extra):
        weight = rng.standard_normal((channels, channels, 3, 3), dtype=np.float32) * scale
        weights.append(numpy_helper.from_array(weight, f"w{i}"))
        nodes.append(helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        last = f"r{i}"
    shape = [1, channels, width, width]
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, shape)],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def _matmuls(folder: Path, net: str, extra: int) -> Path:
    rows, width = MATMULS[net]
    path = folder / f"{net}-{extra}.onnx"
    rng = np.random.default_rng(0)
    scale = np.float32(np.sqrt(2 / width))
    nodes, weights, last = [], [], "x"
    for i in range(LAYERS + extra):
        weight = rng.standard_normal((width, width), dtype=np.float32) * scale
        weights.append(numpy_helper.from_array(weight, f"w{i}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{i}"], [f"m{i}"]))
        nodes.append(helper.make_node("Relu", [f"m{i}"], [f"r{i}"]))
        last = f"r{i}"
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, width])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, [rows, width])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def feeds(net: str) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    if net in MATMULS:
        return {"x": np.random.default_rng(1).standard_normal(MATMULS[net], dtype=np.float32)}
    channels, width = (SIZES | GPU_SIZES)[net]
    return {"x": np.random.default_rng(1).standard_normal((1, channels, width, width), dtype=np.float32)}
