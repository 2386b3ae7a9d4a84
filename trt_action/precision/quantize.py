"""int8 and fp8 by the light toolchain, with explicit Q/DQ nodes. int8 is ONNX Runtime's static quantizer in the one form
that TensorRT's parser accepts too: symmetric int8 for activations and weights, a scale per output channel of weights,
bias in float32. fp8 is `fp8.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto

from trt_action.errors import SettingsError
from trt_action.inputs import nearest, quote
from trt_action.precision import calibrate, fp8, large, runtime
from trt_action.precision import graph as graphs
from trt_action.precision.recipe import Recipe

LEAST_OPSET = {"int8": 13, "fp8": fp8.LEAST_OPSET}
"""For int8, of QuantizeLinear with an axis (per channel)."""

EXTRA_OPTIONS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "DedicatedQDQPair": False,
    "CalibTensorRangeSymmetric": True,
}


@dataclass(frozen=True)
class Plan:
    """What is to be quantized. `model`: with constants folded, or the original where nothing is to be done;
    `targets`: names of its nodes; `activations`: tensors that need a range, in the order of the graph; `makers`: each
    target with the nodes of the original model whose exclusion excludes it."""

    model: ModelProto
    targets: tuple[str, ...]
    activations: tuple[str, ...]
    makers: Mapping[str, tuple[str, ...]]


def plan(model: ModelProto, recipe: Recipe, folder: Path, tell: Callable[[str], None]) -> Plan:
    """Fold constants and find the float32 nodes of `recipe.op_types` that are not excluded.

    Raises:
        SettingsError: an operator that cannot be quantized, a node that is not there.
        PrecisionError: an opset that cannot be raised.
    """
    check_op_types(recipe, _known_op_types(recipe.precision))
    model = graphs.raise_opset(model, LEAST_OPSET[recipe.precision], recipe.precision)
    excluded = graphs.matching(model.graph, recipe.exclude_nodes, lenient=recipe.lenient)
    tell("folding constants")
    folded = optimize(model, folder)
    follow = _Follow(model, folded)
    excluded = {target for name in excluded for target in follow(name)}
    kinds = {name: kind for name, (kind, _) in graphs.types_and_shapes(folded).items()}
    weights = {tensor.name for tensor in folded.graph.initializer}
    targets: list[str] = []
    activations: dict[str, None] = {}
    for node in folded.graph.node:
        # ONNX Runtime's int8 brackets results as well
        named = (*node.input, *node.output) if recipe.precision == "int8" else node.input[:2]
        floats = [n for n in named if kinds.get(n) == TensorProto.FLOAT]
        if node.op_type in recipe.op_types and node.name not in excluded and node.input[0] in floats:
            targets.append(node.name)
            activations |= dict.fromkeys(n for n in floats if n not in weights)
    if not targets:
        return Plan(model, (), (), {})
    makers: dict[str, tuple[str, ...]] = dict.fromkeys(targets, ())
    for node in model.graph.node:
        for target in follow(node.name) & makers.keys() if node.op_type in recipe.op_types else ():
            makers[target] += (node.name,)
    return Plan(folded, tuple(targets), tuple(activations), makers)


def quantize(
    model: ModelProto,
    recipe: Recipe,
    batches: calibrate.Batches,
    folder: Path,
    tell: Callable[[str], None],
    ranges: Path | None = None,
) -> tuple[ModelProto, list[str]]:
    """The model with Q/DQ pairs around the operators of `recipe.op_types`, and notes for the record.

    `folder` is for intermediate files. `tell` is called when a step begins. `ranges` is a file that keeps magnitudes
    between calls for one model, data and method.

    Raises:
        SettingsError, PrecisionError: as `plan`; also NaN in an activation.
    """
    found = plan(model, recipe, folder, tell)
    if not found.targets:
        return found.model, []
    magnitudes = calibrated(found, recipe, batches, folder, tell, ranges)
    tell("inserting Q/DQ")
    if recipe.precision == "fp8":
        quantized = fp8.insert(found.model, set(found.targets), magnitudes)
    else:
        quantized = _insert(found.model, list(found.targets), magnitudes, recipe, folder)
    silent = sum(value == 0 for value in magnitudes.values())
    return quantized, [f"{silent} activations were zero in every calibration sample."] if silent else []


def calibrated(
    found: Plan,
    recipe: Recipe,
    batches: calibrate.Batches,
    folder: Path,
    tell: Callable[[str], None],
    ranges: Path | None,
) -> dict[str, float]:
    """The magnitude of each activation of the plan; read from `ranges` if an earlier call has kept them all there."""
    known: dict[str, float] = json.loads(ranges.read_text()) if ranges is not None and ranges.exists() else {}
    if not known.keys() >= set(found.activations):
        tell("calibrating")
        known |= calibrate.magnitudes(found.model, found.activations, batches, recipe.calibration_method, folder)
        if ranges is not None:
            ranges.write_text(json.dumps(known))
    return {name: known[name] for name in found.activations}


def optimize(model: ModelProto, folder: Path) -> ModelProto:
    """Constants folded and batch normalisation merged into convolutions, by ONNX Runtime's basic level.

    Without it, a weight behind a Transpose is no weight to the quantiser. The model comes back unchanged when the
    result would hold operators of ONNX Runtime's own, which no other backend reads, and when parts of it are in half
    already: ONNX Runtime's CPU would bring those back to float32.
    """
    if {TensorProto.FLOAT16, TensorProto.BFLOAT16} & {kind for kind, _ in graphs.types_and_shapes(model).values()}:
        return model
    source, target = folder / "source.onnx", folder / "folded.onnx"
    large.save(model, source)
    runtime.session(source, fold_into=target, external=large.is_large(model))
    folded = graphs.read(target)
    large.discard(source)
    large.discard(target)
    had = {node.domain for node in graphs.walk(model.graph)}
    return folded if {node.domain for node in graphs.walk(folded.graph)} <= had else model


def _insert(
    model: ModelProto, targets: list[str], magnitudes: dict[str, float], recipe: Recipe, folder: Path
) -> ModelProto:
    import numpy as np
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import TensorData, TensorsData, save_tensors_data
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    ranges = {
        name: TensorData(lowest=np.float32(-value), highest=np.float32(value)) for name, value in magnitudes.items()
    }
    source, table, target = folder / "folded.onnx", folder / "ranges.json", folder / "quantized.onnx"
    add_pre_process_metadata(model)  # it is folded: no advice to do so
    large.save(model, source)
    save_tensors_data(TensorsData(CalibrationMethod.MinMax, ranges), table)
    quantize_static(
        source,
        target,
        None,
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=sorted(set(recipe.op_types)),
        nodes_to_quantize=targets,
        calibrate_method=CalibrationMethod.MinMax,
        calibration_cache_path=table,
        use_external_data_format=large.is_large(model),
        extra_options=dict(EXTRA_OPTIONS),
    )
    quantized = onnx.load(target)
    _spare_others(quantized, set(targets))
    return quantized


def _spare_others(model: ModelProto, targets: set[str]) -> None:
    """Who is not quantized reads the exact tensor again: the quantizer puts one Q/DQ pair in front of every reader of a
    tensor, excluded nodes and residual connections included. Results of targets stay rounded for every reader: ONNX
    Runtime computes in int8 only where its result is quantized too."""
    makers = {output: node.name for node in model.graph.node for output in node.output}
    sources = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    exact = {
        node.output[0]: sources[node.input[0]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
        and node.input[0] in sources
        and makers.get(sources[node.input[0]]) not in targets
    }
    for node in model.graph.node:
        if node.name not in targets:
            for index, name in enumerate(node.input):
                node.input[index] = exact.get(name, name)


def _known_op_types(precision: str) -> set[str]:
    from onnxruntime.quantization.registry import QDQRegistry

    return set(QDQRegistry) if precision == "int8" else set(graphs.COMPUTE)


def check_op_types(recipe: Recipe, known: Collection[str]) -> None:
    """Every operator of the recipe is one that its toolchain knows.

    Raises:
        SettingsError: names the nearest one.
    """
    for name in recipe.op_types:
        if name not in known:
            close = nearest(name, known)
            allowed = f"Allowed are: {', '.join(sorted(known))}." if len(known) < 60 else "ONNX has no such operator."
            raise SettingsError(
                f"`op-types` names {quote(name)}, which {recipe.precision} cannot quantize.",
                why=allowed,
                fix=f"Did you mean {quote(close)}?" if close else "Name operators as Netron shows them, e.g. `MatMul`.",
            )


class _Follow:
    """Where a node has gone in folding, which merges nodes (MatMul + Add becomes a Gemm under a new name): to the node
    that makes its result, or the first result behind it."""

    def __init__(self, model: ModelProto, folded: ModelProto) -> None:
        self._makers = {output: node.name for node in folded.graph.node for output in node.output}
        self._there = set(self._makers.values())
        self._nodes = {node.name: node for node in model.graph.node}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def __call__(self, name: str) -> set[str]:
        if name in self._there:
            return {name}
        found: set[str] = set()
        queue = list(self._nodes[name].output)
        seen: set[str] = set()
        while queue:
            output = queue.pop()
            if output in self._makers:
                found.add(self._makers[output])
            elif output not in seen:
                seen.add(output)
                queue += [name for reader in self._readers.get(output, []) for name in reader.output]
        return found
