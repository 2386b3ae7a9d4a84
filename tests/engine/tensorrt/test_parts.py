"""Header, memory, causes, timing cache, progress: everything that needs no TensorRT."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trt_action.engine.tensorrt import causes, library, memory, plan, timing
from trt_action.engine.tensorrt.causes import Situation
from trt_action.engine.tensorrt.log import KEPT, Log
from trt_action.engine.tensorrt.memory import Budget
from trt_action.engine.tensorrt.progress import Phases
from trt_action.engine.tensorrt_options import TensorRTOptions
from trt_action.errors import BackendUnavailableError, BuildError, OutOfMemoryError, TrtActionError

GB = 10**9


def test_options_survive_json_and_older_records() -> None:
    options = TensorRTOptions(workspace="80%", aux_streams=0, compute_capabilities=("8.9",))
    assert TensorRTOptions.from_json(options.as_json()) == options
    assert TensorRTOptions.from_json({}) == TensorRTOptions()
    assert "timing_cache" not in options.of_the_plan()
    assert (
        TensorRTOptions(weight_streaming="2GB").of_the_plan() == TensorRTOptions(weight_streaming="auto").of_the_plan()
    )


def _head(magic: bytes, *version: int) -> bytes:
    return magic + bytes(20) + bytes(version) + bytes(40)


@pytest.mark.parametrize(
    ("ours", "theirs", "compatible", "loads"),
    [
        ("10.16.1.11", (10, 16, 1, 11), "none", True),
        ("10.16.1.99", (10, 16, 1, 11), "none", True),  # the build number does not decide
        ("10.16.2.11", (10, 16, 1, 11), "none", False),
        ("11.4.0.106", (11, 0, 0, 1), "none", False),
        ("11.4.0.106", (11, 0, 0, 1), "with-lean", True),
        ("11.0.0.1", (11, 4, 0, 106), "with-lean", False),  # never backward
        ("11.4.0.106", (10, 16, 1, 11), "without-lean", True),
        ("12.0.0.1", (10, 16, 1, 11), "with-lean", False),
        ("10.16.1.11", (11, 0, 0, 1), "with-lean", False),
    ],
)
def test_which_versions_load_a_plan(ours: str, theirs: Any, compatible: str, loads: bool) -> None:
    header = plan.read(_head(b"ftrt", *theirs), "e.plan")
    assert header.version == theirs
    if loads:
        plan.check(header, "e.plan", library.TENSORRT, ours, version_compatible=compatible)
        return
    with pytest.raises(
        BuildError, match=f"was built by TensorRT {theirs[0]}.*; TensorRT {ours} is installed"
    ) as caught:
        plan.check(header, "e.plan", library.TENSORRT, ours, version_compatible=compatible)
    assert "tensorrt " + ".".join(map(str, theirs[:3])) in caught.value.fix


@pytest.mark.parametrize("head", [b"", b"ftrt", b"\x08\x0aonnx" * 10, b"ftrt" + bytes(23)])
def test_what_is_no_plan(head: bytes) -> None:
    with pytest.raises(BuildError, match="is not a TensorRT plan"):
        plan.read(head, "e.plan")


@pytest.mark.parametrize(
    ("asked", "free", "expected"),
    [
        ("auto", 10 * GB, int(0.8 * 9 * GB)),
        ("auto", GB, memory.MIN_WORKSPACE),
        ("auto", None, None),
        ("50%", None, None),
        ("4GB", None, 4 * GB),
        ("4GB", 10 * GB, 4 * GB),
        ("50%", 10 * GB, 5 * GB),
    ],
)
def test_workspace(asked: str, free: int | None, expected: int | None) -> None:
    assert memory.workspace(asked, Budget(GB, free, 64 * GB)) == expected


@pytest.mark.parametrize("asked", ["9.5GB", "95%"])
def test_a_workspace_that_is_not_there_is_refused_before_the_build(asked: str) -> None:
    with pytest.raises(
        OutOfMemoryError, match=r"beside the weights \(1GB\) 9GB of the GPU's 10GB of free memory"
    ) as error:
        memory.workspace(asked, Budget(GB, 10 * GB, 64 * GB))
    assert "workspace: auto" in error.value.fix


@pytest.mark.parametrize(
    ("budget", "streamed", "words"),
    [
        (Budget(2 * GB, 10 * GB, GB), False, "`m.onnx` take 2GB; 1GB are free on this host"),
        (Budget(2 * GB, 1_234_567_890, 64 * GB), False, r"take 2GB; 1\.23GB are free on the GPU"),
        (Budget(2 * GB, GB, 64 * GB), True, None),
        (Budget(2 * GB, None, 64 * GB), False, None),
    ],
)
def test_weights_that_do_not_fit_are_refused_before_the_build(
    budget: Budget, streamed: bool, words: str | None
) -> None:
    if words is None:
        memory.check(budget, "m.onnx", streamed=streamed)
        return
    with pytest.raises(OutOfMemoryError, match=words):
        memory.check(budget, "m.onnx", streamed=streamed)


def test_memory_of_this_host_is_read() -> None:
    assert 0 < memory.host_free() < 1 << 50


BUILD = Situation("TensorRT", "prepared.onnx", "build", "When the build began, 8GB of the GPU's memory were free.")
SKIPPED = (
    "Skipping tactic 0x0000000000000000 due to insufficient memory on requested size of 5368709120 detected for tactic"
)
NO_IMPLEMENTATION = (
    "IBuilder::buildSerializedNetwork: Error Code 10: Internal Error (Could not find any implementation for node "
    "{ForeignNode[a...b]}. In computeCosts at /_src/optimizer/common/tactic/optimizer.cpp:4115)"
)


@pytest.mark.parametrize(
    ("errors", "warnings", "kind", "words"),
    [
        ([NO_IMPLEMENTATION], [SKIPPED], OutOfMemoryError, "ran out of memory while it tried to build `prepared.onnx`"),
        ([NO_IMPLEMENTATION], [], BuildError, r"no implementation for node `\{ForeignNode\[a...b\]\}`"),
        (
            ["[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)"], [],
            OutOfMemoryError, "ran out of memory",
        ),
        (
            ["IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error (Network has dynamic or shape inputs, but no "
             "optimization profile has been defined. In validate at /_src/optimizer/api/network.cpp:4023)"], [],
            BuildError, "needs a shape range for every dynamic input",
        ),
        (
            ["IRuntime::deserializeCudaEngine: Error Code 1: Cuda Runtime (In ScopedCudaStream at /_src/c.cpp:25 (cudaError "
             "35: CUDA driver version is insufficient for CUDA runtime version))"], [],
            BackendUnavailableError, "driver is missing or too old",
        ),
        (
            ["IBuilder: Error Code 9: Internal Error (Something new)", "[checkMacros.cpp::catchCudaError::250] Error Code 1: "
             "Cuda Runtime (In c at /_src/c.cpp:250 (cudaError 35: CUDA driver version is insufficient for CUDA runtime "
             "version))"], [],
            BuildError, "Something new",  # the other line is said by every error of a build without a GPU
        ),
        (["Something new (In x at /_src/y.cpp:3)"], ["out of memory is near"], BuildError, "Something new"),
        ([], [], BuildError, "it gave no reason"),
    ],
)  # fmt: skip
def test_causes(errors: list[str], warnings: list[str], kind: type[TrtActionError], words: str) -> None:
    log = Log()
    for severity, lines in (("INFO", ["hello"] if errors else []), ("WARNING", warnings), ("ERROR", errors)):
        for line in lines:
            log.add(severity, line)
    if words == "Something new":
        log.warnings.clear()
    with pytest.raises(kind, match=words) as caught:
        raise causes.found(log, BUILD)
    assert "/_src/" not in f"{caught.value.what}{caught.value.why}"
    assert caught.value.fix
    if kind is OutOfMemoryError:
        assert "8GB of the GPU's memory were free" in caught.value.why


def test_a_builder_without_cuda() -> None:
    """Before 10.16, pybind11 made a TypeError of it; the line is a warning there."""

    def no_builder(logger: Any) -> None:
        log.add("WARNING", "CUDA initialization failure with error: 35. Please check your CUDA installation.")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    log = Log()
    with pytest.raises(BackendUnavailableError, match="driver is missing or too old"):
        causes.made(no_builder, None, log, BUILD)


def test_a_log_is_bounded() -> None:
    log = Log()
    for number in range(10 * KEPT):
        log.add("WARNING", f"line {number}")
        log.add("VERBOSE", "noise")
    assert len(log.warnings) == KEPT
    assert log.last[-1] == f"line {10 * KEPT - 1}"


def test_phases_that_lie_in_each_other_make_one_share() -> None:
    told: list[tuple[str, float | None]] = []
    clock = iter(range(100))
    phases = Phases(lambda text, share: told.append((text, share)), lambda: float(next(clock)))
    phases.start("build", None, 4)
    phases.step("build", 0)
    phases.start("tactics", "build", 2)
    phases.step("tactics", 0)
    phases.finish("tactics")
    phases.start("graph", "build", 10)
    phases.step("build", 1)
    phases.step("unknown", 3)
    assert told == [
        ("build", 0.0), ("build", 0.25), ("build › tactics", 0.25), ("build › tactics", 0.375),
        ("build › graph", 0.375), ("build › graph", 0.5), ("build › graph", 0.5),
    ]  # fmt: skip


class Config:
    """An `IBuilderConfig` as far as the timing cache goes: another GPU's is refused, a damaged one is None."""

    def __init__(self, gpu: bytes) -> None:
        self.gpu, self.cache = gpu, None  # type: tuple[bytes, Any]

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
        if serialized_timing_cache and not serialized_timing_cache.startswith(b"timings of "):
            return None
        return SimpleNamespace(content=serialized_timing_cache, serialize=lambda: b"timings of " + self.gpu)

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        fits = cache.content in (b"", b"timings of " + self.gpu)
        self.cache = cache if fits else self.cache
        return fits

    def get_timing_cache(self) -> Any:
        return self.cache


@pytest.mark.parametrize(
    ("kept", "used"),
    [(None, b""), (b"timings of A", b"timings of A"), (b"timings of B", b""), (b"rubbish", b"")],
)
def test_a_timing_cache_that_does_not_fit_is_a_soft_miss(tmp_path: Path, kept: bytes | None, used: bytes) -> None:
    file = timing.path(tmp_path, "tensorrt", "11.4.0", "A", "13.0")
    if kept is not None:
        file.parent.mkdir()
        file.write_bytes(kept)
    config = Config(b"A")
    assert timing.put_into(config, file) is config.cache
    assert config.cache.content == used
    timing.keep(config, file)
    assert file.read_bytes() == b"timings of A"


def test_timings_that_somebody_else_could_have_written_are_not_read(tmp_path: Path) -> None:
    """The library parses them unseen, and they decide which kernels are taken."""
    file = timing.path(tmp_path, "tensorrt", "11.4.0", "A", "13.0")
    file.parent.mkdir()
    (tmp_path / "elsewhere").write_bytes(b"timings of A")
    file.symlink_to(tmp_path / "elsewhere")
    assert timing.put_into(Config(b"A"), file).content == b""
    file.unlink()
    os.mkfifo(file)
    assert timing.put_into(Config(b"A"), file).content == b""
    file.unlink()
    file.write_bytes(b"timings of A")
    file.chmod(0o666)
    assert timing.put_into(Config(b"A"), file).content == b""
    file.chmod(0o644)
    assert timing.put_into(Config(b"A"), file).content == b"timings of A"
    if os.geteuid() == 0:
        os.chown(file, 12345, -1)
        assert timing.put_into(Config(b"A"), file).content == b""


def test_timings_are_of_one_gpu_library_and_driver(tmp_path: Path) -> None:
    first = ("tensorrt", "11.4.0", "A", "13.0")
    names = {timing.path(tmp_path, *first).name}
    for index in range(4):
        changed = [*first]
        changed[index] += "x"
        names.add(timing.path(tmp_path, *changed).name)
    assert len(names) == 5


def test_a_timing_cache_that_cannot_be_kept_costs_nothing(tmp_path: Path) -> None:
    config = Config(b"A")
    timing.put_into(config, tmp_path / "missing")
    (tmp_path / "file").write_bytes(b"")
    timing.keep(config, tmp_path / "file" / "below" / "cache")


def test_a_library_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = library.Flavour("tensorrt", "tensorrt_of_nobody", "TensorRT", b"ftrt", built_on_the_gpu=True)
    with pytest.raises(BackendUnavailableError, match="TensorRT is not usable in this Python environment") as caught:
        library.load(missing)
    assert "pip install 'trt-action[tensorrt]'" in caught.value.fix
