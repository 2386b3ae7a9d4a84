"""The child that prepares a model: a crash, a leak or an endless loop of a native library stays in here."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

from trt_action import data
from trt_action.errors import OutOfMemoryError, PrecisionError, StorageError, TrtActionError, UncalibratedError
from trt_action.evidence import ModelInfo
from trt_action.inputs import quote
from trt_action.precision import cast, large, modelopt, proof, quantize, runtime
from trt_action.precision import graph as graphs
from trt_action.precision.calibrate import Feeds
from trt_action.precision.recipe import CALIBRATED, UNCHANGED, Recipe, crossed
from trt_action.process import Channel

Tell = Callable[[str, float | None], None]

FILE = "prepared.onnx"
SOURCE, FEEDS = "source.onnx", "feeds"
_FULL_DISK_WORDS = ("serialization failed", "No space left")  # of ONNX Runtime, which raises no OSError
_MEMORY_WORDS = ("bad_alloc", "bad allocation", "Failed to allocate memory")


def main(channel: Channel) -> None:
    """Serve one request. `{step: "all", model, info, recipe, calibration, ranges, out_dir}` → `{path, proof}`.

    With ModelOpt in between it is two: `hand-over` (the same, and `scratch`) → what `modelopt.convert` needs, or
    `{quantized: true}` for a model with its own Q/DQ nodes; then `take-back` (the same, `made` and `names`) → `{path, proof}`.
    """
    request = channel.receive()
    if request is None:
        return
    step = "reading the model"

    def tell(text: str, share: float | None = None) -> None:
        nonlocal step
        step = text
        channel.progress(text, share)

    try:
        answer = _STEPS[request["step"]](request, tell)
    except (TrtActionError, MemoryError):
        raise
    except Exception as error:  # the boundary of the process: libraries raise bare classes
        raise foreign(error, step, request["recipe"]["precision"]) from error
    channel.send(answer)


def prepare(request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Read, rewrite, check, write and count."""
    recipe = crossed(request["recipe"])
    info = ModelInfo.model_validate(request["info"])
    tell("reading the model", None)
    model = graphs.read(Path(request["model"]))
    passed_over = _passed_over([node.name for node in model.graph.node], recipe)
    with tempfile.TemporaryDirectory(prefix="precision-", dir=request["out_dir"]) as scratch:
        model, notes = _rewrite(model, recipe, info, request, Path(scratch), tell)
    return _finish(model, recipe, info, passed_over + notes, request, tell)


def _passed_over(names: Sequence[str], recipe: Recipe) -> list[str]:
    return graphs.lacking(names, recipe.exclude_nodes) if recipe.lenient and recipe.precision not in UNCHANGED else []


def hand_over(request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """The model as ModelOpt gets it, calibration data as it reads them, and the names of excluded nodes."""
    recipe = crossed(request["recipe"])
    info = ModelInfo.model_validate(request["info"])
    scratch = Path(request["scratch"])
    tell("reading the model", None)
    model = graphs.read(Path(request["model"]))
    if recipe.precision in CALIBRATED and graphs.is_quantized(model):
        return {"quantized": True}
    if recipe.precision in CALIBRATED and request["calibration"] is None:
        raise uncalibrated(info.name, recipe.precision)
    excluded = graphs.matching(model.graph, recipe.exclude_nodes, lenient=recipe.lenient)
    rows: list[int] = []
    if recipe.precision in CALIBRATED:
        # ModelOpt passes over a word that it does not know.
        quantize.check_op_types(recipe, {schema.name for schema in onnx.defs.get_all_schemas()})
        tell("writing calibration data", None)
        rows = _write_feeds(request, info, recipe.calibration_samples, scratch / FEEDS)
    names = modelopt.hide_names(model.graph)
    graphs.write(model, scratch / SOURCE)
    return {
        "quantized": False,
        "names": names,
        "excluded": [modelopt.hidden(index) for index, name in enumerate(names) if name in excluded],
        "large": large.is_large(model),
        "feeds": {"feeds": str(scratch / FEEDS), "names": [tensor.name for tensor in info.inputs], "rows": rows},
    }


def take_back(request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """What ModelOpt has made, with inputs and outputs held against the source."""
    recipe = crossed(request["recipe"])
    info = ModelInfo.model_validate(request["info"])
    tell("reading what ModelOpt has made", None)
    model = graphs.read(Path(request["made"]))
    source = onnx.load(Path(request["scratch"]) / SOURCE, load_external_data=False)
    _same_interface(source.graph, model.graph)
    strange = _domains(model) - _domains(source) - set(graphs.STANDARD_DOMAINS)
    if strange:
        raise PrecisionError(
            f"ModelOpt wrote operators of the domain {quote(min(strange))}, which no other backend reads.",
            fix="Use `toolchain: onnxruntime`.",
        )
    for declared, wanted in ((model.graph.input, source.graph.input), (model.graph.output, source.graph.output)):
        del declared[:]
        declared.extend(wanted)
    for node in model.graph.node:
        node.name = modelopt.own_names(node.name, request["names"])
    graphs.name_nodes(model.graph)
    model, notes = _cast_rest(model, recipe)
    return _finish(model, recipe, info, _passed_over(request["names"], recipe) + notes, request, tell)


def _same_interface(source: onnx.GraphProto, made: onnx.GraphProto) -> None:
    for kind in ("input", "output"):
        had, has = (
            [(value.name, value.type.tensor_type.elem_type) for value in getattr(graph, kind)]
            for graph in (source, made)
        )
        if had != has:
            raise PrecisionError(
                f"ModelOpt changed the {kind}s of the model: {had[:4]} became {has[:4]}.",
                fix="Use `toolchain: onnxruntime`; please report it with the model.",
            )


def _domains(model: ModelProto) -> set[str]:
    return {node.domain for node in graphs.walk(model.graph)}


def _finish(
    model: ModelProto, recipe: Recipe, info: ModelInfo, notes: list[str], request: dict[str, Any], tell: Tell
) -> dict[str, Any]:
    tell("counting", None)
    shapes = {name: shape.opt for name, shape in info.shapes.items()}
    achieved = proof.count(model, recipe.precision, shapes, notes)
    proof.require(achieved, model, recipe.op_types, recipe.exclude_nodes)
    tell("checking the prepared model", None)
    path = Path(request["out_dir"]) / FILE
    graphs.write(model, path)
    domains = _domains(model)
    bf16 = "bf16" in (recipe.precision, recipe.high_precision if recipe.precision in CALIBRATED else "")
    del model  # ONNX Runtime is about to load a second copy of the weights
    _check(path, domains, recipe.precision, bf16)
    return {"path": str(path), "proof": achieved.model_dump()}


def _rewrite(
    model: ModelProto, recipe: Recipe, info: ModelInfo, request: dict[str, Any], scratch: Path, tell: Tell
) -> tuple[ModelProto, list[str]]:
    if recipe.precision in UNCHANGED:
        return model, []
    if recipe.precision in cast.HALF:
        tell(f"casting to {recipe.precision}", None)
        return _cast(
            model, recipe.precision, graphs.matching(model.graph, recipe.exclude_nodes, lenient=recipe.lenient)
        )
    if graphs.is_quantized(model):
        notes = ["The model came with its own Q/DQ nodes; they were kept as they are."]
    else:
        batches = calibration_batches(request, info, recipe, tell)
        ranges = Path(request["ranges"]) if request.get("ranges") else None
        model, notes = quantize.quantize(model, recipe, batches, scratch, lambda text: tell(text, None), ranges)
    model, more = _cast_rest(model, recipe)
    return model, notes + more


def _cast_rest(model: ModelProto, recipe: Recipe) -> tuple[ModelProto, list[str]]:
    """Around quantized nodes: as `high_precision` says."""
    if recipe.precision not in CALIBRATED or recipe.high_precision == "fp32":
        return model, []
    model = graphs.raise_opset(model, cast.QDQ_HALF_SCALE_OPSET, f"`high-precision: {recipe.high_precision}`")
    return _cast(model, recipe.high_precision, set())


def _cast(model: ModelProto, precision: str, keep: set[str]) -> tuple[ModelProto, list[str]]:
    model = graphs.raise_opset(model, cast.LEAST_OPSET[precision], precision)
    half = cast.HalfCast(model, precision, keep)
    half.run()
    return model, half.notes()


def calibration_batches(request: dict[str, Any], info: ModelInfo, recipe: Recipe, tell: Tell) -> Batches:
    """The calibration data as feeds.

    Raises:
        UncalibratedError: there are none.
    """
    if request["calibration"] is None:
        raise uncalibrated(info.name, recipe.precision)
    return Batches(data.load_saved(Path(request["calibration"])), info, recipe.calibration_samples, tell)


def _write_feeds(request: dict[str, Any], info: ModelInfo, samples: int, folder: Path) -> list[int]:
    """One `.npy` per inference and input, for another Python; how many samples each inference holds."""
    dataset = data.load_saved(Path(request["calibration"]))
    folder.mkdir()
    rows: list[int] = []
    for index, (feeds, count) in enumerate(data.batches(dataset, info)):
        if sum(rows) >= min(samples, dataset.n):
            break
        rows.append(count)
        for number, tensor in enumerate(info.inputs):
            np.save(folder / f"{index}.{number}.npy", feeds[tensor.name], allow_pickle=False)
    return rows


class Batches:
    """Feeds of the first `samples` samples at the measured shape, from the start at every call."""

    def __init__(self, dataset: data.Dataset, info: ModelInfo, samples: int, tell: Tell) -> None:
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


def uncalibrated(name: str, precision: str) -> UncalibratedError:
    """Without data, a quantizer would take made-up ranges silently."""
    return UncalibratedError(
        f"`precision: {precision}` without `calibration-data`, and the model {quote(name)} has no Q/DQ nodes of its own.",
        why="Ranges of activations come from representative inputs; made-up inputs give a model that is fast and wrong.",
        fix="Set `calibration-data` to an `.npz`, a folder of `.npy`, or `file.py:function` (about 128 samples), "
        "or choose `precision: fp16`. For a base: `base-precision: fp32` compares with the float model.",
    )


def _check(path: Path, domains: set[str], precision: str, bf16: bool) -> None:
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
    if bf16 or domains - set(graphs.STANDARD_DOMAINS) or importlib.util.find_spec("onnxruntime") is None:
        return
    runtime.session(path)


def foreign(error: Exception, step: str, precision: str) -> TrtActionError:
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


_STEPS = {"all": prepare, "hand-over": hand_over, "take-back": take_back}
