"""Runs on a GPU: trtexec's lines, how the GPU was, and a doubt that nobody can overlook."""

from __future__ import annotations

import io
from typing import Any

import pytest
import rich.console

from tests.report import samples
from trt_action.evidence import Evidence
from trt_action.gpu_records import DeviceLatency, Distribution, GpuProcess, GpuSample, Telemetry
from trt_action.report import comment, html, summary, terminal

LINES = ("Latency (H2D + compute + D2H)", "H2D Latency", "GPU Compute Time", "D2H Latency", "Enqueue Time")


def spread(median_ms: float) -> Distribution:
    return Distribution(
        n=1_000,
        min_ms=0.98 * median_ms,
        max_ms=1.3 * median_ms,
        mean_ms=1.01 * median_ms,
        median_ms=median_ms,
        p90_ms=1.02 * median_ms,
        p95_ms=1.03 * median_ms,
        p99_ms=1.1 * median_ms,
        cv=0.0123,
    )


def device(**changes: Any) -> DeviceLatency:
    values: dict[str, Any] = {
        "latency": spread(0.85),
        "h2d": spread(0.03),
        "compute": spread(0.81),
        "d2h": spread(0.01),
        "enqueue": spread(0.7),
        "transfers": True,
        "cuda_graph": False,
        "warnings": ["The host needs 0.7 ms to enqueue what the GPU computes in 0.81 ms."],
    }
    return DeviceLatency(**values | changes)


def on_gpu(doubt: str = "", **changes: Any) -> Evidence:
    evidence = samples.passed()
    assert evidence.head
    assert evidence.head.latency
    latency = evidence.head.latency.model_copy(update={"device": device(**changes)})
    moments: tuple[tuple[str, float, list[str] | None], ...] = (
        ("before", 0.0, []),
        ("during", 5.0, ["SwPowerCap"]),
        ("after", 9.0, None),
    )
    telemetry = Telemetry(
        gpu={"name": "NVIDIA <b>H200</b>"},
        samples=[
            GpuSample(moment=m, seconds=s, sm_clock_mhz=1980, temperature_c=41, power_watt=120.4, clock_reasons=reasons)
            for m, s, reasons in moments
        ],
        violation_seconds={"power": 1.25},
        neighbours=[GpuProcess(pid=7)],
        doubt=doubt,
        warnings=["1 other process has a compute context on the measured GPU."],
    )
    head = evidence.head.model_copy(update={"latency": latency})
    return evidence.model_copy(update={"head": head, "telemetry": telemetry})


@pytest.mark.parametrize("render", [comment, summary, html])
def test_the_words_of_trtexec(render: Any) -> None:
    text = render([on_gpu()])
    for line in LINES:
        assert line in text
    assert "1.23" in text
    assert "The host needs 0.7 ms" in text
    without = render([on_gpu(h2d=None, d2h=None, enqueue=None, transfers=False, cuda_graph=True)])
    assert "without copies, CUDA graph" in without
    assert "H2D Latency" not in without
    for line in LINES:
        assert line not in render([samples.passed()])


@pytest.mark.parametrize("render", [comment, summary, html])
def test_how_the_gpu_was(render: Any) -> None:
    text = render([on_gpu(doubt="The GPU slowed itself down.")])
    assert "while it was measured" in text
    assert "<b>H200" not in text
    assert "1,980 MHz" in text
    assert "SwPowerCap" in text
    assert "The GPU slowed itself down." in text
    assert "1 other process" in text
    assert "while it was measured" not in render([samples.passed()])


def test_the_terminal_has_one_line_per_side() -> None:
    capture = io.StringIO()
    rich.console.Console(file=capture, width=200).print(terminal(on_gpu()))
    assert (
        "head: H2D Latency 0.0300 ms + GPU Compute Time 0.810 ms + D2H Latency 0.0100 ms, Enqueue Time 0.700 ms "
        "(medians, with copies)"
    ) in capture.getvalue()
