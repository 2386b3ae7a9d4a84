"""What every record of the evidence is made of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Precision = Literal["fp32", "tf32", "fp16", "bf16", "int8", "fp8", "int4"]

Text = Annotated[str, Field(max_length=20_000)]
Name = Annotated[str, Field(max_length=1_000)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


MAX_INTEGER = 2**63 - 1
"""No count or size is larger, and evidence may be a stranger's: Python cannot divide one of 400 digits."""


class Record(BaseModel):
    """Frozen, closed, and without surprises in JSON: NaN and infinity are refused (use None)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        for name, value in self.__dict__.items():
            if any(isinstance(one, int) and abs(one) > MAX_INTEGER for one in _values(value)):
                raise ValueError(f"`{name}` holds an integer of more than 64 bits")
        return self


def _values(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else (value,)


class Interval(Record):
    """Order-statistic confidence interval of a percentile, ms."""

    low_ms: float
    high_ms: float


class Series(Record):
    """Samples in the order they were taken, compact: base64(zlib(little-endian array of `dtype`))."""

    unit: Literal["ns", "index", "ratio"]
    dtype: Literal["uint32", "uint64", "float64", "int8", "uint8", "uint16"]
    n: int = Field(ge=0)
    data: Annotated[str, Field(max_length=16_000_000)]
