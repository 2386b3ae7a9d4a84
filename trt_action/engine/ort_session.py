"""A loaded model of ONNX Runtime: inputs checked and copied once, `run` as bare as Python allows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from trt_action import files
from trt_action.engine import ort_words
from trt_action.engine.backend import Array, DeviceTimes, Feeds, RawLayers, Tensor
from trt_action.errors import BuildError, DataError, OutOfMemoryError, StorageError, TrtActionError
from trt_action.inputs import quote, quote_all

# onnxruntime's type strings: tensor(<this>) -> numpy
DTYPES = {
    "float": "float32",
    "double": "float64",
    "float16": "float16",
    "bool": "bool",
    **{name: name for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")},
}


Profiled = Callable[[Path], Any]
"""Makes a second session of the same engine that writes its profile into the folder."""

PROFILE_WARMUP = 3
"""Inferences before those that count in `layers`: first touches of memory, and weights packed late."""

FATAL = 4
"""ONNX Runtime's level of log messages above errors."""


class OnnxRuntimeSession:
    """See `backend.Session`. Inputs live in buffers of ONNX Runtime (64-byte aligned) that `run` reads in place.
    Outputs are bound to the device: the first `run` allocates them, later ones write into the same buffers.

    `run` is a closure and not a method: one call, no attribute looked up, and `try` costs nothing (Python 3.11).
    """

    run: Callable[[], None]
    concurrent = True

    def __init__(self, ort: Any, session: Any, profiled: Profiled | None = None) -> None:
        self._ort = ort
        self._session = session
        self._profiled = profiled
        self._inputs = tensors(session.get_inputs(), "input")
        self._outputs = tensors(session.get_outputs(), "output")
        self._names = [tensor.name for tensor in self._outputs]
        self._binding = session.io_binding()
        self._buffers: dict[str, Any] = {}
        self._quiet = ort.RunOptions()
        self._quiet.log_severity_level = FATAL
        self.run = self._make_run()

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return self._inputs

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return self._outputs

    def bind(self, feeds: Feeds) -> None:
        self._check_open()
        check_feeds(self._inputs, feeds)
        try:
            self._bind(feeds)
        except failures(self._ort) as error:
            raise inference_failed(self._ort, error) from None

    def _bind(self, feeds: Feeds) -> None:
        same_shapes = bool(self._buffers) and all(
            name in self._buffers and tuple(self._buffers[name].shape()) == feeds[name].shape for name in feeds
        )
        for tensor in self._inputs:
            array = feeds[tensor.name]
            if same_shapes:
                self._buffers[tensor.name].update_inplace(np.asarray(array, order="C"))
            else:
                self._bind_input(tensor, array)
        if not same_shapes:
            self._bind_outputs()

    def infer(self, feeds: Feeds) -> dict[str, Array]:
        """See `backend.infer`: inputs are read where they are, and no buffer is shared, so threads may call it at once.

        A failure is in the exception alone: the library would write it to stderr too, with values of the request.
        """
        try:
            return dict(zip(self._names, self._session.run(self._names, feeds, self._quiet), strict=True))
        except failures(self._ort) as error:
            raise inference_failed(self._ort, error) from None

    def fetch(self) -> dict[str, Array]:
        self._check_open()
        values = self._binding.get_outputs()
        return {tensor.name: np.array(value.numpy()) for tensor, value in zip(self._outputs, values, strict=True)}

    def layers(self, iterations: int) -> RawLayers | None:
        self._check_open()
        if self._profiled is None:
            return None
        feeds = {name: value.numpy() for name, value in self._buffers.items()}
        open_profiled = self._profiled
        return profile(lambda folder: OnnxRuntimeSession(self._ort, open_profiled(folder)), feeds, iterations)

    def end_profiling(self) -> str:
        """Path of the profile, for a session that was opened with one."""
        return str(self._session.end_profiling())

    def device_times(self, iterations: int) -> DeviceTimes | None:
        """On the CPU, the wall clock says it all."""
        return None

    def close(self) -> None:
        self._session = self._binding = None
        self._buffers = {}
        self.run = self._check_open

    def _make_run(self) -> Callable[[], None]:
        call, binding, recover = self._session.run_with_iobinding, self._binding, self._recover
        caught = failures(self._ort)

        def run() -> None:
            try:
                call(binding)
            except caught as error:
                recover(error)

        return run

    def _recover(self, error: Exception) -> None:
        """An output's shape changed with the values of the inputs: let the runtime allocate it anew, and run again."""
        if "output OrtValue provided" not in str(error):
            raise inference_failed(self._ort, error) from None
        self._bind_outputs()
        try:
            self._session.run_with_iobinding(self._binding)
        except failures(self._ort) as again:
            raise inference_failed(self._ort, again) from None

    def _bind_input(self, tensor: Tensor, array: Array) -> None:
        value = self._ort.OrtValue.ortvalue_from_shape_and_type(array.shape, array.dtype.type)
        value.update_inplace(np.asarray(array, order="C"))
        self._binding.bind_ortvalue_input(tensor.name, value)
        self._buffers[tensor.name] = value

    def _bind_outputs(self) -> None:
        for tensor in self._outputs:
            self._binding.bind_output(tensor.name, "cpu")

    def _check_open(self) -> None:
        if self._session is None:
            raise BuildError("An engine was used after it was closed.", fix="Please report this.")


class Watched(Protocol):
    """A session with ONNX Runtime's profiler on."""

    @property
    def run(self) -> Callable[[], None]: ...
    def bind(self, feeds: Feeds) -> None: ...
    def end_profiling(self) -> str: ...
    def close(self) -> None: ...


def profile(opened: Callable[[Path], Watched], feeds: Feeds, iterations: int) -> RawLayers:
    """What the profiler says about `iterations` inferences of a session that `opened` makes, profiling into a folder."""
    with files.work_folder() as folder:
        watched = opened(folder)
        watched.bind(feeds)
        for _ in range(PROFILE_WARMUP + iterations):
            watched.run()
        path = Path(watched.end_profiling())
        watched.close()
        try:
            document = path.read_text("utf-8", "replace")
        except OSError as error:
            raise StorageError(f"The profile of ONNX Runtime cannot be read: {error.strerror or error}.") from None
    return RawLayers("onnxruntime-profiler", document, iterations)


def failures(ort: Any) -> tuple[type[Exception], ...]:
    """Every exception that the library raises: its own classes have no common base of their own."""
    state = ort.capi.onnxruntime_pybind11_state
    own = (value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception))
    return (*own, RuntimeError, ValueError, TypeError, MemoryError, UnicodeDecodeError)


def inference_failed(ort: Any, error: Exception) -> TrtActionError:
    words = ort_words.readable(error).removeprefix("Error in execution: ")
    if ort_words.is_out_of_memory(error):
        return OutOfMemoryError(f"ONNX Runtime {ort.__version__} ran out of memory during an inference.", why=words)
    return DataError(
        f"ONNX Runtime {ort.__version__} failed on these inputs: {words}",
        why="The inputs have the declared names, types and fixed dimensions, and the graph still cannot take them.",
        fix="Check open dimensions that depend on each other (`shapes`), and values used as sizes or indices: those of an input "
        "that holds sizes are given as its `values` in `shapes`.",
    )


def tensors(arguments: Any, what: str) -> tuple[Tensor, ...]:
    return tuple(_tensor(argument, what) for argument in arguments)


def _tensor(argument: Any, what: str) -> Tensor:
    kind = str(argument.type)
    dtype = DTYPES.get(kind.removeprefix("tensor(").removesuffix(")")) if kind.startswith("tensor(") else None
    if dtype is None:
        raise BuildError(
            f"The model's {what} {quote(argument.name)} has type `{kind}`, which this backend cannot bind.",
            why="Inputs and outputs must be plain tensors of bool, integers, float16, float32 or float64.",
            fix=f"Export the model with a plain tensor as this {what} (add a `Cast` for bfloat16 and 8-bit floats, "
            "move text processing out of the model, leave out `ZipMap` for classifiers).",
        )
    return Tensor(argument.name, dtype, tuple(_dimension(dim) for dim in argument.shape))


def _dimension(dim: object) -> int | str | None:
    return dim if isinstance(dim, int) else str(dim) if dim else None


def check_feeds(inputs: tuple[Tensor, ...], feeds: Feeds) -> None:
    known = {tensor.name for tensor in inputs}
    if missing := known - feeds.keys():
        raise DataError(f"No data for input {quote_all(sorted(missing))}.", fix="Give every input of the model.")
    if extra := feeds.keys() - known:
        raise DataError(
            f"The model has no input {quote_all(sorted(extra))}; it has {quote_all(sorted(known))}.",
            fix="Name the arrays as the model's inputs.",
        )
    for tensor in inputs:
        _check_array(tensor, feeds[tensor.name])


def _check_array(tensor: Tensor, array: Array) -> None:
    if array.dtype.kind in "OUT" or array.dtype != np.dtype(tensor.dtype):
        raise DataError(
            f"Input {quote(tensor.name)} takes {tensor.dtype}, the data are {array.dtype}.",
            fix=f"Convert the array, e.g. `array.astype('{tensor.dtype}')`.",
        )
    fits = len(array.shape) == len(tensor.shape) and all(
        not isinstance(dim, int) or dim == size for dim, size in zip(tensor.shape, array.shape, strict=False)
    )
    if not fits:
        declared = ", ".join("?" if dim is None else str(dim) for dim in tensor.shape)
        raise DataError(
            f"Input {quote(tensor.name)} takes shape [{declared}], the data have {list(array.shape)}.",
            fix="Give data of that shape; axis 0 of a data file counts samples.",
        )
