"""From a prepared ONNX graph to a plan. Runs in a child process: a builder that crashes takes nothing else along."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trt_action import files
from trt_action.engine import onnx_files
from trt_action.engine.backend import BuildContext, RuntimeOptions
from trt_action.engine.tensorrt import causes, configure, log, memory, progress, timing
from trt_action.engine.tensorrt.causes import Situation
from trt_action.engine.tensorrt.library import Flavour
from trt_action.engine.tensorrt.lifetime import Held, closed_on_failure
from trt_action.engine.tensorrt.log import Log
from trt_action.errors import BuildError
from trt_action.inputs import quote
from trt_action.settings import units

PLAN = "engine.plan"


@dataclass(frozen=True)
class Gpu:
    """The GPU of the build: what its timings are worth for, and its free memory (bytes)."""

    name: str
    driver: str
    free: int


def build(
    trt: Any,
    flavour: Flavour,
    prepared: Path,
    out_dir: Path,
    options: RuntimeOptions,
    context: BuildContext,
    gpu: Gpu | None,
) -> Path:
    """Compile `prepared` into `engine.plan` in `out_dir`. The same graph, options, library and GPU give the same plan
    where nothing is timed (TensorRT for RTX); else what is timed decides.

    Raises:
        BuildError: the graph is refused or cannot be built; with the node, operator or shape.
        OutOfMemoryError: there is not enough memory, or it ran out.
        BackendUnavailableError: something of the library is missing.
        StorageError: the plan cannot be written.
    """
    name = context.name or prepared.name
    budget = memory.Budget(_weights(prepared), gpu.free if gpu else None, memory.host_free())
    memory.check(budget, name, streamed=options.tensorrt.weight_streaming != "none")
    workspace = memory.workspace(options.tensorrt.workspace, budget)
    situation = Situation(flavour.title, name, "build", _said(budget, workspace))
    held = Held()
    with closed_on_failure(held):
        plan = _compile(trt, flavour, prepared, options, context, gpu, workspace, situation, held)
    held.close()
    files.write_atomic(out_dir / PLAN, plan)
    return out_dir / PLAN


def _compile(
    trt: Any,
    flavour: Flavour,
    prepared: Path,
    options: RuntimeOptions,
    context: BuildContext,
    gpu: Gpu | None,
    workspace: int | None,
    situation: Situation,
    held: Held,
) -> bytes:
    said = Log()
    logger = held.add(log.logger(trt, said))
    builder = held.add(causes.made(trt.Builder, logger, said, situation))
    network = held.add(builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)))
    parser = held.add(trt.OnnxParser(network, logger))
    if any(known.get("values") for known in context.shapes.values()):
        configure.check_lengths(_declared(prepared), context.shapes)
    _parse(parser, network, prepared, said, situation)
    config = held.add(builder.create_builder_config())
    configure.apply(
        trt,
        config,
        options.tensorrt,
        tf32=options.tf32 or context.precision == "tf32",
        workspace=workspace,
        built_on_the_gpu=flavour.built_on_the_gpu,
        warn=context.warn,
    )
    configure.add_profile(builder, network, config, context.shapes)
    config.progress_monitor = held.add(progress.monitor(trt, progress.Phases(context.progress)))
    timings = _timings(trt, flavour, options, context, gpu)
    if timings:
        held.add(timing.put_into(config, timings))
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise causes.found(said, situation)
    if said.errors:
        context.warn(
            f"{flavour.title} built the engine, and reported errors ({len(said.errors)} lines): {causes.readable(said.errors[0])}"
        )
    if timings:
        timing.keep(config, timings)
    return bytes(plan)


def _parse(parser: Any, network: Any, prepared: Path, said: Log, situation: Situation) -> None:
    """By path: only so is external data found beside the model. A file that is no model at all "parses" too."""
    if not parser.parse_from_file(str(prepared)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        raise causes.refused(errors, said, situation)
    if network.num_outputs == 0:
        raise BuildError(
            f"{situation.title} found no graph in {quote(situation.name)}: the file is empty or not an ONNX model.",
            fix="Check the file with `onnx.checker.check_model(path, full_check=True)`.",
        )
    _refuse_double(prepared, situation.name)


def _declared(prepared: Path) -> dict[str, list[int | None]]:
    """Shapes of the graph's inputs; None = open."""
    return {
        value.name: [dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim]
        for value in onnx_files.structure(prepared).graph.input
    }


def _refuse_double(prepared: Path, name: str) -> None:
    """TensorRT computes double in float without a word: an engine with other inputs than the model is refused."""
    from onnx import TensorProto

    graph = onnx_files.structure(prepared).graph
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.DOUBLE:
            raise BuildError(
                f"{quote(value.name)} of {quote(name)} is float64; TensorRT would silently make it float32.",
                fix="Export the model with float32 inputs and outputs.",
            )


def _timings(
    trt: Any, flavour: Flavour, options: RuntimeOptions, context: BuildContext, gpu: Gpu | None
) -> Path | None:
    wanted = options.tensorrt.timing_cache and flavour.built_on_the_gpu
    if not wanted or context.cache is None or gpu is None:
        return None
    return timing.path(context.cache, flavour.backend, str(trt.__version__), gpu.name, gpu.driver)


def _weights(prepared: Path) -> int:
    return sum((prepared.parent / name).stat().st_size for name in onnx_files.names(prepared))


def _said(budget: memory.Budget, workspace: int | None) -> str:
    """For a message: what there was."""
    if budget.device_free is None:
        return ""
    parts = [f"{units.size_text(memory.rounded(budget.device_free))} of the GPU's memory were free"]
    parts += [f"the workspace was {units.size_text(memory.rounded(workspace))}"] if workspace is not None else []
    return f"When the build began, {' and '.join(parts)}."
