"""Which recipe holds the accuracy gates? The first precision of a backend's list, and the fewest layers kept above it.

Calibration data rank the layers (`precision/sensitivity.py`), validation data decide: every candidate is the graph that the
toolchain really makes, run on the CPU without graph optimisation and judged by the gates that judge the run, against the
FP32 reference. Nothing depends on chance, and on the clock only where the time limit ends it.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from trt_action import accuracy, engine
from trt_action.data import Dataset
from trt_action.errors import BackendUnavailableError, PrecisionError, StorageError, UncalibratedError
from trt_action.evidence import Precision
from trt_action.inputs import quote
from trt_action.model import Model
from trt_action.precision import Recipe
from trt_action.process import Progress
from trt_action.search.hunt import Hunt, Outcome
from trt_action.search_records import Search
from trt_action.settings import Settings

__all__ = ["Found", "search", "wanted"]

_ON_CPU: tuple[Precision, ...] = ("int8", "fp32")
_ON_CUDA: tuple[Precision, ...] = ("fp16", "fp32")
_ON_TENSORRT: tuple[Precision, ...] = ("int8", "fp16", "fp32")
"""Candidates of `precision: auto`, in the order of what is known to be fast there; nothing is timed. A CPU computes fp16
in float32, and ONNX Runtime's CUDA provider has no int8 kernels worth the name: neither gains anything there."""


@dataclass(frozen=True)
class Found:
    """The recipe to build, and how it was found."""

    precision: Precision
    exclude_nodes: tuple[str, ...]
    record: Search


def wanted(s: Settings) -> bool:
    """Do the settings leave something to be found?"""
    return s.precision == "auto" or (s.keep_accuracy and s.precision not in ("fp32", "tf32"))


def candidates(backend: str, device: str) -> tuple[Precision, ...]:
    """What `auto` tries, in this order."""
    if backend != "onnxruntime":
        return _ON_TENSORRT
    return _ON_CPU if device == "cpu" else _ON_CUDA


def search(
    model: Model,
    s: Settings,
    recipe_of: Callable[[Precision], Recipe],
    *,
    device: str,
    calibration: Dataset | None,
    validation: Dataset | None,
    synthetic: Dataset,
    base_dir: Path,
    work_dir: Path,
    progress: Progress,
) -> Found:
    """The recipe for head that holds the accuracy gates.

    Args:
        recipe_of: the recipe of a precision as the settings ask for it; raises what stands against it.
        device: `cpu` or `cuda:N`, where head will run.
        calibration: ranks layers and calibrates candidates.
        validation: decides. Without it calibration data decide, or `synthetic`; a note says so.
        work_dir: receives the candidates while they are judged.

    Raises:
        BackendUnavailableError, PrecisionError: the named precision cannot be made; `auto` passes over it.
        TrtActionError: what preparing or judging met.
    """
    decides = validation or calibration or synthetic
    with _folder(work_dir) as folder:
        progress("reference", None)
        with accuracy.Trials(
            engine.reference(model),
            model.info,
            decides,
            metric=s.effective()["metric"],
            metric_timeout=s.metric_timeout,
            base_dir=base_dir,
            work_dir=folder,
            seed=s.seed,
        ) as trials:
            hunt = Hunt(model, s, calibration, calibration or synthetic, trials, folder, progress)
            hunt.notes += _data_notes(calibration, validation)
            if s.precision == "auto":
                outcome = _first_that_holds(hunt, candidates(s.backend, device), recipe_of)
            else:
                outcome = hunt.attempt(recipe_of(s.precision))
            record = hunt.record(outcome, decides)
    return Found(record.precision, tuple(record.exclude_nodes), record)


def _first_that_holds(hunt: Hunt, names: tuple[Precision, ...], recipe_of: Callable[[Precision], Recipe]) -> Outcome:
    """The first candidate that holds, with layers kept where needed; the last one if none does."""
    outcome: Outcome | None = None
    for name in names:
        try:
            outcome = hunt.attempt(recipe_of(name))
        except UncalibratedError:
            hunt.notes.append(f"{name} was not tried: there is no `calibration-data`.")
            continue
        except (BackendUnavailableError, PrecisionError) as error:
            hunt.notes.append(f"{name} was passed over: {error.what}")
            continue
        if outcome.holds:
            return outcome
    if outcome is None:
        raise PrecisionError("`precision: auto` could try no precision.", why=" ".join(hunt.notes))
    return outcome


def _data_notes(calibration: Dataset | None, validation: Dataset | None) -> list[str]:
    """What makes the decision less honest than it looks."""
    if validation is None:
        kind = "the calibration data, which also ranked the layers" if calibration else "synthetic data"
        return [f"The search decided on {kind}: `validation-data` (held out, labelled) would make it a promise."]
    if calibration is None:
        return []
    shared = len(_samples(calibration) & _samples(validation))
    if not shared:
        return []
    return [f"{shared} calibration samples are in the validation data too: what the search decided is flattering."]


def _samples(dataset: Dataset) -> set[bytes]:
    arrays = [dataset.inputs[name] for name in sorted(dataset.inputs)]
    found = set()
    for index in range(dataset.n):
        digest = hashlib.blake2b(digest_size=16)
        for array in arrays:
            digest.update(array[index].tobytes())
        found.add(digest.digest())
    return found


@contextlib.contextmanager
def _folder(work_dir: Path) -> Iterator[Path]:
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix="search-", dir=work_dir, ignore_cleanup_errors=True)
    except OSError as error:
        raise StorageError(
            f"No folder for candidates can be made in {quote(work_dir)}: {error.strerror or error}.",
            fix="Check permissions and free space (`df -h`), or point TMPDIR to another disk.",
        ) from None
    with folder as name:
        yield Path(name)
