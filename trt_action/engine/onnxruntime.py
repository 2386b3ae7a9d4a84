"""ONNX Runtime on the CPU: the backend that every host has, and the FP32 reference.

An engine of this backend is the model as ONNX Runtime's graph optimiser leaves it, saved; it is loaded with the
optimiser off, because it has been through it. Saved graphs hold layouts chosen for the CPU that built them.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from trt_action.engine import onnx_files, ort_words
from trt_action.engine.backend import Loadable, RuntimeOptions, Session
from trt_action.engine.ort_session import OnnxRuntimeSession, failures, tensors
from trt_action.errors import (
    BackendUnavailableError,
    BuildError,
    OutOfMemoryError,
    StorageError,
    TrtActionError,
)
from trt_action.inputs import quote

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
        tensors(session.get_inputs(), "input")
        tensors(session.get_outputs(), "output")
        return out_dir / ENGINE

    def load(self, loadable: Loadable) -> Session:
        ort = _library()
        level = "disabled" if loadable.prepared else loadable.options.graph_optimization
        session_options = _session_options(ort, loadable.options, LEVELS[level])
        session = _create(ort, loadable.path, session_options, "load", (loadable.path,))

        def profiled(folder: Path) -> Any:
            """A second session: the timed one never has the profiler on."""
            watched = _session_options(ort, loadable.options, LEVELS[level])
            watched.enable_profiling = True
            watched.profile_file_prefix = str(folder / "profile")
            return _create(ort, loadable.path, watched, "load", (loadable.path,))

        return OnnxRuntimeSession(ort, session, profiled)

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
    except failures(ort) as error:
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


def _weights_go_beside(prepared: Path) -> bool:
    return prepared.stat().st_size > EMBED_LIMIT or len(onnx_files.names(prepared)) > 1
