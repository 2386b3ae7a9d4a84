"""`trt-action doctor` on a host with a GPU: it sees what is there, and proves what works."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.gpu.conftest import missing
from trt_action.doctor import Asked, checks
from trt_action.engine import devices


@pytest.mark.usefixtures("needs_device_files_only")
def test_the_gpu_that_is_here_can_be_used() -> None:
    """Or everything else would be skipped, and the run would look well."""
    assert missing() == ""


@pytest.mark.usefixtures("needs_onnxruntime")
def test_a_gpu_that_works(tmp_path: Path) -> None:
    asked = Asked(tmp_path, tmp_path, os.environ, backend="onnxruntime", device="cuda")
    found = {check.name: check for check in checks(asked)}
    assert devices.facts(0).name in found["cuda"].found
    assert found["onnxruntime cuda"].found == "CUDAExecutionProvider computes"
    assert found["gpu device files"].status == found["nvidia driver"].status == "green"
    assert found["gpu 0"].status == "green"
    assert "MHz" in found["gpu 0 clocks"].found
    assert devices.facts(0).uuid not in str([check.shareable("/home/me") for check in found.values()])
