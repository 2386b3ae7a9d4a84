"""The measuring passes and the comparison, in worker processes on the real GPU."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from tests.doubles.windows import Once
from tests.gpu.conftest import Make, feeds, plain
from trt_action import arrays, measure
from trt_action.engine import devices, nvml
from trt_action.measure.duet import Plan

pytestmark = pytest.mark.usefixtures("needs_onnxruntime")
BATCH = 128


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A batch so large that the GPU and not the host is what takes the time, at least a millisecond."""
    path = tmp_path / "feeds.npz"
    arrays.save_npz(path, feeds(BATCH))
    return path


def test_latency_in_trtexecs_parts(convs: Make, saved: Path) -> None:
    path = convs(depth=16)
    sides = {"with": plain(path), "without": plain(path, transfers=False), "graph": plain(path, cuda_graph=True)}
    found = measure.latencies(sides, dict.fromkeys(sides, saved), seconds=0.5, cpus=measure.usable_cpus(1))
    device = {name: one.device for name, one in found.items()}
    assert all(device.values())
    whole, bare, graph = device["with"], device["without"], device["graph"]
    assert whole
    assert bare
    assert graph
    assert whole.h2d
    assert whole.d2h
    assert whole.enqueue
    assert bare.h2d is bare.d2h is None
    assert graph.cuda_graph
    assert graph.enqueue is None
    assert whole.compute.min_ms <= whole.compute.median_ms <= whole.compute.p90_ms <= whole.compute.p99_ms
    assert whole.latency.median_ms >= whole.compute.median_ms
    assert found["with"].p50_ms >= 0.8 * whole.latency.median_ms  # two passes: the clocks of the GPU move between them
    assert found["without"].p50_ms < found["with"].p50_ms


def test_several_streams(convs: Make, saved: Path) -> None:
    path = convs(depth=16, width=64)
    found = measure.throughput(plain(path), saved, concurrency=3, seconds=0.5, batch=BATCH)
    assert found.concurrency == 3
    assert found.samples_per_second > 0


def test_a_watched_pass_is_cut_into_windows_and_counts_what_it_sets_aside(convs: Make, saved: Path) -> None:
    path = plain(convs(depth=16))
    watch, why = nvml.watch(devices.facts(0).uuid)
    if watch is None:
        pytest.skip(why)
    cpus = measure.usable_cpus(1)
    watched = measure.latencies({"head": path}, {"head": saved}, seconds=1.0, cpus=cpus, windows=watch)["head"]
    several = measure.throughput(path, saved, concurrency=2, seconds=1.0, batch=BATCH, windows=watch)
    told = watch.finish()
    assert watched.device
    assert told.set_aside == watched.set_aside + watched.device.set_aside + several.set_aside <= nvml.MAX_SET_ASIDE
    assert told.set_aside == 0 or any("do not count" in warning for warning in told.warnings)
    assert watched.device.compute.n >= 2 * 32  # two windows of some calls
    assert 0.99 <= several.seconds < 1.6
    alone = measure.latencies({"head": path}, {"head": saved}, seconds=1.0, cpus=cpus)["head"]
    assert alone.device
    assert 0.5 < watched.p50_ms / alone.p50_ms < 2
    assert 0.5 < watched.device.compute.median_ms / alone.device.compute.median_ms < 2
    unwatched = measure.throughput(path, saved, concurrency=2, seconds=1.0, batch=BATCH)
    assert 0.5 < several.samples_per_second / unwatched.samples_per_second < 2


@pytest.mark.parametrize("graph", [False, True])
def test_a_window_that_is_wanted_again_does_not_count(convs: Make, saved: Path, graph: bool) -> None:
    path = plain(convs(depth=16), cuda_graph=graph)
    windows = Once()
    found = measure.throughput(path, saved, concurrency=2, seconds=1.0, batch=BATCH, windows=windows)
    assert (found.set_aside, windows.asked) == (1, 3)
    assert 0.99 <= found.seconds < 1.6
    windows = Once()
    latency = measure.latencies({"head": path}, {"head": saved}, seconds=0.5, windows=windows)["head"]
    assert latency.device
    assert (latency.set_aside, latency.device.set_aside) == (1, 0)
    assert windows.asked == 3  # a turn twice, and the parts of an inference once


def test_memory_of_the_gpu(convs: Make, saved: Path) -> None:
    memory, cold_start = measure.first_load(plain(convs(depth=2)), saved)
    assert memory.device_peak_bytes is not None
    assert memory.device_peak_bytes >= BATCH * 64 * 32 * 32 * 4  # the input alone
    assert cold_start.first_inference_ms > 0


def test_ten_more_layers_are_found_and_none_are_not(convs: Make, saved: Path) -> None:
    base, slower = plain(convs(depth=40)), plain(convs(depth=50))
    plan = Plan(max_seconds=30, free_loading=30 * measure.FREE_LOADING)
    cpus = measure.usable_cpus(1)  # as a run does: two CPUs of one host differ by more than ten layers
    found = measure.compare(functools.partial(measure.open_unit, slower, base, saved, saved, cpus=cpus), plan)
    assert found.verdict == "regressed", found.reason
    assert found.p50_ratio
    assert 1.05 < found.p50_ratio.estimate < 1.5
    assert "cpu_time" in found.witnesses  # on a GPU: time between CUDA events
    assert 1.05 < found.witnesses["cpu_time"].estimate < 1.5
    same = measure.compare(functools.partial(measure.open_unit, base, base, saved, saved, cpus=cpus), plan)
    assert same.verdict in ("within-noise", "inconclusive"), same.reason


def test_the_framework_on_the_same_gpu(convs: Make, saved: Path) -> None:
    path = convs(depth=20)
    found = measure.speedup(plain(path, tf32=True), plain(path), saved, over="onnxruntime fp32 (cuda)")
    assert found.ratio.estimate > 0.5
    assert found.baseline_p50_ms > 0
