"""Data types as the tools write them, in the words of the record: fp32, fp16, int8, …"""

from __future__ import annotations

import re

RANK = {"int4": 0, "fp4": 0, "fp8": 1, "int8": 1, "fp16": 2, "bf16": 2, "tf32": 3, "fp32": 4, "fp64": 5}
"""Precisions from cheap to costly; alike where neither is a fall-back from the other."""

_TYPE = re.compile(
    r"(?P<bf16>bfloat16|bf16)|(?P<fp16>float16|fp16|half)|(?P<fp8>float8\w*|fp8|e4m3\w*|e5m2\w*)|(?P<fp4>float4\w*|fp4|e2m1\w*)"
    r"|(?P<fp64>float64|fp64|double)|(?P<tf32>tf32)|(?P<fp32>float32|fp32|float)"
    r"|(?P<int8>u?int8)|(?P<int4>u?int4)|(?P<int16>u?int16)|(?P<int32>u?int32)|(?P<int64>u?int64)|(?P<bool>bool)|(?P<string>string)",
    re.IGNORECASE,
)

# What the type of the factors is called in the names of NVIDIA's kernels: sm80_xmma_fprop_implicit_gemm_i8i8_i8i32_f32…,
# ampere_h16816gemm_…
_KERNEL = re.compile(
    r"(?P<bf16>bf16bf16|_bf16_|bf16_s?16816)|(?P<fp8>e4m3|e5m2|_f8f8_)|(?P<int8>i8i8|_i8816|_i16832|int8|imma)"
    r"|(?P<fp16>f16f16|h16816|h1688|h884|s16816|s1688gemm_fp16|hgemm)|(?P<fp32>f32f32|sgemm|scudnn)",
    re.IGNORECASE,
)


def precision(written: str) -> str | None:
    """`Half`, `float16`, `Row major linear FP16 format` → `fp16`; None where no type is named (`N/A due to …`)."""
    found = _TYPE.search(written[:300])
    return found.lastgroup if found else None


def of_kernel(name: str) -> str | None:
    """What the name of a CUDA kernel says about the type of its factors; None where it says nothing."""
    if "tf32" in name[:1_000].lower():
        return "tf32"  # beside f32f32: the type it reads, while tf32 is what it multiplies
    found = _KERNEL.search(name[:1_000])
    return found.lastgroup if found else None


def higher(first: str | None, second: str | None) -> str | None:
    """The costlier of two; what is no precision (integers that count, booleans) gives way to what is one."""
    known = [one for one in (first, second) if one in RANK]
    if known:
        return max(known, key=lambda one: RANK[one])
    return first or second


def reached(found: str | None, asked: str) -> bool:
    """Whether a layer in precision `found` is what `asked` wants, or cheaper."""
    return found in RANK and asked in RANK and RANK[found] <= RANK[asked] and not (asked == "fp8" and found == "int8")
