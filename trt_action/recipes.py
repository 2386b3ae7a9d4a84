"""Which recipe is each side built with? As the settings say; where they leave it open, head's is searched, and a base
takes head's."""

from __future__ import annotations

import dataclasses
from typing import Any

from trt_action import data, engine, precision
from trt_action import search as searching
from trt_action.draft import Draft, Work
from trt_action.engine.backend import RuntimeOptions
from trt_action.evidence import Precision
from trt_action.model import Model
from trt_action.precision.recipe import Rest
from trt_action.process import Progress
from trt_action.search import wanted
from trt_action.settings import Settings

__all__ = ["of_base", "recipe", "search", "wanted"]


def recipe(s: Settings, **changes: Any) -> precision.Recipe:
    """The recipe that settings ask for, with the toolchain found.

    Raises:
        BackendUnavailableError: it needs ModelOpt, which is not there.
        SettingsError: the toolchain that was named cannot do it.
    """
    asked = precision.Recipe(
        precision=s.precision,  # type: ignore[arg-type]
        calibration_method=s.calibration_method,
        calibration_samples=s.calibration_samples,
        op_types=s.op_types,
        exclude_nodes=s.exclude_nodes,
        high_precision=_rest(s),
    )
    return precision.choose(dataclasses.replace(asked, **changes), s.toolchain, s.modelopt_python)


def _rest(s: Settings) -> Rest:
    if s.high_precision != "auto":
        return s.high_precision
    on_cpu = s.backend == "onnxruntime" and engine.resolve_device(s.backend, s.device) == "cpu"
    return "fp32" if on_cpu else "fp16"


def search(
    draft: Draft,
    work: Work,
    head: Model,
    calibration: data.Dataset | None,
    validation: data.Dataset | None,
    progress: Progress,
    *,
    options: RuntimeOptions,
    synthetic: data.Dataset,
) -> Work:
    """The work with the recipe that was found in its settings; how it was found goes to the draft."""
    s = work.settings

    def recipe_of(name: Precision) -> precision.Recipe:
        engine.backend(s.backend).check_precision(name, dataclasses.replace(options, tf32=name == "tf32"))
        return recipe(s, precision=name)

    found = searching.search(
        head,
        s,
        recipe_of,
        device=options.device,
        calibration=calibration,
        validation=validation,
        synthetic=synthetic,
        base_dir=work.cwd,
        work_dir=work.folder / "search",
        progress=progress,
    )
    draft.search = found.record
    draft.warnings += found.record.notes
    chosen = s.model_copy(update={"precision": found.precision, "exclude_nodes": found.exclude_nodes})
    return dataclasses.replace(work, settings=chosen)


def of_base(draft: Draft, work: Work, own: Settings) -> tuple[Settings, bool]:
    """Settings of a base, and whether names of nodes that it lacks are passed over: those that were found or written for
    head. A base is never searched: one whose settings ask for it is built with head's recipe, so that both sides differ
    by their models alone."""
    head = draft.built["head"].record
    if work.settings.base_precision is not None or not wanted(own) or own.precision not in ("auto", head.precision):
        return own, own.exclude_nodes == work.settings.exclude_nodes
    if head.search is None:
        draft.warnings.append("The base's settings ask for a search; it is built with head's recipe instead.")
    kept = tuple(head.recipe.get("exclude_nodes", ()))
    return own.model_copy(update={"precision": head.precision, "exclude_nodes": kept}), True
