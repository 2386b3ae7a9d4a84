"""Which binding is taken, what is said without a GPU, and that the double is as strict as the real thing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.doubles.cuda import FakeCuda
from trt_action.engine import cuda
from trt_action.errors import BackendUnavailableError, MeasureError, OutOfMemoryError


@pytest.mark.parametrize(("text", "number"), [("cpu", None), ("cuda", 0), ("cuda:0", 0), ("cuda:3", 3)])
def test_devices(text: str, number: int | None) -> None:
    assert cuda.parse_device(text) == number


@pytest.mark.parametrize("text", ["gpu", "cuda:", "cuda:-1", "cuda:x", "CUDA:0", "", "cuda:0 "])
def test_other_devices_are_refused(text: str) -> None:
    with pytest.raises(BackendUnavailableError):
        cuda.parse_device(text)


def test_a_binding_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cuda.CHOICE, "cupy")
    with pytest.raises(BackendUnavailableError, match="cupy") as caught:
        cuda.cuda()
    assert "pycuda" in caught.value.fix


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this host has a GPU")
def test_without_a_driver_one_clear_sentence() -> None:
    pytest.importorskip("cuda.bindings")
    with pytest.raises(BackendUnavailableError, match="No NVIDIA GPU") as caught:
        cuda.cuda()
    assert "no driver" in caught.value.why or "no GPU" in caught.value.why


def test_a_driver_that_is_too_old_is_not_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    from trt_action.engine import cuda_python

    errors = runtime.cudaError_t
    monkeypatch.setattr(runtime, "cudaGetDeviceCount", lambda: (errors.cudaErrorInsufficientDriver, 0))
    monkeypatch.setattr(runtime, "cudaDriverGetVersion", lambda: (errors.cudaSuccess, 12_040))
    with pytest.raises(BackendUnavailableError, match="driver of this host's GPU is too old") as caught:
        cuda_python.open_device(0)
    assert caught.value.why == "The driver runs CUDA 12.4 at most."
    assert "`pip install 'cuda-bindings<13'`" in caught.value.fix


def test_errors_of_cuda_are_told_apart() -> None:
    assert isinstance(cuda.failed("f", "cudaErrorMemoryAllocation", "out of memory"), OutOfMemoryError)
    assert isinstance(cuda.failed("f", "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"), OutOfMemoryError)
    assert "cudaErrorIllegalAddress" in cuda.failed("f", "cudaErrorIllegalAddress", "…").what


class TestDouble:
    """What other tests rely on."""

    def test_copies_are_done_in_order_and_not_before_they_are_waited_for(self) -> None:
        gpu = FakeCuda()
        stream, pointer = gpu.stream(), gpu.allocate(8)
        up, down = gpu.pinned(8), gpu.pinned(8)
        up[:] = np.arange(8)
        gpu.to_device(pointer, up, stream)
        gpu.enqueue(stream, lambda: np.copyto(gpu.device(pointer, 8), gpu.device(pointer, 8) + 1), 2.0)
        gpu.to_host(down, pointer, stream)
        assert (down == 0xAB).all()
        gpu.synchronize(stream)
        assert down.tolist() == list(range(1, 9))
        assert gpu.done == ["to_device", "kernel", "to_host"]
        assert gpu.pageable_copies == 0
        gpu.free(pointer)
        gpu.free_pinned(up)
        gpu.free_pinned(down)
        gpu.destroy_stream(stream)
        assert not gpu.leaks()

    def test_events_are_times_of_the_gpu(self) -> None:
        gpu = FakeCuda()
        stream, start, stop = gpu.stream(), gpu.event(), gpu.event()
        gpu.record(start, stream)
        gpu.enqueue(stream, lambda: None, 3.5)
        gpu.record(stop, stream)
        with pytest.raises(MeasureError, match="NotReady"):
            gpu.elapsed_ms(start, stop)
        gpu.synchronize(stream)
        assert gpu.elapsed_ms(start, stop) == 3.5

    def test_freed_memory_is_found(self) -> None:
        gpu = FakeCuda()
        stream, pointer = gpu.stream(), gpu.allocate(4)
        gpu.free(pointer)
        with pytest.raises(MeasureError, match="twice"):
            gpu.free(pointer)
        gpu.to_device(pointer, gpu.pinned(4), stream)
        with pytest.raises(MeasureError, match="IllegalAddress"):
            gpu.synchronize(stream)

    def test_a_write_behind_the_end_is_found(self) -> None:
        gpu = FakeCuda()
        stream, pointer = gpu.stream(), gpu.allocate(4)
        gpu.to_device(pointer, gpu.pinned(5), stream)
        with pytest.raises(MeasureError, match="IllegalAddress"):
            gpu.synchronize(stream)

    def test_memory_runs_out(self) -> None:
        gpu = FakeCuda(total=100)
        gpu.allocate(60)
        with pytest.raises(OutOfMemoryError):
            gpu.allocate(60)

    def test_graphs(self) -> None:
        gpu = FakeCuda()
        stream = gpu.stream()
        graph = gpu.capture(stream, lambda: gpu.enqueue(stream, lambda: None, 1.0))
        gpu.synchronize(stream)
        assert gpu.done == []
        graph.launch(stream)
        graph.launch(stream)
        gpu.synchronize(stream)
        assert gpu.done == ["kernel", "kernel"]
        with pytest.raises(MeasureError, match="Capture"):
            gpu.capture(stream, lambda: gpu.synchronize(stream))
        with pytest.raises(MeasureError, match="Capture"):
            gpu.capture(stream, lambda: (gpu.allocate(3), None)[1])
        graph.close()
        assert gpu.leaks() == {"streams": 1}
