"""Networks of real size with seeded random weights: ResNet-50 and one block of BERT-base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STAGES = ((64, 256, 3), (128, 512, 4), (256, 1024, 6), (512, 2048, 3))
"""Inner and outer channels, and blocks, of ResNet-50's stages (He et al. 2015, table 1)."""


class Graph:
    """Collects nodes and weights; every method returns the name of its output."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def weight(self, *shape: int) -> str:
        fan_in = int(np.prod(shape[1:])) if len(shape) == 4 else shape[0]
        values = self.rng.standard_normal(shape, dtype=np.float32) * np.float32(fan_in**-0.5)
        return self.constant(values)

    def constant(self, values: np.ndarray[Any, Any]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def conv(self, x: str, inside: int, outside: int, size: int = 1, stride: int = 1) -> str:
        weights = (self.weight(outside, inside, size, size), self.constant(np.zeros(outside, np.float32)))
        return self.node("Conv", x, *weights, strides=[stride] * 2, pads=[size // 2] * 4)

    def save(self, path: Path, inputs: dict[str, list[Any]], outputs: dict[str, list[Any]], last: str) -> Path:
        """`last` becomes the only output."""
        self.nodes.append(helper.make_node("Identity", [last], list(outputs)))
        graph = helper.make_graph(self.nodes, path.stem, _values(inputs), _values(outputs), self.weights)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
        return path


def _values(shapes: dict[str, list[Any]]) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]


def resnet50(path: Path) -> Path:
    """`image` [N, 3, 224, 224] → `logits` [N, 1000]; 25.5 million parameters, batch norm folded."""
    g = Graph()
    x = g.node("Relu", g.conv("image", 3, 64, 7, 2))
    x = g.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = 64
    for stage, (inner, outer, blocks) in enumerate(STAGES):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            y = g.node("Relu", g.conv(x, channels, inner))
            y = g.node("Relu", g.conv(y, inner, inner, 3, stride))
            y = g.conv(y, inner, outer)
            x = g.node("Relu", g.node("Add", y, x if block else g.conv(x, channels, outer, 1, stride)))
            channels = outer
    x = g.node("Flatten", g.node("GlobalAveragePool", x))
    x = g.node("Gemm", x, g.weight(2048, 1000), g.constant(np.zeros(1000, np.float32)))
    return g.save(path, {"image": ["N", 3, 224, 224]}, {"logits": ["N", 1000]}, x)


def bert_block(path: Path, hidden: int = 768, heads: int = 12) -> Path:
    """`x` [N, S, hidden] → `y`: attention and feed-forward of one layer of BERT (Devlin et al. 2018)."""
    g = Graph()
    scale = g.constant(np.array(1 / np.sqrt(hidden // heads), np.float32))
    split = g.constant(np.array([0, 0, heads, hidden // heads], np.int64))
    join = g.constant(np.array([0, 0, hidden], np.int64))

    def linear(x: str, inside: int, outside: int) -> str:
        return g.node("Add", g.node("MatMul", x, g.weight(inside, outside)), g.constant(np.zeros(outside, np.float32)))

    def norm(x: str) -> str:
        ones, zeros = g.constant(np.ones(hidden, np.float32)), g.constant(np.zeros(hidden, np.float32))
        return g.node("LayerNormalization", x, ones, zeros, axis=-1)

    def split_heads(order: list[int]) -> str:
        return g.node("Transpose", g.node("Reshape", linear("x", hidden, hidden), split), perm=order)

    query, key, value = split_heads([0, 2, 1, 3]), split_heads([0, 2, 3, 1]), split_heads([0, 2, 1, 3])
    scores = g.node("Softmax", g.node("Mul", g.node("MatMul", query, key), scale), axis=-1)
    attended = g.node("Transpose", g.node("MatMul", scores, value), perm=[0, 2, 1, 3])
    x = norm(g.node("Add", "x", linear(g.node("Reshape", attended, join), hidden, hidden)))
    forward = linear(g.node("Gelu", linear(x, hidden, 4 * hidden)), 4 * hidden, hidden)
    return g.save(path, {"x": ["N", "S", hidden]}, {"y": ["N", "S", hidden]}, norm(g.node("Add", x, forward)))
