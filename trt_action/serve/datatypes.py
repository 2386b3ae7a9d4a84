"""Names of element types: this product's (numpy's) and those of the Open Inference Protocol."""

from __future__ import annotations

from typing import Any

import numpy as np

from trt_action.engine.backend import numpy_dtype

DATATYPES = {
    "bool": "BOOL",
    **{f"{kind}int{bits}": f"{kind.upper()}INT{bits}" for kind in ("", "u") for bits in (8, 16, 32, 64)},
    "float16": "FP16",
    "bfloat16": "BF16",
    "float32": "FP32",
    "float64": "FP64",
    "string": "BYTES",
}
"""Protocol's name by ours. Source: Open Inference Protocol, "Tensor Data Types"; BF16 is Triton's addition."""


def stored(dtype: str) -> np.dtype[Any]:
    """numpy dtype in which elements cross the wire: little-endian. `string` has none of its own (object)."""
    found = numpy_dtype(dtype)
    return found.newbyteorder("<") if found.kind in "iuf" else found
