"""Percentiles, notes, and the passes over real workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.doubles.windows import Once
from tests.measure.conftest import Make
from trt_action.evidence import Latency
from trt_action.measure import first_load, latencies, throughput, usable_cpus
from trt_action.measure.latency import MAX_STORED, summarize
from trt_action.measure.series import unpack


def of(samples_ms: list[float]) -> Latency:
    nanoseconds = np.array([round(ms * 1e6) for ms in samples_ms], dtype=np.uint64)
    return summarize(nanoseconds, seconds=1.0, warmup_iterations=20, warmup_stable=True, notes=[])


def test_percentiles_are_those_of_trtexec() -> None:
    result = of([float(ms) for ms in range(1000, 0, -1)])
    assert (result.n, result.min_ms, result.max_ms, result.mean_ms) == (1000, 1, 1000, 500.5)
    assert (result.p50_ms, result.p90_ms, result.p95_ms, result.p99_ms) == (
        500,
        901,
        950,
        990,
    )  # sorted[max(n - 1 - int((1 - p/100) * n), 0)]
    assert all(interval and interval.low_ms < interval.high_ms for interval in result.intervals.values())
    assert result.series is not None
    assert unpack(result.series)[0] == 1000e6  # in the order they were taken


def test_a_percentile_of_too_few_samples_has_no_interval_and_a_note() -> None:
    result = of([1.0] * 100)
    assert result.intervals["p50"] is not None
    assert result.intervals["p99"] is None
    assert any("100 samples are too few for a 95 % interval of p99" in note for note in result.notes)


def test_one_sample_is_a_latency() -> None:
    result = of([7.0])
    assert (result.min_ms, result.p50_ms, result.p99_ms, result.max_ms) == (7, 7, 7, 7)
    assert set(result.intervals.values()) == {None}


def test_many_samples_all_count_and_are_stored_thinned() -> None:
    result = of([1.0] * (MAX_STORED * 2) + [5.0] * (MAX_STORED // 2))
    assert result.n == MAX_STORED * 5 // 2
    assert result.p90_ms == 5
    assert result.series is not None
    assert result.series.n <= MAX_STORED
    assert any("one in 3" in note for note in result.notes)


def test_latencies_of_both_sides(convs: Make, feeds: Path) -> None:
    shares: list[float | None] = []
    result = latencies(
        {"head": convs(20), "base": convs(2)},
        {"head": feeds, "base": feeds},
        seconds=1.2,
        cpus=usable_cpus(1),
        progress=lambda text, share: shares.append(share),
    )
    head, base = result["head"], result["base"]
    assert head.p50_ms > 2 * base.p50_ms
    for side in (head, base):
        assert side.seconds >= 1.2
        assert side.warmup_iterations > 20
        assert side.min_ms <= side.p50_ms <= side.p90_ms <= side.p95_ms <= side.p99_ms <= side.max_ms
        assert side.n * side.mean_ms / 1e3 == pytest.approx(side.seconds, rel=0.1)
    assert shares == sorted(shares, key=lambda share: share or 0)
    assert shares[-1] == 1


def test_at_least_ten_iterations_however_short_the_time(convs: Make, feeds: Path) -> None:
    assert latencies({"head": convs()}, {"head": feeds}, seconds=0.0)["head"].n >= 10


def test_outputs_that_differ_between_inferences_are_noted(draws: Make, feeds: Path) -> None:
    notes = latencies({"head": draws(0.5)}, {"head": feeds}, seconds=0.0)["head"].notes
    assert any(note.startswith("Outputs that differ between inferences on the same inputs: `y`") for note in notes)


def test_nan_from_the_first_inference_on_is_noted(draws: Make, feeds: Path) -> None:
    notes = latencies({"head": draws(-1.0, -0.5)}, {"head": feeds}, seconds=0.0)["head"].notes
    assert "Output `y` holds 8 NaN or infinite elements on the measured inputs." in notes


@pytest.mark.parametrize("concurrency", [1, 3])
def test_throughput_counts_samples_of_every_thread(convs: Make, feeds: Path, concurrency: int) -> None:
    result = throughput(convs(), feeds, concurrency=concurrency, seconds=0.3, batch=4)
    assert result.requests >= concurrency
    assert result.seconds >= 0.3
    assert result.samples_per_second == pytest.approx(result.requests * 4 / result.seconds)


def test_memory_grows_with_the_model(convs: Make, feeds: Path) -> None:
    small, large = (first_load(convs(3, **more), feeds)[0] for more in ({}, {"width": 512}))
    weights = 2 * 512 * 512 * 9 * 4
    assert large.host_engine_bytes > small.host_engine_bytes + weights
    assert small.host_peak_bytes > 10_000_000
    assert small.device_peak_bytes is None


def test_cold_start(convs: Make, feeds: Path) -> None:
    _, result = first_load(convs(), feeds)
    assert result.load_ms > 0
    assert result.first_inference_ms > 0


def test_turns_that_are_wanted_again_do_not_count(convs: Make, feeds: Path) -> None:
    windows = Once()
    found = latencies({"head": convs()}, {"head": feeds}, seconds=0.1, windows=windows)["head"]
    assert (found.set_aside, windows.asked) == (1, 2)
    assert found.seconds < 0.19
