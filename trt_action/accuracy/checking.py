"""Run every side over the same samples, compare, and say what a reader must know."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from trt_action import user_code
from trt_action.accuracy import parity, task
from trt_action.accuracy.sides import SIDES, run
from trt_action.accuracy.store import Store
from trt_action.data import Dataset
from trt_action.engine.backend import Loadable
from trt_action.errors import StorageError
from trt_action.evidence import Accuracy, ModelInfo, OutputParity, Parity, TaskMetric
from trt_action.inputs import quote, quote_all
from trt_action.process import Progress

_ROUNDING = 1e-3
"""Changes of relative L2 up to this are float32 sums in another order, not worth a sentence."""


def check(
    *,
    info: ModelInfo,
    reference: Loadable,
    head: Loadable,
    base: Loadable | None,
    base_info: ModelInfo | None,
    base_reference: Loadable | None,
    head_unoptimized: Loadable | None,
    dataset: Dataset,
    metric: str,
    metric_timeout: float,
    base_dir: Path,
    work_dir: Path,
    confidence: float = 0.95,
    seed: int,
    progress: Progress | None,
) -> Accuracy:
    """Run every side over the data set, one after the other, and compare.

    Args:
        reference: FP32 ONNX Runtime of head's model, without graph optimisation.
        base: None if there is none. A base that cannot take these samples is left out, with a note.
        base_info: base's model, whose measured shape base is fed at; None without a base.
        base_reference: FP32 ONNX Runtime of base's model; None if there is no such model. Not run where both models
            are the same: then head's serves both.
        head_unoptimized: the prepared Q/DQ graph without graph optimisation (None for graphs without Q/DQ).
        metric: `top1`, `top5` or `file.py:function`, relative to `base_dir`.
        metric_timeout: seconds, for each side.
        work_dir: outputs are kept here during the check and removed afterwards.

    Raises:
        DataError: the samples do not fit head, or labels do not fit its classes.
        MetricError: the user's metric failed.
        MeasureError, OutOfMemoryError: an engine crashed, hung or ran out of memory.
        StorageError: the disk is full or not writable.
    """
    same_model = base_info is not None and (base_info.sha256, base_info.shapes) == (info.sha256, info.shapes)
    engines = {
        "reference": reference,
        "head": head,
        "head_unoptimized": head_unoptimized,
        "base": base,
        "base_reference": None if base is None or same_model else base_reference,
    }
    wanted = {side: loadable for side, loadable in engines.items() if loadable is not None}
    against = {
        "head": "reference",
        "base": "reference" if same_model else "base_reference",
        "head_unoptimized": "reference",
    }
    with _folder(work_dir) as folder:
        stores, notes = run(wanted, info, base_info or info, dataset, folder, progress)
        found = {
            side: _parity(stores[other], stores[side])
            for side, other in against.items()
            if side in stores and other in stores
        }
        sides = {side: store for side, store in stores.items() if side != "base_reference"}  # its metric serves nobody
        metrics = task.evaluate(
            metric,
            _judged(metric, sides, notes),
            dataset,
            timeout=metric_timeout,
            base_dir=base_dir,
            folder=folder,
            confidence=confidence,
            seed=seed,
            progress=progress,
        )
        notes += _broken_notes(stores, found, against)
        missing = _missing(sides)
    if "base" in stores and not (same_model or base_reference):
        notes.append("Base has no parity: it is an engine without its ONNX model, so there is no FP32 reference.")
    measured = metrics if isinstance(metrics, TaskMetric) else None
    notes += _optimizer_notes(found, measured)
    if measured is not None and measured.method == task.NO_INTERVAL:
        notes.append(
            f"{quote(metric)} has no interval: there were fewer than {task.MIN_RESAMPLES} usable bootstrap replicates "
            "in the time allowed. Return `per_sample` as well, or raise `metric-timeout`."
        )
    return Accuracy(
        parity=Parity(
            samples=dataset.n,
            data=dataset.origin,
            data_sha256=dataset.sha256,
            head=found["head"],
            base=found.get("base"),
            head_unoptimized=found.get("head_unoptimized"),
            missing_outputs=missing,
        ),
        task=measured,
        not_checked="" if measured is not None else str(metrics),
        notes=notes,
    )


@contextmanager
def _folder(work_dir: Path) -> Iterator[Path]:
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix="accuracy-", dir=work_dir, ignore_cleanup_errors=True)
    except OSError as error:
        raise StorageError(
            f"No folder for outputs can be made in {quote(work_dir)}: {error.strerror or error}.",
            fix="Check permissions and free space (`df -h`), or point TMPDIR to another disk.",
        ) from error
    with folder as name:
        yield Path(name)


def _parity(reference: Store, other: Store) -> dict[str, OutputParity]:
    """By output that both have, in the reference's order."""
    return {
        name: parity.compare(zip(reference.chunks(name), other.chunks(name), strict=True))
        for name in reference.names
        if name in other.names
    }


def _judged(metric: str, stores: Mapping[str, Store], notes: list[str]) -> Mapping[str, Store]:
    """The sides whose task metric is computed. A user's function asks for outputs by name: a base that lacks some of
    head's would fail it, and with it every pull request that renames an output."""
    if "base" not in stores or not user_code.is_spec(metric):
        return stores
    lacking = [name for name in stores["head"].names if name not in stores["base"].names]
    if not lacking:
        return stores
    notes.append(f"{quote(metric)} is not computed for base, which lacks the output {quote_all(lacking)}.")
    return {side: store for side, store in stores.items() if side != "base"}


def _missing(stores: Mapping[str, Store]) -> list[str]:
    everywhere = set.intersection(*(set(store.names) for store in stores.values()))
    return list(dict.fromkeys(name for store in stores.values() for name in store.names if name not in everywhere))


def _broken_notes(
    stores: Mapping[str, Store], found: Mapping[str, Mapping[str, OutputParity]], against: Mapping[str, str]
) -> list[str]:
    """Why a difference has no number: NaN, infinity, or another shape. One sentence per side and output."""
    notes = []
    for side, outputs in found.items():
        reference = SIDES[against[side]]
        if broken := [name for name, one in outputs.items() if one.reference_nan or one.reference_inf]:
            notes.append(f"{_capital(reference)} itself gives NaN or infinity in {quote_all(broken)}.")
        for name, one in outputs.items():
            if (one.nan, one.inf) != (one.reference_nan, one.reference_inf):
                notes.append(
                    f"{_capital(SIDES[side])} gives {one.nan} NaN and {one.inf} infinite values in "
                    f"{quote(name)}; {reference} gives {one.reference_nan} and {one.reference_inf}."
                )
            pairs = zip(stores[side].shapes(name), stores[against[side]].shapes(name), strict=True)
            if differ := next((pair for pair in pairs if pair[0] != pair[1]), None):
                notes.append(
                    f"{_capital(SIDES[side])} gives {quote(name)} in shape {list(differ[0])}, {reference} in "
                    f"{list(differ[1])}: there is no difference to compute."
                )
    return list(dict.fromkeys(notes))


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _optimizer_notes(found: Mapping[str, Mapping[str, OutputParity]], measured: TaskMetric | None) -> list[str]:
    """What the runtime's graph optimiser does to a quantised graph, apart from the quantization itself."""
    if "head_unoptimized" not in found:
        return []
    changes = [
        f"relative L2 of {quote(name)} {plain.relative_l2:.3g} → {optimized.relative_l2:.3g}"
        for name, plain in found["head_unoptimized"].items()
        if (optimized := found["head"].get(name)) is not None
        and plain.relative_l2 is not None
        and optimized.relative_l2 is not None
        and abs(optimized.relative_l2 - plain.relative_l2) > max(0.5 * plain.relative_l2, _ROUNDING)
    ]
    if measured is not None and measured.head_unoptimized is not None:
        before, after = measured.head_unoptimized, measured.head.estimate
        if before != after:
            changes.append(f"{quote(measured.metric)} {before:.4g} → {after:.4g}")
    if not changes:
        return []
    return [f"Graph optimisation of the runtime changes head's results: {'; '.join(changes)} (optimisation off → on)."]
