"""How far an output is from the FP32 reference. Float64 throughout; arrays come in chunks and are not kept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from trt_action.accuracy.classes import class_scores, in_top, is_discrete
from trt_action.engine.backend import Array
from trt_action.evidence import OutputParity

_BLOCK = 1 << 18
"""Elements turned into float64 at once: 2 MiB, which stays in the cache."""

TOP5_CLASSES = 6
"""With five classes everything is in the top five."""


def compare(pairs: Iterable[tuple[Array, Array]]) -> OutputParity:
    """Compare one output chunk by chunk.

    Args:
        pairs: (reference, other) chunks of the same samples; any numeric dtype, axis 0 = samples.

    Returns:
        Numbers over all elements. Elements that are the same NaN or infinity on both sides count as equal and are
        left out of the sums. With NaN or infinity on one side only there is no number for the difference: it is
        null and `nan` / `inf` say why. The same for shapes that differ.
    """
    total = _Total()
    for reference, other in pairs:
        total.add(reference, other)
    return total.result()


class _Total:
    def __init__(self) -> None:
        self.comparable = True
        self.max_abs = 0.0
        self.sum_abs = self.sum_difference2 = self.sum_reference2 = self.sum_other2 = self.sum_product = 0.0
        self.compared = 0
        self.reference, self.other = _NonFinite(), _NonFinite()
        self.discrete = _Share()
        self.top1 = _Share()
        self.top5 = _Share()

    def add(self, reference: Array, other: Array) -> None:
        if reference.shape != other.shape:
            self.comparable = False
            for array, counts in ((reference, self.reference), (other, self.other)):
                for (values,) in _blocks(array):
                    counts.add(values)
            return
        for left, right in _blocks(reference, other):
            self.reference.add(left)
            self.other.add(right)
            self._elements(left, right)
        if is_discrete(reference.dtype) and is_discrete(other.dtype):
            self.discrete.add(reference == other)
        self._ranking(reference, other)

    def _elements(self, reference: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> None:
        finite = np.isfinite(reference) & np.isfinite(other)
        if not finite.all():
            same = np.array_equal(reference[~finite], other[~finite], equal_nan=True)
            self.comparable = self.comparable and same
            reference, other = reference[finite], other[finite]
        if not reference.size:
            return
        with np.errstate(over="ignore", invalid="ignore"):  # squares of float64 outputs may overflow: null, in result()
            absolute = np.abs(other - reference)
            self.max_abs = max(self.max_abs, float(absolute.max()))
            self.sum_abs += float(absolute.sum())
            self.sum_difference2 += float(np.square(absolute).sum())
            self.sum_reference2 += float(np.square(reference).sum())
            self.sum_other2 += float(np.square(other).sum())
            self.sum_product += float((reference * other).sum())
        self.compared += reference.size

    def _ranking(self, reference: Array, other: Array) -> None:
        left, right = class_scores(reference), class_scores(other)
        if left is None or right is None:
            return
        step = max(1, _BLOCK // left.shape[1])
        for start in range(0, left.shape[0], step):
            expected = left[start : start + step].astype(np.float64)
            scores = right[start : start + step].astype(np.float64)
            ranked = ~np.isnan(expected).any(axis=1)
            winners = np.argmax(expected, axis=1)
            self.top1.add(ranked & in_top(scores, winners, 1))
            if left.shape[1] >= TOP5_CLASSES:
                self.top5.add(ranked & in_top(scores, winners, 5))

    def result(self) -> OutputParity:
        known = self.comparable and self.compared > 0
        length, other_length = math.sqrt(self.sum_reference2), math.sqrt(self.sum_other2)
        agreement = self.discrete if self.discrete.of else self.top1
        return OutputParity(
            max_abs=_finite(self.max_abs) if known else None,
            mean_abs=_finite(self.sum_abs / self.compared) if known else None,
            relative_l2=_ratio(math.sqrt(self.sum_difference2), length) if known else None,
            cosine=_cosine(self.sum_product, length, other_length) if known else None,
            top1_agreement=agreement.value(),
            top5_agreement=self.top5.value(),
            nan=self.other.nan,
            inf=self.other.inf,
            reference_nan=self.reference.nan,
            reference_inf=self.reference.inf,
        )


class _NonFinite:
    def __init__(self) -> None:
        self.nan = self.inf = 0

    def add(self, values: npt.NDArray[np.float64]) -> None:
        self.nan += int(np.isnan(values).sum())
        self.inf += int(np.isinf(values).sum())


class _Share:
    def __init__(self) -> None:
        self.yes = self.of = 0

    def add(self, flags: npt.NDArray[np.bool_]) -> None:
        self.yes += int(flags.sum())
        self.of += flags.size

    def value(self) -> float | None:
        return self.yes / self.of if self.of else None


def _blocks(*arrays: Array) -> Iterator[tuple[npt.NDArray[np.float64], ...]]:
    """Arrays of one shape, flat, in blocks of float64."""
    flat = [array.reshape(-1) for array in arrays]
    for start in range(0, flat[0].size, _BLOCK):
        yield tuple(array[start : start + _BLOCK].astype(np.float64) for array in flat)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _ratio(value: float, over: float) -> float | None:
    return _finite(value / over) if over > 0 else None


def _cosine(product: float, length: float, other_length: float) -> float | None:
    if not (length > 0 and other_length > 0):
        return None
    cosine = _finite(product / length / other_length)
    return None if cosine is None else min(1.0, max(-1.0, cosine))
