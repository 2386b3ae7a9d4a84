"""ONNX Runtime on the CPU: the backend that every host has, and the FP32 reference.

An engine of this backend is the model as ONNX Runtime's graph optimiser leaves it, saved; it is loaded with the
optimiser off, because it has been through it. Saved graphs hold layouts chosen for the CPU that built them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from trt_action.engine import onnx_files, ort_words
from trt_action.engine.backend import Array, Feeds, Loadable, RuntimeOptions, Session, Tensor
from trt_action.errors import (
    BackendUnavailableError,
    BuildError,
    DataError,
    OutOfMemoryError,
    StorageError,
    TrtActionError,
)
from trt_action.inputs import quote, quote_all

NAME = "onnxruntime"
ENGINE = "engine.onnx"
ENGINE_DATA = "engine.onnx.data"
PROVIDERS = ["CPUExecutionProvider"]

EMBED_LIMIT = 1 << 30
"""Above this, weights are saved beside the engine: protobuf stops at 2 GiB (protobuf.dev, "Proto Limits")."""

PRECISIONS = ("fp32", "fp16", "int8")

LEVELS = {
    "disabled": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}

# onnxruntime's type strings: tensor(<this>) -> numpy
DTYPES = {
    "float": "float32",
    "double": "float64",
    "float16": "float16",
    "bool": "bool",
    **{name: name for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")},
}


class OnnxRuntimeBackend:
    """CPU execution provider; see `backend.Backend`."""

    name = NAME

    def version(self) -> str:
        return str(_library().__version__)

    def check_precision(self, precision: str) -> None:
        if precision not in PRECISIONS:
            raise BackendUnavailableError(
                f"The onnxruntime backend cannot run precision {quote(precision)}.",
                why="ONNX Runtime's CPU kernels do not compute in it.",
                fix=f"Use one of {', '.join(PRECISIONS)} with this backend; {precision} needs a GPU backend.",
            )

    def build(self, prepared: Path, out_dir: Path, options: RuntimeOptions) -> Path:
        """Optimise and save. The bytes depend on model, level, ONNX Runtime and the CPU's instruction set only."""
        ort = _library()
        session_options = _session_options(ort, options, LEVELS[options.graph_optimization])
        session_options.optimized_model_filepath = str(out_dir / ENGINE)
        if _weights_go_beside(prepared):
            # Without this, a model with external data is saved with links to files that are not in `out_dir`.
            prefix = "session.optimized_model_external_initializers_"
            session_options.add_session_config_entry(prefix + "file_name", ENGINE_DATA)
            session_options.add_session_config_entry(prefix + "min_size_in_bytes", "1024")
        try:
            session = _create(ort, prepared, session_options, "build", (prepared, out_dir / ENGINE))
        except BuildError as error:
            raise _storage_or(error, prepared, out_dir) from None
        _tensors(session.get_inputs(), "input")
        _tensors(session.get_outputs(), "output")
        return out_dir / ENGINE

    def load(self, loadable: Loadable) -> Session:
        ort = _library()
        level = "disabled" if loadable.prepared else loadable.options.graph_optimization
        session_options = _session_options(ort, loadable.options, LEVELS[level])
        return OnnxRuntimeSession(ort, _create(ort, loadable.path, session_options, "load", (loadable.path,)))

    def describe(self, options: RuntimeOptions) -> dict[str, Any]:
        ort = _library()
        return {
            "backend": NAME,
            "backend_version": str(ort.__version__),
            "provider": PROVIDERS[0],
            "device": "cpu",
            "threads": threads(options),
            "inter_op_threads": 1,
            "graph_optimization": options.graph_optimization,
            "memory_arena": options.memory_arena,
            "spinning": options.spinning,
        }


class OnnxRuntimeSession:
    """See `backend.Session`. Inputs live in buffers of ONNX Runtime (64-byte aligned) that `run` reads in place.
    Outputs are bound to the device: the first `run` allocates them, later ones write into the same buffers.

    `run` is a closure and not a method: one call, no attribute looked up, and `try` costs nothing (Python 3.11).
    """

    run: Callable[[], None]

    def __init__(self, ort: Any, session: Any) -> None:
        self._ort = ort
        self._session = session
        self._inputs = _tensors(session.get_inputs(), "input")
        self._outputs = _tensors(session.get_outputs(), "output")
        self._binding = session.io_binding()
        self._buffers: dict[str, Any] = {}
        self.run = self._make_run()

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return self._inputs

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return self._outputs

    def bind(self, feeds: Feeds) -> None:
        self._check_open()
        _check_feeds(self._inputs, feeds)
        try:
            self._bind(feeds)
        except _failures(self._ort) as error:
            raise _inference_failed(self._ort, error) from None

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

    def fetch(self) -> dict[str, Array]:
        self._check_open()
        values = self._binding.get_outputs()
        return {tensor.name: np.array(value.numpy()) for tensor, value in zip(self._outputs, values, strict=True)}

    def close(self) -> None:
        self._session = self._binding = None
        self._buffers = {}
        self.run = self._check_open

    def _make_run(self) -> Callable[[], None]:
        call, binding, recover = self._session.run_with_iobinding, self._binding, self._recover
        failures = _failures(self._ort)

        def run() -> None:
            try:
                call(binding)
            except failures as error:
                recover(error)

        return run

    def _recover(self, error: Exception) -> None:
        """An output's shape changed with the values of the inputs: let the runtime allocate it anew, and run again."""
        if "output OrtValue provided" not in str(error):
            raise _inference_failed(self._ort, error) from None
        self._bind_outputs()
        try:
            self._session.run_with_iobinding(self._binding)
        except _failures(self._ort) as again:
            raise _inference_failed(self._ort, again) from None

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


def threads(options: RuntimeOptions) -> int:
    """Threads of one inference: as asked, or one per CPU that this process may use."""
    return options.threads or len(os.sched_getaffinity(0))


def _library() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendUnavailableError(
            "ONNX Runtime is not usable in this Python environment.",
            why=" ".join(str(error).split())[:300],
            fix="Install it with `pip install 'trt-action[onnxruntime]'` for the same Python.",
        ) from None
    return onnxruntime


def _session_options(ort: Any, options: RuntimeOptions, level: str) -> Any:
    chosen = ort.SessionOptions()
    chosen.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    chosen.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    chosen.intra_op_num_threads = threads(options)
    chosen.inter_op_num_threads = 1
    chosen.enable_cpu_mem_arena = options.memory_arena
    chosen.log_severity_level = 3  # errors
    chosen.add_session_config_entry("session.intra_op.allow_spinning", "1" if options.spinning else "0")
    return chosen


def _create(ort: Any, path: Path, options: Any, verb: str, paths: tuple[Path, ...]) -> Any:
    try:
        return ort.InferenceSession(str(path), options, providers=PROVIDERS)
    except _failures(ort) as error:
        raise _refusal(ort, error, path, verb, paths) from None


def _storage_or(error: TrtActionError, prepared: Path, out_dir: Path) -> TrtActionError:
    """ONNX Runtime does not say that it could not write; the folder does."""
    if not os.access(out_dir, os.W_OK):
        reason = "the folder is missing or may not be written"
    else:
        needed = sum((prepared.parent / name).stat().st_size for name in onnx_files.names(prepared))
        free = shutil.disk_usage(out_dir).free
        if free >= needed:
            return error
        reason = f"{free / 1e6:,.1f} MB are free, about {needed / 1e6:,.1f} MB are needed"
    return StorageError(
        f"The engine of {quote(prepared.name)} cannot be written to {quote(out_dir)}: {reason}.",
        why=error.what,
        fix="Free some space or change permissions there, or set `TMPDIR` to another folder.",
    )


def _failures(ort: Any) -> tuple[type[Exception], ...]:
    """Every exception that the library raises: its own classes have no common base of their own."""
    state = ort.capi.onnxruntime_pybind11_state
    own = (value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception))
    return (*own, RuntimeError, ValueError, TypeError, MemoryError, UnicodeDecodeError)


def _refusal(ort: Any, error: Exception, path: Path, verb: str, paths: tuple[Path, ...]) -> TrtActionError:
    words = ort_words.readable(error, paths)
    runtime = f"ONNX Runtime {ort.__version__}"
    if ort_words.is_out_of_memory(error):
        return OutOfMemoryError(f"{runtime} ran out of memory while it tried to {verb} {quote(path.name)}.", why=words)
    if "bfloat16" in words or onnx_files.computes_in_bfloat16(path):
        return BuildError(
            f"{runtime} cannot {verb} {quote(path.name)}: the model computes in bfloat16.",
            why=f"The CPU kernels do not. In its own words: {words}",
            fix="Use `precision: fp32`, `fp16` or `int8` with this backend, or export the model without bfloat16.",
        )
    if operator := ort_words.unsupported_operator(error):
        name, version, node = operator
        where = f" in node {quote(node)}" if node else ""
        return BuildError(
            f"{runtime} has no CPU implementation of operator {quote(name)}{version}{where}.",
            why=f"In its own words: {words}",
            fix="Export the model to an opset and operators that ONNX Runtime supports "
            "(onnxruntime.ai/docs/reference/compatibility.html); custom operators are not loaded.",
        )
    return BuildError(
        f"{runtime} cannot {verb} {quote(path.name)}: {words}",
        why="The file is damaged, or uses something that this version does not support." if verb == "load" else "",
        fix="Check the model with `onnx.checker.check_model(path, full_check=True)`; if it passes, "
        "try `graph-optimization: basic` or another version of ONNX Runtime.",
    )


def _inference_failed(ort: Any, error: Exception) -> TrtActionError:
    words = ort_words.readable(error).removeprefix("Error in execution: ")
    if ort_words.is_out_of_memory(error):
        return OutOfMemoryError(f"ONNX Runtime {ort.__version__} ran out of memory during an inference.", why=words)
    return DataError(
        f"ONNX Runtime {ort.__version__} failed on these inputs: {words}",
        why="The inputs have the declared names, types and fixed dimensions, and the graph still cannot take them.",
        fix="Check open dimensions that depend on each other (`shapes`), and values used as sizes or indices.",
    )


def _tensors(arguments: Any, what: str) -> tuple[Tensor, ...]:
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


def _check_feeds(inputs: tuple[Tensor, ...], feeds: Feeds) -> None:
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


def _weights_go_beside(prepared: Path) -> bool:
    return prepared.stat().st_size > EMBED_LIMIT or len(onnx_files.names(prepared)) > 1
