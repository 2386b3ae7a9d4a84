"""GPUs as nvidia-smi tells them, and one run at a time on each: locks between real processes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from trt_action import gpu
from trt_action.errors import BackendUnavailableError
from trt_action.gpu import Gpu

A100 = Gpu("GPU-1", "NVIDIA A100-SXM4-80GB", "8.0")
L4 = Gpu("GPU-2", "NVIDIA L4", "8.9")
HOLDER = """
import sys
from pathlib import Path
from trt_action import gpu
with gpu.locked(sys.argv[2:], Path(sys.argv[1]), timeout=30, log=lambda text: None):
    print("held", flush=True)
    sys.stdin.readline()
"""


def smi(folder: Path, script: str) -> str:
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_visible_gpus(tmp_path: Path) -> None:
    rows = "GPU-1, NVIDIA A100-SXM4-80GB, 8.0\nGPU-2, NVIDIA L4, 8.9"
    assert gpu.visible(smi(tmp_path, f"cat <<'END'\n{rows}\nEND")) == [A100, L4]
    assert A100.architecture == "sm_80"


@pytest.mark.skipif(gpu.DEVICE.exists(), reason="this host has a GPU")
def test_no_driver_is_no_gpu(tmp_path: Path) -> None:
    assert gpu.visible(str(tmp_path / "missing")) == []
    assert gpu.visible(smi(tmp_path, "echo no devices were found; exit 6")) == []


def test_a_driver_that_does_not_answer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "DEVICE", tmp_path)
    with pytest.raises(BackendUnavailableError, match="driver does not answer") as caught:
        gpu.visible(smi(tmp_path, "echo 'Failed to initialize NVML'; exit 255"))
    assert "NVML" in caught.value.why


@pytest.mark.parametrize(
    ("expected", "found"), [("A100", [A100]), ("a100", [A100]), ("sm_89", [L4]), ("nvidia", [A100, L4])]
)
def test_the_expected_gpu(expected: str, found: list[Gpu]) -> None:
    gpu.check_expected(expected, found)


@pytest.mark.parametrize(
    ("expected", "found"), [("A100", [L4]), ("sm_80", [L4]), ("A100", [A100, L4]), ("sm_8", [A100]), ("L4", [])]
)
def test_another_gpu_is_refused(expected: str, found: list[Gpu]) -> None:
    with pytest.raises(BackendUnavailableError, match=expected):
        gpu.check_expected(expected, found)


def hold(folder: Path, *uuids: str) -> subprocess.Popen[str]:
    """Another process that holds GPUs until its stdin closes."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), *uuids], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def test_a_busy_gpu_is_waited_for_and_the_wait_is_shown(tmp_path: Path) -> None:
    said: list[str] = []
    with hold(tmp_path, "GPU-1") as other:
        assert other.stdin

        def log(text: str) -> None:
            said.append(text)
            if len(said) == 2:  # waited twice: let the other end
                other.stdin.close()  # type: ignore[union-attr]

        with gpu.locked(["GPU-1"], tmp_path, timeout=60, log=log, every=0.2):
            assert len(said) >= 2
    assert all("GPU-1" in text and "60 s" in text for text in said)


def test_a_busy_gpu_has_a_time_limit(tmp_path: Path) -> None:
    with hold(tmp_path, "GPU-1") as other:
        start = time.monotonic()
        with (
            pytest.raises(BackendUnavailableError, match="GPU-1") as caught,
            gpu.locked(["GPU-1"], tmp_path, timeout=0.5, log=lambda _: None, every=0.2),
        ):
            pass
        assert time.monotonic() - start < 10
        assert "gpu-lock-timeout" in caught.value.fix
        with gpu.locked(["GPU-2"], tmp_path, timeout=0.5, log=lambda _: None):
            pass  # another GPU is free
        assert other.stdin
        other.stdin.close()


def test_a_killed_run_leaves_no_lock(tmp_path: Path) -> None:
    with hold(tmp_path, "GPU-1", "GPU-2") as other:
        other.kill()
    with gpu.locked(["GPU-2", "GPU-1"], tmp_path, timeout=5, log=lambda _: None):
        pass
