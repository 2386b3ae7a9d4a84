"""Who rewrites the graph: the light toolchain of this room (ONNX Runtime's quantizer, own passes) or ModelOpt."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from trt_action.errors import SettingsError
from trt_action.precision import modelopt
from trt_action.precision.recipe import CALIBRATED, UNCHANGED, Recipe

RANGED = ("int8", "fp8")
"""Precisions with a range for every activation, which a calibration method chooses."""


def choose(recipe: Recipe, toolchain: str, python: Path | None) -> Recipe:
    """The recipe with the toolchain that the setting (`auto`, `onnxruntime`, `modelopt`) means for it.

    `auto` is ModelOpt where it is installed and is needed or makes a difference: for int8, fp8 and int4, unless the
    calibration method is one that it lacks. fp16 and bf16 come from this room's own cast pass: results are the same,
    and ModelOpt takes up to ten times as long (docs/precision.md).

    Args:
        python: interpreter of the environment that has ModelOpt; None: look where it is usually installed.

    Raises:
        BackendUnavailableError: ModelOpt is needed and is not there; says what to type.
        SettingsError: the toolchain that was named cannot do it.
    """
    if recipe.precision in UNCHANGED:
        return recipe
    only_modelopt, only_light = _beyond_light(recipe), _beyond_modelopt(recipe)
    if toolchain == "onnxruntime":
        if only_modelopt:
            raise SettingsError(
                f"`{only_modelopt}` cannot be made with `toolchain: onnxruntime`.",
                fix="Use `toolchain: auto`, with ModelOpt installed: " + f"`{modelopt.install_command()}`.",
            )
        return recipe
    if toolchain == "modelopt" and only_light:
        raise SettingsError(
            f"`{only_light}` cannot be made with `toolchain: modelopt`.",
            why="ModelOpt has no such method, and would take another one without a word.",
            fix=f"Use `calibration-method: {' or '.join(modelopt.METHODS)}`, or `toolchain: onnxruntime`.",
        )
    if toolchain == "auto" and (only_light or recipe.precision not in CALIBRATED):
        return recipe
    tool = modelopt.find(python)
    if tool is None and (toolchain == "modelopt" or only_modelopt):
        raise modelopt.required(f"`{only_modelopt or 'toolchain: modelopt'}`")
    return dataclasses.replace(recipe, modelopt=tool)


def _beyond_light(recipe: Recipe) -> str:
    if recipe.precision == "int4":
        return "precision: int4"
    entropy = recipe.precision in RANGED and recipe.calibration_method == "entropy"
    return "calibration-method: entropy" if entropy else ""


def _beyond_modelopt(recipe: Recipe) -> str:
    ranged = recipe.precision in RANGED and recipe.calibration_method not in modelopt.METHODS
    return f"calibration-method: {recipe.calibration_method}" if ranged else ""
