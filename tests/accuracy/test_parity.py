from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trt_action.accuracy.classes import in_top, is_class_shape
from trt_action.accuracy.parity import compare

Array = npt.NDArray[Any]
matrices = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12),
    elements=st.floats(-1e4, 1e4, width=32),
)


def test_by_hand() -> None:
    reference = np.array([[1.0, 0.0], [3.0, 4.0]], np.float32)
    other = np.array([[1.0, 2.0], [3.0, 2.0]], np.float32)
    found = compare([(reference, other)])
    assert found.max_abs == 2.0
    assert found.mean_abs == 1.0
    assert found.relative_l2 == pytest.approx((8 / 26) ** 0.5)
    assert found.cosine == pytest.approx((1 + 9 + 8) / (26 * 18) ** 0.5)
    assert found.top1_agreement == 0.0
    assert found.top5_agreement is None


def test_top_five_by_hand() -> None:
    reference = np.array([[9, 1, 2, 3, 4, 5], [9, 1, 2, 3, 4, 5]], np.float32)
    other = np.array([[8, 9, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5]], np.float32)
    found = compare([(reference, other)])
    assert (found.top1_agreement, found.top5_agreement) == (0.0, 0.5)


@given(matrices)
def test_equal_outputs(array: Array) -> None:
    found = compare([(array, array.copy())])
    assert (found.max_abs, found.mean_abs) == (0.0, 0.0)
    assert found.relative_l2 == (0.0 if array.any() else None)
    assert found.cosine == (pytest.approx(1.0, abs=1e-12) if array.any() else None)
    assert found.top1_agreement in ((1.0,) if array.shape[1] >= 2 else (None,))


@given(matrices, st.data())
def test_chunks_do_not_change_the_numbers(array: Array, data: st.DataObject) -> None:
    other = array + np.float32(0.5)
    cut = data.draw(st.integers(0, len(array)))
    parts = compare([(array[:cut], other[:cut]), (array[cut:], other[cut:])])
    whole = compare([(array, other)])
    assert parts.model_dump(exclude={"relative_l2", "cosine", "mean_abs"}) == whole.model_dump(
        exclude={"relative_l2", "cosine", "mean_abs"}
    )
    assert parts.relative_l2 == pytest.approx(whole.relative_l2)
    assert parts.mean_abs == pytest.approx(whole.mean_abs)


def test_sums_do_not_lose_small_differences() -> None:
    """2^24 ones and a float32 sum: adding 1 no longer counts."""
    reference = np.ones(20_000_000, np.float32)
    found = compare([(reference, reference * np.float32(2))])
    assert found.mean_abs == 1.0
    assert found.relative_l2 == 1.0


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_broken_output_has_no_difference_but_a_count(broken: float) -> None:
    reference = np.ones((4, 3), np.float32)
    other = reference.copy()
    other[2, 1] = broken
    found = compare([(reference, other)])
    assert (found.max_abs, found.mean_abs, found.relative_l2, found.cosine) == (None, None, None, None)
    assert (found.nan, found.inf) == ((1, 0) if np.isnan(broken) else (0, 1))
    assert (found.reference_nan, found.reference_inf) == (0, 0)
    turned = compare([(other, reference), (other, reference[:2])])
    assert (turned.nan, turned.inf) == (0, 0)
    assert (turned.reference_nan, turned.reference_inf) == ((2, 0) if np.isnan(broken) else (0, 2))


def test_nan_in_a_row_is_no_agreement() -> None:
    reference = np.array([[0.0, 1.0], [0.0, 1.0]], np.float32)
    assert compare([(reference, np.array([[0, 1], [np.nan, 1]], np.float32))]).top1_agreement == 0.5
    assert compare([(np.array([[np.nan, 1], [0, 1]], np.float32), reference)]).top1_agreement == 0.5


def test_the_same_infinity_on_both_sides_is_equal() -> None:
    """Masked logits."""
    reference = np.array([[1.0, -np.inf], [2.0, -np.inf]], np.float32)
    found = compare([(reference, reference + np.float32(1))])
    assert (found.max_abs, found.inf) == (1.0, 2)


@pytest.mark.parametrize(
    ("reference", "other", "share"),
    [
        (np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5]), 0.75),
        (np.array([True, False]), np.array([True, True]), 0.5),
        (np.array([[7], [2**53 + 1]]), np.array([[7], [2**53]]), 0.5),
    ],
)
def test_integers_and_booleans_agree_or_not(reference: Array, other: Array, share: float) -> None:
    assert compare([(reference, other)]).top1_agreement == share


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_outputs(dtype: Any) -> None:
    reference = np.linspace(1, 2, 12, dtype=np.float32).reshape(2, 6)
    found = compare([(reference, reference.astype(dtype))])
    assert found.relative_l2 is not None
    assert 0 < found.relative_l2 < 2**-8
    assert found.top1_agreement == 1.0


def test_zero_reference_and_empty_outputs() -> None:
    zero = np.zeros((2, 3), np.float32)
    found = compare([(zero, zero + 1)])
    assert (found.max_abs, found.relative_l2, found.cosine) == (1.0, None, None)
    empty = np.zeros((0, 3), np.float32)
    assert compare([(empty, empty)]).max_abs is None
    assert compare([]).max_abs is None


def test_shapes_that_differ_have_no_difference() -> None:
    found = compare([(np.ones((2, 10)), np.full((2, 12), np.nan))])
    assert (found.max_abs, found.top1_agreement, found.nan) == (None, None, 24)


def test_squares_that_overflow_are_null_not_infinite() -> None:
    huge = np.full((1, 3), 1e200)
    found = compare([(huge, -huge)])
    assert (found.max_abs, found.relative_l2, found.cosine) == (2e200, None, None)


@given(st.integers(2, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_in_top_is_a_stable_sort(classes: int, k: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, 4, (20, classes)).astype(np.float64)
    labels = generator.integers(0, classes, 20)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    assert in_top(scores, labels, k).tolist() == (best == labels[:, None]).any(axis=1).tolist()


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((5, 10), True), ((5, 10, 1, 1), True), ((5, 1), False), ((5,), False), ((5, 2, 3), False), ((5, 0), False)],
)
def test_what_looks_like_class_scores(shape: tuple[int, ...], expected: bool) -> None:
    assert is_class_shape(shape) is expected
