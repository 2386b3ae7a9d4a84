"""The table of contents: each line of `_story` is one stage; plain data in, plain data out.

The action, the command line and GitLab all come through here; only where input comes from and where output goes differ.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from trt_action import engine, errors, files, judge, pair, recipes, stages, watching
from trt_action.console import Console
from trt_action.draft import Draft, Work, error_info
from trt_action.engine import kept
from trt_action.evidence import Evidence, Source
from trt_action.model import base as bases
from trt_action.settings import Settings
from trt_action.settings.llm_options import ENDPOINT

Part = Literal["compare", "bench", "accuracy"]
EVERYTHING: frozenset[Part] = frozenset({"compare", "bench", "accuracy"})


def run(
    chosen: Settings,
    *,
    console: Console,
    cwd: Path,
    source: Source | None = None,
    auto_base: str | None = None,
    parts: frozenset[Part] = EVERYTHING,
    keep: Callable[[Draft], None] | None = None,
) -> Evidence:
    """One model, from settings to evidence. Never raises a `TrtActionError`: it becomes `evidence.error`.

    `auto_base` is the revision that `base: auto` means here, where a CI event names one; None: Git's history says.
    `keep` is called before the work folder goes, for commands that keep an engine.
    """
    draft = Draft(chosen, source or Source(), warnings=list(chosen.notes))
    try:
        draft.source = source or bases.source(cwd)
        with files.work_folder() as folder, engine.Cache(chosen.cache_folder(), chosen.cache_size) as cache:
            tell = _endpoint_story() if chosen.backend == ENDPOINT else _story
            tell(draft, Work(chosen, folder, cache, console, cwd, auto_base), parts)
            if keep:
                keep(draft)
            draft.warnings += cache.warnings
    except errors.TrtActionError as error:
        draft.error = error_info(error)
        draft.outcome = "failed"
    except KeyboardInterrupt as stop:
        draft.error = error_info(errors.interrupted(stop))
    return draft.evidence()


def _endpoint_story() -> Callable[[Draft, Work, frozenset[Part]], None]:
    """The story of a served language model (`llm_stages.py`), which needs an HTTP client."""
    try:
        from trt_action import llm_stages
    except ModuleNotFoundError as missing:
        raise errors.BackendUnavailableError(
            f"`backend: {ENDPOINT}` needs {missing.name}, which is not installed.",
            fix="`pip install 'trt-action[llm]'`.",
        ) from None
    return llm_stages.story


def _story(draft: Draft, work: Work, parts: frozenset[Part]) -> None:
    with work.stage(draft, "host", "Host"):
        draft.fingerprint = stages.fingerprint(draft, work, measures=bool(parts))
    with work.stage(draft, "model", "Model"):
        head = draft.model = pair.load_head(work)
        draft.warnings += head.notes
        wants_base = "compare" in parts or (bool(parts) and work.settings.base != "auto")  # a build keeps the head only
        base = pair.load_base(draft, work) if wants_base else None
    with work.stage(draft, "data", "Data") as progress:
        calibration, validation = stages.load_data(draft, work, head, progress)
    if recipes.wanted(work.settings) and not kept.is_kept(head.path):
        with work.stage(draft, "search", "Search precision") as progress:
            work = stages.find_recipe(draft, work, head, calibration, validation, progress)
    with work.stage(draft, "build-head", "Build head") as progress:
        draft.head = stages.build(draft, work, "head", head, work.settings, calibration, None, progress)
    if base:
        with work.stage(draft, "build-base", "Build base") as progress:
            draft.base = stages.build_base(draft, work, base, calibration, progress)
    feeds = draft.feeds = stages.save_feeds(draft, work, validation or calibration)
    if "compare" in parts and draft.base:
        with work.stage(draft, "compare", "Compare head and base") as progress:
            draft.comparison = stages.compare(draft, work, feeds, progress)
    if "bench" in parts:
        with work.stage(draft, "measure", "Measure") as progress:
            stages.measure_sides(draft, work, head, feeds, progress)
    watching.conclude(draft)
    if work.settings.layers and parts & {"compare", "bench"}:
        with work.stage(draft, "layers", "Layers") as progress:
            stages.look_at_layers(draft, work, feeds, progress)
    if "accuracy" in parts:
        with work.stage(draft, "accuracy", "Accuracy") as progress:
            draft.accuracy = stages.check_accuracy(draft, work, head, base, validation, calibration, progress)
    draft.gates = judge.judge(
        work.settings,
        head=draft.head,
        base=draft.base,
        comparison=draft.comparison,
        accuracy=draft.accuracy,
        doubt=draft.telemetry.doubt if draft.telemetry else "",
    )
    draft.outcome = judge.outcome(draft.gates, draft.comparison)
