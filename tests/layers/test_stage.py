"""The stage of a run: its failure is a warning, and nobody has to have it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from tests.layers.conftest import MakeSide
from tests.report import samples
from trt_action import engine, pipeline, settings, stages
from trt_action.console import PlainConsole
from trt_action.draft import Draft, Work
from trt_action.evidence import Source

DIGITS = Path(__file__).parents[2] / "examples" / "digits" / "model.onnx"


def settled(cwd: Path, **more: str) -> settings.Settings:
    (chosen,) = settings.load({"model": str(DIGITS), "base": "none", "threads": "1", **more}, {}, cwd)
    return chosen


def staged(chosen: settings.Settings, folder: Path, side: MakeSide) -> tuple[Draft, Work]:
    made = side("head")
    draft = Draft(chosen, Source(), head=samples.side(engine=samples.engine(precision="fp32")))
    draft.built["head"] = engine.BuiltEngine(made.loadable, samples.engine(), made.prepared or made.loadable.path)
    with engine.Cache(None, 0) as cache:
        return draft, Work(chosen, folder, cache, PlainConsole(io.StringIO(), {}), folder)


def test_layers_are_in_the_evidence_of_their_side(tmp_path: Path, side: MakeSide) -> None:
    draft, work = staged(settled(tmp_path), tmp_path, side)
    stages.look_at_layers(draft, work, {"head": tmp_path / "feeds.npz"}, lambda text, share: None)
    assert draft.warnings == []
    assert draft.layer_diff is None
    assert draft.head is not None
    assert draft.head.layers is not None
    assert draft.head.layers.asked_share == 1
    assert draft.head.engine == samples.engine(precision="fp32")  # and nothing else of it has changed


@pytest.mark.parametrize("damage", ["engine", "prepared", "feeds"])
def test_a_pass_that_fails_is_a_warning(tmp_path: Path, side: MakeSide, damage: str) -> None:
    draft, work = staged(settled(tmp_path), tmp_path, side)
    built, feeds = draft.built["head"], tmp_path / "feeds.npz"
    {"engine": built.loadable.path, "prepared": built.prepared, "feeds": feeds}[damage].write_bytes(b"\x08\xff\xff")
    stages.look_at_layers(draft, work, {"head": feeds}, lambda text, share: None)
    (warning,) = draft.warnings
    assert warning.startswith("Nothing is known about the layers: head: ")
    assert draft.head is not None
    assert draft.head.layers is None


def test_who_does_not_want_it_has_no_such_stage(tmp_path: Path) -> None:
    chosen = settled(tmp_path, layers="false", cache="false", **{"measure-seconds": "0.1s"})
    console = PlainConsole(io.StringIO(), {})
    record = pipeline.run(chosen, console=console, cwd=tmp_path, parts=frozenset({"bench"}))
    assert record.error is None
    assert "layers" not in [stage.name for stage in record.stages]
    assert record.head is not None
    assert record.head.layers is None
