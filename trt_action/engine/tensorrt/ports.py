"""Inputs and outputs of an engine."""

from __future__ import annotations

from typing import Any

from trt_action.engine.backend import Tensor
from trt_action.errors import BuildError
from trt_action.inputs import quote

DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "BOOL": "bool",
}
"""TensorRT's names of the types that an input or output can have here, by numpy's."""


def tensors(trt: Any, engine: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Inputs and outputs in the engine's order; an open dimension is None."""
    found: dict[bool, list[Tensor]] = {True: [], False: []}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        kind = engine.get_tensor_dtype(name).name
        if kind not in DTYPES:
            raise BuildError(
                f"{quote(name)} of the engine has type {kind}, which this backend cannot bind.",
                fix="Export the model with inputs and outputs of float32, float16, bfloat16, bool or integers.",
            )
        shape = tuple(None if dim == -1 else int(dim) for dim in engine.get_tensor_shape(name))
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        found[is_input].append(Tensor(name, DTYPES[kind], shape))
    return tuple(found[True]), tuple(found[False])
