"""What is read from NVML, and when it forbids a verdict."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.doubles.nvml import H200, UUID, FakeNvml, process
from trt_action.engine import nvml
from trt_action.gpu_records import Telemetry

pynvml = pytest.importorskip("pynvml")


class Time:
    """A clock that moves when somebody sleeps, or is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def time() -> Time:
    return Time()


Watched = Callable[..., Telemetry]


@pytest.fixture
def watched(time: Time) -> Watched:
    """`watched(library, during)`: ten seconds with one look; `during` happens after the first sample."""

    def run(library: FakeNvml, during: Callable[[], None] = lambda: None) -> Telemetry:
        watch = nvml.Watch(nvml.Gpu(library, UUID), clock=time, now_us=lambda: 5, sleep=time.sleep)
        during()
        time.now += 5
        watch.look()
        watch.look()  # at once again: nothing
        time.now += 5
        found = watch.finish()
        assert library.open == 0
        return found

    return run


def test_every_name_is_in_the_library() -> None:
    tree = ast.parse(Path(nvml.__file__).read_text())
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used = {name for name in names if name.startswith(("nvml", "NVML"))}
    assert len(used) > 25
    assert not {name for name in used if not hasattr(pynvml, name)}
    assert set(H200) <= set(dir(pynvml))
    bits = {f"nvmlClocksEventReason{name}": bit for name, bit in nvml.REASONS.items()}
    assert all(getattr(pynvml, name) == bit for name, bit in bits.items())


def test_identity_and_sample() -> None:
    gpu = nvml.Gpu(FakeNvml(), UUID)
    identity = gpu.identity()
    assert identity["name"] == "NVIDIA H200"
    assert identity["capability"] == "9.0"
    assert identity["cuda_driver"] == "13.0"
    assert identity["power_limit_watt"] == 700.0
    assert identity["ecc"] is True
    assert identity["mig"] is identity["mig_instance"] is False
    assert identity["compute_mode"] == "default"
    sample = gpu.sample("before", 0.0)
    assert sample.clock_reasons == []  # idle is no reason
    assert sample.power_watt == 121.5
    assert sample.processes == []


def test_what_a_gpu_does_not_tell_is_none() -> None:
    gpu = nvml.Gpu(FakeNvml(lacks=tuple(H200)), UUID)
    assert set(gpu.identity().values()) - {None} == {"580.159.03", "13.0", False}
    sample = gpu.sample("before", 0.0)
    assert sample.model_dump(exclude_none=True).keys() == {"moment", "seconds"}
    assert gpu.violations() == {}


def test_a_mig_instance_has_memory_of_its_own_and_clocks_of_the_gpu() -> None:
    library = FakeNvml(mig=True)
    gpu = nvml.Gpu(library, UUID)
    assert gpu.mig
    assert gpu.sample("before", 0.0).memory_used_bytes == 600_000_000
    assert gpu.sample("before", 0.0).sm_clock_mhz == 1980


def test_another_uuid_is_not_found_and_nothing_stays_open() -> None:
    library = FakeNvml()
    with pytest.raises(pynvml.NVMLError):
        nvml.Gpu(library, "GPU-0")
    assert library.open == 0


def test_a_quiet_gpu_has_no_doubt(watched: Watched) -> None:
    found = watched(FakeNvml())
    assert [sample.moment for sample in found.samples] == ["before", "during", "after"]
    assert [sample.seconds for sample in found.samples] == [0.0, 5.0, 10.0]
    assert found.doubt == ""
    assert found.warnings == []


@pytest.mark.parametrize("name", ["HwSlowdown", "SwThermalSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown"])
def test_a_throttled_gpu_decides_nothing(watched: Watched, name: str) -> None:
    library = FakeNvml()
    found = watched(library, lambda: library.values.update(nvmlDeviceGetCurrentClocksEventReasons=nvml.REASONS[name]))
    assert name in found.doubt
    assert "41 °C" in found.doubt


@pytest.mark.parametrize(("milliseconds", "doubt"), [(5, False), (500, True)])
def test_throttling_between_the_samples_is_counted(watched: Watched, milliseconds: int, doubt: bool) -> None:
    library = FakeNvml()

    def heat() -> None:
        def status(policy: int) -> Any:
            return SimpleNamespace(referenceTime=0, violationTime=milliseconds * 1_000_000 if policy == 1 else 0)

        library.values["nvmlDeviceGetViolationStatus"] = status

    found = watched(library, heat)
    assert found.violation_seconds == {"thermal": milliseconds / 1000}
    assert bool(found.doubt) is doubt
    assert bool(found.warnings) is not doubt


def test_the_power_limit_is_a_warning(watched: Watched) -> None:
    found = watched(FakeNvml(nvmlDeviceGetCurrentClocksEventReasons=0x4))
    assert found.doubt == ""
    assert "700 W" in found.warnings[0]


def test_an_idle_neighbour_is_a_warning_and_a_busy_one_a_doubt(watched: Watched) -> None:
    there: dict[str, Any] = {"nvmlDeviceGetComputeRunningProcesses": [process(4242)]}
    idle = watched(FakeNvml(**there))
    assert [one.pid for one in idle.neighbours] == [4242]
    assert idle.doubt == ""
    assert "500 MB" in idle.warnings[0]

    def used(since_us: int) -> list[Any]:
        assert since_us == 5
        return [SimpleNamespace(pid=4242, timeStamp=7, smUtil=30), SimpleNamespace(pid=1, timeStamp=7, smUtil=99)]

    busy = watched(FakeNvml(**there, nvmlDeviceGetProcessUtilization=used))
    assert busy.neighbour_utilization == 0.3
    assert "30%" in busy.doubt


def test_processes_that_go_with_our_workers_are_ours(watched: Watched) -> None:
    library = FakeNvml()
    left = [3]

    def dying() -> list[Any]:
        left[0] -= 1
        return [process(77)] if left[0] > 0 else []

    found = watched(library, lambda: library.values.update(nvmlDeviceGetComputeRunningProcesses=dying))
    assert found.neighbours == []


def test_who_came_meanwhile_and_stays_is_a_neighbour(watched: Watched) -> None:
    library = FakeNvml()
    found = watched(library, lambda: library.values.update(nvmlDeviceGetComputeRunningProcesses=[process(77)]))
    assert [one.pid for one in found.neighbours] == [77]


def test_a_gpu_that_is_busy_before_we_start(watched: Watched, time: Time) -> None:
    found = watched(FakeNvml(nvmlDeviceGetUtilizationRates=SimpleNamespace(gpu=60, memory=0)))
    assert "busy (60%)" in found.doubt
    settles = iter([80, 40, 5, *[0] * 99])
    library = FakeNvml(nvmlDeviceGetUtilizationRates=lambda: SimpleNamespace(gpu=next(settles), memory=0))
    assert watched(library).doubt == ""  # what we had built on it a second ago


def test_memory_that_is_not_told(watched: Watched) -> None:
    found = watched(FakeNvml(nvmlDeviceGetComputeRunningProcesses=[process(1, None), process(2, 2**64 - 1)]))
    assert [one.memory_bytes for one in found.neighbours] == [None, None]
    assert "holding" not in found.warnings[0]


def test_a_narrow_bus_and_memory_errors_are_told(watched: Watched) -> None:
    found = watched(FakeNvml(nvmlDeviceGetCurrPcieLinkWidth=4, nvmlDeviceGetTotalEccErrors=2))
    assert len(found.warnings) == 2
    assert "4 of 16 lanes" in found.warnings[1]


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this host has a GPU")
def test_without_a_driver_the_reason_is_told() -> None:
    found, why = nvml.find(UUID)
    assert found is None
    assert "NVML" in why


@pytest.fixture
def watch(time: Time) -> tuple[nvml.Watch, FakeNvml]:
    library = FakeNvml()
    return nvml.Watch(nvml.Gpu(library, UUID), clock=time, sleep=time.sleep), library


def _violation(milliseconds: int) -> Callable[[int], Any]:
    return lambda policy: SimpleNamespace(violationTime=milliseconds * 1_000_000 if policy == 1 else 0)


@pytest.mark.parametrize(
    ("before", "after", "again"),
    [
        ({}, {}, False),
        ({"nvmlDeviceGetCurrentClocksEventReasons": 0x20}, {"nvmlDeviceGetCurrentClocksEventReasons": 0x0}, True),
        ({}, {"nvmlDeviceGetCurrentClocksEventReasons": 0x80}, True),
        ({}, {"nvmlDeviceGetCurrentClocksEventReasons": 0x4}, False),  # the power limit is how large GPUs run
        ({}, {"nvmlDeviceGetViolationStatus": _violation(3)}, True),  # slowed down and back inside the window
        ({}, {"nvmlDeviceGetClockInfo": 1770}, True),
        ({"nvmlDeviceGetClockInfo": 1770}, {}, True),
        ({}, {"nvmlDeviceGetClockInfo": 1800}, False),
    ],
)
def test_which_windows_do_not_count(
    watch: tuple[nvml.Watch, FakeNvml], before: dict[str, Any], after: dict[str, Any], again: bool
) -> None:
    watching, library = watch
    library.values.update(before)
    watching.begin()
    library.values.update({**{name: H200[name] for name in before}, **after})
    assert watching.again() is again
    library.values.update(H200)
    found = watching.finish()
    assert found.set_aside == again
    assert found.doubt == ""
    assert any("measured again" in warning for warning in found.warnings) is again


def test_heat_in_windows_that_do_not_count_is_no_doubt_and_outside_it_is(
    watch: tuple[nvml.Watch, FakeNvml], time: Time
) -> None:
    watching, library = watch
    watching.begin()
    time.now += 2
    library.values["nvmlDeviceGetViolationStatus"] = _violation(900)
    library.values["nvmlDeviceGetCurrentClocksEventReasons"] = 0x40
    assert watching.again()
    watching.look(windows=True)
    library.values["nvmlDeviceGetCurrentClocksEventReasons"] = 0x0
    found = watching.finish()
    assert [sample.moment for sample in found.samples] == ["before", "set-aside", "after"]
    assert found.violation_seconds["thermal"] == found.set_aside_thermal_seconds == 0.9
    assert found.doubt == ""


def test_a_gpu_that_is_slowed_down_for_long_is_measured_as_it_is_and_doubted(
    watch: tuple[nvml.Watch, FakeNvml], time: Time
) -> None:
    watching, library = watch
    library.values["nvmlDeviceGetCurrentClocksEventReasons"] = 0x40
    said = []
    for _ in range(nvml.MAX_SET_ASIDE + 5):
        watching.begin()
        said.append(watching.again())
    assert said == [True] * nvml.MAX_SET_ASIDE + [False] * 5
    time.now += 2
    watching.look(windows=True)
    library.values["nvmlDeviceGetCurrentClocksEventReasons"] = 0x0
    assert "HwThermalSlowdown" in watching.finish().doubt


def test_a_gpu_that_tells_no_clocks_has_no_windows_that_do_not_count(time: Time) -> None:
    watching = nvml.Watch(nvml.Gpu(FakeNvml(lacks=tuple(H200)), UUID), clock=time, sleep=time.sleep)
    watching.begin()
    assert not watching.again()


def test_a_counter_that_is_missing_for_a_moment_is_no_heat(watch: tuple[nvml.Watch, FakeNvml], time: Time) -> None:
    """It counts since the driver was loaded: weeks of heat must neither set a window aside nor excuse the heat of now."""
    watching, library = watch
    hot = _violation(90_000_000)
    library.values["nvmlDeviceGetViolationStatus"] = hot
    library.lacks = ("nvmlDeviceGetViolationStatus",)
    watching.begin()
    library.lacks = ()
    assert not watching.again()
    watching.begin()
    library.lacks = ("nvmlDeviceGetViolationStatus",)
    library.values["nvmlDeviceGetClockInfo"] = 1000
    assert watching.again()
    library.lacks = ()
    time.now += 10
    found = watching.finish()
    assert (found.set_aside, found.set_aside_thermal_seconds) == (1, 0.0)
    assert "9e+04 s" in found.doubt


def test_nvml_that_answers_nothing_any_more_sets_nothing_aside(watch: tuple[nvml.Watch, FakeNvml], time: Time) -> None:
    watching, library = watch
    watching.begin()
    library.lacks = tuple(H200)  # "GPU is lost"
    assert not watching.again()
    time.now += 2
    watching.look(windows=True)
    found = watching.finish()
    assert (found.set_aside, found.disturbed, found.doubt) == (0, 0, "")


def test_long_windows_are_set_aside_for_a_while_only(watch: tuple[nvml.Watch, FakeNvml], time: Time) -> None:
    watching, library = watch
    said = []
    for _ in range(8):
        watching.begin()
        library.values["nvmlDeviceGetClockInfo"] = 1200
        time.now += 12  # three inferences of a large model
        said.append(watching.again())
        library.values["nvmlDeviceGetClockInfo"] = 1980
    assert said == [True] * 3 + [False] * 5
    found = watching.finish()
    assert (found.set_aside, found.disturbed, found.held_down) == (3, 5, 0)
    assert found.doubt == ""  # moved, not held down: rounds are random in order, so it is told and no veto
    assert any("5 more timed windows, which count" in warning for warning in found.warnings)


def test_windows_held_down_that_count_are_a_doubt_although_no_sample_saw_it(
    watch: tuple[nvml.Watch, FakeNvml],
) -> None:
    watching, library = watch
    for _ in range(nvml.MAX_SET_ASIDE + 3):
        watching.begin()
        library.values["nvmlDeviceGetCurrentClocksEventReasons"] = 0x40
        watching.again()
        library.values["nvmlDeviceGetCurrentClocksEventReasons"] = 0x0
    found = watching.finish()
    assert (found.set_aside, found.disturbed, found.held_down) == (50, 3, 3)
    assert "in 3 timed windows after 50 that were set aside" in found.doubt


def test_a_counter_that_is_gone_at_the_end_is_no_time_below_zero(
    watch: tuple[nvml.Watch, FakeNvml], time: Time
) -> None:
    watching, library = watch
    watching.begin()
    library.values["nvmlDeviceGetViolationStatus"] = _violation(900)
    assert watching.again()
    library.lacks = ("nvmlDeviceGetViolationStatus",)
    library.values["nvmlDeviceGetCurrentClocksEventReasons"] = 0x40
    time.now += 2
    watching.look()
    doubt = watching.finish().doubt
    assert "(HwThermalSlowdown) at up to" in doubt
    assert "-0.9 s" not in doubt


def test_a_mig_instance_is_asked_for_the_clocks_of_its_gpu(time: Time) -> None:
    watching = nvml.Watch(nvml.Gpu(library := FakeNvml(mig=True), UUID), clock=time, sleep=time.sleep)
    watching.begin()
    library.values["nvmlDeviceGetClockInfo"] = 990
    assert watching.again()
