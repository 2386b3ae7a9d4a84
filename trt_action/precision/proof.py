"""What the prepared graph really does, counted from the graph alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from onnx import ModelProto, NodeProto, TensorProto

from trt_action.errors import PrecisionError
from trt_action.evidence import AchievedPrecision, Precision
from trt_action.model import flops
from trt_action.precision import graph as graphs
from trt_action.precision.recipe import CALIBRATED

NAMES: dict[int, str] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.DOUBLE: "fp64",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "uint8",
    TensorProto.INT4: "int4",
    TensorProto.UINT4: "uint4",
    TensorProto.FLOAT8E4M3FN: "fp8",
    TensorProto.FLOAT8E5M2: "fp8",
}
FLOATING = frozenset({"fp32", "fp64", "fp16", "bf16"})
LAYOUT_OPS = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
UNKNOWN = "unknown"
MOST_NAMES = 100


def count(
    model: ModelProto, asked: Precision, shapes: Mapping[str, Sequence[int]], notes: Sequence[str] = ()
) -> AchievedPrecision:
    """Count compute nodes, FLOPs and weights by precision.

    A node (Conv, ConvTranspose, Gemm, MatMul) is `int8` or `fp8` when both factors come through DequantizeLinear from
    it (layout operators in between allowed), `int4` when the weight does, because int4 is for weights alone; else it
    has the type of its factors, the higher one where they differ. `flop_share` weighs nodes with their
    FLOPs at the input `shapes`; null when those are unknown and the nodes differ. `weight_share` is over the elements
    of all floating-point constants and the integer ones that DequantizeLinear reads, without scales and zero points.
    """
    view = _View(model, shapes)
    nodes = [node for node in graphs.walk(model.graph) if node.op_type in graphs.COMPUTE]
    achieved = [view.node(node) for node in nodes]
    wanted = "fp32" if asked == "tf32" else asked
    flop_share = _flop_share(view, nodes, [precision == wanted for precision in achieved])
    weights = view.weights()
    total = sum(weights.values())
    without_weights = 1.0 if flop_share is None else flop_share
    kept = [
        node.name or node.output[0]
        for node, precision in zip(nodes, achieved, strict=True)
        if precision != wanted and wanted != "fp32"
    ]
    return AchievedPrecision(
        asked=asked,
        weight_share=weights[wanted] / total if total else without_weights,
        flop_share=flop_share,
        nodes=dict(sorted(Counter(achieved).items())),
        quantize_nodes=sum(n.op_type in ("QuantizeLinear", "DequantizeLinear") for n in graphs.walk(model.graph)),
        kept_high=[name[:1_000] for name in kept[:MOST_NAMES]],
        note=" ".join(notes),
    )


def require(proof: AchievedPrecision, model: ModelProto, op_types: Sequence[str], excluded: Sequence[str]) -> None:
    """Refuse a graph in which nothing got the asked precision.

    Raises:
        PrecisionError: with the likely reason.
    """
    if proof.asked in ("fp32", "tf32") or proof.nodes.get(proof.asked):
        return
    if not proof.nodes and proof.asked not in CALIBRATED and proof.weight_share > 0:
        return  # nothing but element-wise work, and that is in half
    what = f"The model was asked for {proof.asked}, and not one of its compute nodes got it."
    if not proof.nodes:
        raise PrecisionError(
            what,
            why="It has no Conv, ConvTranspose, Gemm or MatMul node outside of functions it does not define.",
            fix="Use `precision: fp32` for this model.",
        )
    held = ", ".join(f"{number} × {name}" for name, number in proof.nodes.items())
    kinds = sorted({node.op_type for node in graphs.walk(model.graph) if node.op_type in graphs.COMPUTE})
    if excluded:
        reason, fix = "`exclude-nodes` covers all of them, or all that could change.", "Exclude fewer nodes."
    elif proof.asked in CALIBRATED and not set(kinds) & set(op_types):
        reason = f"`op-types` is {', '.join(op_types)}; the model has {', '.join(kinds)}."
        fix = "Add the model's operators to `op-types`."
    elif UNKNOWN in proof.nodes:
        reason = "They are in the body of an If, Loop or Scan, which is never rewritten."
        fix = "Export the model without control flow, or use `precision: fp32`."
    else:
        reason, fix = f"They stayed as they were ({held}).", "Check that the model is float32 before the conversion."
    raise PrecisionError(what, why=reason, fix=fix)


class _View:
    """The graph with its producers, types and shapes."""

    def __init__(self, model: ModelProto, shapes: Mapping[str, Sequence[int]]) -> None:
        self.graph = model.graph
        self._producers = {name: node for node in model.graph.node for name in node.output if name}
        known = graphs.types_and_shapes(model, shapes)
        self._types = {name: kind for name, (kind, _) in known.items()}
        self.shapes = {name: _fixed(shape) for name, (_, shape) in known.items()}

    def node(self, node: NodeProto) -> str:
        factors = {self._factor(name) for name in node.input[:2]}
        if weight_only := factors & {"int4", "uint4"}:
            return weight_only.pop()
        return factors.pop() if len(factors) == 1 else max(factors, key=_height)

    def weights(self) -> Counter[str]:
        """Elements of weights by precision."""
        parameters = {
            name
            for node in graphs.walk(self.graph)
            if node.op_type in ("QuantizeLinear", "DequantizeLinear")
            for name in node.input[1:]
        }
        through = {
            node.input[0]: NAMES.get(self._types.get(node.output[0], 0), UNKNOWN)
            for node in self.graph.node
            if node.op_type == "QuantizeLinear"
        }
        dequantized = {node.input[0] for node in self.graph.node if node.op_type == "DequantizeLinear"}
        counted: Counter[str] = Counter()
        for graph in graphs.graphs(self.graph):
            for tensor in graph.initializer:
                precision = through.get(tensor.name, NAMES.get(tensor.data_type, UNKNOWN))
                if tensor.name in dequantized or (precision in FLOATING or tensor.name in through):
                    counted[precision] += 0 if tensor.name in parameters else graphs.elements(tensor)
        return counted

    def _factor(self, name: str) -> str:
        source = self._producers.get(name)
        while source is not None and source.op_type in LAYOUT_OPS:
            source = self._producers.get(source.input[0])
        if source is not None and source.op_type == "DequantizeLinear":
            return NAMES.get(self._types.get(source.input[0], 0), UNKNOWN)
        return NAMES.get(self._types.get(name, 0), UNKNOWN)


def _height(precision: str) -> int:
    """Which of two precisions a mixed node computes in: the higher one."""
    order = ("int4", "uint4", "fp8", "int8", "uint8", "fp16", "bf16", "fp32", "fp64")
    return order.index(precision) if precision in order else len(order)


def _flop_share(view: _View, nodes: Sequence[NodeProto], wanted: Sequence[bool]) -> float | None:
    if not nodes:
        return None
    if all(wanted) or not any(wanted):
        return 1.0 if wanted[0] else 0.0
    counts = [flops.of_node(node, view.shapes) for node in nodes]
    known = [n for n in counts if n is not None]
    if len(known) < len(counts) or not sum(known):
        return None
    return sum(n for n, yes in zip(known, wanted, strict=True) if yes) / sum(known)


def _fixed(shape: tuple[int | None, ...] | None) -> tuple[int, ...] | None:
    if shape is None or any(size is None for size in shape):
        return None
    return tuple(size for size in shape if size is not None)
