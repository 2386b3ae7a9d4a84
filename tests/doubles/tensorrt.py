"""TensorRT's runtime half in memory, over the double of CUDA: strict, recording, as awkward as the real one.

What was seen of the real library and is kept here: failures are `None` or False and a line in the log, never an exception;
a runtime that finds no CUDA logs an error and crashes when it is used or let go (10.16); objects use their parent without
keeping it alive (here: using one after its parent is gone, or letting a parent go first, is a violation); work is on a stream and done later; outputs of unknown size are asked for while it runs; shape inputs lie in
host memory; `get_tensor_profile_values` has its keywords swapped.

    gpu = FakeCuda()
    trt = FakeTensorRT(gpu, Network(...))            # or rtx=True, version="10.16.1.11"
    plan = trt.plan()
    ...
    assert trt.violations == []

`tests/engine/tensorrt/test_double.py` holds its surface against the recorded APIs.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.doubles.cuda import FakeCuda
from trt_action.engine.backend import Array, numpy_dtype
from trt_action.errors import OutOfMemoryError

Shape = tuple[int, ...]
TYPES = {
    "FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT8": "int8", "INT32": "int32", "INT64": "int64",
    "UINT8": "uint8", "BOOL": "bool", "FP8": "float8_e4m3fn", "FP4": "float4", "INT4": "int4", "E8M0": "float8_e8m0",
}  # fmt: skip


@dataclass(frozen=True)
class Port:
    """An input or output. `profile`: (min, opt, max) of a dynamic input. `host`: its values are sizes, and `values` their
    (min, opt, max)."""

    name: str
    dtype: str
    shape: Shape
    profile: tuple[Shape, Shape, Shape] | None = None
    host: bool = False
    values: tuple[Shape, Shape, Shape] | None = None


@dataclass
class Network:
    """What an engine computes. `shapes` gives output shapes from the inputs' (and the values of host inputs), or a
    ValueError where they are impossible; -1 = it depends on the values. `layers` are (name, ms)."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    function: Callable[[Mapping[str, Array]], Mapping[str, Array]]
    shapes: Callable[[Mapping[str, Shape], Mapping[str, Array]], Mapping[str, Shape]]
    milliseconds: float = 0.5
    weights: int = 4096
    context_memory: int = 1024
    layers: tuple[tuple[str, float], ...] = (("conv1 + relu1", 0.3), ("gemm", 0.2))
    refuses: str = ""
    """Said by `execute_async_v3`, which then returns False."""


class _Object:
    """Knows its parent by a weak reference only."""

    def __init__(self, module: FakeTensorRT, parent: _Object | None) -> None:
        self._module = module
        self._kind = type(self).__name__
        self._parent = weakref.ref(parent) if parent is not None else None
        self._children: weakref.WeakSet[_Object] = weakref.WeakSet()
        if parent is not None:
            parent._children.add(self)

    def _alive(self) -> None:
        if self._parent is not None and self._parent() is None:
            self._module.violations.append(f"{self._kind} was used after its parent was gone")
            raise AssertionError(self._module.violations[-1])

    def __del__(self) -> None:
        for child in list(self._children):
            self._module.violations.append(f"{self._kind} went while its {child._kind} was there")


@dataclass
class FakeTensorRT:
    """Stands for the module. `log` holds every call that matters; `violations` what would have crashed."""

    gpu: FakeCuda
    network: Network
    version: str = "11.4.0.106"
    rtx: bool = False
    capability: tuple[int, int] = (9, 0)
    """Of the GPU that the plan was built on."""
    cuda_error: int = 0
    """What CUDA says when it is started, e.g. 35 for a driver that is too old."""
    log: list[tuple[Any, ...]] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.__version__ = self.version
        self.ILogger = _Base("ILogger")
        self.IOutputAllocator = _Base("IOutputAllocator")
        self.IProfiler = _Base("IProfiler")
        self.IProgressMonitor = _Base("IProgressMonitor")
        self.TensorIOMode = _enum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"])
        self.TensorLocation = _enum("TensorLocation", ["DEVICE", "HOST"])
        self.LayerInformationFormat = _enum("LayerInformationFormat", ["ONELINE", "JSON"])
        self.DataType = _enum("DataType", list(TYPES))
        self.Runtime = lambda logger: (_RtxRuntime if self.rtx else Runtime)(self, logger)
        if self.rtx:
            self.CudaGraphStrategy = _enum("CudaGraphStrategy", ["DISABLED", "WHOLE_GRAPH_CAPTURE"])
            self.DynamicShapesKernelSpecializationStrategy = _enum(
                "DynamicShapesKernelSpecializationStrategy", ["LAZY", "EAGER", "NONE"]
            )
            self.ComputeCapability = _enum("ComputeCapability", ["NONE", "CURRENT", "SM80", "SM89", "SM120"])
            self.EngineInvalidityDiagnostics = _enum(
                "EngineInvalidityDiagnostics", {"VERSION_MISMATCH": 1, "UNSUPPORTED_CC": 2}
            )

    def plan(self, *, magic: bytes | None = None, version: str | None = None, content: bytes = b"network") -> bytes:
        """The bytes of a plan of `network`, as this library would have written it."""
        numbers = bytes(int(part) for part in (version or self.version).split("."))
        head = (magic or (b"vtrt" if self.rtx else b"ftrt")) + bytes(20) + numbers
        return head.ljust(64, b"\0") + content


def _enum(name: str, members: Any) -> Any:
    return Enum(name, members)


def _Base(name: str) -> type:  # noqa: N802 - makes a class
    """A class to be derived from: `__init__` of the base must be called, as pybind11 wants it."""

    def __init__(self: Any) -> None:  # noqa: N807
        self._ready = True

    return type(name, (), {"__init__": __init__, "_ready": False})


class Runtime(_Object):
    def __init__(self, module: FakeTensorRT, logger: Any) -> None:
        assert logger._ready, "the base class's __init__ was not called"
        super().__init__(module, None)
        self._kind = "Runtime"
        self._logger = weakref.ref(logger)
        self.engine_host_code_allowed = False
        if module.cuda_error:
            self._say(
                f"createInferRuntime: Error Code 6: API Usage Error (CUDA initialization failure with error: {module.cuda_error} "
                "In checkCudaInstallation at /_src/runtime/dispatch/runtime.cpp:811)"
            )

    def __del__(self) -> None:
        super().__del__()
        if self._module.cuda_error:
            self._module.violations.append("a runtime without CUDA was let go")

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        module = self._module
        if module.cuda_error:
            module.violations.append("a runtime without CUDA was used")
        expected = b"vtrt" if module.rtx else b"ftrt"
        version = tuple(int(part) for part in module.version.split("."))
        if serialized_engine[:4] != expected or serialized_engine[64:] != b"network":
            self._say("IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Magic tag does not match.)")
            return None
        if tuple(serialized_engine[24:27]) != version[:3] and not self.engine_host_code_allowed:
            self._say("IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Version tag does not match.)")
            return None
        if module.capability != module.gpu.capability():
            self._say(
                "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine plan file is generated on an "
                "incompatible device, expecting compute 8.0 got compute 9.0.)"
            )
            return None
        try:
            weights = module.gpu.allocate(module.network.weights)
        except OutOfMemoryError:
            self._say("IRuntime::deserializeCudaEngine: Error Code 2: OutOfMemory (Requested size was too large.)")
            return None
        return (_RtxEngine if module.rtx else ICudaEngine)(module, self, weights)

    def _say(self, text: str) -> None:
        logger = self._logger()
        if logger is None:
            self._module.violations.append("the logger was gone when it was needed")
        else:
            logger.log(SimpleNamespace(name="ERROR"), text)


class _RtxRuntime(Runtime):
    engine_header_size = 64

    def get_engine_validity(self, buffer: bytes) -> tuple[Any, int]:
        return SimpleNamespace(name="INVALID"), 2


class ICudaEngine(_Object):
    def __init__(self, module: FakeTensorRT, runtime: Runtime, weights: int) -> None:
        super().__init__(module, runtime)
        self._kind = "ICudaEngine"
        self._runtime = weakref.ref(runtime)
        self._weights = weights
        self._ports = {port.name: port for port in (*module.network.inputs, *module.network.outputs)}
        self._budget = module.network.weights

    def __del__(self) -> None:
        super().__del__()
        self._module.gpu.free(self._weights)

    @property
    def num_io_tensors(self) -> int:
        self._alive()
        return len(self._ports)

    @property
    def streamable_weights_size(self) -> int:
        return self._module.network.weights // 2

    @property
    def weight_streaming_budget_v2(self) -> int:
        return self._budget

    @weight_streaming_budget_v2.setter
    def weight_streaming_budget_v2(self, value: int) -> None:
        assert not self._children, "the budget can only be set before a context is made"
        assert 0 <= value <= self.streamable_weights_size
        self._budget = value
        self._module.log.append(("budget", value))

    def get_weight_streaming_automatic_budget(self) -> int:
        return self._module.network.weights // 4

    def get_tensor_name(self, index: int) -> str:
        self._alive()
        return list(self._ports)[index]

    def get_tensor_mode(self, name: str) -> Any:
        inputs = {port.name for port in self._module.network.inputs}
        return self._module.TensorIOMode["INPUT" if name in inputs else "OUTPUT"]

    def get_tensor_dtype(self, name: str) -> Any:
        return self._module.DataType[self._ports[name].dtype]

    def get_tensor_shape(self, name: str) -> Shape:
        self._alive()
        return self._ports[name].shape

    def get_tensor_location(self, name: str) -> Any:
        return self._module.TensorLocation["HOST" if self._ports[name].host else "DEVICE"]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Shape]:
        port = self._ports[name]
        assert profile_index == 0
        return list(port.profile or (port.shape,) * 3)

    def get_tensor_profile_values(self, name: int, profile_index: str) -> list[list[int]]:
        """Named the wrong way round, as in the bindings: the first takes the number, the second the name."""
        assert isinstance(name, int)
        if not self.is_shape_inference_io(profile_index) or self.get_tensor_mode(profile_index).name != "INPUT":
            raise RuntimeError("Binding index does not correspond to an input shape tensor.")
        return [list(values) for values in self._ports[profile_index].values or ()]

    def is_shape_inference_io(self, name: str) -> bool:
        self._alive()
        return self._ports[name].host

    def create_execution_context(self) -> IExecutionContext | None:
        return self._context()

    def create_engine_inspector(self) -> EngineInspector:
        self._alive()
        return EngineInspector(self._module, self)

    def _context(self) -> IExecutionContext | None:
        self._alive()
        try:
            memory = self._module.gpu.allocate(self._module.network.context_memory)
        except OutOfMemoryError:
            runtime = self._runtime()
            assert runtime is not None
            runtime._say("IExecutionContext: Error Code 2: OutOfMemory (Out of memory in createContext)")
            return None
        return IExecutionContext(self._module, self, memory)


class _RtxEngine(ICudaEngine):
    def create_runtime_config(self) -> IRuntimeConfig:
        self._alive()
        return IRuntimeConfig(self._module, self)

    def create_execution_context(self, runtime_config: IRuntimeConfig | None = None) -> IExecutionContext | None:
        context = self._context()
        if context is not None and runtime_config is not None:
            self._module.log.append(
                (
                    "context",
                    runtime_config.cuda_graph_strategy.name,
                    runtime_config.dynamic_shapes_kernel_specialization_strategy.name,
                )
            )
            context._cache = runtime_config._cache
        return context


class IRuntimeConfig(_Object):
    def __init__(self, module: FakeTensorRT, engine: ICudaEngine) -> None:
        super().__init__(module, engine)
        self.cuda_graph_strategy = module.CudaGraphStrategy["DISABLED"]
        self.dynamic_shapes_kernel_specialization_strategy = module.DynamicShapesKernelSpecializationStrategy["LAZY"]
        self._cache: IRuntimeCache | None = None

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache(self._module, self)

    def get_runtime_cache(self) -> IRuntimeCache | None:
        return self._cache

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        self._cache = cache
        return True


class IRuntimeCache(_Object):
    """Compiled kernels; of the very GPU that compiled them."""

    def __init__(self, module: FakeTensorRT, config: IRuntimeConfig) -> None:
        super().__init__(module, None)  # the config holds it, and so may we
        self._kernels = b""

    def deserialize(self, blob: bytes) -> bool:
        fits = blob.startswith(self._key())
        self._module.log.append(("runtime cache", fits))
        if fits:
            self._kernels = blob
        return fits

    def serialize(self) -> bytes:
        self._alive()
        return self._kernels

    def _key(self) -> bytes:
        return f"jit {self._module.gpu.uuid()} ".encode()

    def _compile(self) -> None:
        if not self._kernels:
            self._module.log.append(("compiled",))
            self._kernels = self._key() + b"kernels"


class EngineInspector(_Object):
    def __init__(self, module: FakeTensorRT, engine: ICudaEngine) -> None:
        super().__init__(module, engine)
        self.execution_context: IExecutionContext | None = None

    def get_engine_information(self, format: Any) -> str:  # noqa: A002 - the name in the bindings
        assert format is self._module.LayerInformationFormat["JSON"]
        shapes = "set" if self.execution_context and not self.execution_context._missing() else "unknown"
        layers = [{"Name": name, "Shapes": shapes} for name, _ in self._module.network.layers]
        return json.dumps({"Layers": layers, "Bindings": []})


class IExecutionContext(_Object):
    def __init__(self, module: FakeTensorRT, engine: ICudaEngine, memory: int) -> None:
        super().__init__(module, engine)
        self._engine = weakref.ref(engine)
        self._memory = memory
        self._shapes: dict[str, Shape] = {}
        self._addresses: dict[str, int] = {}
        self._allocators: dict[str, Any] = {}
        self._cache: IRuntimeCache | None = None
        self.profiler: Any = None

    def __del__(self) -> None:
        super().__del__()
        self._module.gpu.free(self._memory)

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        self._alive()
        port = next((port for port in self._module.network.inputs if port.name == name), None)
        if port is None:
            return self._refuse(f"Given invalid tensor name: {name}")
        low, _, high = port.profile or (port.shape,) * 3
        if len(shape) != len(low) or not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            return self._refuse(
                f"Set dimension {list(shape)} for tensor {name} does not satisfy any optimization profile"
            )
        self._shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._alive()
        assert isinstance(memory, int)
        if self._on_host(name) and self._on_device(memory):
            self._module.violations.append(f"{name} is read by the host, and its address is on the device")
            return self._refuse(f"The address of {name} is not in host memory.")
        self._addresses[name] = memory
        return True

    def set_output_allocator(self, name: str, output_allocator: Any) -> bool:
        assert output_allocator._ready, "the base class's __init__ was not called"
        self._allocators[name] = weakref.ref(output_allocator)
        return True

    def infer_shapes(self) -> list[str]:
        self._alive()
        if missing := self._missing():
            return missing
        try:
            self._module.network.shapes(self._shapes, self._host_values())
        except ValueError as error:
            self._refuse(str(error))
            raise RuntimeError("infer_shapes error code: -1") from None
        hosted = [port.name for port in self._module.network.outputs if port.host and port.name in self._addresses]
        if hosted:
            results = self._module.network.function(self._host_values())
            for name in hosted:
                self._write_on_host(name, results[name])
        return []

    def get_tensor_shape(self, name: str) -> Shape:
        self._alive()
        if name in self._shapes:
            return self._shapes[name]
        if self._missing():
            return (-1,)
        return tuple(self._module.network.shapes(self._shapes, self._host_values())[name])

    def execute_async_v3(self, stream_handle: int) -> bool:
        self._alive()
        gpu, network = self._module.gpu, self._module.network
        assert stream_handle, "the default stream synchronizes with everything"
        if network.refuses:
            return self._refuse(network.refuses)
        if self._missing():
            return self._refuse("Not all shapes are specified.")
        unset = [p.name for p in (*network.inputs, *network.outputs) if not self._where(p.name)]
        if unset:
            return self._refuse(f"Address is not set for tensor {unset[0]}")
        if self._cache is not None:
            self._cache._compile()
        self._module.log.append(("execute", stream_handle))
        if self._allocators:
            gpu.synchronize(stream_handle)  # sizes are known only now
            if not self._grow(network.function(self._read()), stream_handle):
                return self._refuse("The output allocator returned no memory.")
        gpu.enqueue(stream_handle, self._compute, network.milliseconds)
        if self.profiler is not None:  # with a profiler on, the call waits, and then reports
            gpu.synchronize(stream_handle)
            for name, ms in network.layers:
                self.profiler.report_layer_time(name, ms)
        return True

    def _compute(self) -> None:
        self._alive()
        for name, array in self._module.network.function(self._read()).items():
            if self._on_host(name):
                self._write_on_host(name, array)
                continue
            content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            self._module.gpu.device(self._where(name), content.nbytes)[:] = content

    def _on_host(self, name: str) -> bool:
        network = self._module.network
        return any(port.host for port in (*network.inputs, *network.outputs) if port.name == name)

    def _on_device(self, memory: int) -> bool:
        blocks = self._module.gpu._memory.items()
        return any(start <= memory < start + max(block.nbytes, 1) for start, block in blocks)

    def _write_on_host(self, name: str, array: Array) -> None:
        pinned = self._module.gpu._pinned.get(self._addresses[name])
        if pinned is None:
            self._module.violations.append(f"{name} was written where no host memory is any more")
        else:
            pinned[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)

    def _grow(self, results: Mapping[str, Array], stream: int) -> bool:
        for name, reference in self._allocators.items():
            output_allocator = reference()
            if output_allocator is None:
                self._module.violations.append(f"the output allocator of {name} was gone when it was needed")
                continue
            array = results[name]
            pointer = output_allocator.reallocate_output_async(
                name, self._addresses.get(name, 0), max(array.nbytes, 1), 256, stream
            )
            if not pointer:
                return False
            self._addresses[name] = pointer
            output_allocator.notify_shape(name, array.shape)
        return True

    def _read(self) -> dict[str, Array]:
        found = {}
        for port in self._module.network.inputs:
            if port.host:
                found[port.name] = self._host_values()[port.name]
                continue
            dtype, shape = numpy_dtype(TYPES[port.dtype]), self._shapes[port.name]
            nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            raw = self._module.gpu.device(self._addresses[port.name], nbytes)
            found[port.name] = raw.view(dtype).reshape(shape).copy()
        return found

    def _host_values(self) -> dict[str, Array]:
        import ctypes

        found = {}
        for port in self._module.network.inputs:
            if port.host and port.name in self._addresses:
                dtype = numpy_dtype(TYPES[port.dtype])
                raw = ctypes.string_at(
                    self._addresses[port.name], int(np.prod(self._shapes[port.name])) * dtype.itemsize
                )
                found[port.name] = np.frombuffer(raw, dtype).reshape(self._shapes[port.name])
        return found

    def _missing(self) -> list[str]:
        ports = self._module.network.inputs
        return [p.name for p in ports if p.name not in self._shapes or (p.host and p.name not in self._addresses)]

    def _where(self, name: str) -> int:
        return self._addresses.get(name, 0) or (1 if name in self._allocators else 0)

    def _refuse(self, text: str) -> bool:
        engine = self._engine()
        runtime = engine._runtime() if engine is not None else None
        assert runtime is not None
        runtime._say(f"IExecutionContext::enqueueV3: Error Code 3: API Usage Error ({text})")
        return False
