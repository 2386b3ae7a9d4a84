"""From a plan that is trusted to an engine with an execution context."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trt_action.engine.backend import Loadable, RuntimeOptions
from trt_action.engine.tensorrt import causes, log, plan
from trt_action.engine.tensorrt.causes import Situation
from trt_action.engine.tensorrt.library import Flavour
from trt_action.engine.tensorrt.lifetime import Held, closed_on_failure
from trt_action.engine.tensorrt.log import Log
from trt_action.errors import BuildError, StorageError
from trt_action.inputs import quote
from trt_action.settings import units

JIT_CACHE = "engine.jit"
"""Beside a plan of TensorRT for RTX: the kernels that it has compiled on this kind of GPU."""


@dataclass(frozen=True)
class Contents:
    """The bytes of an engine, as whoever built it recorded them."""

    plan: bytes
    jit_cache: bytes


@dataclass
class Opened:
    """An engine and what it needs; `held` lets it go in the right order. The last two only with TensorRT for RTX."""

    held: Held
    said: Log
    engine: Any = None
    runtime_config: Any = None
    runtime_cache: Any = None

    def close(self) -> None:
        """No execution context may be left."""
        self.runtime_cache = self.runtime_config = self.engine = None
        self.held.close()


def names(path: Path) -> list[str]:
    """The plan, and its compiled kernels where there are any."""
    return [path.name, *([JIT_CACHE] if path.with_name(JIT_CACHE).is_file() else [])]


def read(loadable: Loadable) -> Contents:
    """The bytes of the engine, if they are those that were recorded: a plan is executable code.

    Raises:
        BuildError: nobody recorded this plan's digest, or its bytes are others.
        StorageError: it cannot be read.
    """
    found: dict[str, bytes] = {}
    try:
        for name in names(loadable.path):
            found[name] = loadable.path.with_name(name).read_bytes()
    except OSError as error:
        raise StorageError(f"The engine {quote(loadable.path)} cannot be read: {error.strerror or error}.") from None
    if loadable.sha256 is None or _digest(found) != loadable.sha256:
        why = "nothing says who built it" if loadable.sha256 is None else "its bytes are not those that were recorded"
        raise BuildError(
            f"The plan {quote(loadable.path.name)} is not loaded: {why}.",
            why="A plan is executable code: it is loaded only if this run built it, or a record of its digest came with it.",
            fix="Build it with `trt-action build`, and name the folder that this leaves.",
        )
    return Contents(found[loadable.path.name], found.get(JIT_CACHE, b""))


def open_engine(
    trt: Any, flavour: Flavour, name: str, contents: Contents, options: RuntimeOptions, gpu_name: str
) -> Opened:
    """Deserialize on the current GPU.

    Raises:
        BuildError: another library's or version's plan, or one for another GPU.
        OutOfMemoryError: it does not fit.
        BackendUnavailableError: the driver does not do.
    """
    asked = options.tensorrt
    header = plan.read(contents.plan[: plan.HEAD_BYTES], name)
    plan.check(header, name, flavour, str(trt.__version__), version_compatible=asked.version_compatible)
    opened = Opened(Held(), Log())
    with closed_on_failure(opened):
        situation = Situation(f"{flavour.title} {trt.__version__}", name, "load")
        opened.engine = _deserialize(trt, opened, situation, contents.plan, options, gpu_name)
        _configure(trt, opened, options, contents.jit_cache)
    opened.said.clear()  # what it said of a plan that it did load explains no later failure
    return opened


def _deserialize(
    trt: Any, opened: Opened, situation: Situation, content: bytes, options: RuntimeOptions, gpu_name: str
) -> Any:
    logger = opened.held.add(log.logger(trt, opened.said))
    runtime = opened.held.add(causes.made(trt.Runtime, logger, opened.said, situation))
    asked = options.tensorrt
    if asked.version_compatible == "with-lean":
        runtime.engine_host_code_allowed = True
    engine = opened.held.add(runtime.deserialize_cuda_engine(content))
    if engine is None:
        error = causes.found(opened.said, situation)
        error.why = f"{error.why} The GPU is {gpu_name}.{_validity(trt, runtime, content)}".strip()
        raise error
    if asked.weight_streaming != "none":
        engine.weight_streaming_budget_v2 = _streaming_budget(asked.weight_streaming, engine)
    return engine


def new_context(opened: Opened, situation: Situation) -> Any:
    """An execution context with memory of its own.

    Raises:
        OutOfMemoryError, BuildError: it cannot be made.
    """
    engine, config = opened.engine, opened.runtime_config
    context = engine.create_execution_context() if config is None else engine.create_execution_context(config)
    if context is None:
        raise causes.found(opened.said, situation)
    return context


def compiled(opened: Opened) -> bytes:
    """What TensorRT for RTX has compiled so far; empty for TensorRT, which compiles nothing while it runs."""
    runtime_cache = opened.runtime_cache
    if runtime_cache is None or not hasattr(opened.runtime_config, "get_runtime_cache"):
        return b""
    memory = runtime_cache.serialize()
    return b"" if memory is None else bytes(memory)


def _digest(contents: dict[str, bytes]) -> str:
    """As `building.digest` makes it from files; here of the very bytes that are loaded."""
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    if len(sums) == 1:
        return next(iter(sums.values()))
    listing = "".join(f"{sums[name]}  {name}\n" for name in sorted(sums))
    return hashlib.sha256(listing.encode()).hexdigest()


def _streaming_budget(asked: str, engine: Any) -> int:
    """Bytes of weights that stay on the GPU."""
    streamable = int(engine.streamable_weights_size)
    if asked == "auto":
        return int(engine.get_weight_streaming_automatic_budget())
    wanted = int(units.percent(asked) * streamable) if asked.endswith("%") else units.size(asked)
    return min(wanted, streamable)


def _configure(trt: Any, opened: Opened, options: RuntimeOptions, jit_cache: bytes) -> None:
    """TensorRT for RTX compiles on the device: kernels for the bound shapes at once (a fallback kernel would be measured
    otherwise), graphs by its own capture, compiled kernels kept. TensorRT has nothing of that to set."""
    if not hasattr(trt, "CudaGraphStrategy"):
        return
    runtime_config = opened.runtime_config = opened.held.add(opened.engine.create_runtime_config())
    strategy = trt.CudaGraphStrategy
    runtime_config.cuda_graph_strategy = strategy.WHOLE_GRAPH_CAPTURE if options.cuda_graph else strategy.DISABLED
    eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    runtime_config.dynamic_shapes_kernel_specialization_strategy = eager
    runtime_cache = opened.runtime_cache = opened.held.add(runtime_config.create_runtime_cache())
    if jit_cache:
        runtime_cache.deserialize(jit_cache)  # False: of another GPU or driver, so it compiles again
    runtime_config.set_runtime_cache(runtime_cache)


def _validity(trt: Any, runtime: Any, content: bytes) -> str:
    """What the library says about a plan that it did not load, in words of its own; empty where it has no such call."""
    if not hasattr(runtime, "get_engine_validity"):
        return ""
    header = content[: runtime.engine_header_size]
    validity, diagnostics = runtime.get_engine_validity(header)
    reasons = [
        name.lower().replace("_", " ")
        for name, member in trt.EngineInvalidityDiagnostics.__members__.items()
        if int(diagnostics) & int(member)
    ]
    return f" It calls the plan {validity.name.lower()}" + (f" ({', '.join(reasons)})." if reasons else ".")
