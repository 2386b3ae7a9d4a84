"""Damage, by chance: to any bytes, to an ONNX graph, to a JSON document. Everything comes from the generator passed in."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import onnx
from numpy.random import Generator

ODD_NUMBERS = (0, 1, -1, 2, 7, 255, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 63) - 1, -(1 << 63))
ODD_TEXTS = ("", "x", "image", "\0", "\n::error::x", "../../etc/passwd", "ü" * 300, "{{ 7 * 7 }}", "\x1b[31m", "N")
OPERATORS = (
    "Conv",
    "MatMul",
    "Gemm",
    "Relu",
    "Reshape",
    "If",
    "Loop",
    "Concat",
    "Softmax",
    "Nothing",
    "Constant",
    "Cast",
)


def one_of(rng: Generator, values: Any) -> Any:
    return values[int(rng.integers(len(values)))]


def bytes_damaged(rng: Generator, content: bytes) -> bytes:
    """Flipped, cut off, cut out, doubled; half of the time near the front, where the structure is."""
    data = bytearray(content)
    reach = len(data) if rng.random() < 0.5 else min(4000, len(data))
    for _ in range(int(rng.integers(1, 5))):
        at, length = int(rng.integers(reach)), int(rng.integers(1, 60))
        kind = int(rng.integers(5))
        if kind <= 1:
            data[at : at + 1] = bytes([int(rng.integers(256))])
        elif kind == 2:
            del data[at : at + length]
        elif kind == 3:
            data[at:at] = data[at : at + length]
        else:
            del data[max(at, 1) :]
        reach = max(min(reach, len(data)), 1)
        data = data or bytearray(b"\x08")
    return bytes(data)


def _dims(rng: Generator, model: onnx.ModelProto) -> None:
    tensor = one_of(rng, model.graph.initializer)
    if tensor.dims:
        tensor.dims[int(rng.integers(len(tensor.dims)))] = one_of(rng, ODD_NUMBERS)


def _weight_type(rng: Generator, model: onnx.ModelProto) -> None:
    one_of(rng, model.graph.initializer).data_type = int(rng.integers(0, 30))


def _weight_bytes(rng: Generator, model: onnx.ModelProto) -> None:
    tensor = one_of(rng, model.graph.initializer)
    tensor.raw_data = bytes_damaged(rng, tensor.raw_data or b"\0")


def _external(rng: Generator, model: onnx.ModelProto) -> None:
    tensor = one_of(rng, model.graph.initializer)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key in ("location", "offset", "length"):
        if rng.random() < 0.8:
            tensor.external_data.add(key=key, value=str(one_of(rng, ODD_TEXTS + ODD_NUMBERS)))


def _operator(rng: Generator, model: onnx.ModelProto) -> None:
    one_of(rng, model.graph.node).op_type = one_of(rng, OPERATORS)


def _edge(rng: Generator, model: onnx.ModelProto) -> None:
    node = one_of(rng, model.graph.node)
    names = [name for other in model.graph.node for name in (*other.input, *other.output)]
    ends = one_of(rng, (node.input, node.output))
    if ends:
        ends[int(rng.integers(len(ends)))] = one_of(rng, (*names, *ODD_TEXTS))


def _attribute(rng: Generator, model: onnx.ModelProto) -> None:
    node = one_of(rng, model.graph.node)
    if not node.attribute or rng.random() < 0.2:
        node.attribute.append(onnx.helper.make_attribute(one_of(rng, ("axis", "to", "group", "perm")), 1))
    attribute = one_of(rng, node.attribute)
    kind = int(rng.integers(4))
    if kind == 0:
        attribute.type = int(rng.integers(0, 15))
    elif kind == 1:
        attribute.i = one_of(rng, ODD_NUMBERS)
    elif kind == 2:
        attribute.ints[:] = [one_of(rng, ODD_NUMBERS) for _ in range(int(rng.integers(0, 9)))]
    else:
        attribute.name = one_of(rng, ODD_TEXTS)


def _nodes(rng: Generator, model: onnx.ModelProto) -> None:
    at = int(rng.integers(len(model.graph.node)))
    if rng.random() < 0.5:
        model.graph.node.append(copy.deepcopy(model.graph.node[at]))
    elif len(model.graph.node) > 1:
        del model.graph.node[at]


def _interface(rng: Generator, model: onnx.ModelProto) -> None:
    value = one_of(rng, (*model.graph.input, *model.graph.output))
    kind = int(rng.integers(4))
    if kind == 0:
        value.type.tensor_type.elem_type = int(rng.integers(0, 30))
    elif kind == 1:
        value.name = one_of(rng, ODD_TEXTS)
    elif kind == 2 and value.type.tensor_type.shape.dim:
        one_of(rng, value.type.tensor_type.shape.dim).dim_value = one_of(rng, ODD_NUMBERS)
    else:
        value.type.tensor_type.shape.dim.add(dim_param=one_of(rng, ODD_TEXTS).replace("\0", ""))


def _frame(rng: Generator, model: onnx.ModelProto) -> None:
    kind = int(rng.integers(3))
    if kind == 0:
        model.ir_version = one_of(rng, ODD_NUMBERS)
    elif kind == 1:
        model.opset_import.add(domain=one_of(rng, ODD_TEXTS), version=one_of(rng, ODD_NUMBERS))
    else:
        model.opset_import[0].version = one_of(rng, ODD_NUMBERS)


GRAPH: tuple[Callable[[Generator, onnx.ModelProto], None], ...] = (
    _dims, _weight_type, _weight_bytes, _external, _operator, _edge, _attribute, _nodes, _interface, _frame
)  # fmt: skip


def model_damaged(rng: Generator, content: bytes) -> bytes:
    """A third by bytes, the others by one to three changes of the graph."""
    if rng.random() < 0.33:
        return bytes_damaged(rng, content)
    model = onnx.ModelProto.FromString(content)
    for _ in range(int(rng.integers(1, 4))):
        if model.graph.node and model.graph.initializer:
            one_of(rng, GRAPH)(rng, model)
    written: bytes = model.SerializeToString()
    return written


def json_damaged(rng: Generator, document: Any) -> Any:
    """A copy in which one to three values are another thing, gone, or twice as many."""
    changed = copy.deepcopy(document)
    for _ in range(int(rng.integers(1, 4))):
        place = changed
        while True:
            keys = list(place) if isinstance(place, dict) else range(len(place))
            if not keys:
                break
            key = one_of(rng, keys)
            if isinstance(place[key], dict | list) and place[key] and rng.random() < 0.85:
                place = place[key]
                continue
            kind = int(rng.integers(4))
            if kind == 0 and isinstance(place, dict):
                del place[key]
            elif kind == 1 and isinstance(place, list):
                place *= 2
            else:
                place[key] = one_of(rng, (None, True, 1.5, 1e308, [], {}, *ODD_NUMBERS, *ODD_TEXTS))
            break
    return changed
