"""How much arithmetic one inference takes: 2 × multiply-accumulates of Conv, ConvTranspose, Gemm and MatMul.

Shapes come from ONNX shape inference with the inputs fixed to the measured shape. Runs in the child of `examine.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import onnx
import onnx.inliner
import onnx.shape_inference

from trt_action.model.operators import every_node

COMPUTE = ("Conv", "ConvTranspose", "Gemm", "MatMul")

SMALL = 1_024
"""Elements of a stored tensor that shape inference may need (shapes, axes, pads); larger ones lose their data."""

Shape = tuple[int, ...]


def count(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> int | None:
    """FLOPs of one inference at the given input shapes; None where a shape cannot be inferred.

    `model` is changed: its large weights lose their data, its inputs get the shapes.
    """
    _lighten(model)
    for value in model.graph.input:
        if value.name in shapes:
            del value.type.tensor_type.shape.dim[:]
            for size in shapes[value.name]:
                value.type.tensor_type.shape.dim.add().dim_value = size
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]
    try:
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError, MemoryError):
        return None  # it also computes values of small tensors, and a graph may declare them large
    return _total(graph)


def _lighten(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) > SMALL:
            for field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                tensor.ClearField(field)


def _total(graph: onnx.GraphProto) -> int | None:
    known: dict[str, Shape | None] = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        known.setdefault(value.name, _shape(value))
    total = 0
    for node in graph.node:
        if node.op_type in COMPUTE:
            flops = of_node(node, known)
            if flops is None:
                return None
            total += flops
        elif any(inner.op_type in COMPUTE for inner in every_node([node])):
            return None  # a branch or a loop: how often it runs is not known
    return total


def _shape(value: onnx.ValueInfoProto) -> Shape | None:
    if not value.type.tensor_type.HasField("shape"):
        return None
    dims = value.type.tensor_type.shape.dim
    known = all(d.HasField("dim_value") and d.dim_value >= 0 for d in dims)
    return tuple(d.dim_value for d in dims) if known else None


def of_node(node: onnx.NodeProto, known: Mapping[str, Shape | None]) -> int | None:
    """FLOPs of one compute node by the shapes of its tensors; None where one is not known."""
    if len(node.input) < 2 or not node.output:
        return None
    left, right, out = known.get(node.input[0]), known.get(node.input[1]), known.get(node.output[0])
    if left is None or right is None or out is None or not left or not right:
        return None
    if node.op_type == "Conv":  # weights: [out, in / group, *kernel]
        return 2 * math.prod(out) * math.prod(right[1:])
    if node.op_type == "ConvTranspose":  # weights: [in, out / group, *kernel]; each input element meets them
        return 2 * math.prod(left) * math.prod(right[1:])
    if node.op_type == "Gemm":
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return 2 * math.prod(out) * left[0 if transposed else -1]
    return 2 * math.prod(out) * left[-1]
