"""Many candidates of one model on one data set: the reference is run once, and each candidate when it is there."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from trt_action.accuracy import parity, task
from trt_action.accuracy.infer import Children
from trt_action.accuracy.sides import INFER_SECONDS, SIDES, write_feeds
from trt_action.data import Dataset
from trt_action.engine.backend import Loadable
from trt_action.evidence import Accuracy, ModelInfo, Parity, TaskMetric
from trt_action.process import Progress


class Trials:
    """Judges candidates as `check` judges head without a base. Use as a context manager.

    Args:
        reference: FP32 ONNX Runtime of the model, without graph optimisation.
        metric: `top1`, `top5` or `file.py:function`, relative to `base_dir`.
        metric_timeout: seconds, for each candidate.
        work_dir: an existing folder; outputs are kept there during the trials.
    """

    def __init__(
        self,
        reference: Loadable,
        info: ModelInfo,
        dataset: Dataset,
        *,
        metric: str,
        metric_timeout: float,
        base_dir: Path,
        work_dir: Path,
        seed: int,
    ) -> None:
        self._reference, self._info, self._dataset = reference, info, dataset
        self._metric, self._metric_timeout, self._base_dir = metric, metric_timeout, base_dir
        self._work_dir, self._seed = work_dir, seed
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        name = self._open.enter_context(tempfile.TemporaryDirectory(prefix="trials-", dir=self._work_dir))
        self._folder = Path(name)
        self._children = self._open.enter_context(Children())
        self._feeds = write_feeds(self._dataset, self._info, self._folder / "feeds")
        self._right = self._children.outputs(
            self._reference,
            self._feeds,
            self._folder / "reference",
            label=SIDES["reference"],
            timeout=INFER_SECONDS,
            progress=None,
        )
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._open.__exit__(exc_type, exc, tb)

    def of(self, candidate: Loadable, *, timeout: float, progress: Progress | None) -> Accuracy:
        """Parity with the reference and the task metric, if the data have labels.

        Args:
            timeout: seconds of the inference.

        Raises:
            TrtActionError: as `check`.
        """
        out = self._folder / "candidate"
        shutil.rmtree(out, ignore_errors=True)
        store = self._children.outputs(
            candidate, self._feeds, out, label="a candidate", timeout=timeout, progress=progress
        )
        shown = {
            name: parity.compare(zip(self._right.chunks(name), store.chunks(name), strict=True))
            for name in self._right.names
            if name in store.names
        }
        metrics = task.evaluate(
            self._metric,
            {"reference": self._right, "head": store},
            self._dataset,
            timeout=self._metric_timeout,
            base_dir=self._base_dir,
            folder=self._folder,
            confidence=0.95,
            seed=self._seed,
        )
        measured = metrics if isinstance(metrics, TaskMetric) else None
        return Accuracy(
            parity=Parity(
                samples=self._dataset.n, data=self._dataset.origin, data_sha256=self._dataset.sha256, head=shown
            ),
            task=measured,
            not_checked="" if measured is not None else str(metrics),
        )
