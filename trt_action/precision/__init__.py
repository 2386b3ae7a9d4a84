"""How does the graph get its precision, and did it? The ONNX graph is rewritten before any backend sees it."""

from __future__ import annotations

import importlib.util
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from trt_action import process
from trt_action.data import Dataset
from trt_action.errors import BackendUnavailableError, PrecisionError
from trt_action.evidence import AchievedPrecision
from trt_action.model import Model
from trt_action.precision.recipe import Recipe
from trt_action.process import Progress

__all__ = ["Prepared", "Recipe", "prepare"]

MADE = ("fp32", "fp16", "bf16", "int8")


@dataclass(frozen=True)
class Prepared:
    """An ONNX file in the asked precision, with inputs and outputs as the model declares them.

    `path` has all weights inside, or in `<name>.data` beside it above 1.5 GB. The same model, recipe and calibration
    data give the same bytes. `seconds` is wall time, the start of the child included.
    """

    path: Path
    proof: AchievedPrecision
    seconds: float


def prepare(
    model: Model,
    recipe: Recipe,
    calibration: Dataset | None,
    out_dir: Path,
    *,
    timeout: float | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """Rewrite a checked model into the asked precision, in a child process, and count what was achieved.

    Args:
        calibration: representative inputs; int8 needs them unless the model brings its own Q/DQ nodes.
        out_dir: an existing folder; receives `prepared.onnx`.
        timeout: seconds for everything.

    Raises:
        PrecisionError: the precision cannot be made, or nothing in the graph got it; also when the child dies.
        SettingsError: an excluded node or an operator type that does not exist; int8 without calibration data for a
            model that has no Q/DQ nodes.
        StorageError: `out_dir` cannot be written, or the disk is full.
        OutOfMemoryError: the child ran out of memory.
        BackendUnavailableError: int8 without onnxruntime installed.
    """
    if recipe.precision not in MADE:
        raise PrecisionError(
            f"The precision {recipe.precision} cannot be made yet.", fix=f"Choose one of {', '.join(MADE)}."
        )
    if recipe.precision == "int8" and importlib.util.find_spec("onnxruntime") is None:
        raise BackendUnavailableError(
            "int8 needs the package `onnxruntime`, whose quantiser it uses; it is not installed.",
            fix="Run `pip install 'trt-action[onnxruntime]'`.",
        )
    start = time.monotonic()
    saved = out_dir / "calibration.npz"
    try:
        if calibration is not None and recipe.precision == "int8":
            calibration.save(saved)
        answer = process.call(
            "trt_action.precision.worker:main",
            {
                "model": str(model.path.absolute()),
                "info": model.info.model_dump(),
                "recipe": asdict(recipe),
                "calibration": str(saved.absolute()) if saved.exists() else None,
                "out_dir": str(out_dir.absolute()),
            },
            timeout=timeout,
            progress=progress,
            died=PrecisionError,
            env={"PYTHONHASHSEED": "0"},  # the quantiser iterates over sets of names
        )
    finally:
        saved.unlink(missing_ok=True)
    proof = AchievedPrecision.model_validate(answer["proof"])
    return Prepared(Path(answer["path"]), proof, time.monotonic() - start)
