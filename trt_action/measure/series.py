"""Packing samples for the evidence: exact, compact, safe to read from an untrusted file."""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from trt_action.errors import EvidenceError
from trt_action.evidence import Series

Unit = Literal["ns", "index", "ratio"]
Dtype = Literal["uint32", "uint64", "float64", "int8", "uint8", "uint16"]

_SMALLEST_FIRST: tuple[Dtype, ...] = ("uint8", "uint16", "uint32", "uint64")


def pack(values: npt.ArrayLike, unit: Unit, dtype: Dtype | None = None) -> Series:
    """Pack a one-dimensional array without loss.

    Args:
        values: samples in the order they were taken.
        unit: what one value counts.
        dtype: element type; default: the smallest unsigned integer type that holds every value (float64 for floats).
            Nanoseconds use at least uint32 (4.29 s), and uint64 where one sample is longer.

    Raises:
        ValueError: a value does not fit `dtype` (a bug of the caller).
    """
    array = np.asarray(values)
    if array.size == 0:
        array = np.zeros(0, dtype=np.uint32)
    if array.ndim != 1:
        raise ValueError(f"a series has one dimension, not {array.ndim}")
    chosen = dtype or _smallest(array, unit)
    packed = array.astype(np.dtype(chosen).newbyteorder("<"))
    if not np.array_equal(packed, array):
        raise ValueError(f"values do not fit {chosen} without loss")
    data = base64.b64encode(zlib.compress(packed.tobytes(), 6)).decode("ascii")
    return Series(unit=unit, dtype=chosen, n=int(array.size), data=data)


def unpack(series: Series) -> npt.NDArray[Any]:
    """The array that was packed, in native byte order.

    Raises:
        EvidenceError: the data are not what `n` and `dtype` say. Never inflates to more than `n` values.
    """
    dtype = np.dtype(series.dtype).newbyteorder("<")
    expected = series.n * dtype.itemsize
    try:
        inflater = zlib.decompressobj()
        raw = inflater.decompress(base64.b64decode(series.data, validate=True), expected + 1)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise EvidenceError(f"A series in the evidence cannot be read: {error}.") from error
    if len(raw) != expected or not inflater.eof:
        raise EvidenceError(f"A series in the evidence does not hold the {series.n} values that it announces.")
    return np.frombuffer(raw, dtype=dtype).astype(np.dtype(series.dtype))


def _smallest(array: npt.NDArray[Any], unit: Unit) -> Dtype:
    if array.dtype.kind == "f":
        return "float64"
    if array.size and int(array.min()) < 0:
        raise ValueError("negative values need an explicit dtype")
    largest = int(array.max()) if array.size else 0
    candidates = _SMALLEST_FIRST[2:] if unit == "ns" else _SMALLEST_FIRST
    return next(name for name in candidates if largest <= np.iinfo(name).max)
