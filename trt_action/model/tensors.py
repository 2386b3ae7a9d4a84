"""The tensors stored in a model: as many bytes as they declare, from inside the model's folder, and no NaN.

Every size is computed from the declaration with Python's integers and compared with what is there before anything is
read; external data are read in pieces. Runs in the child process of `examine.py`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto

from trt_action.arrays import Array
from trt_action.errors import ModelError, StorageError
from trt_action.inputs import LFS_HEAD, is_lfs_pointer, nearest, open_regular, quote

MAX_EXTERNAL_BYTES = 64 << 30
"""Of all external data of one model. A choice: a model of 32 billion float16 weights."""

PIECE = 4 << 20
"""Elements that are looked at for NaN at once."""

BITS = {
    **dict.fromkeys(("INT2", "UINT2"), 2),
    **dict.fromkeys(("INT4", "UINT4", "FLOAT4E2M1"), 4),
    **dict.fromkeys(("FLOAT6E2M3", "FLOAT6E3M2"), 6),
    **dict.fromkeys(("INT8", "UINT8", "BOOL"), 8),
    **dict.fromkeys(("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT8E8M0"), 8),
    **dict.fromkeys(("INT16", "UINT16", "FLOAT16", "BFLOAT16"), 16),
    **dict.fromkeys(("INT32", "UINT32", "FLOAT"), 32),
    **dict.fromkeys(("INT64", "UINT64", "DOUBLE", "COMPLEX64"), 64),
    "COMPLEX128": 128,
}

_FLOATS: dict[int, np.dtype[Any]] = {
    TensorProto.FLOAT: np.dtype("<f4"),
    TensorProto.DOUBLE: np.dtype("<f8"),
    TensorProto.FLOAT16: np.dtype("<f2"),
    TensorProto.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
}

_MULTIPLIES = {"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization"}
"""Here an infinite weight cannot be meant; elsewhere (-inf in an attention mask) it often is."""


@dataclass
class Stored:
    """What the tensors of a model add up to. `external` by path relative to the model's folder, with sizes."""

    parameters: int = 0
    external: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Reference:
    """Where the data of an external tensor lie: `length` bytes at `offset` of `file`."""

    file: str
    offset: int
    length: int


def check(model: onnx.ModelProto, folder: Path) -> Stored:
    """Check every stored tensor of the model.

    Raises:
        ModelError: it names the tensor, what is wrong and what to do.
        StorageError: external data may not be read.
    """
    stored = Stored(parameters=sum(_elements(tensor) for tensor in initializers(model.graph)))
    multiplied = _multiplied(model.graph)
    infinite: list[str] = []
    for tensor in every_tensor(model):
        needed = needed_bytes(tensor)
        if tensor.data_location == TensorProto.EXTERNAL:
            where = reference(tensor, needed)
            if where.file not in stored.external:
                stored.external[where.file] = _external_size(where.file, folder, tensor)
                _check_total(stored.external)
            _check_reach(tensor, where, stored.external[where.file])
            pieces = _external_pieces(tensor, where, folder)
        else:
            _check_held(tensor, needed)
            pieces = _held_pieces(tensor)
        if _refuse_nan(tensor, pieces, strict=tensor.name in multiplied):
            infinite.append(tensor.name)
    if infinite:
        more = f" and {len(infinite) - 1} more" if len(infinite) > 1 else ""
        stored.notes.append(f"The stored tensor {quote(infinite[0])}{more} holds infinities (a mask?).")
    return stored


def initializers(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values


def every_tensor(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Initializers and tensors in attributes, those of subgraphs and functions included."""
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        yield from _node_tensors(function.node)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from initializers(graph)
    for sparse in graph.sparse_initializer:
        yield sparse.indices
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Sequence[onnx.NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield from [attribute.t] if attribute.HasField("t") else []
            yield from attribute.tensors
            for sparse in [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []:
                yield from (sparse.values, sparse.indices)
            for graph in [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs:
                yield from _graph_tensors(graph)


def _elements(tensor: TensorProto) -> int:
    if any(dim < 0 for dim in tensor.dims):
        raise ModelError(
            f"The stored tensor {quote(tensor.name)} has a negative dimension: {quote(list(tensor.dims))}.",
            fix="The file is damaged or was written by a faulty exporter: export the model again.",
        )
    return math.prod(tensor.dims)


def needed_bytes(tensor: TensorProto) -> int | None:
    """Bytes that the declaration asks for; None for text."""
    elements = _elements(tensor)
    if tensor.data_type == TensorProto.STRING:
        return None
    try:
        bits = BITS[TensorProto.DataType.Name(tensor.data_type)]
    except (KeyError, ValueError):
        raise ModelError(
            f"The stored tensor {quote(tensor.name)} has the unknown element type {tensor.data_type}.",
            fix="Export the model with a data type that ONNX defines, or with an older opset.",
        ) from None
    return (elements * bits + 7) // 8


def _check_held(tensor: TensorProto, needed: int | None) -> None:
    """The data inside the model file are as long as declared."""
    if tensor.HasField("raw_data"):
        held = len(tensor.raw_data)
    elif needed is None:
        needed, held = _elements(tensor), len(tensor.string_data)
    else:
        held, needed = _typed_length(tensor, needed)
    if held != needed:
        raise ModelError(
            f"The stored tensor {quote(tensor.name)} declares {quote(list(tensor.dims))} "
            f"({_amount(needed or 0)}) and holds {_amount(held)}.",
            why="The file is damaged, or its external data were lost when it was saved.",
            fix="Export the model again.",
        )


def _typed_length(tensor: TensorProto, needed: int) -> tuple[int, int]:
    """(held, needed) in entries of the typed field, scaled to bytes for a message."""
    kind = tensor.data_type
    entries: dict[int, tuple[int, int]] = {
        TensorProto.FLOAT: (len(tensor.float_data), 4),
        TensorProto.COMPLEX64: (len(tensor.float_data), 4),
        TensorProto.DOUBLE: (len(tensor.double_data), 8),
        TensorProto.COMPLEX128: (len(tensor.double_data), 8),
        TensorProto.INT64: (len(tensor.int64_data), 8),
        TensorProto.UINT32: (len(tensor.uint64_data), 4),
        TensorProto.UINT64: (len(tensor.uint64_data), 8),
        TensorProto.INT32: (len(tensor.int32_data), 4),
        TensorProto.INT16: (len(tensor.int32_data), 2),
        TensorProto.UINT16: (len(tensor.int32_data), 2),
        TensorProto.FLOAT16: (len(tensor.int32_data), 2),
        TensorProto.BFLOAT16: (len(tensor.int32_data), 2),
    }
    count, size = entries.get(kind, (len(tensor.int32_data), 1))
    return count * size, needed


def location(tensor: TensorProto) -> str:
    """The file of external data, relative to the model's folder, which it cannot leave.

    Raises:
        ModelError: none, absolute, or with `..`.
    """
    names = [entry.value for entry in tensor.external_data if entry.key == "location"]
    name = names[0] if len(names) == 1 else ""  # of two, one reader takes the first and another one the last
    parts = PurePosixPath(name).parts
    if not parts or "\0" in name:
        raise ModelError(
            f"The stored tensor {quote(tensor.name)} has external data without a usable location.",
            fix="Export the model again.",
        )
    if name.startswith("/") or "\\" in name or ".." in parts or ":" in parts[0]:
        raise ModelError(
            f"The stored tensor {quote(tensor.name)} points to {quote(name)}, outside the model's folder.",
            why="External data are read from the model's own folder only; a model could read any file otherwise.",
            fix="Save the model again with its data beside it: `onnx.save(model, path, save_as_external_data=True)`.",
        )
    return PurePosixPath(name).as_posix()


def reference(tensor: TensorProto, needed: int | None) -> Reference:
    """Where external data lie.

    Raises:
        ModelError: as `location`, or offset and length are not numbers or contradict the shape.
    """
    file = location(tensor)
    entries = {entry.key: entry.value for entry in tensor.external_data}
    try:
        offset = int(entries.get("offset", "") or 0)
        length = int(entries["length"]) if entries.get("length") else needed
    except ValueError:
        offset, length = -1, None
    if offset < 0 or length is None or length != needed:
        raise ModelError(
            f"The external data of tensor {quote(tensor.name)} are declared as offset "
            f"{quote(entries.get('offset', 0))}, length {quote(entries.get('length', 'none'))}; "
            f"its shape {quote(list(tensor.dims))} needs {needed} bytes.",
            fix="Export the model again.",
        )
    return Reference(file, offset, length)


def _external_size(location: str, folder: Path, tensor: TensorProto) -> int:
    path = folder / location
    current = folder
    for part in PurePosixPath(location).parts:
        current = current / part
        if current.is_symlink():
            raise ModelError(
                f"The external data {quote(location)} are reached through a symbolic link.",
                why="Links are not followed: they could lead to any file of this machine.",
                fix="Put the data file itself into the model's folder.",
            )
    if not path.exists():
        raise _missing(location, path, tensor)
    with open_regular(path, noun="external data file", wrong=ModelError) as file:
        head = file.read(len(LFS_HEAD))
        status = os.fstat(file.fileno())
    if is_lfs_pointer(head):
        raise ModelError(
            f"The external data {quote(location)} are a Git LFS pointer, not the data themselves.",
            fix="Run `git lfs pull`; in a workflow set `lfs: true` at actions/checkout.",
        )
    if status.st_nlink > 1:
        raise ModelError(
            f"The external data {quote(location)} have {status.st_nlink} hard links.",
            why="onnx refuses such files: a hard link could be another file of this machine under a new name.",
            fix=f"Make it a file of its own: `cp {location} x && mv x {location}`.",
        )
    return status.st_size


def _missing(location: str, path: Path, tensor: TensorProto) -> ModelError:
    try:
        close = nearest(path.name, (entry.name for entry in path.parent.iterdir()))
    except OSError:
        close = None
    return ModelError(
        f"The external data file {quote(location)} is missing; the tensor {quote(tensor.name)} is in it.",
        why=f"In its place there is {quote(close)}." if close else "It belongs into the model's folder.",
        fix="Commit it together with the model (or fetch it: `git lfs pull`), under the name that the model says.",
    )


def _check_total(external: dict[str, int]) -> None:
    if sum(external.values()) > MAX_EXTERNAL_BYTES:
        raise ModelError(
            f"The external data have {sum(external.values()) / 2**30:.0f} GiB; "
            f"at most {MAX_EXTERNAL_BYTES / 2**30:.0f} GiB are read.",
            fix="Use a smaller model, or split it.",
        )


def _check_reach(tensor: TensorProto, where: Reference, size: int) -> None:
    if where.offset + where.length > size:
        raise ModelError(
            f"The external data file {quote(where.file)} is too short: tensor {quote(tensor.name)} needs "
            f"bytes {where.offset} to {where.offset + where.length}, the file has {size}.",
            why="It was truncated, or it belongs to another version of the model.",
            fix="Export the model again and commit both files together.",
        )


def _external_pieces(tensor: TensorProto, where: Reference, folder: Path) -> Iterator[Array]:
    dtype = _FLOATS.get(tensor.data_type)
    if dtype is None:
        return
    try:
        with (folder / where.file).open("rb") as file:
            file.seek(where.offset)
            left = where.length
            while left > 0 and (data := file.read(min(left, PIECE * dtype.itemsize))):
                yield np.frombuffer(data, dtype, count=len(data) // dtype.itemsize)
                left -= len(data)
    except OSError as error:
        raise StorageError(f"The external data {quote(where.file)} cannot be read: {error.strerror}.") from None


def _held_pieces(tensor: TensorProto) -> Iterator[Array]:
    dtype = _FLOATS.get(tensor.data_type)
    if dtype is None:
        return
    if tensor.HasField("raw_data"):
        flat: Array = np.frombuffer(tensor.raw_data, dtype)
    elif tensor.data_type == TensorProto.FLOAT:
        flat = np.asarray(tensor.float_data, dtype)
    elif tensor.data_type == TensorProto.DOUBLE:
        flat = np.asarray(tensor.double_data, dtype)
    else:
        flat = (np.asarray(tensor.int32_data, np.int64) & 0xFFFF).astype("<u2").view(dtype)
    for start in range(0, flat.size, PIECE):
        yield flat[start : start + PIECE]


def _refuse_nan(tensor: TensorProto, pieces: Iterator[Array], *, strict: bool) -> bool:
    """Whether it holds infinities. NaN is refused, and so are infinities where the tensor is multiplied."""
    infinite = False
    for piece in pieces:
        if np.isfinite(piece).all():
            continue
        nan = bool(np.isnan(piece).any())
        infinite = infinite or not nan
        if nan or strict:
            raise ModelError(
                f"The weights {quote(tensor.name)} hold {'NaN' if nan else 'infinite values'}.",
                why="The training diverged, or a conversion to half precision overflowed; every output is affected.",
                fix="Go back to a checkpoint with finite weights and export again.",
            )
    return infinite


def _multiplied(graph: onnx.GraphProto) -> set[str]:
    return {name for node in graph.node if node.op_type in _MULTIPLIES for name in node.input}


def _amount(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size:,} bytes"
