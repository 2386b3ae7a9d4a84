"""int8: ONNX Runtime's static quantiser with explicit Q/DQ, in the one form that TensorRT's parser accepts too:
symmetric int8 for activations and weights, a scale per output channel of weights, bias in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto

from trt_action.errors import SettingsError
from trt_action.inputs import nearest, quote
from trt_action.precision import calibrate, large, runtime
from trt_action.precision import graph as graphs
from trt_action.precision.recipe import Recipe

LEAST_OPSET = 13  # QuantizeLinear with an axis (per channel)

EXTRA_OPTIONS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "DedicatedQDQPair": False,
    "CalibTensorRangeSymmetric": True,
}


def quantize(
    model: ModelProto, recipe: Recipe, batches: calibrate.Batches, folder: Path, tell: Callable[[str], None]
) -> tuple[ModelProto, list[str]]:
    """The model with Q/DQ pairs around the operators of `recipe.op_types`, and notes for the record.

    `folder` is for intermediate files. `tell` is called when a step begins.

    Raises:
        SettingsError: an operator that cannot be quantized, a node that is not there.
        PrecisionError: NaN in an activation, or an opset that cannot be raised to 13.
    """
    _check_op_types(recipe.op_types)
    model = graphs.raise_opset(model, LEAST_OPSET, "int8")
    excluded = graphs.matching(model.graph, recipe.exclude_nodes)
    tell("folding constants")
    folded = optimize(model, folder)
    excluded = _follow(excluded, model, folded)
    kinds = {name: kind for name, (kind, _) in graphs.types_and_shapes(folded).items()}
    weights = {tensor.name for tensor in folded.graph.initializer}
    targets: list[str] = []
    activations: dict[str, None] = {}  # in the order of the graph
    for node in folded.graph.node:
        floats = [n for n in (*node.input, *node.output) if kinds.get(n) == TensorProto.FLOAT]
        if node.op_type in recipe.op_types and node.name not in excluded and node.input[0] in floats:
            targets.append(node.name)
            activations |= dict.fromkeys(n for n in floats if n not in weights)
    if not targets:
        return model, []
    tell("calibrating")
    ranges = calibrate.magnitudes(folded, list(activations), batches, recipe.calibration_method, folder)
    tell("inserting Q/DQ")
    quantized = _insert(folded, targets, ranges, recipe, folder)
    silent = sum(value == 0 for value in ranges.values())
    return quantized, [f"{silent} activations were zero in every calibration sample."] if silent else []


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
    return onnx.load(target)


def _check_op_types(op_types: tuple[str, ...]) -> None:
    from onnxruntime.quantization.registry import QDQRegistry

    known = sorted(QDQRegistry)
    for name in op_types:
        if name not in known:
            close = nearest(name, known)
            raise SettingsError(
                f"`op-types` names {quote(name)}, which int8 cannot quantize.",
                why=f"Allowed are: {', '.join(known)}.",
                fix=f"Did you mean {quote(close)}?" if close else "Take names from that list.",
            )


def _follow(excluded: set[str], model: ModelProto, folded: ModelProto) -> set[str]:
    """The excluded nodes after folding, which merges nodes (MatMul + Add becomes a Gemm under a new name): where a
    node is gone, the one that makes its result, or the first result behind it, is excluded instead."""
    makers = {output: node.name for node in folded.graph.node for output in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    names = set(makers.values())
    found = excluded & names
    queue = [output for node in model.graph.node if node.name in excluded - names for output in node.output]
    seen: set[str] = set()
    while queue:
        output = queue.pop()
        if output in makers:
            found.add(makers[output])
        elif output not in seen:
            seen.add(output)
            queue += [name for reader in readers.get(output, []) for name in reader.output]
    return found
