"""Class scores: which outputs they are, and whether a class is among the k largest."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trt_action.engine.backend import Array


def is_class_shape(shape: tuple[int, ...]) -> bool:
    """One row of at least two scores per sample: (n, c), also written (n, c, 1, 1)."""
    return len(shape) >= 2 and max(shape[1:]) >= 2 and sum(axis != 1 for axis in shape[1:]) == 1


def is_discrete(dtype: np.dtype[Any]) -> bool:
    """Integers and booleans: compared for equality, never ranked."""
    return dtype.kind in "biu"


def class_scores(output: Array) -> Array | None:
    """The output as shape (n, c), or None if it does not hold floating-point class scores."""
    if is_discrete(output.dtype) or not is_class_shape(output.shape):
        return None
    return output.reshape(output.shape[0], max(output.shape[1:]))


def in_top(scores: npt.NDArray[np.float64], classes: npt.NDArray[np.int64], k: int) -> npt.NDArray[np.bool_]:
    """Whether `classes`, shape (n,), are among the k largest `scores`, shape (n, c), by row.

    Equal scores rank by index, so that k = 1 is arg-max and a constant output does not count as right everywhere.
    A row with a NaN has no ranking and counts as wrong.
    """
    own = np.take_along_axis(scores, classes[:, None], axis=1)
    earlier = np.arange(scores.shape[1])[None, :] < classes[:, None]
    ahead = np.sum((scores > own) | ((scores == own) & earlier), axis=1)
    ahead[np.isnan(scores).any(axis=1)] = k
    right: npt.NDArray[np.bool_] = np.less(ahead, k)
    return right
