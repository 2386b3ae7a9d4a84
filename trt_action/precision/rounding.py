"""What a precision does to a weight, in numpy: symmetric, round to nearest even, one scale per channel or block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
from onnx import NodeProto

Array = npt.NDArray[Any]

FP8 = np.dtype(ml_dtypes.float8_e4m3fn)
FP8_LARGEST = 448.0
INT8_LARGEST, INT4_LARGEST = 127.0, 7.0
INT4_BLOCK = 128


def channel_axis(node: NodeProto, index: int, shape: Sequence[int]) -> int | None:
    """The axis of output channels of a weight of that shape, input number `index` of the node; None: one scale for
    the whole weight."""
    if index != 1 or len(shape) < 2:
        return None
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        return 0 if any(a.name == "transB" and a.i for a in node.attribute) else 1
    return len(shape) - 1 if node.op_type == "MatMul" else None


def fp8(values: Array, axis: int | None) -> tuple[Array, Array]:
    """Values in E4M3, and the scale with the axes of `values` kept."""
    scale = _scale(values, axis, FP8_LARGEST)
    return np.clip(values / scale, -FP8_LARGEST, FP8_LARGEST).astype(FP8), scale


def through(precision: str, values: Array, node: NodeProto, index: int) -> Array:
    """The weight as it comes out of int8, fp8, int4, fp16 or bf16, in float32."""
    if precision in ("fp16", "bf16"):
        kind = np.dtype(np.float16) if precision == "fp16" else np.dtype(ml_dtypes.bfloat16)
        with np.errstate(over="ignore"):
            return values.astype(kind).astype(np.float32)
    if precision == "int4":
        return _int4(values, node, index)
    axis = channel_axis(node, index, values.shape)
    if precision == "fp8":
        rounded, scale = fp8(values, axis)
        return (rounded.astype(np.float32) * scale).astype(np.float32)
    scale = _scale(values, axis, INT8_LARGEST)
    return (np.rint(values / scale) * scale).astype(np.float32)


def _int4(values: Array, node: NodeProto, index: int) -> Array:
    """Blocks of 128 along the summed axis."""
    channels = channel_axis(node, index, values.shape)
    if channels is None or values.ndim != 2:
        return values
    rows = values if channels == 0 else values.T
    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % INT4_BLOCK)))
    blocks = padded.reshape(rows.shape[0], -1, INT4_BLOCK)
    scale = np.abs(blocks).max(axis=2, keepdims=True) / INT4_LARGEST
    scale[scale == 0] = 1
    rounded = (np.rint(blocks / scale) * scale).reshape(padded.shape)[:, : rows.shape[1]].astype(np.float32)
    return np.ascontiguousarray(rounded if channels == 0 else rounded.T)


def _scale(values: Array, axis: int | None, largest: float) -> Array:
    axes = tuple(i for i in range(values.ndim) if i != axis) if axis is not None else None
    magnitude = np.abs(values).max(axis=axes, keepdims=True) if values.size else np.ones((1,) * values.ndim)
    return np.asarray(np.where(magnitude == 0, 1, magnitude / largest), np.float32)
