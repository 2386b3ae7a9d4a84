"""NVML on the real GPU: what it tells, and a neighbour that computes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gpu.conftest import Make
from trt_action.engine import devices, nvml

NEIGHBOUR = """
import sys, time
import numpy as np
from trt_action.engine.backend import Loadable, RuntimeOptions
from trt_action import engine
session = engine.backend("onnxruntime").load(
    Loadable("onnxruntime", __import__("pathlib").Path(sys.argv[1]), RuntimeOptions(device="cuda:0"), prepared=False)
)
session.bind({"x": np.zeros((64, 64, 32, 32), np.float32)})
session.run()
print("computing", flush=True)
end = time.monotonic() + 60
while time.monotonic() < end:
    session.run()
"""


@pytest.fixture
def gpu() -> Iterator[nvml.Gpu]:
    found, why = nvml.find(devices.facts(0).uuid)
    if found is None:
        pytest.skip(why)
    yield found
    found.close()


def test_identity_and_sample(gpu: nvml.Gpu) -> None:
    identity = gpu.identity()
    assert identity["name"]
    assert identity["driver"]
    sample = gpu.sample("before", 0.0)
    told = sample.model_dump(exclude_none=True)
    assert len(told) >= 5, f"this driver tells only {sorted(told)}"
    if sample.sm_clock_mhz is not None and identity["max_sm_clock_mhz"]:
        assert 0 < sample.sm_clock_mhz <= identity["max_sm_clock_mhz"]
    if sample.temperature_c is not None:
        assert 0 < sample.temperature_c < 110


@pytest.mark.usefixtures("before_our_context")
def test_a_quiet_gpu_is_quiet(gpu: nvml.Gpu) -> None:
    watch, _ = nvml.watch(devices.facts(0).uuid)
    assert watch
    time.sleep(1.1)  # the time is what a sample is taken for
    watch.look()
    found = watch.finish()
    assert [sample.moment for sample in found.samples] == ["before", "during", "after"]
    if found.neighbours:
        pytest.skip(f"this GPU has neighbours: {found.warnings}")
    assert found.doubt == ""


@pytest.mark.usefixtures("needs_onnxruntime")
def test_a_neighbour_that_computes_is_a_doubt(gpu: nvml.Gpu, convs: Make) -> None:
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", NEIGHBOUR, str(convs(depth=20))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "computing\n"
            watch, _ = nvml.watch(devices.facts(0).uuid)
            assert watch
            found = watch.finish()
        finally:
            process.kill()
    if not found.neighbours and gpu.utilization() is None:
        pytest.skip("NVML tells neither processes nor utilization here")
    assert found.doubt or found.warnings
    assert "neighbour" in found.doubt or "process" in (found.doubt + " ".join(found.warnings)) or "busy" in found.doubt
