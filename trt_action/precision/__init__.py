"""How does the graph get its precision, and did it? The ONNX graph is rewritten before any backend sees it."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trt_action import process
from trt_action.data import Dataset
from trt_action.errors import BackendUnavailableError, PrecisionError, StorageError
from trt_action.evidence import AchievedPrecision
from trt_action.inputs import quote
from trt_action.model import Model
from trt_action.precision import modelopt
from trt_action.precision.modelopt import ModelOpt
from trt_action.precision.recipe import CALIBRATED, UNCHANGED, Recipe
from trt_action.precision.toolchain import choose
from trt_action.process import Progress

__all__ = ["CALIBRATED", "UNCHANGED", "Prepared", "Recipe", "SensitiveLayer", "choose", "prepare", "rank"]

MADE = "made.onnx"
LONGEST_NAME = 1_000


@dataclass(frozen=True)
class Prepared:
    """An ONNX file in the asked precision, with inputs and outputs as the model declares them.

    `path` has all weights inside, or in `<name>.data` beside it above 1.5 GB. The same model, recipe and calibration
    data give the same bytes. `seconds` is wall time, the start of the children included.
    """

    path: Path
    proof: AchievedPrecision
    seconds: float


@dataclass(frozen=True)
class SensitiveLayer:
    """A layer that can stay in higher precision. `exclude`: its names for `exclude-nodes`. `error`: relative L2 error of
    the outputs when it alone is rounded; None if they were not finite, or if it was not `measured` for lack of time."""

    name: str
    exclude: tuple[str, ...]
    error: float | None
    measured: bool

    @property
    def can_be_named(self) -> bool:
        """Does the setting `exclude-nodes` take its names?"""
        return all(name.isprintable() and 0 < len(name) <= LONGEST_NAME for name in self.exclude)


def prepare(
    model: Model,
    recipe: Recipe,
    calibration: Dataset | None,
    out_dir: Path,
    *,
    timeout: float | None = None,
    progress: Progress | None = None,
    ranges: Path | None = None,
) -> Prepared:
    """Rewrite a checked model into the asked precision, in a child process, and count what was achieved.

    Args:
        calibration: representative inputs; int8, fp8 and int4 need them unless the model brings its own Q/DQ nodes.
        out_dir: an existing folder; receives `prepared.onnx`.
        timeout: seconds for everything.
        ranges: a file that the light toolchain keeps ranges of activations in, so that several recipes of one model,
            calibration data, method and number of samples calibrate once. Results are the same without it.

    Raises:
        PrecisionError: the precision cannot be made, or nothing in the graph got it; also when the child dies.
        SettingsError: an excluded node or an operator type that does not exist.
        UncalibratedError: int8, fp8 or int4 without calibration data for a model that has no Q/DQ nodes.
        StorageError: `out_dir` cannot be written, or the disk is full.
        OutOfMemoryError: the child ran out of memory.
        BackendUnavailableError: int8 or fp8 of the light toolchain without onnxruntime installed.
    """
    if recipe.precision in CALIBRATED and importlib.util.find_spec("onnxruntime") is None:
        raise BackendUnavailableError(
            f"{recipe.precision} needs the package `onnxruntime`, whose quantizer it uses; it is not installed.",
            fix="Run `pip install 'trt-action[onnxruntime]'`.",
        )
    start = time.monotonic()
    steps = _Steps(timeout, start, progress)
    saved = out_dir / "calibration.npz"
    request: dict[str, Any] = {
        "model": str(model.path.absolute()),
        "info": model.info.model_dump(),
        "recipe": recipe.crossing(),
        "calibration": None,
        "ranges": str(ranges.absolute()) if ranges is not None else None,
        "out_dir": str(out_dir.absolute()),
    }
    try:
        if calibration is not None and recipe.precision in CALIBRATED:
            calibration.save(saved)
            request["calibration"] = str(saved.absolute())
        answer = (
            steps.here("all", request) if recipe.modelopt is None else _with(recipe.modelopt, recipe, request, steps)
        )
    finally:
        saved.unlink(missing_ok=True)
    proof = AchievedPrecision.model_validate(answer["proof"])
    return Prepared(Path(answer["path"]), proof, time.monotonic() - start)


def rank(
    model: Model,
    recipe: Recipe,
    samples: Dataset,
    work_dir: Path,
    *,
    seconds: float,
    ranges: Path,
    progress: Progress | None = None,
) -> tuple[SensitiveLayer, ...]:
    """The layers that the recipe changes, most sensitive first; a model with its own Q/DQ nodes has none.

    Args:
        samples: representative inputs; int8 and fp8 are calibrated with them too.
        seconds: after so many, the layers that are left are not measured.
        ranges: as in `prepare`.

    Raises:
        PrecisionError, SettingsError, OutOfMemoryError: as `prepare`.
    """
    saved = work_dir / "ranking.npz"
    samples.save(saved)
    try:
        answer = process.call(
            "trt_action.precision.sensitivity:main",
            {
                "model": str(model.path.absolute()),
                "info": model.info.model_dump(),
                "recipe": recipe.crossing(),
                "calibration": str(saved.absolute()),
                "ranges": str(ranges.absolute()),
                "out_dir": str(work_dir.absolute()),
                "results": recipe.precision == "int8" and recipe.modelopt is None,
                "seconds": seconds,
            },
            timeout=2 * seconds,
            progress=progress,
            died=PrecisionError,
            env={"PYTHONHASHSEED": "0"},
        )
    finally:
        saved.unlink(missing_ok=True)
    return tuple(
        SensitiveLayer(one["name"], tuple(one["exclude"]), one["error"], one["measured"]) for one in answer["layers"]
    )


@dataclass(frozen=True)
class _Steps:
    """Children one after the other, with one time limit for all."""

    timeout: float | None
    start: float
    progress: Progress | None

    def left(self) -> float | None:
        return None if self.timeout is None else max(0.01, self.timeout - (time.monotonic() - self.start))

    def here(self, step: str, request: dict[str, Any]) -> dict[str, Any]:
        return process.call(
            "trt_action.precision.worker:main",
            {**request, "step": step},
            timeout=self.left(),
            progress=self.progress,
            died=PrecisionError,
            env={"PYTHONHASHSEED": "0"},  # the quantizer iterates over sets of names
        )


def _with(tool: ModelOpt, recipe: Recipe, request: dict[str, Any], steps: _Steps) -> dict[str, Any]:
    """The model goes to ModelOpt as this room reads it, and what comes back is counted like everything else."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="modelopt-", dir=request["out_dir"], ignore_cleanup_errors=True)
    except OSError as error:
        raise StorageError(
            f"No folder can be made in {quote(request['out_dir'])}: {error.strerror or error}.",
            fix="Check permissions and free space of the work folder; `TMPDIR` chooses another one.",
        ) from None
    with folder as name:
        scratch = Path(name)
        request = {**request, "scratch": name, "made": str(scratch / MADE)}
        handed = steps.here("hand-over", request)
        if handed["quantized"]:
            return steps.here("all", request)
        method = recipe.method if recipe.precision == "int4" else modelopt.METHODS.get(recipe.method, "max")
        modelopt.convert(
            tool,
            recipe.precision,
            source=scratch / "source.onnx",
            target=scratch / MADE,
            scratch=scratch,
            names=handed["names"],
            excluded=handed["excluded"],
            op_types=recipe.op_types,
            method=method,
            feeds=handed["feeds"],
            large=handed["large"],
            timeout=steps.left(),
            progress=steps.progress,
        )
        return steps.here("take-back", {**request, "names": handed["names"]})
