"""Scores of one side: right or wrong per sample, a number per sample, or one number with bootstrap replicates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trt_action import arrays, user_code
from trt_action.accuracy.classes import class_scores, in_top, is_class_shape, is_discrete
from trt_action.accuracy.store import Store
from trt_action.engine.backend import Array
from trt_action.errors import DataError, MetricError
from trt_action.inputs import quote

TOP_K = {"top1": 1, "top5": 5}

RESAMPLES = 200
"""Bootstrap replicates of a metric that gives one number only: a choice between its cost and the interval's own
error (the bounds of a 95 % interval are the 5th and 195th of 200)."""

RESAMPLE_SHARE = 0.25
"""Share of `metric-timeout` that the replicates of one side may take."""

_CONTRACT = (
    "Return a number, or `{'value': number, 'per_sample': array of shape (samples,), 'higher_is_better': True}` "
    "where `value` is the mean of `per_sample`."
)


@dataclass(frozen=True)
class Score:
    """The metric of one side. At most one of `per_sample` (shape (n,)) and `replicates` is there.

    Replicates of two sides are aligned: the same resampled samples, NaN where the function failed on them.
    """

    value: float
    per_sample: npt.NDArray[np.float64] | None = None
    replicates: npt.NDArray[np.float64] | None = None
    higher_is_better: bool = True

    @property
    def right(self) -> npt.NDArray[np.bool_] | None:
        """Right or wrong by sample, if `per_sample` holds nothing but 0 and 1."""
        if self.per_sample is None or not np.isin(self.per_sample, (0.0, 1.0)).all():
            return None
        return self.per_sample.astype(np.bool_)


def class_output(store: Store, prefer: str | None, n: int) -> str | None:
    """The output that holds class scores of every sample: `prefer` if it does, else the first one that does."""
    names = [name for name in store.names if _holds_class_scores(store, name, n)]
    if prefer in names:
        return prefer
    return names[0] if names else None


def top_k(store: Store, output: str, labels: npt.NDArray[np.int64], k: int) -> Score:
    """Share of samples whose label is among the k largest scores (`classes.in_top`).

    Raises:
        DataError: a label is not a class of the model.
    """
    right = []
    start = 0
    for chunk in store.chunks(output):
        scores = class_scores(chunk)
        if scores is None:  # class_output looked at every chunk
            raise DataError(f"Output {quote(output)} does not hold class scores.")
        expected = labels[start : start + len(scores)]
        _check_range(expected, scores.shape[1], output, start)
        right.append(in_top(scores.astype(np.float64), expected, k))
        start += len(scores)
    per_sample = np.concatenate(right).astype(np.float64)
    return Score(float(per_sample.mean()), per_sample)


def user_metric(
    spec: str, store: Store, labels: Array, *, folder: Path, timeout: float, base_dir: Path, seed: int
) -> Score:
    """Call the user's function in a child process.

    The function gets `outputs` (arrays by output name, axis 0 = samples; bfloat16 as float32) and `labels`. Outputs
    whose shape changes from sample to sample, or that have no batch axis, are not passed on.

    Raises:
        MetricError: it failed, ran too long, or returned something unusable.
    """
    given: dict[str, Array] = {"labels": labels}
    for name in store.names:
        whole = store.whole(name)
        if whole is not None and len(whole) == len(labels):
            given[f"outputs/{name}"] = whole.astype(np.float32) if whole.dtype.name == "bfloat16" else whole
    if len(given) == 1:
        raise MetricError(
            f"There is no output that {quote(spec)} could judge.",
            why="No output has one fixed shape per sample with the samples along axis 0.",
            fix="Give the model an output of fixed size, e.g. by padding inside the graph.",
        )
    arguments_file, returned_file = folder / "metric-in.npz", folder / "metric-out.npz"
    arrays.save_npz(arguments_file, given)
    answer = user_code.call(
        spec,
        arrays=arguments_file,
        arguments={},
        out=returned_file,
        timeout=timeout,
        base_dir=base_dir,
        resamples=user_code.Resamples(RESAMPLES, seed, RESAMPLE_SHARE * timeout),
    )
    per_sample = arrays.load_npz(returned_file).get("per_sample") if "per_sample" in answer["arrays"] else None
    value, higher = _value(spec, answer), _higher_is_better(spec, answer)
    if per_sample is not None:
        return Score(value, _per_sample(spec, per_sample, value, len(labels)), higher_is_better=higher)
    replicates = np.array([np.nan if r is None else r for r in answer.get("replicates", [])], dtype=np.float64)
    return Score(value, replicates=replicates, higher_is_better=higher)


def _holds_class_scores(store: Store, name: str, n: int) -> bool:
    shapes = store.shapes(name)
    return (
        not is_discrete(store.dtype(name))
        and all(is_class_shape(shape) and shape[1:] == shapes[0][1:] for shape in shapes)
        and sum(shape[0] for shape in shapes) == n
    )


def _check_range(labels: npt.NDArray[np.int64], classes: int, output: str, start: int) -> None:
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        raise DataError(
            f"Label {labels[wrong[0]]} of sample {start + wrong[0]} is not a class of output {quote(output)}, "
            f"which has {classes} (0 to {classes - 1}).",
            why="Labels are indices into the output, starting at 0.",
            fix="Renumber the labels, check that the data belong to this model, or name your own metric as "
            "`metric: file.py:function` if the classes are in another output.",
        )


def _value(spec: str, answer: dict[str, object]) -> float:
    values = answer["values"]
    value = values.get("value") if isinstance(values, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MetricError(f"The function {quote(spec)} returned no number as `value`.", fix=_CONTRACT)
    return float(value)


def _higher_is_better(spec: str, answer: dict[str, object]) -> bool:
    values = answer["values"]
    higher = values.get("higher_is_better", True) if isinstance(values, dict) else True
    if not isinstance(higher, bool):
        raise MetricError(
            f"The function {quote(spec)} returned {quote(higher)} as `higher_is_better`, which is not True or False.",
            fix=_CONTRACT,
        )
    return higher


def _per_sample(spec: str, per_sample: Array, value: float, n: int) -> npt.NDArray[np.float64]:
    numbers = per_sample.astype(np.float64)
    if numbers.shape != (n,):
        raise MetricError(
            f"The function {quote(spec)} returned `per_sample` of shape {list(numbers.shape)} for {n} samples.",
            fix=_CONTRACT,
        )
    if not np.isfinite(numbers).all():
        where = int(np.flatnonzero(~np.isfinite(numbers))[0])
        raise MetricError(f"The function {quote(spec)} returned {numbers[where]} for sample {where}.", fix=_CONTRACT)
    mean = float(numbers.mean())
    if not np.isclose(mean, value, rtol=1e-3, atol=1e-6):
        raise MetricError(
            f"The function {quote(spec)} returned value {value:g}, but the mean of `per_sample` is {mean:g}.",
            why="The interval is computed from `per_sample`; it would belong to another number than the value.",
            fix="Return `value = per_sample.mean()`, or leave `per_sample` out: the interval is then bootstrapped.",
        )
    return numbers
