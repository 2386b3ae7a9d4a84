"""ONNX Runtime's CUDA provider on `FakeCuda`: its CPU kernels compute, its bindings read and write the fake's memory.

Follows the real one where our session depends on it: work goes on the stream and is done when that is waited for,
an output bound to the device only is allocated by the first inference and kept, and one that no longer fits is an
error with ONNX Runtime's words.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from tests.doubles.cuda import FakeCuda


class FakeValue:
    """An `OrtValue` on the device."""

    def __init__(self, pointer: int, shape: tuple[int, ...]) -> None:
        self.pointer, self._shape = pointer, shape

    def data_ptr(self) -> int:
        return self.pointer

    def shape(self) -> list[int]:
        return list(self._shape)


class FakeBinding:
    def __init__(self, number: int) -> None:
        self._number = number
        self.inputs: dict[str, tuple[type, tuple[int, ...], int]] = {}
        self.outputs: dict[str, FakeValue | None] = {}

    def bind_input(
        self, name: str, device: str, number: int, dtype: type, shape: tuple[int, ...], pointer: int
    ) -> None:
        assert (device, number) == ("cuda", self._number)
        self.inputs[name] = (dtype, shape, pointer)

    def bind_output(
        self,
        name: str,
        device: str = "cpu",
        number: int = 0,
        dtype: type | None = None,
        shape: tuple[int, ...] | None = None,
        pointer: int | None = None,
    ) -> None:
        assert (device, number) == ("cuda", self._number)
        self.outputs[name] = None if pointer is None or shape is None else FakeValue(pointer, shape)

    def get_outputs(self) -> list[FakeValue]:
        return [value for value in self.outputs.values() if value is not None]


class FakeOrtSession:
    """`ms` is what the GPU's clock shows for an inference."""

    def __init__(self, path: Path, gpu: FakeCuda, stream: int, number: int = 0, ms: float = 2.0) -> None:
        options = onnxruntime.SessionOptions()
        self._real = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._gpu, self._stream, self._number, self._ms = gpu, stream, number, ms
        self._own: list[int] = []
        self.graph_ids: list[str] = []
        self.get_inputs, self.get_outputs = self._real.get_inputs, self._real.get_outputs

    def io_binding(self) -> FakeBinding:
        return FakeBinding(self._number)

    def run_with_iobinding(self, binding: FakeBinding, run_options: Any = None) -> None:
        gpu, stream = self._gpu, self._stream
        dynamic = any(value is None for value in binding.outputs.values())
        asynchronous = run_options is not None and self._entry(run_options, "disable_synchronize_execution_providers")
        if run_options is not None:
            self.graph_ids.append(self._entry(run_options, "gpu_graph_id"))
        if dynamic or self._sizes_may_change(binding):
            gpu.synchronize(stream)
            self._place(binding, self._compute(binding))
        gpu.enqueue(stream, lambda: self._write(binding, self._compute(binding)), self._ms)
        if not asynchronous:
            gpu.synchronize(stream)

    def _compute(self, binding: FakeBinding) -> dict[str, np.ndarray[Any, Any]]:
        feeds: dict[str, np.ndarray[Any, Any]] = {
            name: self._gpu.device(pointer, int(np.prod(shape)) * np.dtype(dtype).itemsize).view(dtype).reshape(shape)
            for name, (dtype, shape, pointer) in binding.inputs.items()
        }
        names = [argument.name for argument in self.get_outputs()]
        return dict(zip(names, self._real.run(names, feeds), strict=True))

    def _sizes_may_change(self, binding: FakeBinding) -> bool:
        declared = {argument.name: argument.shape for argument in self.get_outputs()}
        return any(not isinstance(dim, int) for name in binding.outputs for dim in declared[name])

    def _place(self, binding: FakeBinding, outputs: dict[str, np.ndarray[Any, Any]]) -> None:
        for name, array in outputs.items():
            value = binding.outputs[name]
            if value is None:
                pointer = self._gpu.allocate(array.nbytes)
                self._own.append(pointer)
                binding.outputs[name] = FakeValue(pointer, array.shape)
            elif tuple(value.shape()) != array.shape:
                raise RuntimeError(
                    f"the output OrtValue provided as output has shape {value.shape()}, needed {list(array.shape)}"
                )

    def _write(self, binding: FakeBinding, outputs: dict[str, np.ndarray[Any, Any]]) -> None:
        for name, array in outputs.items():
            value = binding.outputs[name]
            assert value is not None
            self._gpu.device(value.pointer, array.nbytes)[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)

    @staticmethod
    def _entry(options: Any, key: str) -> str:
        try:
            return str(options.get_run_config_entry(key))
        except RuntimeError:
            return ""

    def release(self) -> None:
        """What the arena gives back when the session goes."""
        for pointer in self._own:
            self._gpu.free(pointer)
        self._own = []
