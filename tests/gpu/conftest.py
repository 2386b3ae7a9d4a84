"""What needs a GPU: it runs on whatever GPU and libraries are there, and everything else is skipped with the reason.

`make test-gpu` also writes build/gpu-report.md and .json, for sharing: which GPU, which versions, what passed. Elsewhere:
`TRT_ACTION_GPU_REPORT=build/gpu-report pytest -m gpu`.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import platform
import re
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import trt_action
from trt_action.engine import devices
from trt_action.engine.backend import Loadable, RuntimeOptions
from trt_action.errors import TrtActionError

HERE = Path(__file__).parent
REPORT = "TRT_ACTION_GPU_REPORT"
PACKAGES = (
    "cuda-bindings",
    "pycuda",
    "nvidia-ml-py",
    "onnxruntime-gpu",
    "onnxruntime",
    "tensorrt",
    "tensorrt-cu12",
    "tensorrt-cu13",
    "tensorrt-rtx",
    "tensorrt-rtx-cu12",
    "onnx",
    "numpy",
)
_outcomes: dict[str, dict[str, Any]] = {}


def no_device_files() -> str:
    return "" if devices.visible() else "no device files of an NVIDIA GPU"


@functools.cache
def missing() -> str:
    """Why no GPU can be used here; empty if one can."""
    if why := no_device_files():
        return why
    try:
        devices.facts(0)
    except TrtActionError as error:
        return f"{error.what} {error.why}"
    return ""


@functools.cache
def without_cuda_provider() -> str:
    """Why ONNX Runtime cannot use the GPU; empty if it can."""
    return "" if devices.onnxruntime_has_cuda() else "this ONNX Runtime has no CUDA provider (onnxruntime-gpu)"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            needs = getattr(item, "fixturenames", ())
            lacking = no_device_files() if "needs_device_files_only" in needs else missing()
            if why := lacking or ("needs_onnxruntime" in needs and without_cuda_provider()):
                item.add_marker(pytest.mark.skip(reason=why))
    items.sort(key=lambda item: "before_our_context" not in getattr(item, "fixturenames", ()))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if "gpu" not in report.keywords or not (report.when == "call" or report.outcome != "passed"):
        return
    if report.when == "teardown" and report.nodeid in _outcomes and report.outcome == "passed":
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr or "")
    _outcomes[report.nodeid] = {
        "outcome": report.outcome,
        "reason": shareable(reason.removeprefix("Skipped: "))[-600:],
        "seconds": round(report.duration, 2),
    }


def shareable(text: str) -> str:
    """Without the folders and the name of whoever ran it."""
    for folder, name in ((HERE.parents[1], "."), (Path(tempfile.gettempdir()), "TMP"), (Path.home(), "~")):
        text = text.replace(str(folder), name)
    return re.sub(r"pytest-of-[^/\s]+", "pytest", text)


def pytest_sessionfinish() -> None:
    name = os.environ.get(REPORT)
    if name and _outcomes:
        found = record()
        base = Path(name)
        base.parent.mkdir(parents=True, exist_ok=True)
        base.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
        base.with_suffix(".md").write_text(markdown(found))


def record() -> dict[str, Any]:
    """For sharing: no host name, no path, no UUID."""
    gpu: dict[str, Any] = {}
    if not missing():
        device = asdict(devices.facts(0))
        gpu = {name: device[name] for name in ("name", "capability", "driver_cuda", "total_bytes", "binding")}
        gpu |= {"driver": driver()}
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "trt-action": trt_action.__version__,
        "python": platform.python_version(),
        "platform": platform.system() + " " + platform.machine(),
        "gpu": gpu,
        "packages": {name: version(name) for name in PACKAGES},
        "counts": {
            outcome: sum(one["outcome"] == outcome for one in _outcomes.values())
            for outcome in ("passed", "failed", "skipped")
        },
        "tests": _outcomes,
    }


def driver() -> str | None:
    from trt_action.engine import nvml

    gpu, _ = nvml.find(devices.facts(0).uuid)
    if gpu is None:
        return None
    try:
        known: str | None = gpu.identity()["driver"]
        return known
    finally:
        gpu.close()


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def markdown(found: dict[str, Any]) -> str:
    gpu, counts = found["gpu"], found["counts"]
    title = f"{gpu['name']} (compute capability {gpu['capability']})" if gpu else "no GPU"
    packages = ", ".join(f"{name} {number}" for name, number in found["packages"].items() if number)
    lines = [
        f"# trt-action {found['trt-action']} on {title}",
        "",
        f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped. {found['created']}, "
        f"Python {found['python']}, driver {gpu.get('driver', '–')} (CUDA {gpu.get('driver_cuda', '–')}), {packages}.",
        "",
        "| test | outcome | time | reason |",
        "|---|---|---|---|",
    ]
    for name, one in sorted(found["tests"].items()):
        reason = " ".join(one["reason"].split())[-200:].replace("|", "\\|")
        short = name.removeprefix("tests/").replace("|", "\\|")
        lines.append(f"| `{short}` | {one['outcome']} | {one['seconds']:.1f} s | {reason} |")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="session")
def needs_device_files_only() -> None:
    """Asked for by the test that is to fail where a GPU is there and cannot be used."""


@pytest.fixture(scope="session")
def before_our_context() -> None:
    """Asked for by tests that must run before this process itself opens the GPU, and is a neighbour to what they watch."""


@pytest.fixture(scope="session")
def needs_onnxruntime() -> None:
    """Asked for by tests that run ONNX Runtime's CUDA provider; see `pytest_collection_modifyitems`."""


GPU = RuntimeOptions(threads=1, device="cuda:0")
Make = Callable[..., Path]


@pytest.fixture
def convs(tmp_path: Path) -> Make:
    """`convs(depth, width)`: a chain of 3 × 3 convolutions, `x` float32 [N, width, 32, 32] -> `y`, the mean of each
    channel [N, width]; the variance of a signal stays about the same from layer to layer."""

    def make(depth: int = 4, width: int = 64) -> Path:
        rng = np.random.default_rng(0)
        scale = np.float32(np.sqrt(2 / (9 * width)))
        nodes, weights, last = [], [], "x"
        for i in range(depth):
            weight = rng.standard_normal((width, width, 3, 3), dtype=np.float32) * scale
            weights.append(numpy_helper.from_array(weight, f"w{i}"))
            nodes.append(helper.make_node("Conv", [last, f"w{i}"], [f"c{i}"], pads=[1] * 4, name=f"conv{i}"))
            nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
            last = f"r{i}"
        nodes += [
            helper.make_node("GlobalAveragePool", [last], ["p"]),
            helper.make_node("Flatten", ["p"], ["y"]),
        ]
        graph = helper.make_graph(
            nodes,
            "convs",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", width, 32, 32])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", width])],
            weights,
        )
        path = tmp_path / f"convs-{depth}-{width}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), path)
        return path

    return make


def feeds(batch: int = 2, width: int = 64) -> dict[str, Any]:
    return {"x": np.random.default_rng(1).standard_normal((batch, width, 32, 32), dtype=np.float32)}


def plain(path: Path, **options: Any) -> Loadable:
    """The ONNX file itself on the GPU, optimised at load."""
    known = {"threads": 1, "device": "cuda:0", **options}
    return Loadable("onnxruntime", path, RuntimeOptions(**known), prepared=False)
