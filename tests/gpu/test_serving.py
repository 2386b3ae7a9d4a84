"""`build` and `serve` on the GPU: requests of many sizes at once, and every client gets its own numbers."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.gpu.conftest import Make, feeds
from trt_action.engine import devices, nvml

pytestmark = pytest.mark.usefixtures("needs_onnxruntime")
ROOT = Path(__file__).resolve().parents[2]
WIDTH = 8
SHAPES = f'{{"x": {{"min": [1, {WIDTH}, 32, 32], "opt": [4, {WIDTH}, 32, 32], "max": [8, {WIDTH}, 32, 32]}}}}'


@pytest.mark.parametrize("cuda_graph", ["false", "true"])
def test_served_from_the_gpu(convs: Make, tmp_path: Path, cuda_graph: str) -> None:
    pytest.importorskip("uvicorn", reason="the server's libraries are not installed (`trt-action[serve]`)")
    serving = pytest.importorskip("tests.serve.conftest")
    path, kept = convs(width=WIDTH), tmp_path / "kept"
    built = subprocess.run(
        [
            sys.executable, "-m", "trt_action", "build", str(path), "--name", "convs", "--shapes", SHAPES, "--device",
            "cuda", "--cuda-graph", cuda_graph, "--cache", "false", "--output", str(kept),
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    reference = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    gpu, _ = nvml.find(devices.facts(0).uuid)
    before = gpu.memory_used() if gpu else None
    server = serving.start(kept)

    def ask(number: int) -> float:
        """Relative error of one request of 1 to 5 rows."""
        x = (1 + number) * feeds(1 + number % 5, WIDTH)["x"]
        tensor = {"name": "x", "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}
        status, answer = serving.post(server, "/v2/models/convs/infer", {"inputs": [tensor]})
        assert status == 200, answer
        expected: Any = reference.run(None, {"x": x})[0]
        found = np.array(answer["outputs"][0]["data"], np.float32).reshape(answer["outputs"][0]["shape"])
        return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))

    try:
        with ThreadPoolExecutor(16) as pool:
            assert max(pool.map(ask, range(64))) < 1e-4
        if gpu and before is not None:
            assert (gpu.memory_used() or 0) > before
        assert server.stop() == 0
    finally:
        serving.end(server)
        if gpu:
            gpu.close()
