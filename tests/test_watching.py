"""A GPU that slowed down, or was shared, while it was measured: no rule about times is decided, everything else is."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.doubles.nvml import UUID, FakeNvml
from tests.report import samples
from trt_action import console, judge, measure, pipeline, settings, watching
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


def test_a_run_whose_clocks_are_always_held_down_ends_with_its_figures_and_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The passes of a real run under a watch; that it runs on the CPU is nothing the watch knows."""

    def begin(draft: Draft, _: RuntimeOptions) -> None:
        library = FakeNvml()
        draft.watch = nvml.Watch(nvml.Gpu(library, UUID), sleep=lambda _: None)
        library.values["nvmlDeviceGetCurrentClocksEventReasons"] = nvml.REASONS["HwThermalSlowdown"]

    monkeypatch.setattr(watching, "begin", begin)
    monkeypatch.setattr(nvml, "MAX_SET_ASIDE", 3)
    model = Path(__file__).parents[1] / "examples" / "digits" / "model.onnx"
    asked = {"model": str(model), "base": "none", "measure-seconds": "0.2s", "layers": "false", "cache": "false"}
    (chosen,) = settings.load({**asked, "latency-threshold": "p99 < 9s"}, {}, tmp_path)
    found = pipeline.run(chosen, console=console.console(io.StringIO()), cwd=tmp_path, parts=frozenset({"bench"}))
    assert found.error is None
    assert found.head
    assert found.head.latency
    assert found.head.throughput
    assert found.telemetry
    assert (found.head.latency.set_aside, found.head.throughput.set_aside) == (3, 0)
    assert (found.telemetry.set_aside, found.telemetry.held_down) == (3, 2)  # a turn and a window of throughput count
    assert "in 2 timed windows after 3 that were set aside" in found.telemetry.doubt
    assert [gate.status for gate in found.gates if gate.name == "latency-threshold"] == ["inconclusive"]
