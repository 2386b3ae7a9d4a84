"""Packing is exact, and hostile data cannot make it lie or explode."""

from __future__ import annotations

import base64
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_action.errors import EvidenceError
from trt_action.evidence import Series
from trt_action.measure.series import pack, unpack


@given(st.lists(st.integers(0, 2**63)))
def test_whole_numbers_come_back_exactly(values: list[int]) -> None:
    array = np.array(values, dtype=np.uint64)
    assert unpack(pack(array, "ns")).tolist() == values


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False)))
def test_ratios_come_back_exactly(values: list[float]) -> None:
    assert unpack(pack(np.array(values, dtype=np.float64), "ratio")).tolist() == values


@pytest.mark.parametrize(
    ("values", "unit", "dtype"),
    [
        ([1, 2], "ns", "uint32"),
        ([1, 2**32 - 1], "ns", "uint32"),
        ([1, 2**32], "ns", "uint64"),
        ([0, 1], "index", "uint8"),
        ([300], "index", "uint16"),
        ([0.5], "ratio", "float64"),
        ([], "ns", "uint32"),
    ],
)
def test_the_smallest_type_that_holds_the_values(values: list[float], unit: str, dtype: str) -> None:
    assert pack(values, unit).dtype == dtype  # type: ignore[arg-type]


@pytest.mark.parametrize(("values", "dtype"), [([-1], None), ([256], "uint8"), ([0.5], "uint32"), ([[1]], None)])
def test_what_does_not_fit_is_refused(values: list[float], dtype: str | None) -> None:
    with pytest.raises(ValueError):
        pack(values, "ns", dtype)  # type: ignore[arg-type]


def test_times_are_compact() -> None:
    times = np.random.default_rng(0).normal(2.5e6, 2.5e4, 10_000).astype(np.uint32)
    assert len(pack(times, "ns").data) < 10_000 * 4


def _series(data: str, n: int) -> Series:
    return Series(unit="ns", dtype="uint32", n=n, data=data)


def _packed(raw: bytes) -> str:
    return base64.b64encode(zlib.compress(raw)).decode()


@pytest.mark.parametrize(
    "series",
    [
        _series("", 1),
        _series("not base64!", 1),
        _series(base64.b64encode(b"not zlib").decode(), 1),
        _series(_packed(b"\0" * 4), 2),
        _series(_packed(b"\0" * 12), 2),
        _series(_packed(b"\0" * 8)[:-8], 2),
        _series(_packed(b"\0" * 50_000_000), 1),
    ],
    ids=["empty", "base64", "zlib", "too short", "too long", "cut off", "bomb"],
)
def test_broken_series_are_named_as_such(series: Series) -> None:
    with pytest.raises(EvidenceError):
        unpack(series)
