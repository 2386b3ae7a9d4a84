"""The child process that parses and checks a model: a crash or a memory blow-up of the native code ends here."""

from __future__ import annotations

import hashlib
import resource
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import onnx.checker
from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]

from trt_action.errors import ModelError, TrtActionError
from trt_action.inputs import open_regular, quote
from trt_action.model import flops, operators, shapes, sizes, tensors
from trt_action.process import Channel, Message

MEMORY = 4 << 30
MEMORY_PER_BYTE = 8
"""Address space: 4 GiB and eight copies of the file (bytes, parsed, checked, shapes inferred, each with slack)."""

MAX_NAME = 1_000
"""Characters of an input's or output's name that the evidence can hold."""

INPUT_TYPES = {
    "FLOAT": "float32", "DOUBLE": "float64", "FLOAT16": "float16", "BFLOAT16": "bfloat16", "BOOL": "bool",
    "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64",
    "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64",
}  # fmt: skip


def serve(channel: Channel) -> None:
    """One request: `{path, label, shapes, batch_size}`; answers `{info, notes}` (`info` as `ModelInfo`)."""
    request = channel.receive()
    if request is None:
        return
    path, label = Path(request["path"]), str(request["label"])
    _limit_memory(path.stat().st_size)
    try:
        channel.send(_examine(path, label, request))
    except TrtActionError:
        raise
    except MemoryError:
        raise ModelError(
            f"Parsing {quote(label)} takes more memory than {MEMORY >> 30} GiB and {MEMORY_PER_BYTE} times its size.",
            why="A sound model does not; the file is damaged or made to do so.",
            fix="Export the model again.",
        ) from None
    except Exception as error:  # noqa: BLE001 - whatever hostile bytes provoke in native libraries is a bad model
        raise ModelError(
            f"{quote(label)} cannot be examined: {type(error).__name__}: {_short(error)}.",
            why="The file parses, but its content is not what ONNX allows (text that is not UTF-8, for example).",
        ) from None


def serve_locations(channel: Channel) -> None:
    """One request: `{path}`; answers `{locations}`: the external data files that a model names, safe ones only."""
    request = channel.receive()
    if request is None:
        return
    path = Path(request["path"])
    _limit_memory(path.stat().st_size)
    locations = set()
    for tensor in tensors.every_tensor(_parse(path.read_bytes(), str(path))):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            locations.add(tensors.location(tensor))
    channel.send({"locations": sorted(locations)})


def _limit_memory(size: int) -> None:
    limit = MEMORY + MEMORY_PER_BYTE * size
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard == resource.RLIM_INFINITY or hard > limit:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _examine(path: Path, label: str, request: Message) -> dict[str, Any]:
    with open_regular(path, noun="model", wrong=ModelError) as file:
        content = file.read()
    digest = hashlib.sha256(content)
    size = len(content)
    model = _parse(content, label)
    del content
    _check_frame(model, label)
    inputs, outputs = _interface(model.graph)
    stored = tensors.check(model, path.parent)
    notes = [*stored.notes, *operators.check(model)]
    _run_checker(path, label)
    lacking = set(request["elsewhere"]) - {tensor.name for tensor in inputs}
    wanted = {name: shapes.Profile.from_json(p) for name, p in request["shapes"].items() if name not in lacking}
    profile, assumed = shapes.resolve(inputs, wanted, request["batch_size"])
    _digest_external(digest, path.parent, stored.external)
    info = {
        "sha256": digest.hexdigest(),
        "bytes": size + sum(stored.external.values()),
        "opset": operators.versions(model.opset_import).get("", 0),
        "parameters": stored.parameters,
        "inputs": [_tensor_info(tensor) for tensor in inputs],
        "outputs": [_tensor_info(tensor) for tensor in outputs],
        "shapes": {name: p.as_json() for name, p in profile.items()},
        "flops": flops.count(model, {name: p.opt for name, p in profile.items()}),
    }
    return {"info": info, "notes": [*assumed, *sizes.notes(model.graph, inputs, profile), *notes]}


def _parse(content: bytes, label: str) -> onnx.ModelProto:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        raise ModelError(
            f"{quote(label)} is not an ONNX model, or it is damaged or cut off.",
            why="Its bytes do not parse as protobuf.",
            fix="Fetch or export it again and compare its size with the original.",
        ) from None
    return model


def _check_frame(model: onnx.ModelProto, label: str) -> None:
    if not model.ir_version or not model.HasField("graph") or not model.graph.node:
        raise ModelError(
            f"{quote(label)} holds no ONNX graph.",
            why="The bytes happen to parse, but there is no model with nodes in them.",
            fix="Give the ONNX model; if it is one, export it again.",
        )
    if model.ir_version > onnx.IR_VERSION:
        raise ModelError(
            f"{quote(label)} has IR version {model.ir_version}; onnx {onnx.__version__} knows {onnx.IR_VERSION}.",
            fix="Export it with an older onnx, or install a newer one here.",
        )


def _interface(graph: onnx.GraphProto) -> tuple[list[shapes.Input], list[shapes.Input]]:
    """Inputs (without initializers) and outputs.

    Raises:
        ModelError: none, a name twice or unusable, not a tensor, a type that cannot be fed, a size below 1.
    """
    stored = {tensor.name for tensor in tensors.initializers(graph)}
    _refuse_twice("initializer", [tensor.name for tensor in tensors.initializers(graph)])
    found = []
    for role, values in (("input", [v for v in graph.input if v.name not in stored]), ("output", [*graph.output])):
        if not values:
            raise ModelError(
                f"The model has no {role}s.",
                why="Speed and correctness are measured from inputs to outputs.",
                fix="Export the whole model, with its inputs and outputs.",
            )
        _refuse_twice(role, [value.name for value in values])
        found.append([_declared(role, value) for value in values])
    for tensor in found[0]:
        if tensor.dtype not in INPUT_TYPES.values():
            raise ModelError(
                f"The input {quote(tensor.name)} is of type {quote(tensor.dtype)}, which cannot be fed.",
                why="Numbers and booleans can be: " + ", ".join(INPUT_TYPES.values()) + ".",
                fix="Move what turns it into numbers (a tokenizer, a decoder) out of the model.",
            )
        if any(isinstance(dim, int) and dim < 1 for dim in tensor.shape):
            raise ModelError(
                f"The input {quote(tensor.name)} declares the shape {shapes.show(tensor.shape)}.",
                why="A fixed size is at least 1; an open axis has a name or no size at all.",
                fix="Export the model with that axis dynamic, or with its real size.",
            )
    return found[0], found[1]


def _refuse_twice(role: str, names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen or not name or len(name) > MAX_NAME:
            raise ModelError(
                f"The {role} name {quote(name)} is {'there twice' if name in seen else 'empty or too long'}.",
                why="Names in a graph are unique and not empty.",
                fix="Export the model again.",
            )
        seen.add(name)


def _declared(role: str, value: onnx.ValueInfoProto) -> shapes.Input:
    if value.type.WhichOneof("value") != "tensor_type":
        if role == "input":
            raise ModelError(
                f"The input {quote(value.name)} is a {quote(value.type.WhichOneof('value') or 'value without a type')}.",
                why="Only tensors can be fed.",
                fix="Export the model with tensor inputs.",
            )
        return shapes.Input(value.name, str(value.type.WhichOneof("value") or "unknown"), 0, ())
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        raise ModelError(
            f"The {role} {quote(value.name)} declares no shape, not even how many axes it has.",
            why="ONNX asks for it (onnx.checker); open axes are allowed.",
            fix="Export the model again, or declare it: `onnx.helper.make_tensor_value_info(name, type, ['N', 10])`.",
        )
    known = tensor.elem_type in onnx.TensorProto.DataType.values()
    kind = onnx.TensorProto.DataType.Name(tensor.elem_type) if known else str(tensor.elem_type)
    dims = tuple(_dim(dim) for dim in tensor.shape.dim)
    return shapes.Input(value.name, INPUT_TYPES.get(kind, kind.lower()), (tensors.BITS.get(kind, 64) + 7) // 8, dims)


def _dim(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    kind = dim.WhichOneof("value")
    if kind == "dim_value":
        return dim.dim_value
    return dim.dim_param[:MAX_NAME] or None if kind == "dim_param" else None


def _tensor_info(tensor: shapes.Input) -> dict[str, Any]:
    record = asdict(tensor)
    return {"name": record["name"], "dtype": record["dtype"], "shape": list(tensor.shape)}


def _run_checker(path: Path, label: str) -> None:
    try:
        onnx.checker.check_model(path)
    except onnx.checker.ValidationError as error:
        raise ModelError(
            f"{quote(label)} is not a valid ONNX model: {_short(error)}.",
            why="These are the words of onnx.checker.",
            fix="Correct the exporter or the tool that changed the graph; then export it again.",
        ) from None


def _digest_external(digest: Any, folder: Path, external: dict[str, int]) -> None:
    """The definition is in `trt_action.model.load`."""
    for location in sorted(external):
        digest.update(b"\0" + location.encode() + b"\0" + external[location].to_bytes(8, "little"))
        with open_regular(folder / location, noun="external data file", wrong=ModelError) as file:
            while piece := file.read(1 << 20):
                digest.update(piece)


def _short(error: Exception) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())[:400].rstrip(".")
