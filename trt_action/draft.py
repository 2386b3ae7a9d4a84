"""One run while it goes on: what is known so far, and what every stage needs to work."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from trt_action import __version__, engine, errors
from trt_action.console import Console
from trt_action.engine import kept, nvml
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
from trt_action.gpu_records import Telemetry
from trt_action.layer_records import LayerDiff
from trt_action.llm_records import LlmRun
from trt_action.model import Model
from trt_action.process import Progress
from trt_action.search_records import Search
from trt_action.settings import Settings


@dataclass
class Draft:
    """What is known so far. A run that ends early leaves its evidence from here."""

    settings: Settings
    source: Source
    outcome: str = "failed"
    error: ErrorInfo | None = None
    fingerprint: Fingerprint | None = None
    model: Model | None = None
    head: Side | None = None
    base: Side | None = None
    base_note: str = ""
    watch: nvml.Watch | None = None
    telemetry: Telemetry | None = None
    search: Search | None = None
    comparison: Comparison | None = None
    speedup: Speedup | None = None
    layer_diff: LayerDiff | None = None
    llm: LlmRun | None = None
    accuracy: Accuracy = field(default_factory=Accuracy)
    gates: list[Gate] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    built: dict[str, engine.BuiltEngine] = field(default_factory=dict)
    feeds: dict[str, Path] = field(default_factory=dict)

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
                        "outcome", "error", "source", "fingerprint", "head", "base", "base_note", "telemetry", "comparison",
                        "speedup", "layer_diff", "llm", "accuracy", "gates", "stages", "warnings",
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
    auto_base: str | None = None

    @contextmanager
    def stage(self, draft: Draft, name: str, title: str) -> Iterator[Progress]:
        start = time.monotonic()
        try:
            with self.console.stage(name, title) as progress:
                yield progress
        except (errors.TrtActionError, KeyboardInterrupt) as error:
            error.add_note(name)
            raise
        finally:
            draft.stages.append(Stage(name=name, seconds=round(time.monotonic() - start, 3)))


@dataclass(frozen=True)
class Keeper:
    """Keeps head's engine in `folder` before the run's own folder goes, and the evidence once it is complete."""

    folder: Path

    def __call__(self, draft: Draft) -> None:
        """The engine, its record and its self-test (`engine.kept`).

        Raises:
            StorageError: the folder cannot be written.
            BuildError: the copy does not load or run.
        """
        if draft.model and "head" in draft.built:
            built = draft.built["head"]
            feeds = draft.feeds.get("head") if engine.runs_here(built) else None
            kept.keep(built, draft.model.info, self.folder, feeds=feeds)

    def finish(self, evidence: Evidence) -> None:
        """The evidence beside an engine that was kept.

        Raises:
            StorageError: the folder cannot be written.
        """
        if kept.is_kept(self.folder):
            kept.write_evidence(self.folder, evidence)


def stopped_early(chosen: Sequence[Settings], source: Source, error: errors.TrtActionError) -> Evidence:
    """The evidence of a job that ended before its pipeline began; `chosen` may be empty."""
    return Evidence(
        tool=Tool(version=__version__),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        outcome="failed",
        error=error_info(error),
        source=source,
        settings=chosen[0].effective() if chosen else {},
    )


def error_info(error: errors.TrtActionError) -> ErrorInfo:
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
