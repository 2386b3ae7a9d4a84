"""What TensorRT's engine inspector says, read: the JSON of 10.x, of 11.x and of TensorRT for RTX.

10.x lists `Bindings` by name and writes a tensor's type into `Format/Datatype`; 11.x has `I/O Tensors` and separate
`Format` and `Datatype` (NVIDIA, "Migrating IEngineInspector Usage from TensorRT 10.x to 11.x"). An engine that was built with
less than detailed profiling verbosity lists bare names. A layer names its ONNX nodes in `Metadata`
(`[ONNX Layer: /conv/Conv]`, one after the other) or, failing that, in its own name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from trt_action.errors import MeasureError
from trt_action.layers import types
from trt_action.layers.graph import Graph
from trt_action.layers.parsed import COMPUTE, ParsedLayer, Role, by_name

MAX_CHARS = 200_000_000
MAX_LAYERS = 50_000
_MOST_FORMATS = 8
_MOST_NODES = 2_000
_MOST_RANGES = 100

_ORIGIN = "[ONNX Layer: "
_COPY = re.compile(r"^Reformatting CopyNode for (?:Input|Output) Tensor \d+ to ")
_RANGE = re.compile(r"^\{ForeignNode\[(.*?)\.\.\.(.*)\]\}$", re.DOTALL)
_SUFFIX = re.compile(r"(?:_myl\d+_\d+|_clone_\d+|_\d+_myl\d+)$")
_WRAPPER = re.compile(r"^(?:PWN|fused|POOL)\((.*)\)$", re.DOTALL)
_MYELIN = re.compile(r"^__myl_(?P<parts>[A-Za-z]+)")
_PART = re.compile(r"[A-Z][a-z0-9]*")

_PRODUCT_TYPE = re.compile(r"conv|gemm|matrix|matmul|fullyconnected|mha|attention", re.IGNORECASE)
_PRODUCT_KERNEL = re.compile(r"gemm|conv|fprop|xmma|mma|fmha|_mha|cublas|cudnn|cutlass|winograd", re.IGNORECASE)
_CONVERSION_TYPE = frozenset({"Reformat", "Cast", "Quantize", "Dequantize", "Copy", "Reformatting"})
_CONVERSION_PARTS = frozenset({"Cast", "Move", "Tran", "Quantize", "Dequantize", "Quan", "Dequ", "Qdq", "Copy", "Refo"})
"""What Myelin calls the parts of a generated kernel: `__myl_CastMove_myl0_3`."""

Json = Mapping[str, Any]


def parse(document: str, runs: Sequence[Sequence[tuple[str, float]]], source: Graph) -> tuple[list[ParsedLayer], str]:
    """Layers in the engine's order, with the profiler's times joined by name; and what a reader must know, if anything.

    Args:
        document: `get_engine_information` as JSON.
        runs: the profiler's reports of each inference that counts.
        source: the graph that the engine was built from.

    Raises:
        MeasureError: this is not what an inspector writes.
    """
    entries = _entries(document)
    times = by_name(runs)
    names = _Names(source)
    layers = [_layer(entry, names) for entry in entries]
    shares = {layer.name: 0 for layer in layers}
    for layer in layers:
        shares[layer.name] += 1
    timed = [layer.timed(times[layer.name], shares[layer.name]) if layer.name in times else layer for layer in layers]
    known = set(shares)
    strangers = [ParsedLayer(name, "unknown").timed(ms) for name, ms in times.items() if name not in known]
    return _apart(timed + strangers), _note(entries, layers, strangers, times)


def _entries(document: str) -> list[Json | str]:
    if len(document) > MAX_CHARS:
        raise MeasureError(f"The engine inspector's report has more than {MAX_CHARS // 1_000_000} million characters.")
    try:
        report = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise MeasureError(f"The engine inspector's report is no JSON: {type(error).__name__}.") from None
    layers = report.get("Layers") if isinstance(report, dict) else None
    if not isinstance(layers, list):
        raise MeasureError("The engine inspector's report has no list of layers.")
    return [entry for entry in layers[:MAX_LAYERS] if isinstance(entry, dict | str)]


def _note(
    entries: Sequence[Json | str],
    layers: Sequence[ParsedLayer],
    strangers: Sequence[ParsedLayer],
    times: Mapping[str, object],
) -> str:
    said = []
    if entries and all(isinstance(entry, str) for entry in entries):
        said.append("The engine was built without detailed profiling verbosity: it tells no types and no kernels.")
    if not times:
        said.append("There are no times of layers.")
    elif strangers or any(layer.name not in times for layer in layers):
        silent = sum(layer.name not in times for layer in layers)
        said.append(
            f"The profiler reported no time for {silent} of {len(layers)} layers"
            + (f", and times for {len(strangers)} that the inspector does not list." if strangers else ".")
        )
    return " ".join(said)


def _apart(layers: Sequence[ParsedLayer]) -> list[ParsedLayer]:
    """Names that are unique: of several layers with one name, the second gets its number."""
    seen: dict[str, int] = {}
    found = []
    for layer in layers:
        seen[layer.name] = seen.get(layer.name, 0) + 1
        found.append(layer if seen[layer.name] == 1 else replace(layer, name=f"{layer.name} #{seen[layer.name]}"))
    return found


def _layer(entry: Json | str, names: _Names) -> ParsedLayer:
    if isinstance(entry, str):
        nodes = names.of(entry, "")
        role: Role = "convert" if _COPY.match(entry) else "compute" if names.has_product(nodes) else "other"
        return ParsedLayer(entry, "Reformat" if role == "convert" else "unknown", role, nodes=nodes)
    name, kind, kernel = (_text(entry, key) for key in ("Name", "LayerType", "TacticName"))
    inputs, outputs = _tensors(entry, "Inputs"), _tensors(entry, "Outputs")
    nodes = names.of(name, _text(entry, "Metadata", 1_000_000))
    role = _role(name, kind, kernel, names.has_product(nodes))
    return ParsedLayer(
        name=name,
        kind=kind or "unknown",
        role=role,
        precision=_precision(entry, kernel, inputs, outputs, role),
        tactic=kernel or _text(entry, "TacticValue"),
        inputs=tuple(_format(one) for one in inputs),
        outputs=tuple(_format(one) for one in outputs),
        nodes=() if role == "convert" else nodes,
    )


def _role(name: str, kind: str, kernel: str, product: bool) -> Role:
    """By what the layer is, not by the nodes it mentions: a generated kernel that only moves data for a product names
    the product's node as well."""
    parts = _MYELIN.match(name)
    if kind in _CONVERSION_TYPE or _COPY.match(name):
        return "convert"
    if parts and (words := _PART.findall(parts["parts"])) and set(words) <= _CONVERSION_PARTS:
        return "convert"
    if _PRODUCT_TYPE.search(kind) or _PRODUCT_KERNEL.search(kernel):
        return "compute"
    whole = kind in ("Myelin", "") or name.startswith("{ForeignNode[")
    return "compute" if whole and product else "other"


def _precision(entry: Json, kernel: str, inputs: Sequence[Json], outputs: Sequence[Json], role: Role) -> str | None:
    """The type that is computed in: the costlier of data and weights, so that 8-bit weights of a product in half count
    as half. A kernel's name decides where no type is known (dynamic shapes), and between fp32 and TF32."""
    found = [types.precision(_type(one)) for one in inputs]
    data = next((one for one in found if one in types.RANK), None)
    if role == "compute":
        weights = entry.get("Weights")
        stored = types.precision(_text(weights, "Type")) if isinstance(weights, dict) else None
        if stored is None and not _text(entry, "ParameterType"):  # a product of two tensors
            stored = next((one for one in found[1:2] if one in types.RANK), None)
        data = types.higher(data, stored)
    made = next((one for one in (types.precision(_type(tensor)) for tensor in outputs) if one), None)
    data = data or made or (found[0] if found else None)
    named = types.of_kernel(kernel) if role == "compute" else None
    return "tf32" if named == "tf32" and data in (None, "fp32") else data or named


def _tensors(entry: Json, key: str) -> list[Json]:
    tensors = entry.get(key)
    return [one for one in tensors[:_MOST_FORMATS] if isinstance(one, dict)] if isinstance(tensors, list) else []


def _type(tensor: Json) -> str:
    return _text(tensor, "Datatype") or _text(tensor, "DataType") or _text(tensor, "Format/Datatype")


def _format(tensor: Json) -> str:
    """`Half [1, 64, 56, 56], Channel major FP16 format where channel % 8 == 0`."""
    shape = tensor.get("Dimensions")
    sizes = f" {json.dumps(shape)}" if isinstance(shape, list) and len(shape) < 32 else ""
    layout = _text(tensor, "Format")
    return f"{_type(tensor)}{sizes[:150]}" + (f", {layout}" if layout else "")


def _text(entry: Json, key: str, limit: int = 20_000) -> str:
    value = entry.get(key)
    return value[:limit] if isinstance(value, str) else ""


class _Names:
    """Finds ONNX nodes in what TensorRT calls a layer."""

    def __init__(self, source: Graph) -> None:
        self._order = {node.name: index for index, node in enumerate(source.nodes)}
        self._operators = {node.name: node.op for node in source.nodes}
        self._nodes = source.nodes
        self._ranges = 0

    def of(self, name: str, metadata: str) -> tuple[str, ...]:
        """Nodes of the source in its order. Without a source, the names as they are."""
        pieces = metadata.split(_ORIGIN)[1 : _MOST_NODES + 1]
        found = [piece.rstrip(" \t\n\r\x1e\x1f,;").removesuffix("]") for piece in pieces] or self._from_name(name)
        if self._order:
            found = sorted({one for one in found if one in self._order}, key=self._order.__getitem__)
        return tuple(dict.fromkeys(found))

    def has_product(self, nodes: Sequence[str]) -> bool:
        return any(self._operators.get(node) in COMPUTE for node in nodes)

    def _from_name(self, name: str) -> list[str]:
        bare = _COPY.sub("", name)
        if between := _RANGE.match(bare):
            return self._between(*between.groups())
        found = []
        for piece in bare.split(" + ")[:_MOST_NODES]:
            while wrapped := _WRAPPER.match(piece.strip()):
                piece = wrapped[1]
            found += [self._known(part.strip()) for part in dict.fromkeys((piece, *piece.split(", ")))]
        return found

    def _known(self, piece: str) -> str:
        return piece if piece in self._order else _SUFFIX.sub("", piece)

    def _between(self, first: str, last: str) -> list[str]:
        """`{ForeignNode[first...last]}` names the two ends: every node on a way from one to the other."""
        ends = [self._known(one.split(" + ")[at].strip()) for one, at in ((first, 0), (last, -1))]
        self._ranges += 1
        if not all(end in self._order for end in ends) or self._ranges > _MOST_RANGES:
            return ends
        after = set(self._nodes[self._order[ends[0]]].outputs)
        forward = {ends[0]}
        for node in self._nodes[self._order[ends[0]] + 1 :]:
            if any(tensor in after for tensor in node.inputs):
                forward.add(node.name)
                after.update(node.outputs)
        before = set(self._nodes[self._order[ends[1]]].inputs)
        backward = {ends[1]}
        for node in reversed(self._nodes[: self._order[ends[1]]]):
            if any(tensor in before for tensor in node.outputs):
                backward.add(node.name)
                before.update(node.inputs)
        return [*ends, *(forward & backward)]
