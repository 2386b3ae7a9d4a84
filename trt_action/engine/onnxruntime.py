"""ONNX Runtime: on the CPU the backend that every host has and the FP32 reference; on a GPU the framework baseline.

An engine of this backend is the model as ONNX Runtime's graph optimiser leaves it, saved; it is loaded with the
optimiser off, because it has been through it. Saved graphs hold layouts and fusions chosen for the device.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from trt_action.engine import cuda, onnx_files, ort_cuda, ort_words
from trt_action.engine.backend import BuildContext, Loadable, RuntimeOptions, Session
from trt_action.engine.ort_cuda_session import OnnxRuntimeCudaSession
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

PRECISIONS = ("fp32", "fp16", "int8", "int4")
GENTLE_PRECISIONS = (*PRECISIONS, "fp8")
"""At the levels `disabled` and `basic`: from `extended` on, the optimiser falsifies fp8 graphs (docs/precision.md)."""

LEVELS = {
    "disabled": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}


class OnnxRuntimeBackend:
    """CPU and CUDA execution provider; see `backend.Backend`."""

    name = NAME

    def version(self) -> str:
        return str(_library().__version__)

    def check_precision(self, precision: str, options: RuntimeOptions | None = None) -> None:
        on_gpu = options is not None and options.gpu is not None
        gentle = options is not None and options.graph_optimization in ("disabled", "basic")
        known = ort_cuda.PRECISIONS if on_gpu else GENTLE_PRECISIONS if gentle else PRECISIONS
        if precision == "fp8" and not on_gpu and not gentle:
            raise BackendUnavailableError(
                "The onnxruntime backend cannot run precision `fp8` on the CPU with its graph optimiser in full.",
                why="From the level `extended` on, ONNX Runtime changes the results of fp8 graphs beyond recognition.",
                fix="Set `graph-optimization: basic` to check the accuracy of a model that is meant for a GPU; "
                "it will not be fast here.",
            )
        if precision not in known:
            where = "CUDA" if on_gpu else "CPU"
            raise BackendUnavailableError(
                f"The onnxruntime backend cannot run precision {quote(precision)} on the {'GPU' if on_gpu else 'CPU'}.",
                why=f"ONNX Runtime's {where} kernels do not compute in it.",
                fix=f"Use one of {', '.join(known)} with this backend; {precision} needs a GPU backend.",
            )

    def check_host(self, options: RuntimeOptions, *, measures: bool) -> None:
        """Every host has a CPU. A GPU is opened by the child that builds; here it is enough that it can be."""
        if options.gpu is not None:
            ort_cuda.check(_library())

    def files(self, engine: Path) -> list[str]:
        return [engine.name, *sorted(name for name in onnx_files.names(engine) if name != engine.name)]

    def identity(self, options: RuntimeOptions) -> dict[str, Any]:
        """The CPU's instruction sets and, for a GPU, which one: kernels and fusions follow them. TF32, graphs and the
        driver act when the engine is loaded."""
        from trt_action.engine import devices, host  # not in a worker: it brings the types of the evidence along

        found = {"graph_optimization": options.graph_optimization, "host": host.build_identity()}
        if options.gpu is None:
            return found
        gpu = devices.facts(options.gpu)
        return {**found, "gpu": {"name": gpu.name, "capability": gpu.capability}}

    def build(
        self, prepared: Path, out_dir: Path, options: RuntimeOptions, context: BuildContext | None = None
    ) -> Path:
        """Optimise and save. The bytes depend on model, level, ONNX Runtime and `identity` only."""
        ort = _library()
        session_options = _session_options(ort, options, LEVELS[options.graph_optimization])
        session_options.optimized_model_filepath = str(out_dir / ENGINE)
        if _weights_go_beside(prepared):
            # Without this, a model with external data is saved with links to files that are not in `out_dir`.
            prefix = "session.optimized_model_external_initializers_"
            session_options.add_session_config_entry(prefix + "file_name", ENGINE_DATA)
            session_options.add_session_config_entry(prefix + "min_size_in_bytes", "1024")
        try:
            session = _create(ort, prepared, session_options, "build", (prepared, out_dir / ENGINE), options)
        except BuildError as error:
            raise _storage_or(error, prepared, out_dir) from None
        tensors(session.get_inputs(), "input")
        tensors(session.get_outputs(), "output")
        return out_dir / ENGINE

    def load(self, loadable: Loadable) -> Session:
        ort = _library()
        level = "disabled" if loadable.prepared else loadable.options.graph_optimization
        options = loadable.options

        def opened(stream: int = 0, folder: Path | None = None) -> Any:
            """With a folder: a session that writes its profile there, which the timed one never does."""
            chosen = _session_options(ort, options, LEVELS[level])
            if folder is not None:
                chosen.enable_profiling = True
                chosen.profile_file_prefix = str(folder / "profile")
            return _create(ort, loadable.path, chosen, "load", (loadable.path,), options, stream)

        if options.gpu is not None:
            ort_cuda.check(ort)
            return OnnxRuntimeCudaSession(ort, cuda.cuda(options.gpu), options, opened)
        return OnnxRuntimeSession(ort, opened(), lambda folder: opened(0, folder))

    def describe(self, options: RuntimeOptions) -> dict[str, Any]:
        ort = _library()
        return {
            "backend": NAME,
            "backend_version": str(ort.__version__),
            "provider": PROVIDERS[0] if options.gpu is None else ort_cuda.PROVIDER,
            "device": options.device,
            **({} if options.gpu is None else _describe_cuda(options)),
            "threads": threads(options),
            "inter_op_threads": 1,
            "graph_optimization": options.graph_optimization,
            "memory_arena": options.memory_arena,
            "spinning": options.spinning,
        }


def _describe_cuda(options: RuntimeOptions) -> dict[str, Any]:
    return {"transfers": options.transfers, "provider_options": ort_cuda.provider_options(options, 0)}


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
    if options.gpu is not None:
        chosen.add_session_config_entry(ort_cuda.ASSIGNMENT, "1")
    return chosen


def _create(
    ort: Any,
    path: Path,
    session_options: Any,
    verb: str,
    paths: tuple[Path, ...],
    options: RuntimeOptions,
    stream: int = 0,
) -> Any:
    providers: list[Any] = list(PROVIDERS)
    if options.gpu is not None:
        ort_cuda.preload()
        providers.insert(0, (ort_cuda.PROVIDER, ort_cuda.provider_options(options, stream)))
    try:
        session = ort.InferenceSession(str(path), session_options, providers=providers)
    except failures(ort) as error:
        raise _refusal(ort, error, path, verb, paths, options) from None
    if options.gpu is not None:
        ort_cuda.verify(session, ort)
    return session


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


def _refusal(
    ort: Any, error: Exception, path: Path, verb: str, paths: tuple[Path, ...], options: RuntimeOptions
) -> TrtActionError:
    words = ort_words.readable(error, paths)
    runtime = f"ONNX Runtime {ort.__version__}"
    if ort_words.is_out_of_memory(error):
        return OutOfMemoryError(f"{runtime} ran out of memory while it tried to {verb} {quote(path.name)}.", why=words)
    if options.gpu is None and ("bfloat16" in words or onnx_files.computes_in_bfloat16(path)):
        return BuildError(
            f"{runtime} cannot {verb} {quote(path.name)}: the model computes in bfloat16.",
            why=f"The CPU kernels do not. In its own words: {words}",
            fix="Use `precision: fp32`, `fp16` or `int8` with this backend, or export the model without bfloat16.",
        )
    if operator := ort_words.unsupported_operator(error):
        name, version, node = operator
        where = f" in node {quote(node)}" if node else ""
        bfloat16 = onnx_files.computes_in_bfloat16(path)
        export = (
            "Export the model to an opset and operators that ONNX Runtime supports "
            "(onnxruntime.ai/docs/reference/compatibility.html); custom operators are not loaded."
        )
        return BuildError(
            f"{runtime} has no {'CPU' if options.gpu is None else 'CUDA'} implementation of operator "
            f"{quote(name)}{version}{where}{' in bfloat16' if bfloat16 else ''}.",
            why=f"In its own words: {words}",
            fix="Its CUDA kernels know bfloat16 for some operators only: use `precision: fp16` or `tf32` with this "
            "backend, or keep the operator out with `exclude-nodes`."
            if bfloat16
            else export,
        )
    return BuildError(
        f"{runtime} cannot {verb} {quote(path.name)}: {words}",
        why="The file is damaged, or uses something that this version does not support." if verb == "load" else "",
        fix="Check the model with `onnx.checker.check_model(path, full_check=True)`; if it passes, "
        "try `graph-optimization: basic` or another version of ONNX Runtime.",
    )


def _weights_go_beside(prepared: Path) -> bool:
    return prepared.stat().st_size > EMBED_LIMIT or len(onnx_files.names(prepared)) > 1
