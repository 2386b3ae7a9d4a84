"""What the two backends ask of a host, and the path of TensorRT itself as far as TensorRT for RTX can stand in for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.doubles.cuda import FakeCuda
from trt_action import engine
from trt_action.engine import cuda, devices
from trt_action.engine.backend import BuildContext, RuntimeOptions
from trt_action.engine.devices import Device
from trt_action.engine.tensorrt import library, timing
from trt_action.engine.tensorrt.backend import TensorRTBackend, TensorRTRtxBackend
from trt_action.engine.tensorrt_options import TensorRTOptions
from trt_action.errors import BackendUnavailableError, BuildError, OutOfMemoryError

trt: Any = pytest.importorskip("tensorrt_rtx", reason="pip install tensorrt-rtx")
OPTIONS = RuntimeOptions(device="cuda:0")
H200 = Device(0, "NVIDIA H200", "GPU-0", "9.0", "13.0", 150_000_000_000, "fake")
ADA = Device(0, "NVIDIA L4", "GPU-1", "8.9", "13.0", 24_000_000_000, "fake")


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`host(device)`: that GPU, or none, and TensorRT for RTX in the place of both libraries."""

    def make(device: Device | None) -> None:
        monkeypatch.setattr(devices, "visible", lambda: device is not None)
        monkeypatch.setattr(devices, "facts", lambda number: device)
        monkeypatch.setattr(library, "load", lambda flavour: trt)

    return make


@pytest.mark.parametrize(
    ("backend", "device", "measures", "words"),
    [
        ("tensorrt", None, True, "needs an NVIDIA GPU, to build as well as to run"),
        ("tensorrt", None, False, "needs an NVIDIA GPU, to build as well as to run"),
        ("tensorrt-rtx", None, True, "Measuring with the tensorrt-rtx backend needs a GPU"),
        ("tensorrt-rtx", None, False, ""),
        ("tensorrt-rtx", H200, False, ""),
        (
            "tensorrt-rtx",
            H200,
            True,
            "NVIDIA H200 has compute capability 9.0, it supports 7.5, 8.0, 8.6, 8.9, 12.0, 12.1",
        ),
        ("tensorrt-rtx", ADA, True, ""),
    ],
)
def test_what_a_host_can_do(host: Any, backend: str, device: Device | None, measures: bool, words: str) -> None:
    host(device)
    chosen = engine.backend(backend)
    if not words:
        chosen.check_host(OPTIONS, measures=measures)
        return
    with pytest.raises(BackendUnavailableError) as caught:
        chosen.check_host(OPTIONS, measures=measures)
    assert words in caught.value.what
    assert caught.value.fix


@pytest.mark.parametrize("device", [None, ADA])
def test_a_target_that_the_library_lacks_is_refused_before_any_work(host: Any, device: Device | None) -> None:
    host(device)
    asked = RuntimeOptions(device="cuda:0", tensorrt=TensorRTOptions(compute_capabilities=("8.9", "9.0")))
    with pytest.raises(BuildError, match=r"names 9\.0; this library builds for 7\.5"):
        engine.backend("tensorrt-rtx").check_host(asked, measures=device is not None)


def test_who_only_builds_needs_no_driver_that_works(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(number: int) -> Device:
        raise cuda.no_driver("The driver was updated while it runs.")

    host(ADA)
    monkeypatch.setattr(devices, "facts", broken)
    chosen = engine.backend("tensorrt-rtx")
    chosen.check_host(OPTIONS, measures=False)
    assert chosen.identity(OPTIONS)["gpu"] is None
    with pytest.raises(BackendUnavailableError, match="Measuring with the tensorrt-rtx backend"):
        chosen.check_host(OPTIONS, measures=True)


def test_an_engine_is_bound_to_what_made_it(host: Any) -> None:
    host(None)
    portable = TensorRTRtxBackend().identity(OPTIONS)
    assert portable["gpu"] is None
    host(H200)  # builds there, and compiles nothing
    assert TensorRTRtxBackend().identity(OPTIONS) == portable
    host(ADA)
    bound = TensorRTRtxBackend().identity(OPTIONS)
    assert bound["gpu"] == {"name": "NVIDIA L4", "capability": "8.9", "driver": "13.0"}
    assert {**bound, "gpu": None} == portable


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_path_of_a_library_that_times_kernels(
    host: Any, conv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workspace from free memory and the timing cache, with the real builder and a GPU in memory."""
    host(ADA)
    gpu = FakeCuda(total=1 << 31)
    monkeypatch.setattr(cuda, "cuda", lambda device=0: gpu)
    limits: list[int] = []
    real = trt.IBuilderConfig.set_memory_pool_limit

    def recording(config: Any, pool: Any, size: int) -> None:
        limits.append(size)
        real(config, pool, size)

    monkeypatch.setattr(trt.IBuilderConfig, "set_memory_pool_limit", recording)
    shapes = {"x": {"min": (1, 1, 8, 8), "opt": (1, 1, 8, 8), "max": (2, 1, 8, 8)}}
    context = BuildContext(shapes=shapes, cache=tmp_path / "cache")
    plan = TensorRTBackend().build(conv, tmp_path, OPTIONS, context)
    assert plan.stat().st_size > 100_000
    weights = conv.stat().st_size
    assert limits == [int(0.8 * ((1 << 31) - weights))]
    file = timing.path(tmp_path / "cache", "tensorrt", trt.__version__, gpu.name(), "13.0")
    assert file.is_file()
    TensorRTBackend().build(conv, tmp_path, OPTIONS, context)  # with what was kept
    gpu.total = 100
    with pytest.raises(OutOfMemoryError, match="free on the GPU"):
        TensorRTBackend().build(conv, tmp_path, OPTIONS, context)
    gpu.total = 1 << 31
    greedy = RuntimeOptions(device="cuda:0", tensorrt=TensorRTOptions(workspace="4GB"))
    with pytest.raises(OutOfMemoryError, match="`workspace: 4GB` is 4GB"):
        TensorRTBackend().build(conv, tmp_path, greedy, context)
