"""fp16 and bf16: the float32 graph rewritten so that it computes in half precision.

One walk over the nodes in order. Every float32 tensor `t` can exist twice: as `t` in float32 (inputs, outputs and
whatever must stay high keep their names and types) and as `t.fp16` / `t.bf16`. A node computes in half when the
operator's schema lets every float32 tensor of it be half; casts appear only where one form is there and the other is
needed, right before the node that needs it, so that the result stays topologically sorted.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from trt_action.precision import graph as graphs

HALF = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
SCHEMA_NAME = {"fp16": "tensor(float16)", "bf16": "tensor(bfloat16)"}
NUMPY = {"fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}
LEAST_OPSET = {"fp16": 1, "bf16": 22}  # Conv, pooling and others take bfloat16 from opset 22 on
LARGEST = {"fp16": 65_504.0, "bf16": float.fromhex("0x1.fep127")}
QDQ_HALF_SCALE_OPSET = 19

KEEP_OPS = frozenset(
    {
        # Sums of squares and products leave the range of float16 (65,504) long before their results do, and the small
        # epsilon of a hand-written normalisation would become zero.
        *("Pow", "ReduceSum", "ReduceMean", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceProd"),
        *("ReduceLogSum", "ReduceLogSumExp", "CumSum", "CumProd"),
        # An attribute decides their type; a cast behind them is simpler and costs nothing.
        *("Constant", "ConstantOfShape", "EyeLike", "CastLike", "Bernoulli", "Multinomial", "RandomNormal"),
        *("RandomNormalLike", "RandomUniform", "RandomUniformLike", "BlackmanWindow", "HammingWindow", "HannWindow"),
    }
)
KEEP_INPUTS = frozenset({("Resize", 1)})  # roi: a type of its own, which TensorRT reads as float32

EXACT_OPS = frozenset(
    {
        *(
            "Add",
            "Sub",
            "Mul",
            "Div",
            "Mod",
            "Neg",
            "Abs",
            "Floor",
            "Ceil",
            "Round",
            "Sqrt",
            "Reciprocal",
            "Min",
            "Max",
        ),
        *(
            "Clip",
            "Range",
            "Identity",
            "Reshape",
            "Squeeze",
            "Unsqueeze",
            "Concat",
            "Slice",
            "Gather",
            "Expand",
            "Where",
        ),
        *("Sin", "Cos", "Exp", "Log", "Transpose", "Tile", "Einsum"),
    }
)
"""Operators through which numbers that began as integers (sizes, positions, pixels) stay float32: float16 holds
integers exactly up to 2,048 only."""

INTEGERS = frozenset(
    {
        *(TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64),
        *(TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64),
    }
)


@dataclass
class HalfCast:
    """The pass over one model, which is changed in place."""

    model: ModelProto
    precision: str
    keep: set[str] = field(default_factory=set)
    """Names of nodes that stay in float32."""
    clamped: int = 0
    """Weight elements that were outside the range and now sit at its end."""
    changed: list[str] = field(default_factory=list)
    """Names of the nodes that compute in half, in the order of the graph."""

    def run(self) -> None:
        """Rewrite nodes, initializers and outputs."""
        graph = self.model.graph
        self._types = {name: kind for name, (kind, _) in graphs.types_and_shapes(self.model).items()}
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._opset = graphs.opset(self.model)
        self._taken = set(self._types) | {name for node in graphs.walk(graph) for name in (*node.input, *node.output)}
        self._from_integers: set[str] = set()
        self._floats = {value.name for value in graph.input} | {
            name for name in self._weights if self._types[name] == TensorProto.FLOAT
        }
        self._halves: dict[str, str] = {}
        self._half_weights: list[TensorProto] = []
        self._needed_floats: set[str] = set()
        self._nodes: list[NodeProto] = []
        for node in list(graph.node):
            self._rewrite(node)
        for value in graph.output:
            self._as_float(value.name)
        del graph.node[:]
        graph.node.extend(self._nodes)
        kept = [
            tensor
            for tensor in graph.initializer
            if tensor.data_type != TensorProto.FLOAT or tensor.name in self._needed_floats
        ]
        del graph.initializer[:]
        graph.initializer.extend([*kept, *self._half_weights])
        del graph.value_info[:]

    def notes(self) -> list[str]:
        """What a reader of the record should know."""
        if not self.clamped:
            return []
        limit = LARGEST[self.precision]
        return [f"{self.clamped} weights were outside the range of {self.precision} and became ±{limit:,.6g}."]

    def _rewrite(self, node: NodeProto) -> None:
        plan = self._plan(node)
        for name in graphs.captured(node):
            self._as_float(name)
        if plan is None:
            for name in node.input:
                self._as_float(name)
            self._floats.update(node.output)
            self._nodes.append(node)
            return
        self.changed.append(node.name)
        inputs, outputs = plan
        for index, name in enumerate(node.input):
            if index in inputs:
                node.input[index] = self._as_half(name)
            else:
                self._as_float(name)
        for index, name in enumerate(node.output):
            if index in outputs:
                self._halves[name] = node.output[index] = self._fresh(name)
            else:
                self._floats.add(name)
        if node.op_type == "Cast":
            next(a for a in node.attribute if a.name == "to").i = HALF[self.precision]
        self._nodes.append(node)

    def _plan(self, node: NodeProto) -> tuple[set[int], set[int]] | None:
        """Which inputs and outputs become half; None when the node stays as it is."""
        if self._stays(node):
            return None
        try:
            schema = onnx.defs.get_schema(node.op_type, self._opset)
        except onnx.defs.SchemaError:
            return None
        allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
        chosen: list[set[int]] = []
        for names, formals in ((node.input, schema.inputs), (node.output, schema.outputs)):
            half: set[int] = set()
            for index, name in enumerate(names):
                if not name:
                    continue
                if name not in self._types:
                    return None  # of unknown type: a sequence, or behind a foreign operator
                if self._types[name] != TensorProto.FLOAT or (node.op_type, index) in KEEP_INPUTS:
                    continue
                kind = formals[min(index, len(formals) - 1)].type_str
                if SCHEMA_NAME[self.precision] in allowed.get(kind, {kind}):
                    half.add(index)
                elif kind in allowed:
                    return None
            chosen.append(half)
        return (chosen[0], chosen[1]) if chosen[0] or chosen[1] else None

    def _stays(self, node: NodeProto) -> bool:
        if node.domain not in graphs.STANDARD_DOMAINS or node.name in self.keep or any(graphs.bodies(node)):
            return True
        if self._counts(node):
            self._from_integers.update(node.output)
            return True
        if node.op_type in KEEP_OPS:
            return True
        if node.op_type == "Cast":
            return self._types.get(node.output[0]) != TensorProto.FLOAT
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            return self._opset < QDQ_HALF_SCALE_OPSET or self._vanishes(node.input[1], any_element=True)
        return any(self._vanishes(name) for name in node.input)

    def _counts(self, node: NodeProto) -> bool:
        """Does the node compute with numbers that began as integers?"""
        if node.op_type == "Cast":
            return self._types.get(node.input[0]) in INTEGERS and self._types.get(node.output[0]) == TensorProto.FLOAT
        if node.op_type not in EXACT_OPS:
            return False
        floats = [name for name in node.input if self._types.get(name) == TensorProto.FLOAT]
        variable = [name for name in floats if name not in self._weights]
        if not variable or not all(name in self._from_integers for name in variable):
            return False
        # A mask such as (1 - m) * -1e9 must meet the range as a constant: cast afterwards, it would be infinite.
        return not any(self._overflows(name) for name in floats)

    def _as_half(self, name: str) -> str:
        """The half form of a float32 tensor, made if it is not there yet."""
        if name not in self._halves:
            half = self._halves[name] = self._fresh(name)
            if name in self._weights:
                self._half_weights.append(self._half_weight(self._weights[name], half))
            else:
                self._cast(name, half, HALF[self.precision])
        return self._halves[name]

    def _as_float(self, name: str) -> None:
        """Make sure that the tensor exists under its own name and in its own type."""
        self._needed_floats.add(name)
        if name not in self._floats and name in self._halves:
            self._cast(self._halves[name], name, TensorProto.FLOAT)
            self._floats.add(name)

    def _cast(self, source: str, target: str, to: int) -> None:
        self._nodes.append(helper.make_node("Cast", [source], [target], f"{target}.cast", to=to))

    def _half_weight(self, tensor: TensorProto, name: str) -> TensorProto:
        values = _array(tensor)
        limit = np.float32(LARGEST[self.precision])
        outside = np.isfinite(values) & (np.abs(values) > limit)
        if outside.any():
            self.clamped += int(outside.sum())
            values = np.where(outside, np.copysign(limit, values), values)  # infinity stays: a mask may mean it
        return numpy_helper.from_array(values.astype(NUMPY[self.precision]), name)

    def _vanishes(self, name: str, *, any_element: bool = False) -> bool:
        """Would a single constant (an epsilon), or with `any_element` any scale, become zero?"""
        tensor = self._weights.get(name)
        if tensor is None or tensor.data_type != TensorProto.FLOAT:
            return False
        if graphs.elements(tensor) != 1 and not any_element:
            return False
        values = _array(tensor)
        with np.errstate(over="ignore"):
            return bool(((values != 0) & (values.astype(NUMPY[self.precision]) == 0)).any())

    def _overflows(self, name: str) -> bool:
        tensor = self._weights.get(name)
        if tensor is None:
            return False
        values = _array(tensor)
        limit = LARGEST[self.precision]
        return bool((np.isfinite(values) & (np.abs(values) > limit)).any())

    def _fresh(self, name: str) -> str:
        fresh = f"{name}.{self.precision}"
        while fresh in self._taken:
            fresh += "_"
        self._taken.add(fresh)
        return fresh


def _array(tensor: TensorProto) -> npt.NDArray[np.float32]:
    return np.asarray(numpy_helper.to_array(tensor), dtype=np.float32)
