"""Which inputs hold sizes? Their values decide shapes, so that random ones measure nothing, or cannot run."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from trt_action.inputs import quote
from trt_action.model import operators
from trt_action.model.shapes import Input, Profile

_HELD = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "OneHot": (1,),
    "Pad": (1,),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (3,),
    "Slice": (1, 2),
    "Tile": (1,),
    "TopK": (1,),
}
"""Operator to the places of its inputs whose values decide the shape of its output (ONNX operators, opset 10 on)."""

_THROUGH = frozenset({"Add", "Cast", "Concat", "Div", "Identity", "Mul", "Squeeze", "Sub", "Unsqueeze"})
"""What exporters put between: the result holds the sizes that go in."""


def notes(graph: onnx.GraphProto, inputs: list[Input], profiles: Mapping[str, Profile]) -> list[str]:
    """A sentence for every input that holds sizes and whose values nobody gave."""
    asked = {
        tensor.name
        for tensor in inputs
        if tensor.dtype in ("int32", "int64") and len(tensor.shape) < 2 and profiles[tensor.name].values is None
    }
    held = _held(graph) if asked else {}
    return [
        f"Input {quote(name)} holds sizes ({held[name]}), and `shapes` gives no `values` of it: where data do not carry it, "
        "it is 0 or 1 (docs/tensorrt.md)."
        for name in sorted(asked & held.keys())
    ]


def _held(graph: onnx.GraphProto) -> dict[str, str]:
    """Tensors that hold sizes, and of which operator. Nodes are in topological order: from behind, users come first."""
    found: dict[str, str] = {}
    for node in reversed([*operators.every_node(graph.node)]):
        for place in _HELD.get(node.op_type, ()):
            if place < len(node.input):
                found.setdefault(node.input[place], node.op_type)
        if node.op_type in _THROUGH and node.output and node.output[0] in found:
            for name in node.input:
                found.setdefault(name, found[node.output[0]])
    return found
