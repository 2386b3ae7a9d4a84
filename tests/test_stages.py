"""What the stages make of the settings before anything runs."""

from __future__ import annotations

import pytest

from trt_action import engine, stages
from trt_action.settings import Settings


@pytest.mark.parametrize(("device", "asked", "threads"), [("cpu", 0, 0), ("cuda:0", 0, 1), ("cuda:0", 4, 4)])
def test_who_feeds_a_gpu_has_one_thread(monkeypatch: pytest.MonkeyPatch, device: str, asked: int, threads: int) -> None:
    """And is pinned to one CPU: the workers get as many CPUs as threads."""
    monkeypatch.setattr(engine, "resolve_device", lambda backend, name: device)
    settings = Settings.model_validate({"model": "a.onnx", "threads": asked})
    assert stages._options(settings).threads == threads


def test_an_engine_that_was_kept_for_the_cpu_has_all_its_threads() -> None:
    assert stages._options(Settings.model_validate({"model": "a.onnx"}), "cpu").threads == 0
