"""The task metric of every side on the same labelled samples, with intervals; head's loss with a paired interval."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trt_action import user_code
from trt_action.accuracy import intervals, metric
from trt_action.accuracy.intervals import PairedTable
from trt_action.accuracy.metric import TOP_K, Score
from trt_action.accuracy.store import Store
from trt_action.data import Dataset
from trt_action.errors import MetricError
from trt_action.evidence import Estimate, TaskMetric
from trt_action.inputs import quote
from trt_action.process import Progress

MIN_RESAMPLES = 100
"""Fewer replicates than this give no 95 % interval worth showing (its bounds would be the second smallest value)."""

PROPORTION = "wilson; drop: tango-score; p: mcnemar-exact"
MEAN = "paired-bootstrap of the mean"
REPLICATES = "paired-bootstrap"
NO_INTERVAL = "none"


def evaluate(
    name: str,
    sides: Mapping[str, Store],
    dataset: Dataset,
    *,
    timeout: float,
    base_dir: Path,
    folder: Path,
    confidence: float,
    seed: int,
    progress: Progress | None = None,
) -> TaskMetric | str:
    """The metric `name` (`top1`, `top5` or `file.py:function`) of each side.

    Args:
        sides: outputs by side: `reference`, `head`, and perhaps `base` and `head_unoptimized`.
        folder: where the arrays for the user's function are written.

    Returns:
        The metric, or in words why there is none.

    Raises:
        DataError: a label is not a class of the model.
        MetricError: the user's function failed.
    """
    if dataset.labels is None or dataset.n == 0:
        return _no_labels(dataset)
    if name in TOP_K:
        scores = _top_k(TOP_K[name], sides, dataset)
        if isinstance(scores, str):
            return scores
    elif user_code.is_spec(name):
        scores = {}
        for side, store in sides.items():
            if progress is not None:
                progress(f"{name} on the outputs of {side}", None)
            with _on_outputs_of(side):
                scores[side] = metric.user_metric(
                    name, store, dataset.labels, folder=folder, timeout=timeout, base_dir=base_dir, seed=seed
                )
    else:
        raise MetricError(
            f"The metric {quote(name)} is not known.", fix="Use `top1`, `top5`, or your own `file.py:function`."
        )
    return summarize(name, scores, dataset.sha256, dataset.n, confidence=confidence, seed=seed)


def summarize(
    name: str, scores: Mapping[str, Score], data_sha256: str, n: int, *, confidence: float, seed: int
) -> TaskMetric:
    """From scores to estimates. Head is compared with base if there is one, else with the reference."""
    against = "base" if "base" in scores else "reference"
    compared = {side: scores[side] for side in ("reference", "head", "base") if side in scores}
    if len({score.higher_is_better for score in scores.values()}) > 1:
        raise MetricError(
            f"The metric {quote(name)} says `higher_is_better` for one side and not for another.",
            fix="Return the same `higher_is_better` whatever the outputs are.",
        )
    better, worse = (against, "head") if scores["head"].higher_is_better else ("head", against)
    estimates, drop, p_value, method = _estimate(compared, better, worse, confidence, seed)
    return TaskMetric(
        metric=name[:1_000],
        higher_is_better=scores["head"].higher_is_better,
        samples=n,
        data_sha256=data_sha256,
        reference=estimates["reference"],
        head=estimates["head"],
        base=estimates.get("base"),
        head_unoptimized=scores["head_unoptimized"].value if "head_unoptimized" in scores else None,
        drop=drop,
        drop_from="base" if against == "base" else "reference",
        p_value=p_value,
        method=method,
    )


def _estimate(
    scores: Mapping[str, Score], better: str, worse: str, confidence: float, seed: int
) -> tuple[dict[str, Estimate], Estimate, float | None, str]:
    """Estimates by side, the difference `better` − `worse`, McNemar's p-value, the method."""
    right = {side: flags for side, score in scores.items() if (flags := score.right) is not None}
    if len(right) == len(scores):
        each = {side: intervals.wilson(int(np.sum(flags)), len(flags), confidence) for side, flags in right.items()}
        table = PairedTable.of(right[better], right[worse])
        p_value = intervals.mcnemar_exact(table.only_first, table.only_second)
        return each, intervals.paired_difference(table, confidence), p_value, PROPORTION

    samples = {side: score.per_sample for side, score in scores.items() if score.per_sample is not None}
    if len(samples) == len(scores):
        each = {side: intervals.bootstrap_mean(values, confidence, seed=seed) for side, values in samples.items()}
        drop = intervals.bootstrap_mean(samples[better] - samples[worse], confidence, seed=seed)
        return each, drop, None, MEAN

    point = {side: _certain(score.value, confidence) for side, score in scores.items()}
    difference = scores[better].value - scores[worse].value
    replicates = _aligned(scores)
    if replicates is None:
        return point, _certain(difference, confidence), None, NO_INTERVAL
    each = {
        side: intervals.percentile_interval(score.value, replicates[side], confidence) for side, score in scores.items()
    }
    drop = intervals.percentile_interval(difference, replicates[better] - replicates[worse], confidence)
    return each, drop, None, REPLICATES


def _aligned(scores: Mapping[str, Score]) -> dict[str, npt.NDArray[np.float64]] | None:
    """Replicates that every side has, or None if they are too few."""
    if any(score.replicates is None for score in scores.values()):
        return None
    replicates = {side: score.replicates for side, score in scores.items() if score.replicates is not None}
    length = min(len(values) for values in replicates.values())
    table = np.stack([values[:length] for values in replicates.values()])
    table = table[:, np.isfinite(table).all(axis=0)]
    return dict(zip(replicates, table, strict=True)) if table.shape[1] >= MIN_RESAMPLES else None


def _certain(value: float, confidence: float) -> Estimate:
    """A number without an interval; `method` says `none`."""
    return Estimate(estimate=value, low=value, high=value, confidence=confidence)


def _top_k(k: int, sides: Mapping[str, Store], dataset: Dataset) -> dict[str, Score] | str:
    labels = class_indices(dataset.labels)
    if isinstance(labels, str):
        return labels
    prefer = metric.class_output(sides["reference"], None, dataset.n)
    scores = {}
    for side, store in sides.items():
        output = metric.class_output(store, prefer, dataset.n)
        if output is None:
            return (
                f"top{k} needs an output with one row of class scores per sample, and {side} has none; "
                "name your own metric as `metric: file.py:function`."
            )
        scores[side] = metric.top_k(store, output, labels, k)
    return scores


def class_indices(labels: npt.NDArray[np.generic] | None) -> npt.NDArray[np.int64] | str:
    """Labels as class indices of shape (n,), or in words why they are none."""
    if labels is None:
        return "The data have no labels."
    if labels.ndim > 1 and labels[0].size == 1:
        labels = labels.reshape(len(labels))
    if labels.ndim != 1:
        return (
            f"Labels of shape {list(labels.shape)} are not one class index per sample; store `labels.argmax(axis=1)` "
            "if they are one-hot, or name your own metric as `metric: file.py:function`."
        )
    as_float = labels.astype(np.float64)
    if not (np.isfinite(as_float).all() and (as_float == np.floor(as_float)).all()):
        return "The labels are not whole numbers, so not class indices; name your own metric as `metric: file.py:function`."
    return labels.astype(np.int64)


@contextmanager
def _on_outputs_of(side: str) -> Iterator[None]:
    try:
        yield
    except MetricError as error:
        raise MetricError(f"On the outputs of {side}: {error.what}", why=error.why, fix=error.fix) from None


def _no_labels(dataset: Dataset) -> str:
    if dataset.origin == "synthetic":
        return "No validation data were given: outputs were compared on synthetic inputs, which have no right answer."
    if dataset.origin == "calibration":
        return "No validation data were given: outputs were compared on the calibration data, which tune the engine."
    return "The validation data have no `labels`, so there is nothing to score against."
