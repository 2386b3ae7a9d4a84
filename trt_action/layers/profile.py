"""ONNX Runtime's profile, read: one layer per node of the optimised graph, with the times of every inference.

The profile is a list of events in the format of Chrome's trace viewer; durations are whole microseconds. One `Node` event
ends each kernel, one `model_run` event each inference (onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from trt_action.errors import MeasureError
from trt_action.layers import types
from trt_action.layers.graph import Graph
from trt_action.layers.origins import trace
from trt_action.layers.parsed import COMPUTE, ParsedLayer, Role, by_name

MAX_CHARS = 400_000_000
_SUFFIX = "_kernel_time"
_CONVERSIONS = frozenset(
    {"Cast", "QuantizeLinear", "DequantizeLinear", "ReorderInput", "ReorderOutput", "MemcpyFromHost", "MemcpyToHost"}
)
_LAYOUT = frozenset({"Transpose", "Reshape"})
_PRODUCTS = COMPUTE | {
    "QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
    "FusedConv", "FusedMatMul", "FusedGemm", "NhwcFusedConv", "NhwcConv", "TransposeMatMul", "MatMulNBits", "Attention",
    "MultiHeadAttention", "GroupQueryAttention", "QAttention", "PackedAttention", "QOrderedMatMul", "GemmFloat8", "LSTM", "GRU",
    "Einsum", "FusedMatMulActivation",
}  # fmt: skip
_INTEGER_INSIDE = frozenset({"DynamicQuantizeMatMul", "DynamicQuantizeLSTM"})
"""Operators that read floats, quantize them, and multiply integers."""
_CONTAINERS = frozenset({"If", "Loop", "Scan", "SequenceMap"})
_MOST_FORMATS = 8

Event = Mapping[str, Any]


def parse(document: str, iterations: int, engine: Graph, source: Graph) -> list[ParsedLayer]:
    """Layers in the order of their first run.

    Args:
        document: the profile's JSON.
        iterations: the last so many inferences count.
        engine: the graph that was run.
        source: the graph that it was built from; the same where there is no other.

    Raises:
        MeasureError: this is no profile, or it holds no inference.
    """
    runs = list(_runs(_events(document)))[-iterations:]
    if not any(runs):
        raise MeasureError("ONNX Runtime's profile holds no inference.", fix="Please report this.")
    label = _labels(runs[-1])
    times = by_name([[(label(event), _ms(event)) for event in run] for run in runs])
    first = {label(event): event for run in reversed(runs) for event in reversed(run)}
    where = {f"{node.op}_{index}": index for index, node in enumerate(engine.nodes)}  # what a nameless node is called
    where |= {node.name: index for index, node in enumerate(engine.nodes)}
    origins = trace(engine.nodes, source, products=_PRODUCTS, conversions=_CONVERSIONS | _LAYOUT)
    operators = {node.name: node.op for node in source.nodes}
    layers = []
    for name, event in sorted(first.items(), key=lambda item: item[1]["ts"]):
        index = where.get(_name(event))
        layers.append(_layer(name, event, times[name], origins.get(index, ()) if index is not None else (), operators))
    return layers


def _events(document: str) -> list[Event]:
    if len(document) > MAX_CHARS:
        raise MeasureError(f"ONNX Runtime's profile has more than {MAX_CHARS // 1_000_000} million characters.")
    try:
        events = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise MeasureError(f"ONNX Runtime's profile is no JSON: {type(error).__name__}.") from None
    if not isinstance(events, list):
        raise MeasureError("ONNX Runtime's profile is no list of events.")
    return [event for event in events if isinstance(event, dict) and isinstance(event.get("name"), str)]


def _runs(events: Sequence[Event]) -> Iterator[list[Event]]:
    """Kernels by inference, without those inside of a control-flow node, whose time holds theirs."""
    run: list[Event] = []
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX) and _is_time(event):
            run.append(event)
        elif event["name"] == "model_run":
            yield _outer(run)
            run = []


def _outer(run: list[Event]) -> list[Event]:
    spans = [(e["ts"], e["ts"] + e["dur"], id(e)) for e in run if _argument(e, "op_name") in _CONTAINERS]
    if not spans:
        return run
    return [e for e in run if not any(b <= e["ts"] and e["ts"] + e["dur"] <= end and id(e) != i for b, end, i in spans)]


def _is_time(event: Event) -> bool:
    return all(isinstance(event.get(key), int | float) and 0 <= event[key] < 1e15 for key in ("ts", "dur"))


def _name(event: Event) -> str:
    return str(event["name"]).removesuffix(_SUFFIX)


def _labels(run: Sequence[Event]) -> Callable[[Event], str]:
    """A layer's name; with its number where several nodes have one name."""
    nodes: dict[str, set[str]] = {}
    for event in run:
        nodes.setdefault(_name(event), set()).add(_argument(event, "node_index"))
    shared = {name for name, indexes in nodes.items() if len(indexes) > 1}
    return lambda e: f"{_name(e)} #{_argument(e, 'node_index')}" if _name(e) in shared else _name(e)


def _ms(event: Event) -> float:
    return float(event["dur"]) / 1e3


def _argument(event: Event, key: str) -> str:
    arguments = event.get("args")
    return str(arguments.get(key, "")) if isinstance(arguments, dict) else ""


def _layer(
    name: str, event: Event, times: Sequence[float], nodes: tuple[str, ...], operators: Mapping[str, str]
) -> ParsedLayer:
    kind = _argument(event, "op_name") or "unknown"
    inputs, outputs = _formats(event, "input_type_shape"), _formats(event, "output_type_shape")
    provider = _argument(event, "provider").removesuffix("ExecutionProvider")
    role = _role(kind, nodes, operators)
    return ParsedLayer(
        name=name,
        kind=kind,
        role=role,
        precision=_precision(kind, inputs, outputs),
        tactic=provider,
        inputs=inputs,
        outputs=outputs,
        nodes=nodes,
    ).timed(times)


def _role(kind: str, nodes: Sequence[str], operators: Mapping[str, str]) -> Role:
    if kind in _PRODUCTS:
        return "compute"
    added = kind == "Transpose" and not any(operators.get(node) == kind for node in nodes)  # for another layout
    return "convert" if kind in _CONVERSIONS or added else "other"


def _precision(kind: str, inputs: Sequence[str], outputs: Sequence[str]) -> str | None:
    """The type of the data, which is the first input; of the result where the first input only chooses or counts."""
    if kind in _INTEGER_INSIDE:
        return "int8"
    found = [types.precision(one) for one in (*inputs[:1], *outputs[:1])]
    return next((one for one in found if one in types.RANK), found[0] if found else None)


def _formats(event: Event, key: str) -> tuple[str, ...]:
    """`float [1, 64, 8, 8]` for each tensor. Weights that were packed for a kernel are not in the profile."""
    arguments = event.get("args")
    tensors = arguments.get(key) if isinstance(arguments, dict) else None
    if not isinstance(tensors, list):
        return ()
    written = [
        f"{dtype} {json.dumps(shape)}"[:200]
        for tensor in tensors[:_MOST_FORMATS]
        if isinstance(tensor, dict)
        for dtype, shape in list(tensor.items())[:1]
        if isinstance(shape, list) and len(shape) < 32
    ]
    return tuple(written)
