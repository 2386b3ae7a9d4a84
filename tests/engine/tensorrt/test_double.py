"""The double of TensorRT is no more than TensorRT, and as strict as it must be."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.doubles import tensorrt as double
from tests.doubles.cuda import FakeCuda
from tests.doubles.tensorrt import FakeTensorRT
from tests.engine.tensorrt.conftest import doubling, reshaping

DATA = Path(__file__).parents[2] / "data" / "api"
CLASSES = {
    "Runtime": (double.Runtime, double._RtxRuntime),
    "ICudaEngine": (double.ICudaEngine, double._RtxEngine),
    "IExecutionContext": (double.IExecutionContext,) * 2,
    "EngineInspector": (double.EngineInspector,) * 2,
    "IRuntimeConfig": (None, double.IRuntimeConfig),
    "IRuntimeCache": (None, double.IRuntimeCache),
}


@pytest.mark.parametrize("recorded", sorted(DATA.glob("*.json")), ids=lambda path: path.stem)
def test_its_surface_is_in_the_recorded_api(recorded: Path) -> None:
    api = json.loads(recorded.read_text())
    rtx = api["module"] == "tensorrt_rtx"
    for name, kinds in CLASSES.items():
        kind = kinds[rtx]
        public = {one for one in dir(kind) if not one.startswith("_")} if kind else set()
        assert public <= set(api["classes"].get(name, ())), name
    module = FakeTensorRT(FakeCuda(), doubling(), version=api["version"], rtx=rtx)
    own = {"gpu", "network", "version", "rtx", "capability", "cuda_error", "log", "violations", "plan"}
    names = {one for one in dir(module) if not one.startswith("_")} - own
    assert names <= set(api["names"])
    for name in names:
        members = getattr(getattr(module, name), "__members__", None)
        if members is not None:
            assert set(members) <= set(api["enums"][name])


def test_parameters_are_named_as_in_the_recorded_signatures() -> None:
    api = json.loads((DATA / "tensorrt-rtx-1.7.json").read_text())
    swapped = api["signatures"]["ICudaEngine.get_tensor_profile_values"]
    assert "name: typing.SupportsInt, profile_index: str" in swapped
    engine: Any = double.ICudaEngine
    assert engine.get_tensor_profile_values.__annotations__ == {
        "name": "int",
        "profile_index": "str",
        "return": "list[list[int]]",
    }


def _logger(module: Any) -> Any:
    class Logger(module.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            self.lines.append(f"{severity.name}: {msg}")

    return Logger()


def test_failures_are_none_and_a_line(capsys: Any) -> None:
    module: Any = FakeTensorRT(FakeCuda(), doubling())
    logger = _logger(module)
    runtime = module.Runtime(logger)
    assert runtime.deserialize_cuda_engine(b"rubbish".ljust(80)) is None
    assert "Magic tag does not match" in logger.lines[-1]
    engine = runtime.deserialize_cuda_engine(module.plan())
    context = engine.create_execution_context()
    assert context.infer_shapes() == ["x"]
    assert not context.execute_async_v3(7)
    assert "Not all shapes" in logger.lines[-1]
    assert not context.set_input_shape("x", (99, 3))
    assert not context.set_input_shape("nobody", (1,))
    assert context.set_input_shape("x", (2, 3))
    assert not context.execute_async_v3(7)
    assert "Address is not set for tensor x" in logger.lines[-1]


def test_who_uses_an_object_after_its_parent_is_found() -> None:
    module: Any = FakeTensorRT(FakeCuda(), doubling())
    logger = _logger(module)
    engine = module.Runtime(logger).deserialize_cuda_engine(module.plan())  # the runtime was a temporary
    gc.collect()
    assert module.violations == ["Runtime went while its ICudaEngine was there"]
    with pytest.raises(AssertionError, match="used after its parent was gone"):
        engine.create_execution_context()
    del logger
    other = module.Runtime(_logger(module))  # the logger was a temporary
    gc.collect()
    other.deserialize_cuda_engine(b"rubbish".ljust(80))
    assert "the logger was gone when it was needed" in module.violations


def test_work_is_done_when_the_stream_gets_there() -> None:
    gpu = FakeCuda()
    module: Any = FakeTensorRT(gpu, doubling())
    logger = _logger(module)
    runtime = module.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(module.plan())
    context = engine.create_execution_context()
    stream, source, target = gpu.stream(), gpu.allocate(24), gpu.allocate(24)
    context.set_input_shape("x", (2, 3))
    context.set_tensor_address("x", source)
    context.set_tensor_address("y", target)
    host = gpu.pinned(24)
    host.view(np.float32)[:] = 1
    gpu.to_device(source, host, stream)
    assert context.execute_async_v3(stream)
    assert gpu.device(target, 24)[0] == 0xCD  # not yet
    gpu.synchronize(stream)
    assert (gpu.device(target, 24).view(np.float32) == 2).all()


def test_sizes_on_the_host_are_asked_for() -> None:
    module: Any = FakeTensorRT(FakeCuda(), reshaping())
    logger = _logger(module)
    runtime = module.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(module.plan())
    context = engine.create_execution_context()
    context.set_input_shape("x", (6,))
    context.set_input_shape("size", (2,))
    assert context.infer_shapes() == ["size"]
    assert context.get_tensor_shape("y") == (-1,)
    assert engine.get_tensor_location("size").name == "HOST"
    assert SimpleNamespace(name="x").name == "x"


def test_an_input_that_holds_sizes_has_no_address_on_the_device() -> None:
    gpu = FakeCuda()
    module = FakeTensorRT(gpu, reshaping())
    logger = _logger(module)
    runtime = double.Runtime(module, logger)
    engine = runtime.deserialize_cuda_engine(module.plan())
    assert engine is not None
    context = engine.create_execution_context()
    assert context is not None
    pointer = gpu.allocate(64)
    assert context.set_tensor_address("x", pointer)
    assert not context.set_tensor_address("size", pointer + 16)
    assert module.violations == ["size is read by the host, and its address is on the device"]
    with pytest.raises(RuntimeError, match="input shape tensor"):
        engine.get_tensor_profile_values(0, "x")
    assert engine.get_tensor_profile_values(0, "size") == [[1, 1], [2, 3], [6, 6]]
