"""Models above protobuf's 2 GiB: weights in a file beside the model, and steps that see the model without them.

A message that large cannot be serialised, not even to ask for its size (`ByteSize`), and every copy of it costs its
size again; so weights are counted from their declarations and written one after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from onnx import ModelProto, TensorProto, helper, numpy_helper

from trt_action.model import tensors

SELF_CONTAINED_LIMIT = 1_500_000_000
"""Bytes of weights above which they go beside the file: protobuf refuses messages of 2 GiB and more."""

PAGE = 4_096
"""Bytes. Weights from this size on go beside the file, each at the start of a page: readers map them into memory."""


def is_large(model: ModelProto) -> bool:
    """Do the weights take the model beyond one protobuf message?"""
    return sum(tensors.needed_bytes(tensor) or 0 for tensor in tensors.every_tensor(model)) > SELF_CONTAINED_LIMIT


def data_of(path: Path) -> Path:
    """Where the weights of a large model at `path` are."""
    return path.with_name(path.name + ".data")


def save(model: ModelProto, path: Path) -> None:
    """One file, or with `<name>.data` beside it when it is large. The model itself is not changed."""
    data_of(path).unlink(missing_ok=True)
    if not is_large(model):
        path.write_bytes(model.SerializeToString(deterministic=True))
        return
    lean = _without_weights(model)
    with data_of(path).open("wb") as data:
        for tensor in model.graph.initializer:
            content = _bytes(tensor)
            if len(content) < PAGE:
                lean.graph.initializer.append(tensor)
                continue
            data.write(b"\0" * (-data.tell() % PAGE))
            outside = lean.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            outside.data_location = TensorProto.EXTERNAL
            entries = {"location": data_of(path).name, "offset": str(data.tell()), "length": str(len(content))}
            for key, value in entries.items():
                outside.external_data.add(key=key, value=value)
            data.write(content)
    path.write_bytes(lean.SerializeToString(deterministic=True))


def discard(path: Path) -> None:
    """Remove an intermediate file and its weights: of a large model, each one takes gigabytes of the disk."""
    path.unlink(missing_ok=True)
    data_of(path).unlink(missing_ok=True)


def through_protobuf(change: Callable[[ModelProto], ModelProto], model: ModelProto) -> ModelProto:
    """`change(model)` for a change that serialises the model and does not look at weights: a large model goes
    through it with its weights declared as inputs, and gets them back afterwards."""
    if not is_large(model):
        return change(model)
    lean = _without_weights(model)
    weights = []
    for tensor in model.graph.initializer:
        if (tensors.needed_bytes(tensor) or 0) < PAGE:
            lean.graph.initializer.append(tensor)
        else:
            weights.append(tensor)
            lean.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    changed = change(lean)
    names = {tensor.name for tensor in weights}
    inputs = [value for value in changed.graph.input if value.name not in names]
    del changed.graph.input[:]
    changed.graph.input.extend(inputs)
    changed.graph.initializer.extend(weights)
    return changed


def _without_weights(model: ModelProto) -> ModelProto:
    lean = ModelProto(ir_version=model.ir_version, producer_name=model.producer_name)
    for field in ("opset_import", "metadata_props", "functions"):
        getattr(lean, field).extend(getattr(model, field))
    lean.graph.name = model.graph.name
    for field in ("node", "input", "output", "value_info", "sparse_initializer", "quantization_annotation"):
        getattr(lean.graph, field).extend(getattr(model.graph, field))
    return lean


def _bytes(tensor: TensorProto) -> bytes:
    """Little-endian and packed, as external data are."""
    if tensor.HasField("raw_data") or tensor.data_type == TensorProto.STRING:
        return tensor.raw_data
    return numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data
