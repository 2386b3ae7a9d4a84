"""Every CUDA binding that is installed, on the real GPU."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from trt_action.engine import cuda as doors
from trt_action.engine import devices, nvml
from trt_action.engine.cuda import Cuda
from trt_action.errors import BackendUnavailableError, OutOfMemoryError, TrtActionError


@pytest.fixture(params=["cuda-python", "pycuda"])
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Cuda:
    monkeypatch.setenv(doors.CHOICE, request.param)
    try:
        return doors.cuda(0)
    except BackendUnavailableError as error:
        if "No CUDA binding" not in error.what:
            raise
        pytest.skip(f"{request.param} is not installed")


def test_it_says_who_it_is(gpu: Cuda) -> None:
    known = devices.facts(0)
    assert (gpu.name(), gpu.uuid()) == (known.name, known.uuid)
    assert ".".join(map(str, gpu.capability())) == known.capability
    free, total = gpu.memory()
    assert 0 < free <= total
    assert float(gpu.versions()["driver"]) >= 12


def test_nvml_knows_it_by_its_uuid(gpu: Cuda) -> None:
    found, why = nvml.find(gpu.uuid())
    if found is None:
        pytest.skip(why)
    assert found.identity()["name"] == gpu.name()
    found.close()


def test_there_and_back(gpu: Cuda) -> None:
    stream, nbytes = gpu.stream(), 1 << 20
    pointer, up, down = gpu.allocate(nbytes), gpu.pinned(nbytes), gpu.pinned(nbytes)
    up[:] = np.random.default_rng(0).integers(0, 256, nbytes, dtype=np.uint8)
    gpu.to_device(pointer, up, stream)
    gpu.to_host(down, pointer, stream)
    gpu.synchronize(stream)
    np.testing.assert_array_equal(up, down)
    down[:] = 0
    enqueue_in = gpu.copies([(pointer, up[:10]), (pointer + 10, up[10:20])], stream, to_device=True)
    enqueue_out = gpu.copies([(pointer, down)], stream, to_device=False)
    enqueue_in()
    enqueue_out()
    gpu.synchronize(stream)
    np.testing.assert_array_equal(up, down)
    gpu.free(pointer)
    gpu.free_pinned(up)
    gpu.free_pinned(down)
    gpu.destroy_stream(stream)


def test_events_take_the_time_of_the_gpu(gpu: Cuda) -> None:
    stream, nbytes = gpu.stream(), 64 << 20
    pointer, host = gpu.allocate(nbytes), gpu.pinned(nbytes)
    start, stop = gpu.event(), gpu.event()
    gpu.synchronize(stream)
    begin = time.perf_counter()
    gpu.record(start, stream)
    gpu.to_device(pointer, host, stream)
    gpu.record(stop, stream)
    gpu.synchronize(stream)
    wall = 1000 * (time.perf_counter() - begin)
    assert 0.1 < gpu.elapsed_ms(start, stop) <= wall  # 64 MiB, and no bus makes 640 GB/s
    for event in (start, stop):
        gpu.destroy_event(event)
    gpu.free(pointer)
    gpu.free_pinned(host)
    gpu.destroy_stream(stream)


def test_too_much_is_told_as_such_and_the_next_call_works(gpu: Cuda) -> None:
    with pytest.raises(OutOfMemoryError):
        gpu.allocate(1 << 50)
    gpu.free(gpu.allocate(0))


def test_another_thread(gpu: Cuda) -> None:
    stream = gpu.stream()
    pointer, up, down = gpu.allocate(8), gpu.pinned(8), gpu.pinned(8)
    up[:], down[:] = 7, 0
    copy_in = gpu.copies([(pointer, up)], stream, to_device=True)
    copy_out = gpu.copies([(pointer, down)], stream, to_device=False)
    failed: list[TrtActionError] = []

    def work() -> None:
        try:
            with gpu.current():
                copy_in()
                copy_out()
                gpu.synchronize(stream)
        except TrtActionError as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not failed
    assert down.tolist() == [7] * 8
    gpu.free(pointer)
    gpu.free_pinned(up)
    gpu.free_pinned(down)
    gpu.destroy_stream(stream)


def test_a_graph_is_replayed(gpu: Cuda) -> None:
    stream = gpu.stream()
    pointer, up, down = gpu.allocate(4), gpu.pinned(4), gpu.pinned(4)
    copy_in = gpu.copies([(pointer, up)], stream, to_device=True)
    copy_out = gpu.copies([(pointer, down)], stream, to_device=False)

    def both() -> None:
        copy_in()
        copy_out()

    try:
        graph = gpu.capture(stream, both)
    except BackendUnavailableError as error:
        pytest.skip(error.what)
    for value in (3, 9):
        up[:] = value
        graph.launch(stream)
        gpu.synchronize(stream)
        assert down.tolist() == [value] * 4
    graph.close()
    gpu.free(pointer)
    gpu.free_pinned(up)
    gpu.free_pinned(down)
    gpu.destroy_stream(stream)


def test_no_such_gpu() -> None:
    with pytest.raises(BackendUnavailableError, match="no GPU 99"):
        doors.cuda(99)
