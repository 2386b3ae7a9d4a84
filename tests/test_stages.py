"""What the stages make of the settings before anything runs."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from trt_action import engine, pair, stages
from trt_action.console import PlainConsole
from trt_action.draft import Draft, Work
from trt_action.evidence import Source
from trt_action.settings import Settings


@pytest.mark.parametrize(("device", "asked", "threads"), [("cpu", 0, 0), ("cuda:0", 0, 1), ("cuda:0", 4, 4)])
def test_who_feeds_a_gpu_has_one_thread(monkeypatch: pytest.MonkeyPatch, device: str, asked: int, threads: int) -> None:
    """And is pinned to one CPU: the workers get as many CPUs as threads."""
    monkeypatch.setattr(engine, "resolve_device", lambda backend, name: device)
    settings = Settings.model_validate({"model": "a.onnx", "threads": asked})
    assert stages._options(settings).threads == threads


def test_an_engine_that_was_kept_for_the_cpu_has_all_its_threads() -> None:
    assert stages._options(Settings.model_validate({"model": "a.onnx"}), "cpu").threads == 0


@pytest.mark.parametrize("more", [{}, {"base-precision": "fp16"}])
def test_who_wants_two_precisions_of_one_model_hears_how(tmp_path: Path, digits: Path, more: dict[str, str]) -> None:
    (tmp_path / "model.onnx").write_bytes((digits / "model.onnx").read_bytes())
    settings = Settings.model_validate({"model": str(tmp_path / "model.onnx"), **more})
    draft = Draft(settings, Source())
    work = Work(settings, tmp_path / "work", engine.Cache(None, 0), PlainConsole(io.StringIO(), {}), tmp_path)
    assert pair.load_base(draft, work) is None
    assert ("To compare the model with itself in fp16, name it as `base`." in draft.base_note) == bool(more)
