"""ONNX files in and out of this room, and the few questions that every pass asks of a graph."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import onnx
import onnx.inliner
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from trt_action.errors import PrecisionError, SettingsError
from trt_action.inputs import nearest, quote, quote_all
from trt_action.precision import large

COMPUTE = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators that hold nearly all arithmetic of a network."""

SKELETON_LIMIT = 1_024
"""Elements of the largest constant that shape inference sees by value (shapes, axes, pads are far smaller)."""

STANDARD_DOMAINS = ("", "ai.onnx")


def read(path: Path) -> ModelProto:
    """The model with its external data, ready to be rewritten: functions inlined, constants as initializers, every
    node named, nothing left that does not compute (documentation, metadata, inferred shapes)."""
    model = onnx.load(path)
    if model.functions:
        model = large.through_protobuf(onnx.inliner.inline_local_functions, model)
    model.ir_version = max(model.ir_version, 4)  # before 4, every initializer had to be an input as well
    _constants_to_initializers(model.graph)
    initialized = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initialized]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    name_nodes(model.graph)
    strip(model)
    return model


def write(model: ModelProto, path: Path) -> None:
    """Write the prepared model: one file, or with its weights in `<name>.data` beside it when it is too large for one.

    The bytes depend on the graph alone: initializers in order of name, no metadata.
    """
    strip(model)
    used = {node.domain or "" for node in walk(model.graph)} | {""}
    imports = sorted((o for o in model.opset_import if (o.domain or "") in used), key=lambda opset: opset.domain)
    del model.opset_import[:]
    model.opset_import.extend(imports)
    model.graph.initializer.sort(key=lambda tensor: tensor.name)
    large.save(model, path)


def strip(model: ModelProto) -> None:
    """Remove what does not compute. Exporters leave paths of their host and stack traces there."""
    del model.metadata_props[:]
    model.producer_name, model.producer_version, model.doc_string = "trt-action", "", ""
    for graph in graphs(model.graph):
        graph.doc_string = ""
        del graph.value_info[:]
        del graph.metadata_props[:]
        for node in graph.node:
            node.doc_string = ""
            del node.metadata_props[:]


def opset(model: ModelProto) -> int:
    """Version of the standard operators."""
    return max((o.version for o in model.opset_import if o.domain in STANDARD_DOMAINS), default=1)


def raise_opset(model: ModelProto, least: int, why: str) -> ModelProto:
    """The model at opset `least` or later.

    Raises:
        PrecisionError: ONNX's version converter has no way there.
    """
    have = opset(model)
    if have >= least:
        return model
    try:
        converted = large.through_protobuf(lambda part: onnx.version_converter.convert_version(part, least), model)
    except (RuntimeError, ValueError, onnx.checker.ValidationError) as error:
        raise PrecisionError(
            f"The model has opset {have}; {why} needs opset {least}, and ONNX's converter cannot bring it there.",
            why=" ".join(str(error).split())[:500],
            fix=f"Export the model with opset {least} or later, or ask for another precision.",
        ) from None
    needed = helper.find_min_ir_version_for(list(converted.opset_import), ignore_unknown=True)
    converted.ir_version = max(model.ir_version, needed)
    name_nodes(converted.graph)
    return converted


def types_and_shapes(
    model: ModelProto, shapes: Mapping[str, Sequence[int]] | None = None
) -> dict[str, tuple[int, tuple[int | None, ...] | None]]:
    """Element type (`TensorProto.DataType`) and shape of every tensor of the main graph that inference can tell.

    `shapes` fixes input shapes. Large weights are shown to the inference by type and shape only, so that a model of
    any size fits into one protobuf message.
    """
    inferred = onnx.shape_inference.infer_shapes(_skeleton(model, shapes or {}), data_prop=True)
    found = {value.name: _type_and_shape(value) for value in [*inferred.graph.value_info, *inferred.graph.output]}
    found |= {value.name: _type_and_shape(value) for value in inferred.graph.input}
    found |= {tensor.name: (tensor.data_type, tuple(tensor.dims)) for tensor in model.graph.initializer}
    return {name: known for name, known in found.items() if known[0] != TensorProto.UNDEFINED}


def is_quantized(model: ModelProto) -> bool:
    """Does the model hold explicit Q/DQ nodes already, e.g. from quantisation-aware training?"""
    return any(node.op_type == "DequantizeLinear" for node in model.graph.node)


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """The graph and the bodies of its If, Loop and Scan nodes, at any depth."""
    yield graph
    for node in graph.node:
        for body in bodies(node):
            yield from graphs(body)


def bodies(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def walk(graph: GraphProto) -> Iterator[NodeProto]:
    """Every node at any depth."""
    for each in graphs(graph):
        yield from each.node


def captured(node: NodeProto) -> set[str]:
    """Names that the bodies of a control-flow node may read from the graph around it (their own names included)."""
    names: set[str] = set()
    for body in bodies(node):
        for graph in graphs(body):
            names.update(value.name for value in graph.output)
            for inner in graph.node:
                names.update(inner.input)
    return names


def matching(graph: GraphProto, patterns: Iterable[str], *, lenient: bool = False) -> set[str]:
    """Names of the nodes that the user's names and globs mean; `lenient` passes over those that mean none. A node's own
    name is no glob: `layer[1]` is not `layer1`.

    Raises:
        SettingsError: a pattern fits no node; names the nearest one.
    """
    names = [node.name for node in graph.node]
    found: set[str] = set()
    for pattern in patterns:
        hits = _hits(pattern, names)
        if not hits and not lenient:
            close = nearest(pattern, names)
            raise SettingsError(
                f"`exclude-nodes` names {quote(pattern)}, and no node of the model is called that.",
                why=f"The nearest of its {len(names)} nodes is {quote(close)}." if close else "",
                fix="Use node names as Netron shows them, or globs such as `/decoder/*`.",
            )
        found |= hits
    return found


def _hits(pattern: str, names: Sequence[str]) -> set[str]:
    return {pattern} if pattern in names else {name for name in names if fnmatch.fnmatchcase(name, pattern)}


def lacking(names: Sequence[str], patterns: Iterable[str]) -> list[str]:
    """A note on the patterns that none of the nodes' `names` fits; empty if there are none."""
    missing = [pattern for pattern in patterns if not _hits(pattern, names)]
    if not missing:
        return []
    return [f"`exclude-nodes` was written for head; passed over in base, which lacks them: {quote_all(missing)}."]


def name_nodes(graph: GraphProto) -> None:
    """Give every node of the main graph a name of its own; given names stay, the second of a name gets a number."""
    taken = {node.name for node in graph.node}
    seen: set[str] = set()
    for index, node in enumerate(graph.node):
        name, number = node.name or f"{node.op_type}_{index}", 0
        while name in seen or (name != node.name and name in taken):
            number += 1
            name = f"{node.name or node.op_type}_{index + number}"
        node.name = name
        seen.add(name)


def _constants_to_initializers(graph: GraphProto) -> None:
    outputs = {value.name for value in graph.output}
    kept = []
    for node in graph.node:
        tensor = constant_value(node) if node.op_type == "Constant" and node.output[0] not in outputs else None
        if tensor is None:
            kept.append(node)
        else:
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
    del graph.node[:]
    graph.node.extend(kept)


def constant_value(node: NodeProto) -> TensorProto | None:
    """The tensor of a Constant node; None for strings and sparse tensors."""
    attribute = node.attribute[0]
    value = helper.get_attribute_value(attribute)
    if attribute.name == "value":
        tensor = TensorProto()
        tensor.CopyFrom(value)
        return tensor
    kinds = {"value_float": TensorProto.FLOAT, "value_floats": TensorProto.FLOAT}
    kinds |= {"value_int": TensorProto.INT64, "value_ints": TensorProto.INT64}
    if attribute.name not in kinds:
        return None
    several = attribute.name.endswith("s")
    values = list(value) if several else [value]
    return helper.make_tensor("", kinds[attribute.name], [len(values)] if several else [], values)


def _skeleton(model: ModelProto, shapes: Mapping[str, Sequence[int]]) -> ModelProto:
    graph = GraphProto(name=model.graph.name)
    graph.node.extend(model.graph.node)
    for tensor in model.graph.initializer:
        if elements(tensor) <= SKELETON_LIMIT:
            graph.initializer.append(tensor)
        else:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    for value in model.graph.input:
        if value.name in shapes:
            kind = value.type.tensor_type.elem_type
            graph.input.append(helper.make_tensor_value_info(value.name, kind, list(shapes[value.name])))
        else:
            graph.input.append(value)
    for value in model.graph.output:  # declared shapes may contradict the fixed ones: let them be inferred
        kind = value.type.tensor_type.elem_type
        graph.output.append(helper.make_tensor_value_info(value.name, kind, None) if shapes and kind else value)
    skeleton = ModelProto(ir_version=model.ir_version, graph=graph)
    skeleton.opset_import.extend(model.opset_import)
    return skeleton


def elements(tensor: TensorProto) -> int:
    count = 1
    for size in tensor.dims:
        count *= size
    return count


def _type_and_shape(value: ValueInfoProto) -> tuple[int, tuple[int | None, ...] | None]:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return tensor.elem_type, None
    return tensor.elem_type, tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
