"""The stages of a run: what is known so far goes in, what was found out goes into the draft or comes back."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import trt_action.model as models
from trt_action import (
    accuracy,
    data,
    engine,
    errors,
    layers,
    measure,
    pair,
    precision,
    recipes,
    user_code,
    watching,
)
from trt_action.draft import Draft, Work
from trt_action.engine import devices, kept, nvml
from trt_action.engine.backend import Loadable, RuntimeOptions
from trt_action.engine.tensorrt_options import TensorRTOptions
from trt_action.evidence import Accuracy, Comparison, Fingerprint, ShapeRange, Side, TensorInfo
from trt_action.inputs import quote_all
from trt_action.model import base as bases
from trt_action.process import Progress
from trt_action.settings import Settings

MAX_SYNTHETIC = 64
"""Samples of seeded synthetic data for parity where the user gave none."""

LAYER_SECONDS = 1.0
"""Of inferences under the profiler, per side."""


def fingerprint(draft: Draft, work: Work, *, measures: bool) -> Fingerprint:
    """Who measures, and whether this host is quiet. What it cannot build or measure is refused before any work."""
    backend, options = _of_head(work.settings)
    engine.backend(backend).check_host(options, measures=measures)
    found = engine.fingerprint(backend, options)
    draft.warnings += engine.warnings(found)
    if measures:
        watching.begin(draft, options)
    return found


def load_data(
    draft: Draft, work: Work, head: models.Model, progress: Progress
) -> tuple[data.Dataset | None, data.Dataset | None]:
    s = work.settings
    common: dict[str, Any] = {"timeout": s.metric_timeout, "base_dir": work.cwd}
    calibration = validation = None
    if s.calibration_data:
        progress("calibration data", None)
        calibration = data.load(
            s.calibration_data,
            head.info,
            origin="calibration",
            need_labels=False,
            limit=s.calibration_samples,
            **common,
        )
    if s.validation_data:
        progress("validation data", None)
        validation = data.load(
            s.validation_data, head.info, origin="validation", need_labels=False, limit=None, **common
        )
        if validation.labels is not None and user_code.is_spec(s.metric):
            user_code.locate(s.metric, work.cwd)  # now, not after everything else has been measured
    for dataset in (calibration, validation):
        draft.warnings += dataset.notes if dataset else ()
    return calibration, validation


def find_recipe(
    draft: Draft,
    work: Work,
    head: models.Model,
    calibration: data.Dataset | None,
    validation: data.Dataset | None,
    progress: Progress,
) -> Work:
    """The work with head's recipe found, where the settings leave it open."""
    s = work.settings
    synthetic = data.synthetic(head.info, MAX_SYNTHETIC, s.seed)
    return recipes.search(
        draft, work, head, calibration, validation, progress, options=_options(s), synthetic=synthetic
    )


def build(
    draft: Draft,
    work: Work,
    role: str,
    model: models.Model,
    s: Settings,
    calibration: data.Dataset | None,
    base: bases.Base | None,
    progress: Progress,
    *,
    lenient: bool = False,
) -> Side:
    if kept.is_kept(model.path):
        built = kept.load(model.path)[0]  # as it was built, loaded with the threads that are asked for now
        loadable = dataclasses.replace(built.loadable, options=_of_kept(s, built.loadable))
        built = dataclasses.replace(built, loadable=loadable)
    else:
        built = _obtain(work, role, model, s, calibration, progress, lenient)
        if role == "head":
            record = built.record.model_copy(update={"search": draft.search})
            built = dataclasses.replace(built, record=record)
    draft.built[role] = built
    draft.warnings += (f"{role}: {note}" for note in built.notes)
    return Side(
        label=(base.label if base else pair.label_of(s.model_file, work.cwd))[:1_000],
        commit=base.commit if base else draft.source.commit,
        model=model.info,
        engine=built.record,
    )


def _obtain(
    work: Work,
    role: str,
    model: models.Model,
    s: Settings,
    calibration: data.Dataset | None,
    progress: Progress,
    lenient: bool,
) -> engine.BuiltEngine:
    return engine.obtain(
        model,
        recipes.recipe(s, lenient=lenient),
        calibration if s.precision in precision.CALIBRATED else None,
        backend=s.backend,
        options=_options(s),
        cache=work.cache,
        work_dir=work.folder / role,
        timeout=s.build_timeout,
        progress=progress,
    )


def build_base(
    draft: Draft, work: Work, base: pair.BaseModel, calibration: data.Dataset | None, progress: Progress
) -> Side | None:
    try:
        own, lenient = recipes.of_base(draft, work, base.settings)
        return build(draft, work, "base", base.model, own, calibration, base.where, progress, lenient=lenient)
    except errors.TrtActionError as error:
        pair.go_on_without_base(draft, work.settings, error)
        return None


def save_feeds(draft: Draft, work: Work, dataset: data.Dataset | None) -> dict[str, Path]:
    """One batch per side at the measured shape; both sides get the same values where their inputs agree."""
    feeds = {}
    for role, side in (("head", draft.head), ("base", draft.base)):
        if side:
            feeds[role] = work.folder / f"{role}-feeds.npz"
            data.save_feeds(data.example_feeds(side.model, work.settings.seed, dataset), feeds[role])
    return feeds


def compare(draft: Draft, work: Work, feeds: Mapping[str, Path], progress: Progress) -> Comparison:
    s = work.settings
    head, base = (draft.built[role].loadable for role in ("head", "base"))
    plan = measure.Plan(
        max_seconds=s.max_seconds,
        margin=s.margin,
        tolerance=s.tolerance,
        limit=s.max_latency_regression,
        confidence=s.confidence,
        seed=s.seed,
        free_loading=0.0 if head.options.gpu is None else measure.FREE_LOADING * s.max_seconds,
    )
    sides = functools.partial(
        measure.open_unit,
        head,
        base,
        feeds["head"],
        feeds["base"],
        cpus=_cpus(head.options),
    )
    progress = watching.looking(draft, progress, windows=True)
    comparison = measure.compare(sides, plan, progress=progress, windows=draft.watch)
    return comparison.model_copy(update={"warnings": [*comparison.warnings, *_signature_notes(draft)]})


def measure_sides(draft: Draft, work: Work, head: models.Model, feeds: Mapping[str, Path], progress: Progress) -> None:
    s = work.settings
    cpus = _cpus(draft.built["head"].loadable.options)
    loadables = {role: built.loadable for role, built in draft.built.items() if role in feeds}
    latencies = measure.latencies(
        loadables,
        feeds,
        seconds=s.measure_seconds,
        cpus=cpus,
        progress=watching.looking(draft, progress, windows=True),
        windows=draft.watch,
    )
    progress = watching.looking(draft, progress)
    for role, loadable in loadables.items():
        side: Side = getattr(draft, role)
        progress(f"throughput, memory and cold start of {role}", None)
        memory, cold_start = measure.first_load(loadable, feeds[role], label=role)
        update = {
            "latency": latencies[role],
            "throughput": measure.throughput(
                loadable,
                feeds[role],
                concurrency=s.concurrency,
                seconds=min(1.0, s.measure_seconds),
                batch=data.batch_of(side.model),
                label=role,
                windows=draft.watch,
            ),
            "memory": memory,
            "cold_start": cold_start,
        }
        setattr(draft, role, side.model_copy(update=update))
    baseline: Loadable = engine.baseline(head, _options(s), threads_on_cpu=s.threads)
    if _differs(draft.built["head"].loadable, s.precision, baseline) and not kept.is_kept(head.path):
        progress("speed-up over the framework", None)
        over = f"onnxruntime fp32 ({'cpu' if baseline.options.gpu is None else 'cuda'})"
        draft.speedup = measure.speedup(
            draft.built["head"].loadable,
            baseline,
            feeds["head"],
            over=over,
            cpus=cpus,
            baseline_cpus=_cpus(baseline.options),
            seed=s.seed,
        )


def _differs(head: Loadable, precision: str, baseline: Loadable) -> bool:
    """Whether a speed-up over the framework could be anything but 1."""
    return (precision, head.backend, head.options) != ("fp32", baseline.backend, baseline.options)


def look_at_layers(draft: Draft, work: Work, feeds: Mapping[str, Path], progress: Progress) -> None:
    """The layers of each side, and what is different. What a profiler does not tell is a warning: no rule needs it to
    be there, and it never stops a run."""
    sides = {
        role: layers.Side(
            built.loadable,
            built.prepared if built.prepared != built.loadable.path else None,
            feeds[role],
            getattr(draft, role).engine.precision,
        )
        for role, built in draft.built.items()
        if role in feeds
    }
    cpus = _cpus(draft.built["head"].loadable.options)
    try:
        reports, draft.layer_diff = layers.look(sides, seconds=LAYER_SECONDS, cpus=cpus, progress=progress)
    except errors.TrtActionError as error:
        draft.warnings.append(f"Nothing is known about the layers: {error.what}")
        return
    for role, report in reports.items():
        setattr(draft, role, getattr(draft, role).model_copy(update={"layers": report}))


def check_accuracy(
    draft: Draft,
    work: Work,
    head: models.Model,
    base: pair.BaseModel | None,
    validation: data.Dataset | None,
    calibration: data.Dataset | None,
    progress: Progress,
) -> Accuracy:
    s = work.settings
    if kept.is_kept(head.path):
        return Accuracy(not_checked="The folder holds an engine without its ONNX model: there is no FP32 reference.")
    quantized = draft.head is not None and draft.head.engine.achieved_precision.quantize_nodes > 0
    return accuracy.check(
        info=head.info,
        reference=engine.reference(head),
        head=draft.built["head"].loadable,
        base=draft.built["base"].loadable if "base" in draft.built else None,
        base_info=base.model.info if base else None,
        base_reference=engine.reference(base.model) if base and not kept.is_kept(base.model.path) else None,
        head_unoptimized=engine.unoptimized(draft.built["head"]) if quantized else None,
        dataset=validation or calibration or data.synthetic(head.info, MAX_SYNTHETIC, s.seed),
        metric=s.effective()["metric"],  # as a person writes it: the runner's folders are nobody's business
        metric_timeout=s.metric_timeout,
        base_dir=work.cwd,
        work_dir=work.folder / "accuracy",
        seed=s.seed,
        progress=progress,
    )


def _cpus(options: RuntimeOptions) -> frozenset[int]:
    """What the workers are pinned to. A host with several GPUs has a runner for each: their runs must not meet on one CPU."""
    neighbour = 0 if options.gpu is None else nvml.minor(devices.facts(options.gpu).uuid)
    return measure.usable_cpus(options.threads, neighbour=neighbour)


def _of_head(s: Settings) -> tuple[str, RuntimeOptions]:
    """Backend and options that head runs with; an engine that was kept is of its own backend, whatever is asked for."""
    if not kept.is_kept(s.model_file):
        return s.backend, _options(s)
    loadable = kept.load(s.model_file)[0].loadable
    return loadable.backend, _of_kept(s, loadable)


def _of_kept(s: Settings, loadable: Loadable) -> RuntimeOptions:
    """A saved graph of ONNX Runtime is of the device it was built for; TensorRT can build where no GPU is, not run there."""
    device = loadable.options.device if s.device == "auto" else engine.resolve_device(loadable.backend, s.device)
    if s.device == "auto" and device == "cpu" and loadable.backend != "onnxruntime":
        device = engine.resolve_device(loadable.backend, "auto")
    return dataclasses.replace(_options(s, device), tensorrt=loadable.options.tensorrt)


def _options(s: Settings, device: str | None = None) -> RuntimeOptions:
    """Of this device, or of the one that was asked for. A process that feeds a GPU needs one thread; left on several CPUs
    it moves between them, and equal engines differ by up to a third (docs/gpu.md)."""
    device = device or engine.resolve_device(s.backend, s.device)
    return RuntimeOptions(
        threads=s.threads or (0 if device == "cpu" else 1),
        graph_optimization=s.graph_optimization,
        memory_arena=s.memory_arena,
        device=device,
        tf32=str(s.precision) == "tf32",
        cuda_graph=s.cuda_graph and device != "cpu",
        transfers=s.transfers,
        tensorrt=TensorRTOptions(
            workspace=s.workspace,
            optimization_level=s.optimization_level,
            tiling=s.tiling,
            aux_streams=s.aux_streams,
            timing_iterations=s.timing_iterations,
            timing_cache=s.timing_cache,
            version_compatible=s.version_compatible,
            hardware_compatibility=s.hardware_compatibility,
            weight_streaming=s.weight_streaming,
            compute_capabilities=s.compute_capabilities,
        ),
    )


def _signature_notes(draft: Draft) -> list[str]:
    if not (draft.head and draft.base):
        return []
    notes = []
    for kind in ("inputs", "outputs"):
        ours, theirs = (_declared(getattr(side.model, kind)) for side in (draft.head, draft.base))
        if only := sorted(ours.keys() ^ theirs.keys()):
            notes.append(f"Head and base do not have the same {kind} (only one side has: {quote_all(only)}).")
        if differ := sorted(name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]):
            notes.append(f"Head and base declare {kind} differently, in type or shape: {quote_all(differ)}.")
    measured, then = (
        {name: _measured(one) for name, one in side.model.shapes.items()} for side in (draft.head, draft.base)
    )
    if other := sorted(name for name in measured.keys() & then.keys() if measured[name] != then[name]):
        notes.append(f"Head and base are measured at different shapes or values: {quote_all(other)}.")
    return notes


def _measured(profile: ShapeRange) -> tuple[list[int], list[int] | None]:
    return profile.opt, profile.values.opt if profile.values else None


def _declared(tensors: Sequence[TensorInfo]) -> dict[str, tuple[str, list[int | None]]]:
    """Type and shape by name; what an open axis is called makes no difference."""
    return {t.name: (t.dtype, [size if isinstance(size, int) else None for size in t.shape]) for t in tensors}
