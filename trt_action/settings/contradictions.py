"""Settings that are right one by one and wrong together. An error only where the run could not mean anything; a
setting that has no effect is a note, because one config file serves several precisions and laptops without a base.
"""

from __future__ import annotations

from collections.abc import Iterator

from trt_action.errors import SettingsError
from trt_action.settings import endpoints
from trt_action.settings.fields import METRICS
from trt_action.settings.llm_options import ENDPOINT
from trt_action.settings.schema import Settings
from trt_action.settings.units import percent_text
from trt_action.settings.values import VALUES

_FLOAT32 = {"fp32", "tf32"}
TENSORRT = (
    "workspace",
    "optimization-level",
    "tiling",
    "aux-streams",
    "timing-iterations",
    "timing-cache",
    "version-compatible",
    "hardware-compatibility",
    "weight-streaming",
    "compute-capabilities",
)
"""Settings of TensorRT's backends. In a config file they may wait for the backend that the command line names."""

_CALIBRATED = {"int8", "fp8", "int4", "auto"}


def check(settings: Settings) -> tuple[str, ...]:
    """Notes about settings without effect.

    Raises:
        SettingsError: a contradiction; names both keys and the fix.
    """
    endpoints.check(settings)
    _check_comparison(settings)
    _check_quantized(settings)
    _check_search(settings)
    _check_accuracy(settings)
    _check_tensorrt(settings)
    _check_mlflow(settings)
    return tuple(_notes(settings))


def _check_mlflow(s: Settings) -> None:
    if s.mlflow_alias is not None and s.mlflow_model is None:
        raise SettingsError(
            f"`mlflow-alias: {s.mlflow_alias}` belongs to a version of a registered model, and `mlflow-model` names none.",
            fix="Set `mlflow-model`, e.g. `mlflow-model: detector`.",
        )


def _check_comparison(s: Settings) -> None:
    if s.tolerance <= s.margin:
        raise SettingsError(
            f"`tolerance: {percent_text(s.tolerance)}` is not above `margin: {percent_text(s.margin)}`.",
            why="A change is called one above the margin and is called none below the tolerance: with these two, "
            "the same change would be both.",
            fix=f"Set `tolerance` to at least twice the margin, e.g. `tolerance: {percent_text(min(max(4 * s.margin, 0.02), 1.0))}`.",
        )


def _check_quantized(s: Settings) -> None:
    if s.precision in {"int8", "fp8"} and not s.op_types:
        raise SettingsError(
            f"`precision: {s.precision}` with an empty `op-types`: nothing would be quantized.",
            fix="Leave `op-types` out, or name operators, e.g. `op-types: [Conv, MatMul, Gemm]`.",
        )


def _check_search(s: Settings) -> None:
    """A search judges every candidate on the CPU, which has no bfloat16."""
    searched = s.keep_accuracy or s.precision == "auto"
    if searched and (s.precision == "bf16" or s.high_precision == "bf16"):
        key = "precision" if s.precision == "bf16" else "high-precision"
        raise SettingsError(
            f"`{key}: bf16` cannot be searched (`{'precision: auto' if s.precision == 'auto' else 'keep-accuracy'}`).",
            why="Every candidate is judged by ONNX Runtime on the CPU, which does not compute in bfloat16.",
            fix="Use fp16 instead, or name the nodes yourself with `exclude-nodes`.",
        )


def _check_accuracy(s: Settings) -> None:
    if s.metric not in METRICS:
        return
    if s.min_accuracy is not None and s.min_accuracy.value > 1:
        raise SettingsError(
            f"`min-accuracy: {s.min_accuracy}` is above 1, and `{s.metric}` is a share.",
            fix=f"Write `min-accuracy: {s.min_accuracy}%` if percent was meant."
            if s.min_accuracy.value <= 100
            else "Write for example `min-accuracy: 97%`.",
        )
    if s.max_accuracy_drop is not None and s.max_accuracy_drop.kind == "unit":
        raise SettingsError(
            f"`max-accuracy-drop: {s.max_accuracy_drop}` has no unit.",
            why=f"For `{s.metric}` it could mean points in percent or a fraction.",
            fix=f"Write `{s.max_accuracy_drop}%` for points, or `{s.max_accuracy_drop}% relative`.",
        )


def _check_tensorrt(s: Settings) -> None:
    if s.backend not in {"tensorrt", "tensorrt-rtx"}:
        return
    if s.device == "cpu":
        raise SettingsError(
            f"`backend: {s.backend}` with `device: cpu`: TensorRT runs on NVIDIA GPUs only.",
            fix="Use `backend: onnxruntime` on the CPU, or leave `device` out.",
        )
    if s.backend == "tensorrt" and s.compute_capabilities:
        raise SettingsError(
            "`compute-capabilities` with `backend: tensorrt`: TensorRT builds for the GPU that is there.",
            fix="Use `backend: tensorrt-rtx` to build for other GPUs, or `hardware-compatibility`, or build on each of them.",
        )
    if s.backend == "tensorrt-rtx" and s.version_compatible != "none":
        raise SettingsError(
            "`version-compatible` with `backend: tensorrt-rtx`: it has no lean runtime.",
            fix="Leave it out; an engine of TensorRT for RTX runs with the version that built it.",
        )


def _notes(s: Settings) -> Iterator[str]:
    yield from endpoints.notes(s)
    if s.backend == ENDPOINT:
        return
    yield from _data_notes(s)
    if s.base == "none" and s.max_latency_regression is not None:
        yield "`max-latency-regression` is not checked: `base` is `none`."
    if s.base == "none" and s.base_precision is not None:
        yield "`base-precision` has no effect: `base` is `none`."
    if s.precision in _FLOAT32:
        for key, given in (("exclude-nodes", s.exclude_nodes), ("keep-accuracy", s.keep_accuracy)):
            if given:
                yield f"`{key}` has no effect: `precision` is `{s.precision}`."
    if s.backend == "onnxruntime" and (unused := [key for key in TENSORRT if s.sources[key] in {"env", "cli"}]):
        yield f"`{unused[0]}` has no effect: `backend` is `onnxruntime`."
    if s.cuda_graph and s.device == "cpu":
        yield "`cuda-graph` has no effect: `device` is `cpu`."
    named = [one for one in (s.shapes or {}).values() if not (isinstance(one, dict) and VALUES in one)]
    if named and s.sources["batch-size"] != "default":
        yield "`batch-size` has no effect on inputs that `shapes` names."


def _data_notes(s: Settings) -> Iterator[str]:
    if not s.validation_data:
        for key, rule in (("min-accuracy", s.min_accuracy), ("max-accuracy-drop", s.max_accuracy_drop)):
            if rule is not None:
                yield f"`{key}` is not checked: there is no `validation-data` with labels."
    elif s.validation_data == s.calibration_data:
        yield (
            "`validation-data` and `calibration-data` are the same: accuracy on the samples that calibrated the model "
            "is flattering."
        )
    if s.calibration_data and not {s.precision, s.base_precision} & _CALIBRATED:
        yield f"`calibration-data` calibrates nothing: `precision` is `{s.precision}`."
