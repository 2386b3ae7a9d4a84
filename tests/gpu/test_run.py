"""The whole story on the GPU, as a user starts it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from trt_action.engine import devices, nvml

pytestmark = pytest.mark.usefixtures("needs_onnxruntime")
ROOT = Path(__file__).resolve().parents[2]
SHORT = ("--max-seconds", "20s")  # three times as long at most, and the test has 280 s


def run(folder: Path, *arguments: str) -> tuple[int, dict[str, object], str]:
    done = subprocess.run(
        [
            sys.executable, "-m", "trt_action", "run", "--config", str(ROOT / "examples/digits/.trt-action.yml"),
            "--output", str(folder / "out"), "--cache", "false", *arguments,
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    evidence = folder / "out" / "evidence.json"
    return done.returncode, json.loads(evidence.read_text()) if evidence.exists() else {}, done.stdout + done.stderr


def test_the_demo_on_the_gpu(tmp_path: Path) -> None:
    code, evidence, said = run(tmp_path, "--device", "cuda", "--precision", "fp16", "--measure-seconds", "1s", *SHORT)
    assert code in (0, 1), said
    assert evidence["error"] is None, said
    fingerprint, head = evidence["fingerprint"], evidence["head"]
    assert isinstance(fingerprint, dict)
    assert isinstance(head, dict)
    assert fingerprint["hardware"]["gpu"]["uuid"] == devices.facts(0).uuid
    assert fingerprint["runtime"]["threads"] == 1
    assert fingerprint["runtime"]["provider"] == "CUDAExecutionProvider"
    assert fingerprint["runtime"]["provider_options"]["use_tf32"] == "0"
    assert head["latency"]["device"]["compute"]["median_ms"] > 0
    assert head["memory"]["device_peak_bytes"] > 0
    speedup = evidence["speedup"]
    assert isinstance(speedup, dict)
    assert speedup["over"] == "onnxruntime fp32 (cuda)"
    if nvml.find(devices.facts(0).uuid)[0] is not None:
        telemetry = evidence["telemetry"]
        assert isinstance(telemetry, dict)
        moments = [sample["moment"] for sample in telemetry["samples"]]
        assert moments[0] == "before"
        assert moments[-1] == "after"


def test_a_gpu_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    code, _, said = run(tmp_path, "--device", "cuda:99")
    assert code == 10
    assert "There is no GPU 99" in said
    assert "Traceback" not in said
