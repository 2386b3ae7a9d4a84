"""Which layers does a precision hurt? Each one alone is rounded to it, everything else stays float32, and the outputs
are held against those without any rounding.

One graph serves all layers: every factor of a layer passes a switch (`Where`) between itself and its rounded form, and a
rounded weight is fed in place of the stored one. So no layer costs a new graph or a new session, only a pass over the
samples. It ranks; what is kept is decided on the graph that the toolchain really makes.
"""

from __future__ import annotations

import dataclasses
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from trt_action.errors import TrtActionError
from trt_action.evidence import ModelInfo
from trt_action.precision import cast, large, quantize, rounding, runtime, worker
from trt_action.precision import graph as graphs
from trt_action.precision.recipe import Recipe, crossed
from trt_action.process import Channel

Array = npt.NDArray[Any]

SAMPLES = 16
"""Calibration samples that rank. A rank is a rough thing: what is kept is decided on other data."""

LEAST_OPSET = 9  # Where; Q/DQ nodes are only put into models that a plan has raised already


@dataclasses.dataclass(frozen=True)
class Layer:
    """What is kept in higher precision as one. `name`: of its product; `exclude`: names for `exclude-nodes`; `nodes`:
    those that are rounded in the graph that is run."""

    name: str
    exclude: tuple[str, ...]
    nodes: tuple[str, ...]


def main(channel: Channel) -> None:
    """Serve one request → `{layers: [{name, exclude, error, measured}]}`. Beside what `worker.main` gets, it holds
    `seconds` and `results`: whether the toolchain rounds what a layer gives, too."""
    request = channel.receive()
    if request is None:
        return
    try:
        channel.send({"layers": rank(request, channel.progress)})
    except (TrtActionError, MemoryError):
        raise
    except Exception as error:  # the boundary of the process: libraries raise bare classes
        raise worker.foreign(error, "looking for sensitive layers", request["recipe"]["precision"]) from error


def rank(request: dict[str, Any], tell: worker.Tell) -> list[dict[str, Any]]:
    """Every layer with the relative L2 error of the outputs that it alone causes, most sensitive first; null where they
    were not finite. Layers that the time did not suffice for come last. Ties are in the order of the graph."""
    recipe = crossed(request["recipe"])
    info = ModelInfo.model_validate(request["info"])
    deadline = time.monotonic() + request["seconds"]
    tell("reading the model", None)
    model = graphs.read(Path(request["model"]))
    if recipe.precision not in cast.HALF and graphs.is_quantized(model):
        return []  # its own Q/DQ nodes stay
    with tempfile.TemporaryDirectory(prefix="sensitivity-", dir=request["out_dir"]) as name:
        folder = Path(name)
        magnitudes: dict[str, float] = {}
        if recipe.precision in ("int8", "fp8"):
            batches = worker.calibration_batches(request, info, recipe, tell)
            found = quantize.plan(model, recipe, folder, lambda text: tell(text, None))
            magnitudes = quantize.calibrated(
                found, recipe, batches, folder, lambda text: tell(text, None), Path(request["ranges"])
            )
            model, layers = found.model, _quantized_layers(found)
        else:
            layers = (_weight_layers if recipe.precision == "int4" else _half_layers)(model, recipe)
        few = dataclasses.replace(recipe, calibration_samples=min(SAMPLES, recipe.calibration_samples))
        feeds = list(worker.calibration_batches(request, info, few, lambda *_: None)())
        switched = _Switched(model, recipe.precision, layers, magnitudes, results=request["results"])
        errors = switched.errors(feeds, folder / "switched.onnx", deadline, tell)
    order = sorted(range(len(layers)), key=lambda index: -errors[index])
    return [
        {
            "name": layers[index].name,
            "exclude": list(layers[index].exclude),
            "error": errors[index] if math.isfinite(errors[index]) else None,
            "measured": errors[index] != -math.inf,
        }
        for index in order
    ]


def _quantized_layers(found: quantize.Plan) -> list[Layer]:
    """One per node that is quantized; a node that nobody can name in the original model cannot be kept."""
    return [
        Layer(makers[0], (makers[0],), (target,)) for target in found.targets if (makers := found.makers.get(target))
    ]


def _weight_layers(model: ModelProto, recipe: Recipe) -> list[Layer]:
    """int4: products with a stored weight."""
    excluded = graphs.matching(model.graph, recipe.exclude_nodes, lenient=recipe.lenient)
    weights = {tensor.name for tensor in model.graph.initializer}
    return [
        Layer(node.name, (node.name,), (node.name,))
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in weights and node.name not in excluded
    ]


def _half_layers(model: ModelProto, recipe: Recipe) -> list[Layer]:
    """fp16: a product with everything that follows it up to the next one; what comes before the first is a layer too."""
    copy = ModelProto()
    copy.CopyFrom(model)
    half = cast.HalfCast(
        copy, recipe.precision, graphs.matching(model.graph, recipe.exclude_nodes, lenient=recipe.lenient)
    )
    half.run()
    changed = set(half.changed)
    blocks: list[list[NodeProto]] = []
    for node in model.graph.node:
        if node.name in changed:
            if not blocks or node.op_type in graphs.COMPUTE:
                blocks.append([])
            blocks[-1].append(node)
    return [Layer(block[0].name, names := tuple(node.name for node in block), names) for block in blocks]


class _Switched:
    """The graph in which each layer can be rounded by itself."""

    def __init__(
        self,
        model: ModelProto,
        precision: str,
        layers: Sequence[Layer],
        magnitudes: Mapping[str, float],
        *,
        results: bool,
    ) -> None:
        self._model = graphs.raise_opset(model, LEAST_OPSET, "the search")
        self._precision, self._magnitudes = precision, magnitudes
        self._layers, self._round_results = layers, results or precision in cast.HALF
        self._weights = {tensor.name: tensor for tensor in self._model.graph.initializer}
        self._types = {name: kind for name, (kind, _) in graphs.types_and_shapes(self._model).items()}
        self._by_node = {node: index for index, layer in enumerate(layers) for node in layer.nodes}
        self._nodes: list[NodeProto] = []
        self._rounded: dict[str, str] = {}
        self._fed: dict[int, list[tuple[str, NodeProto, int]]] = {}
        """By layer: weights that are fed rounded, with the node and the number of its input."""
        self._outputs = [v.name for v in self._model.graph.output if self._types.get(v.name) == TensorProto.FLOAT]
        self._rewrite()

    def errors(
        self, feeds: Sequence[Mapping[str, Array]], path: Path, deadline: float, tell: worker.Tell
    ) -> list[float]:
        """By layer; infinity where an output is not finite, minus infinity where the time was up."""
        large.save(self._model, path)
        session = runtime.session(path)
        reference = [session.run(self._outputs, dict(batch)) for batch in feeds]
        found = []
        for index in range(len(self._layers)):
            if time.monotonic() > deadline:
                found.append(-math.inf)
                continue
            tell(f"sensitivity of layer {index + 1} of {len(self._layers)}", (index + 1) / len(self._layers))
            switch = {_flag(index): np.array(True), **self._rounded_weights(index)}
            answers = [session.run(self._outputs, {**batch, **switch}) for batch in feeds]
            found.append(_error(reference, answers))
        return found

    def _rewrite(self) -> None:
        graph = self._model.graph
        for node in graph.node:
            index = self._by_node.get(node.name)
            if index is None:
                self._nodes.append(node)
                continue
            half, int4 = self._precision in cast.HALF, self._precision == "int4"
            self._weights_of(node, index, range(len(node.input)) if half else (1,) if int4 else (0, 1))
            if not half and not int4:
                self._factors(node, index)
            self._nodes.append(node)
            if self._round_results:
                self._results(node, index)
        del graph.node[:]
        graph.node.extend(self._nodes)
        for index in range(len(self._layers)):
            self._overridable(numpy_helper.from_array(np.array(False), _flag(index)))
        for name in dict.fromkeys(name for fed in self._fed.values() for name, _, _ in fed):
            tensor = self._weights[name]
            graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))

    def _weights_of(self, node: NodeProto, index: int, numbers: Sequence[int]) -> None:
        for number in numbers:
            tensor = self._weights.get(node.input[number]) if number < len(node.input) else None
            if tensor is not None and tensor.data_type == TensorProto.FLOAT:
                self._fed.setdefault(index, []).append((tensor.name, node, number))

    def _rounded_weights(self, index: int) -> dict[str, Array]:
        return {
            name: rounding.through(self._precision, numpy_helper.to_array(self._weights[name]), node, number)
            for name, node, number in self._fed.get(index, ())
        }

    def _factors(self, node: NodeProto, index: int) -> None:
        for number, name in enumerate(node.input[:2]):
            if name in self._weights or name not in self._magnitudes:
                continue
            if name not in self._rounded:
                self._rounded[name] = self._quantized(name, name)
            switched = f"{name}.trt_action.{index}.{number}"
            self._nodes.append(helper.make_node("Where", [_flag(index), self._rounded[name], name], [switched]))
            node.input[number] = switched

    def _quantized(self, name: str, like: str) -> str:
        """`name` through Q/DQ in the range that the tensor `like` was calibrated to."""
        fp8 = self._precision == "fp8"
        largest = rounding.FP8_LARGEST if fp8 else rounding.INT8_LARGEST
        scale, zero, rounded = (f"{name}.trt_action.{part}" for part in ("scale", "zero", "rounded"))
        self._model.graph.initializer.append(
            numpy_helper.from_array(np.array((self._magnitudes[like] or largest) / largest, np.float32), scale)
        )
        kind = TensorProto.FLOAT8E4M3FN if fp8 else TensorProto.INT8
        self._model.graph.initializer.append(TensorProto(name=zero, data_type=kind, raw_data=b"\0"))
        self._nodes.append(helper.make_node("QuantizeLinear", [name, scale, zero], [f"{rounded}.q"]))
        self._nodes.append(helper.make_node("DequantizeLinear", [f"{rounded}.q", scale, zero], [rounded]))
        return rounded

    def _results(self, node: NodeProto, index: int) -> None:
        for number, name in enumerate(node.output):
            if self._types.get(name) != TensorProto.FLOAT:
                continue
            exact = node.output[number] = f"{name}.trt_action.exact"
            rounded = self._halved(exact) if self._precision in cast.HALF else self._quantized(exact, name)
            self._nodes.append(helper.make_node("Where", [_flag(index), rounded, exact], [name]))

    def _halved(self, name: str) -> str:
        half, rounded = f"{name}.half", f"{name}.rounded"
        self._nodes.append(helper.make_node("Cast", [name], [half], to=cast.HALF[self._precision]))
        self._nodes.append(helper.make_node("Cast", [half], [rounded], to=TensorProto.FLOAT))
        return rounded

    def _overridable(self, tensor: TensorProto) -> None:
        """An initializer that is an input too is a default that a feed replaces (ONNX IR, since version 4)."""
        self._model.graph.initializer.append(tensor)
        self._model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))


def _flag(index: int) -> str:
    return f"trt_action.on.{index}"


def _error(reference: Sequence[Sequence[Array]], answers: Sequence[Sequence[Array]]) -> float:
    """Root of the mean over outputs of ‖x − ref‖² / ‖ref‖²."""
    shares = []
    for ours, theirs in zip(zip(*reference, strict=True), zip(*answers, strict=True), strict=True):
        wrong = sum(float(np.square(b.astype(np.float64) - a).sum()) for a, b in zip(ours, theirs, strict=True))
        size = sum(float(np.square(a.astype(np.float64)).sum()) for a in ours)
        if size:
            shares.append(wrong / size)
    total = math.sqrt(sum(shares) / len(shares)) if shares else 0.0
    return total if math.isfinite(total) else math.inf
