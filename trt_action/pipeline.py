"""The table of contents: each line of `_story` is one stage; plain data in, plain data out.

The action, the command line and GitLab all come through here; only where input comes from and where output goes differ.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import trt_action.model as models
from trt_action import __version__, accuracy, data, engine, errors, files, judge, measure, precision, settings
from trt_action.console import Console
from trt_action.engine import kept
from trt_action.engine.backend import Loadable, RuntimeOptions
from trt_action.evidence import (
    Accuracy,
    Comparison,
    ErrorInfo,
    Evidence,
    Fingerprint,
    Gate,
    Side,
    Source,
    Speedup,
    Stage,
    Tool,
)
from trt_action.model import base as bases
from trt_action.process import Progress
from trt_action.settings import Settings

Part = Literal["compare", "bench", "accuracy"]
EVERYTHING: frozenset[Part] = frozenset({"compare", "bench", "accuracy"})

MAX_SYNTHETIC = 64
"""Samples of seeded synthetic data for parity where the user gave none."""


@dataclass
class Draft:
    """What is known so far. A run that ends early leaves its evidence from here."""

    settings: Settings
    source: Source
    outcome: str = "failed"
    error: ErrorInfo | None = None
    fingerprint: Fingerprint | None = None
    model: models.Model | None = None
    head: Side | None = None
    base: Side | None = None
    base_note: str = ""
    comparison: Comparison | None = None
    speedup: Speedup | None = None
    accuracy: Accuracy = field(default_factory=Accuracy)
    gates: list[Gate] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    built: dict[str, engine.BuiltEngine] = field(default_factory=dict)

    def evidence(self) -> Evidence:
        return Evidence.model_validate(
            {
                "tool": Tool(version=__version__),
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "model": self.model.info if self.model else None,
                "settings": self.settings.effective(),
                **{
                    name: getattr(self, name)
                    for name in (
                        "outcome", "error", "source", "fingerprint", "head", "base", "base_note", "comparison",
                        "speedup", "accuracy", "gates", "stages", "warnings",
                    )
                },
            }
        )  # fmt: skip


@dataclass(frozen=True)
class Work:
    """What every stage needs besides data: where to work, whom to tell."""

    settings: Settings
    folder: Path
    cache: engine.Cache
    console: Console
    cwd: Path

    @contextmanager
    def stage(self, draft: Draft, name: str, title: str) -> Iterator[Progress]:
        start = time.monotonic()
        try:
            with self.console.stage(name, title) as progress:
                yield progress
        except errors.TrtActionError as error:
            error.add_note(name)
            raise
        finally:
            draft.stages.append(Stage(name=name, seconds=round(time.monotonic() - start, 3)))


def run(
    chosen: Settings,
    *,
    console: Console,
    cwd: Path,
    source: Source | None = None,
    parts: frozenset[Part] = EVERYTHING,
    keep: Callable[[Draft], None] | None = None,
) -> Evidence:
    """One model, from settings to evidence. Never raises a `TrtActionError`: it becomes `evidence.error`.

    `keep` is called before the work folder goes, for commands that keep an engine.
    """
    draft = Draft(chosen, source or Source(), warnings=list(chosen.notes))
    try:
        draft.source = source or bases.source(cwd)
        with files.work_folder() as folder:
            cache = engine.Cache(chosen.cache_folder(), chosen.cache_size)
            _story(draft, Work(chosen, folder, cache, console, cwd), parts)
            if keep:
                keep(draft)
            draft.warnings += cache.warnings
    except errors.TrtActionError as error:
        draft.error = _error_info(error)
        draft.outcome = "failed"
    except KeyboardInterrupt:
        draft.error = _error_info(errors.InterruptedRunError("The run was stopped (Ctrl-C)."))
    return draft.evidence()


def _story(draft: Draft, work: Work, parts: frozenset[Part]) -> None:
    with work.stage(draft, "host", "Host"):
        draft.fingerprint = engine.fingerprint(work.settings.backend, _options(work.settings))
        draft.warnings += engine.warnings(draft.fingerprint)
    with work.stage(draft, "model", "Model"):
        head = draft.model = _load_head(work)
        draft.warnings += head.notes
        base = _load_base(draft, work) if "compare" in parts or work.settings.base != "auto" else None
    with work.stage(draft, "data", "Data") as progress:
        calibration, validation = _load_data(draft, work, head, progress)
    with work.stage(draft, "build-head", "Build head") as progress:
        draft.head = _build(draft, work, "head", head, work.settings, calibration, None, progress)
    if base:
        with work.stage(draft, "build-base", "Build base") as progress:
            draft.base = _build_base(draft, work, base, calibration, progress)
    feeds = _save_feeds(draft, work, validation or calibration)
    if "compare" in parts and draft.base:
        with work.stage(draft, "compare", "Compare head and base") as progress:
            draft.comparison = _compare(draft, work, feeds, progress)
    if "bench" in parts:
        with work.stage(draft, "measure", "Measure") as progress:
            _measure(draft, work, head, feeds, progress)
    if "accuracy" in parts:
        with work.stage(draft, "accuracy", "Accuracy") as progress:
            draft.accuracy = _accuracy(draft, work, head, validation, calibration, progress)
    draft.gates = judge.judge(
        work.settings, head=draft.head, base=draft.base, comparison=draft.comparison, accuracy=draft.accuracy
    )
    draft.outcome = judge.outcome(draft.gates, draft.comparison)


@dataclass(frozen=True)
class _BaseModel:
    model: models.Model
    where: bases.Base
    settings: Settings


def _load_head(work: Work) -> models.Model:
    s = work.settings
    return _load_model(s.model, _label(s.model, work.cwd), s)


def _load_model(path: Path, label: str, s: Settings) -> models.Model:
    """An ONNX model, or the model of an engine that `trt-action build` has kept."""
    if kept.is_kept(path):
        return models.Model(path, kept.load(path)[1])
    return models.load(path, label=label, name=s.name, shapes=s.shapes, batch_size=s.batch_size)


def _load_base(draft: Draft, work: Work) -> _BaseModel | None:
    """The base, or None with the reason in `draft.base_note`. A base that is broken never stops a pull request
    that may be its repair, unless the user named it."""
    s = work.settings
    found, draft.base_note = bases.resolve(
        s.base, model=s.model, config=s.config_file, work_dir=work.folder / "base", cwd=work.cwd
    )
    if found is None:
        return None
    try:
        own = _base_settings(s, found, draft)
        model = _load_model(found.path, found.label, own)
    except errors.TrtActionError as error:
        _go_on_without_base(draft, s, error)
        return None
    return _BaseModel(model, found, own)


def _base_settings(s: Settings, found: bases.Base, draft: Draft) -> Settings:
    """The base's precision recipe comes from the base's own config; data and everything else from head's."""
    try:
        return settings.for_base(s, found.config)
    except errors.SettingsError as error:
        draft.warnings.append(f"The base's config is not usable ({error.what}); head's settings are used for it.")
        return s


def _go_on_without_base(draft: Draft, s: Settings, error: errors.TrtActionError) -> None:
    if s.base != "auto":
        raise error
    draft.base_note = f"The base cannot be used: {error.what}"
    draft.warnings.append(draft.base_note)


def _load_data(
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
    for dataset in (calibration, validation):
        draft.warnings += dataset.notes if dataset else ()
    return calibration, validation


def _build(
    draft: Draft,
    work: Work,
    role: str,
    model: models.Model,
    s: Settings,
    calibration: data.Dataset | None,
    base: bases.Base | None,
    progress: Progress,
) -> Side:
    built = (
        kept.load(model.path)[0] if kept.is_kept(model.path) else _obtain(work, role, model, s, calibration, progress)
    )
    draft.built[role] = built
    return Side(
        label=base.label if base else _label(s.model, work.cwd),
        commit=base.commit if base else draft.source.commit,
        model=model.info,
        engine=built.record,
    )


def _obtain(
    work: Work, role: str, model: models.Model, s: Settings, calibration: data.Dataset | None, progress: Progress
) -> engine.BuiltEngine:
    recipe = precision.Recipe(
        precision=s.precision,
        calibration_method=s.calibration_method,
        calibration_samples=s.calibration_samples,
        op_types=s.op_types,
        exclude_nodes=s.exclude_nodes,
    )
    return engine.obtain(
        model,
        recipe,
        calibration if s.precision == "int8" else None,
        backend=s.backend,
        options=_options(s),
        cache=work.cache,
        work_dir=work.folder / role,
        timeout=s.build_timeout,
        progress=progress,
    )


def _build_base(
    draft: Draft, work: Work, base: _BaseModel, calibration: data.Dataset | None, progress: Progress
) -> Side | None:
    try:
        return _build(draft, work, "base", base.model, base.settings, calibration, base.where, progress)
    except errors.TrtActionError as error:
        _go_on_without_base(draft, work.settings, error)
        return None


def _save_feeds(draft: Draft, work: Work, dataset: data.Dataset | None) -> dict[str, Path]:
    """One batch per side at the measured shape; both sides get the same values where their inputs agree."""
    feeds = {}
    for role, side in (("head", draft.head), ("base", draft.base)):
        if side:
            feeds[role] = work.folder / f"{role}-feeds.npz"
            data.save_feeds(data.example_feeds(side.model, work.settings.seed, dataset), feeds[role])
    return feeds


def _compare(draft: Draft, work: Work, feeds: Mapping[str, Path], progress: Progress) -> Comparison:
    s = work.settings
    plan = measure.Plan(
        max_seconds=s.max_seconds,
        margin=s.margin,
        tolerance=s.tolerance,
        limit=s.max_latency_regression,
        confidence=s.confidence,
        seed=s.seed,
    )
    sides = functools.partial(
        measure.open_unit,
        draft.built["head"].loadable,
        draft.built["base"].loadable,
        feeds["head"],
        feeds["base"],
        cpus=measure.usable_cpus(s.threads),
    )
    comparison = measure.compare(sides, plan, progress=progress)
    return comparison.model_copy(update={"warnings": [*comparison.warnings, *_signature_notes(draft)]})


def _measure(draft: Draft, work: Work, head: models.Model, feeds: Mapping[str, Path], progress: Progress) -> None:
    s = work.settings
    cpus = measure.usable_cpus(s.threads)
    loadables = {role: built.loadable for role, built in draft.built.items() if role in feeds}
    latencies = measure.latencies(loadables, feeds, seconds=s.measure_seconds, cpus=cpus, progress=progress)
    for role, loadable in loadables.items():
        side: Side = getattr(draft, role)
        progress(f"throughput, memory and cold start of {role}", None)
        update = {
            "latency": latencies[role],
            "throughput": measure.throughput(
                loadable,
                feeds[role],
                concurrency=s.concurrency,
                seconds=min(1.0, s.measure_seconds),
                batch=data.batch_of(side.model),
            ),
            "memory": measure.memory(loadable, feeds[role]),
            "cold_start": measure.cold_start(loadable, feeds[role]),
        }
        setattr(draft, role, side.model_copy(update=update))
    if s.precision != "fp32":
        progress("speed-up over the framework", None)
        baseline: Loadable = engine.baseline(head, _options(s))
        draft.speedup = measure.speedup(
            draft.built["head"].loadable, baseline, feeds["head"], over="onnxruntime fp32 (cpu)", cpus=cpus, seed=s.seed
        )


def _accuracy(
    draft: Draft,
    work: Work,
    head: models.Model,
    validation: data.Dataset | None,
    calibration: data.Dataset | None,
    progress: Progress,
) -> Accuracy:
    s = work.settings
    quantized = draft.head is not None and draft.head.engine.achieved_precision.quantize_nodes > 0
    return accuracy.check(
        info=head.info,
        reference=engine.reference(head),
        head=draft.built["head"].loadable,
        base=draft.built["base"].loadable if "base" in draft.built else None,
        head_unoptimized=engine.unoptimized(draft.built["head"]) if quantized else None,
        dataset=validation or calibration or data.synthetic(head.info, MAX_SYNTHETIC, s.seed),
        metric=s.metric,
        metric_timeout=s.metric_timeout,
        base_dir=work.cwd,
        work_dir=work.folder / "accuracy",
        seed=s.seed,
        progress=progress,
    )


def _options(s: Settings) -> RuntimeOptions:
    return RuntimeOptions(threads=s.threads, graph_optimization=s.graph_optimization, memory_arena=s.memory_arena)


def _signature_notes(draft: Draft) -> list[str]:
    if not (draft.head and draft.base):
        return []
    notes = []
    for kind in ("inputs", "outputs"):
        ours = {t.name for t in getattr(draft.head.model, kind)}
        theirs = {t.name for t in getattr(draft.base.model, kind)}
        if only := sorted(ours ^ theirs):
            notes.append(f"Head and base do not have the same {kind} (only one side has: {', '.join(only)}).")
    return notes


def _label(path: Path, cwd: Path) -> str:
    try:
        return str(path.relative_to(cwd))
    except ValueError:
        return str(path)


def _error_info(error: errors.TrtActionError) -> ErrorInfo:
    notes = getattr(error, "__notes__", [])
    return ErrorInfo(
        type=type(error).__name__,
        title=error.title,
        what=error.what[:20_000],
        why=error.why[:20_000],
        fix=error.fix[:20_000],
        exit_code=error.exit_code,
        stage=notes[0] if notes else "",
    )
