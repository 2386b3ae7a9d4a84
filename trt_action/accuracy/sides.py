"""Run the engines of all sides over the samples, each at the measured shape of its own model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from trt_action import data, samples
from trt_action.accuracy.infer import Children, Feeds
from trt_action.accuracy.store import Store, Writer
from trt_action.data import Dataset
from trt_action.engine.backend import Array, Loadable
from trt_action.errors import BuildError, DataError, MeasureError, OutOfMemoryError, TrtActionError
from trt_action.evidence import ModelInfo
from trt_action.process import Progress

INFER_SECONDS = 1800.0
"""Time limit of running one side over all samples."""

SIDES = {
    "reference": "the FP32 reference",
    "head": "head",
    "base": "base",
    "base_reference": "base's FP32 reference",
    "head_unoptimized": "head without graph optimisation",
}

_FORGIVEN: Mapping[str, tuple[type[TrtActionError], ...]] = {
    "base": (DataError,),
    "base_reference": (BuildError, DataError, MeasureError, OutOfMemoryError),
}
"""A base that head may be about to repair does not end the check."""

_LEFT_OUT = {
    "base": "Base is left out of the accuracy check: it cannot take these samples.",
    "base_reference": "Base has no parity:",
}


def run(
    engines: Mapping[str, Loadable],
    info: ModelInfo,
    base_info: ModelInfo,
    dataset: Dataset,
    folder: Path,
    progress: Progress | None,
) -> tuple[dict[str, Store], list[str]]:
    """Outputs by side, and a note for each side of base that had to be left out.

    Args:
        engines: by side, of `SIDES`; base comes before its reference, which is not run where base was left out.
        folder: where feeds and outputs are written.

    Raises:
        TrtActionError: what a side other than base's met (`infer.Children.outputs`).
        StorageError: the disk is full or not writable.
    """
    feeds = of_base = write_feeds(dataset, info, folder / "feeds")
    stores: dict[str, Store] = {}
    notes: list[str] = []
    with Children() as children:
        for index, (side, loadable) in enumerate(engines.items()):
            if side == "base_reference" and "base" not in stores:
                continue
            try:
                if side == "base" and base_info.shapes != info.shapes:
                    of_base = _base_feeds(dataset, base_info, folder / "base-feeds")
                stores[side] = children.outputs(
                    loadable,
                    of_base if side in _FORGIVEN else feeds,
                    folder / side,
                    label=SIDES[side],
                    timeout=INFER_SECONDS,
                    progress=_within(progress, SIDES[side], index, len(engines)),
                )
            except _FORGIVEN.get(side, ()) as error:
                notes.append(f"{_LEFT_OUT[side]} {error.what}")
    return stores, notes


def _base_feeds(dataset: Dataset, info: ModelInfo, folder: Path) -> Feeds:
    """Head's samples at base's own measured shape, as far as base has the inputs.

    Raises:
        DataError: inputs that base takes once per inference differ between its samples.
    """
    inputs = {name: array for name, array in dataset.inputs.items() if name in info.shapes}
    samples.check_layout(inputs, info, f"{dataset.origin} data")
    return write_feeds(replace(dataset, inputs=inputs), info, folder)


def write_feeds(dataset: Dataset, info: ModelInfo, folder: Path) -> Feeds:
    """Every batch to disk once, for all engines of one model."""
    rows: list[int] = []
    batch: int | None = None
    with Writer(folder) as writer:
        for feeds, count in data.batches(dataset, info):
            if not rows:
                batch = _batch(dataset, feeds)
            rows.append(count)
            for name, chunk in feeds.items():
                writer.append(name, chunk)
    return Feeds(folder, rows, batch)


def _batch(dataset: Dataset, feeds: Mapping[str, Array]) -> int | None:
    """Rows of one inference; None where a feed is a single sample without the axis."""
    for name, feed in feeds.items():
        if name in dataset.inputs and feed.ndim == dataset.inputs[name].ndim:
            return int(feed.shape[0])
    return None


def _within(progress: Progress | None, label: str, index: int, of: int) -> Progress | None:
    if progress is None:
        return None
    return lambda text, share: progress(f"{label}: {text}", None if share is None else (index + share) / of)
