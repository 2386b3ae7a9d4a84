"""A GPU that slowed down, or was shared, while it was measured: no rule about times is decided, everything else is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.doubles.nvml import UUID, FakeNvml
from tests.report import samples
from trt_action import judge, measure, watching
from trt_action.draft import Draft
from trt_action.engine import nvml
from trt_action.engine.backend import RuntimeOptions
from trt_action.evidence import Accuracy, Source
from trt_action.settings import Settings

pytest.importorskip("pynvml")


@pytest.fixture
def draft() -> Draft:
    settings = Settings.model_validate(
        {"model": "a.onnx", "latency-threshold": "p99 < 50ms", "max-engine-size": "1GB", "max-latency-regression": "5%"}
    )
    evidence = samples.regressed()
    return Draft(settings, Source(), head=evidence.head, base=evidence.base, comparison=evidence.comparison)


def watched(draft: Draft, **during: Any) -> None:
    """What the pipeline does around measuring; `during` is how the GPU is meanwhile."""
    library = FakeNvml()
    now = iter(np.arange(0, 1000, 2.0))
    draft.watch = nvml.Watch(nvml.Gpu(library, UUID), clock=lambda: float(next(now)), sleep=lambda _: None)
    library.values.update(during)
    said: list[str] = []
    watching.looking(draft, lambda text, share: said.append(text))("30 pairs", 0.5)
    assert said == ["30 pairs"]
    watching.conclude(draft)
    assert draft.telemetry
    assert [sample.moment for sample in draft.telemetry.samples] == ["before", "during", "after"]


def statuses(draft: Draft) -> dict[str, str]:
    assert draft.head
    doubt = draft.telemetry.doubt if draft.telemetry else ""
    gates = judge.judge(
        draft.settings,
        head=draft.head,
        base=draft.base,
        comparison=draft.comparison,
        accuracy=Accuracy(),
        doubt=doubt,
    )
    return {gate.name: gate.status for gate in gates}


def test_a_quiet_gpu_changes_nothing(draft: Draft) -> None:
    before, comparison = statuses(draft), draft.comparison
    watched(draft)
    assert statuses(draft) == before
    assert draft.comparison is comparison
    assert draft.warnings == []


def test_a_throttled_gpu_decides_nothing_about_times(draft: Draft) -> None:
    before = statuses(draft)
    assert before["latency-threshold"] == "passed"
    watched(draft, nvmlDeviceGetCurrentClocksEventReasons=nvml.REASONS["HwThermalSlowdown"])
    after = statuses(draft)
    assert after["latency-threshold"] == after["max-latency-regression"] == "inconclusive"
    assert after["max-engine-size"] == before["max-engine-size"] == "passed"
    assert draft.comparison
    assert draft.comparison.verdict == draft.comparison.p99_verdict == "inconclusive"
    assert "slowed itself down" in draft.comparison.reason
    assert any("slowed itself down" in warning for warning in draft.warnings)


def test_the_pairs_alone_do_not_bring_the_verdict_back(draft: Draft) -> None:
    watched(draft, nvmlDeviceGetCurrentClocksEventReasons=nvml.REASONS["SwThermalSlowdown"])
    assert draft.comparison
    again = measure.recompute(draft.comparison)
    assert again.verdict == "inconclusive"
    assert "slowed itself down" in again.reason


def test_nothing_is_watched_on_the_cpu(draft: Draft) -> None:
    watching.begin(draft, RuntimeOptions())
    assert draft.watch is None
    watching.conclude(draft)
    assert draft.telemetry is None
