"""A host with several GPUs: the one that was asked for works, is watched, and is the one in the evidence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trt_action.doctor import Asked, checks
from trt_action.engine import cuda, devices, nvml
from trt_action.errors import BackendUnavailableError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def second() -> devices.Device:
    try:
        return devices.facts(1)
    except BackendUnavailableError as error:
        pytest.skip(f"{error.what} {error.why}")


def used(uuid: str) -> int:
    gpu, why = nvml.find(uuid)
    if gpu is None:
        pytest.skip(why)
    try:
        found = gpu.memory_used()
    finally:
        gpu.close()
    if found is None:
        pytest.skip("NVML does not tell the memory in use")
    return found


def test_memory_is_taken_on_the_second_gpu_alone(second: devices.Device) -> None:
    taken = 1 << 30
    cuda.cuda(0)
    gpu = cuda.cuda(1)
    assert gpu.uuid() == second.uuid != devices.facts(0).uuid
    before = [used(devices.facts(0).uuid), used(second.uuid)]
    pointer = gpu.allocate(taken)
    after = [used(devices.facts(0).uuid), used(second.uuid)]
    gpu.free(pointer)
    cuda.cuda(0)  # the one that this process's other tests work on
    assert after[1] - before[1] >= taken
    assert after[0] - before[0] < taken // 2


@pytest.mark.usefixtures("needs_onnxruntime")
@pytest.mark.parametrize(("asked", "visible"), [("cuda:1", None), ("cuda", "1"), ("cuda:1", "1,0")])
def test_the_evidence_names_the_gpu_that_worked(
    second: devices.Device, tmp_path: Path, asked: str, visible: str | None
) -> None:
    expected = devices.facts(0) if visible == "1,0" else second
    done = subprocess.run(
        [
            sys.executable, "-m", "trt_action", "bench", str(ROOT / "examples/digits/model.onnx"), "--device", asked,
            "--output", str(tmp_path / "out"), "--cache", "false", "--measure-seconds", "1s",
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=280, check=False,
        env=os.environ | ({"CUDA_VISIBLE_DEVICES": visible} if visible else {}),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    evidence = json.loads((tmp_path / "out" / "evidence.json").read_text())
    assert evidence["fingerprint"]["hardware"]["gpu"]["uuid"] == expected.uuid
    if evidence["telemetry"]:
        assert evidence["telemetry"]["gpu"]["uuid"] == expected.uuid


def test_doctor_names_both(second: devices.Device, tmp_path: Path) -> None:
    found = {check.name: check for check in checks(Asked(tmp_path, tmp_path, os.environ, backend="onnxruntime"))}
    assert second.name in found["gpu 1"].found
    assert "gpu 0" in found
