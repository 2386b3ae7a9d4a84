"""Which tensors a model takes and gives, and the check of every tensor of a request against them.

Everything about a request is known to fit before it waits in a queue: what is batched together cannot fail for its
shape or type.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trt_action.engine.backend import Array, Tensor
from trt_action.serve import refusal
from trt_action.serve.datatypes import DATATYPES, stored
from trt_action.serve.folder import Range
from trt_action.serve.refusal import shown


@dataclass(frozen=True)
class Port:
    """One input or output. `shape` -1 = open; `low`, `high` bound every axis of an input (the profile); `values` bounds
    what an input holds whose values decide shapes."""

    name: str
    dtype: str
    datatype: str
    shape: tuple[int, ...]
    low: tuple[int, ...]
    high: tuple[int, ...]
    stored: np.dtype[Any]
    values: Range | None = None

    def metadata(self) -> dict[str, Any]:
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


def port(tensor: Tensor, profile: Range | None, *, lower_bounds: bool, max_batch: int | None) -> Port:
    """The port of an engine's tensor.

    Args:
        profile: of an input; None for an output.
        lower_bounds: the engine refuses what is below the profile's minimum.
        max_batch: replaces the profile's maximum of axis 0 where that axis is open.
    """
    shape = tuple(dim if isinstance(dim, int) and dim >= 0 else -1 for dim in tensor.shape)
    low, high = list(shape), list(shape)
    for axis, dim in enumerate(shape):
        if dim >= 0:
            continue
        known = profile is not None and axis < len(profile.max)
        low[axis] = profile.min[axis] if profile is not None and known and lower_bounds else 1
        high[axis] = profile.max[axis] if profile is not None and known else 2**31 - 1
        if axis == 0 and max_batch is not None:
            high[axis] = max_batch
    values = profile.values if profile is not None else None
    if profile is not None and values is not None:
        low, high = list(profile.opt), list(profile.opt)
    return Port(
        tensor.name, tensor.dtype, DATATYPES[tensor.dtype], shape, tuple(low), tuple(high), stored(tensor.dtype), values
    )


def check_shape(wanted: Port, shape: object) -> tuple[int, ...]:
    """The shape as a tuple, if the input takes it.

    Raises:
        RefusedError: not a list of sizes, or outside of what the engine was built for.
    """
    if not isinstance(shape, list) or any(type(size) is not int for size in shape):
        raise refusal.bad(f"The shape of input {shown(wanted.name)} is not a list of whole numbers.")
    if len(shape) != len(wanted.shape):
        raise refusal.bad(
            f"Input {shown(wanted.name)} has {len(wanted.shape)} axes {list(wanted.shape)}, not {len(shape)}."
        )
    for axis, size in enumerate(shape):
        if not wanted.low[axis] <= size <= wanted.high[axis]:
            allowed = _allowed(wanted.low[axis], wanted.high[axis])
            raise refusal.bad(f"Axis {axis} of input {shown(wanted.name)} is {size}; this engine takes {allowed}.")
    return tuple(shape)


def check_values(wanted: Port, array: Array) -> None:
    """Raises:
    RefusedError: sizes out of the range that the engine was built and measured for. They decide how much memory an
        inference takes, so this holds for every backend.
    """
    if wanted.values is None:
        return
    given = array.reshape(-1).tolist()
    low, high = wanted.values.min, wanted.values.max
    if not all(a <= value <= b for a, value, b in zip(low, given, high, strict=True)):
        raise refusal.bad(
            f"Input {shown(wanted.name)} holds the sizes {given}; this engine takes {list(low)} to {list(high)}."
        )


def check_names(inputs: Mapping[str, Port], given: Sequence[str]) -> None:
    """Every input once, and nothing else.

    Raises:
        RefusedError: a name is missing, unknown, or there twice.
    """
    for name in given:
        if name not in inputs:
            raise refusal.bad(f"The model has no input {shown(name)}; it has {', '.join(map(shown, inputs))}.")
    if len(given) != len(inputs):
        missing = [name for name in inputs if name not in given]
        raise refusal.bad(f"No data for input {shown(missing[0])}." if missing else "An input is there twice.")


def from_bytes(wanted: Port, shape: tuple[int, ...], data: memoryview) -> Array:
    """Elements as they cross the wire, row-major and little-endian; a view of `data` wherever the CPU can read it so.

    Raises:
        RefusedError: another number of bytes, or bytes that are no values of the type.
    """
    count = math.prod(shape)
    if wanted.dtype == "string":
        return texts(wanted, shape, data)
    size = count * wanted.stored.itemsize
    if len(data) != size:
        raise refusal.bad(
            f"Input {shown(wanted.name)} of shape {list(shape)} takes {size} bytes of {wanted.datatype}, "
            f"not {len(data)}."
        )
    flat = np.frombuffer(data, dtype=wanted.stored, count=count)
    if wanted.dtype == "bool" and count and flat.view(np.uint8).max() > 1:
        raise refusal.bad(f"Input {shown(wanted.name)} has bytes other than 0 and 1 as BOOL.")
    if not flat.flags.aligned:  # the JSON before it has any length
        flat = flat.copy()
    return flat.reshape(shape)


def texts(wanted: Port, shape: tuple[int, ...], data: memoryview) -> Array:
    """BYTES: each element is its length as a little-endian uint32, then its bytes (Binary Tensor Data Extension)."""
    count = math.prod(shape)
    if 4 * count > len(data):
        raise refusal.bad(f"Input {shown(wanted.name)} has too few bytes for {count} elements of BYTES.")
    found, at = [], 0
    for _ in range(count):
        end = at + 4
        end += int.from_bytes(data[at:end], "little")
        if end > len(data) or end < at + 4 or at + 4 > len(data):
            raise refusal.bad(f"An element of input {shown(wanted.name)} ends behind its data.")
        found.append(_decoded(wanted, data[at + 4 : end]))
        at = end
    if at != len(data):
        raise refusal.bad(f"Input {shown(wanted.name)} has bytes behind its last element.")
    return np.array(found, dtype=object).reshape(shape)


def to_bytes(found: Port, array: Array) -> memoryview | bytes:
    """The inverse of `from_bytes`; of a contiguous array without a copy."""
    if found.dtype == "string":
        parts = [str(text).encode() for text in array.ravel()]
        return b"".join(len(part).to_bytes(4, "little") + part for part in parts)
    return np.ascontiguousarray(array, dtype=found.stored).reshape(-1).view(np.uint8).data


def _decoded(wanted: Port, data: memoryview) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        raise refusal.bad(f"An element of input {shown(wanted.name)} is not UTF-8.") from None


def _allowed(low: int, high: int) -> str:
    if low == high:
        return str(low)
    return f"{low} or more" if high >= 2**31 - 1 else f"{low} to {high}"
