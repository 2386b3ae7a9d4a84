"""The child that prepares a model: a crash, a leak or an endless loop of a native library stays in here."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto

from trt_action import data
from trt_action.errors import OutOfMemoryError, PrecisionError, SettingsError, StorageError, TrtActionError
from trt_action.evidence import AchievedPrecision, ModelInfo
from trt_action.inputs import quote
from trt_action.precision import cast, proof, quantize, runtime
from trt_action.precision import graph as graphs
from trt_action.precision.calibrate import Feeds
from trt_action.precision.recipe import Recipe
from trt_action.process import Channel

FILE = "prepared.onnx"
_FULL_DISK_WORDS = ("serialization failed", "No space left")  # of ONNX Runtime, which raises no OSError
_MEMORY_WORDS = ("bad_alloc", "bad allocation", "Failed to allocate memory")


def main(channel: Channel) -> None:
    """Serve one request: `{model, info, recipe, calibration, out_dir}` → `{path, proof}`."""
    request = channel.receive()
    if request is None:
        return
    step = "reading the model"

    def tell(text: str, share: float | None = None) -> None:
        nonlocal step
        step = text
        channel.progress(text, share)

    try:
        path, achieved = prepare(request, tell)
    except (TrtActionError, MemoryError):
        raise
    except Exception as error:  # the boundary of the process: libraries raise bare classes
        raise _foreign(error, step, request["recipe"]["precision"]) from error
    channel.send({"path": str(path), "proof": achieved.model_dump()})


def prepare(request: dict[str, Any], tell: Callable[[str, float | None], None]) -> tuple[Path, AchievedPrecision]:
    """Read, rewrite, check, write and count."""
    fields = dict(request["recipe"])
    recipe = Recipe(
        **{**fields, "op_types": tuple(fields["op_types"]), "exclude_nodes": tuple(fields["exclude_nodes"])}
    )
    info = ModelInfo.model_validate(request["info"])
    tell("reading the model", None)
    model = graphs.read(Path(request["model"]))
    with tempfile.TemporaryDirectory(prefix="precision-", dir=request["out_dir"]) as scratch:
        model, notes = _rewrite(model, recipe, info, request["calibration"], Path(scratch), tell)
    tell("counting", None)
    shapes = {name: shape.opt for name, shape in info.shapes.items()}
    achieved = proof.count(model, recipe.precision, shapes, notes)
    proof.require(achieved, model, recipe.op_types, recipe.exclude_nodes)
    tell("checking the prepared model", None)
    path = Path(request["out_dir"]) / FILE
    graphs.write(model, path)
    domains = {node.domain for node in graphs.walk(model.graph)}
    del model  # ONNX Runtime is about to load a second copy of the weights
    _check(path, domains, recipe.precision)
    return path, achieved


def _rewrite(
    model: ModelProto,
    recipe: Recipe,
    info: ModelInfo,
    calibration: str | None,
    scratch: Path,
    tell: Callable[[str, float | None], None],
) -> tuple[ModelProto, list[str]]:
    if recipe.precision == "fp32":
        return model, []
    if recipe.precision in cast.HALF:
        tell(f"casting to {recipe.precision}", None)
        model = graphs.raise_opset(model, cast.LEAST_OPSET[recipe.precision], recipe.precision)
        half = cast.HalfCast(model, recipe.precision, graphs.matching(model.graph, recipe.exclude_nodes))
        half.run()
        return model, half.notes()
    if graphs.is_quantized(model):
        return model, ["The model came with its own Q/DQ nodes; they were kept as they are."]
    if calibration is None:
        raise uncalibrated(info.name)
    batches = _Batches(data.load_saved(Path(calibration)), info, recipe.calibration_samples, tell)
    return quantize.quantize(model, recipe, batches, scratch, lambda text: tell(text, None))


class _Batches:
    """Feeds of the first `samples` samples at the measured shape, from the start at every call."""

    def __init__(
        self, dataset: data.Dataset, info: ModelInfo, samples: int, tell: Callable[[str, float | None], None]
    ) -> None:
        self._dataset, self._info, self._tell = dataset, info, tell
        self._samples = min(samples, dataset.n)

    def __call__(self) -> Iterator[Feeds]:
        done = 0
        for feeds, count in data.batches(self._dataset, self._info):
            if done >= self._samples:
                return
            yield feeds
            done += count
            self._tell(f"calibrating, {min(done, self._samples)} of {self._samples} samples", done / self._samples)


def uncalibrated(name: str) -> SettingsError:
    """int8 without data would take made-up ranges silently."""
    return SettingsError(
        f"`precision: int8` without `calibration-data`, and the model {quote(name)} has no Q/DQ nodes of its own.",
        why="Ranges of activations come from representative inputs; made-up inputs give a model that is fast and wrong.",
        fix="Set `calibration-data` to an `.npz`, a folder of `.npy`, or `file.py:function` (about 128 samples), "
        "or choose `precision: fp16`. For a base: `base-precision: fp32` compares with the float model.",
    )


def _check(path: Path, domains: set[str], precision: str) -> None:
    """The written file is valid ONNX, and ONNX Runtime accepts its types (not asked for bf16, which its CPU lacks,
    nor for operators of domains that it may not know)."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise PrecisionError(
            f"The model prepared as {precision} is not valid ONNX.",
            why=" ".join(str(error).split())[:800],
            fix="Name the node in `exclude-nodes`, or choose another precision; please report it with the model.",
        ) from None
    foreign = domains - set(graphs.STANDARD_DOMAINS)
    if precision == "bf16" or foreign or importlib.util.find_spec("onnxruntime") is None:
        return
    runtime.session(path)


def _foreign(error: Exception, step: str, precision: str) -> TrtActionError:
    text = " ".join(str(error).split())[:800]
    if isinstance(error, OSError) or any(word in text for word in _FULL_DISK_WORDS):
        return StorageError(
            f"Files of the model prepared as {precision} cannot be read or written: {text}.",
            why=f"It happened while {step}.",
            fix="Check permissions and free space (`df -h`) of the work folder; `TMPDIR` chooses another one.",
        )
    if any(word in text for word in _MEMORY_WORDS):
        return OutOfMemoryError(f"Preparing the model as {precision} ran out of memory while {step}.", why=text)
    return PrecisionError(
        f"Preparing the model as {precision} failed while {step}.",
        why=f"{type(error).__name__}: {text}",
        fix="If a node is named there, put it into `exclude-nodes`; else choose another precision.",
    )
