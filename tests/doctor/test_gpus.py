"""What is said about GPUs, from NVML as the H200 answers it and as other GPUs would."""

from __future__ import annotations

import os
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from tests.doubles.nvml import UUID, FakeNvml, process
from trt_action.doctor import backends, docker, gpus
from trt_action.doctor.gpus import Seen
from trt_action.doctor.line import Check
from trt_action.engine import devices, nvml, trial
from trt_action.engine.devices import Device
from trt_action.engine.inventory import inventory
from trt_action.errors import BackendUnavailableError, TrtActionError

pynvml = pytest.importorskip("pynvml")

OPENED = Device(0, "NVIDIA H200", UUID, "9.0", "13.0", 150_754_820_096, "cuda-python 13.5.0")


@pytest.fixture(autouse=True)
def device_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "DEVICE_FILES", ("/dev/null",))


def seen(**changes: Any) -> Seen:
    library = FakeNvml(**changes)
    known = inventory(library)
    assert library.open == 0
    return Seen(True, known, OPENED)


def lines(found: Seen, needed: bool = False) -> dict[str, Check]:
    return {check.name: check for check in gpus.lines(found, needed)}


def test_a_gpu_that_is_well() -> None:
    found = lines(seen())
    assert {check.status for check in found.values()} == {"green"}
    assert found["nvidia driver"].found == "580.159.03, runs CUDA 13.0"
    assert found["gpu 0"].found == "NVIDIA H200 (9.0)"
    assert found["gpu 0 memory"].found == "139.8 GiB of 140.4 GiB free"
    assert found["gpu 0 clocks"].found == "1980 of 1980 MHz, 41 °C"
    assert "cuda-python 13.5.0 opens" in found["cuda"].found


def test_serial_numbers_are_for_the_terminal_alone() -> None:
    found = lines(seen())
    assert found["gpu 0"].private == UUID
    assert not [check for check in found.values() if UUID in str(check.shareable("/home/me"))]


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("gpu 0 clocks", {"nvmlDeviceGetPersistenceMode": 0}, "persistence mode is off"),
        ("gpu 0 clocks", {"nvmlDeviceGetApplicationsClock": 1200}, "set to 1200 MHz"),
        (
            "gpu 0 clocks",
            {"nvmlDeviceGetCurrentClocksEventReasons": nvml.REASONS["HwThermalSlowdown"]},
            "held down (HwThermalSlowdown)",
        ),
        ("gpu 0 memory", {"nvmlDeviceGetComputeRunningProcesses": [process(7)]}, "1 other process"),
        ("gpu 0 memory", {"nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=80, memory=0)}, "80% busy"),
        (
            "gpu 0 memory",
            {"nvmlDeviceGetMemoryInfo": SimpleNamespace(total=16 << 30, used=15 << 30, free=1 << 30)},
            "1.0 GiB of 16.0 GiB free",
        ),
        ("gpu 0 memory errors", {"nvmlDeviceGetTotalEccErrors": 3}, "3 uncorrected"),
    ],
)
def test_a_doubt_is_amber(name: str, changes: dict[str, Any], words: str) -> None:
    found = lines(seen(**changes))
    assert found[name].status == "amber"
    assert words in found[name].found
    assert found[name].fix
    assert {check.status for other, check in found.items() if other != name} == {"green"}


def test_a_gpu_that_nobody_may_compute_on() -> None:
    assert lines(seen(nvmlDeviceGetComputeMode=2))["gpu 0"].status == "red"


def test_a_gpu_that_tells_nothing() -> None:
    from tests.doubles.nvml import H200

    found = lines(seen(lacks=tuple(name for name in H200 if name != "nvmlDeviceGetUUID")))
    assert found["gpu 0"].found == "a GPU (?)"
    assert {check.status for check in found.values()} == {"green"}


def test_instances_instead_of_the_gpu_that_is_split() -> None:
    known = inventory(FakeNvml(mig=True, nvmlDeviceGetMigMode=[1, 1]))
    assert [gpu.identity["uuid"] for gpu in known.gpus] == [UUID.replace("GPU", "MIG")]
    assert lines(Seen(True, known, OPENED))["gpu 0"].found == "NVIDIA H200 (9.0), an instance of it (MIG)"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "restart this host"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "device files"),
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "Install NVIDIA's driver"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "Install NVIDIA's driver"),
    ],
)
def test_a_driver_that_does_not_answer(code: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeNvml()

    def fail() -> None:
        raise pynvml.NVMLError(code)

    monkeypatch.setattr(library, "nvmlInit", fail)
    with pytest.raises(BackendUnavailableError) as caught:
        inventory(library)
    for needed, status in ((True, "red"), (False, "amber")):
        check = lines(Seen(True, caught.value, caught.value), needed)["nvidia driver"]
        assert check.status == status
        assert words in check.fix


def test_the_device_files_may_not_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "DEVICE_FILES", ("/dev/null", "/dev/nvidia-not-there"))
    assert "nvidia-modprobe" in lines(seen())["gpu device files"].fix
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(gpus, "DEVICE_FILES", ("/dev/null",))
    assert "may not be opened" in lines(seen(), needed=True)["gpu device files"].found


def test_a_library_that_raises_anything_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(devices, "visible", lambda: True)
    monkeypatch.setattr(gpus, "inventory", broken)
    monkeypatch.setattr(devices, "facts", broken)
    assert "ZeroDivisionError" in lines(gpus.look())["cuda"].found


@pytest.mark.parametrize(
    ("built_for", "driver", "status"), [(13, "13.0", "green"), (12, "13.0", "green"), (13, "12.8", "red")]
)
def test_library_and_driver(built_for: int, driver: str, status: str) -> None:
    check = backends._match("tensorrt-rtx", built_for, driver, "red")
    assert check.status == status
    assert ("580.65" in check.fix) == (status == "red")


def test_a_gpu_that_the_library_does_not_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real TensorRT for RTX and an H200 in memory."""
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(devices, "visible", lambda: True)
    monkeypatch.setattr(devices, "facts", lambda number: replace(OPENED, number=number))
    for backend, status in ((None, "amber"), ("tensorrt-rtx", "red")):
        found = {check.name: check for check in backends.lines(seen(), backend, "cpu")}
        assert found["tensorrt-rtx and driver"].status == "green"
        assert found["tensorrt-rtx here"].status == status
        assert "does not run on this GPU: NVIDIA H200 has compute capability 9.0" in found["tensorrt-rtx here"].found


def test_one_inference_is_the_proof() -> None:
    assert trial.onnxruntime_computes("cpu") == "CPUExecutionProvider"
    with pytest.raises(TrtActionError) as caught:
        trial.onnxruntime_computes("cuda:99")
    assert caught.value.fix


@pytest.mark.parametrize(
    ("runtimes", "default", "visible", "needs", "status"),
    [
        (["nvidia", "runc"], "nvidia", False, True, "green"),
        (["nvidia", "runc"], "runc", True, True, "green"),
        (["runc"], "runc", True, True, "amber"),
        (["runc"], "runc", True, False, "amber"),
        (["runc"], "runc", False, True, "red"),
        (["runc"], "runc", False, False, "green"),
        (None, None, False, True, "red"),
    ],
)
def test_dockers_runtimes(runtimes: Any, default: Any, visible: bool, needs: bool, status: str) -> None:
    info = {"Runtimes": None if runtimes is None else {name: {} for name in runtimes}, "DefaultRuntime": default}
    (check,) = docker._runtime(info, Seen(visible), needs)
    assert check.status == status
    assert ("nvidia-ctk runtime configure" in check.fix) == (status != "green")
