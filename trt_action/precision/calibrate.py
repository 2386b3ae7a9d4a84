"""The largest magnitude of every activation over the calibration samples, for symmetric ranges.

Extra outputs are added to the float32 graph: the maximum, the sum and the number of the absolute values. So a batch
of any size leaves three numbers per tensor behind, where collecting the activations themselves took 14.7 GB for
ResNet-50. The sum is there for NaN: ONNX Runtime's ReduceMax passes over it.

`percentile` takes a second pass with histograms over [0, maximum] and ignores the largest 0.001 % of the magnitudes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper

from trt_action.errors import PrecisionError
from trt_action.inputs import quote
from trt_action.precision import large, runtime

Feeds = dict[str, npt.NDArray[Any]]
Batches = Callable[[], Iterable[Feeds]]
"""Starts from the first calibration batch at every call."""

PERCENTILE = 99.999
BINS = 4_096
GROUP_BYTES = 256_000_000
"""Activations that are fetched in one run of the histogram pass."""


def magnitudes(
    model: ModelProto, names: Sequence[str], batches: Batches, method: str, folder: Path
) -> dict[str, float]:
    """For each float32 tensor, the magnitude that int8's 127 shall mean; 0 where it is zero in every sample.

    Raises:
        PrecisionError: a NaN or an infinity in an activation; names the tensor and the node that made it.
    """
    path = folder / "observed.onnx"
    _save_observed(model, names, path)
    session = runtime.session(path)
    producers = {output: node.name for node in model.graph.node for output in node.output}
    maxima, sizes = np.zeros(len(names), np.float32), np.zeros(len(names), np.int64)
    kinds = [_output(kind, index) for kind in ("max", "sum", "size") for index in range(len(names))]
    for feeds in batches():
        largest, sums, counts = np.split(np.array(session.run(kinds, feeds), dtype=np.float64), 3)
        if len(broken := np.flatnonzero(~np.isfinite(largest + sums))):
            raise _not_finite(names[broken[0]], producers)
        maxima, sizes = np.maximum(maxima, largest.astype(np.float32)), np.maximum(sizes, counts.astype(np.int64))
    if method == "percentile":
        maxima = _percentiles(session, maxima, sizes, batches)
    large.discard(path)
    return {name: float(value) for name, value in zip(names, maxima, strict=True)}


def _percentiles(
    session: Any, maxima: npt.NDArray[np.float32], sizes: npt.NDArray[np.int64], batches: Batches
) -> npt.NDArray[np.float32]:
    histograms = np.zeros((len(maxima), BINS), np.int64)
    for feeds in batches():
        for group in _groups(sizes, maxima):
            for index, values in zip(group, session.run([_output("abs", i) for i in group], feeds), strict=True):
                bins = np.minimum(values.ravel() * (BINS / maxima[index]), BINS - 1).astype(np.int64)
                histograms[index] += np.bincount(bins, minlength=BINS)
    limits = maxima.copy()
    for index, histogram in enumerate(histograms):
        if total := histogram.sum():
            below = np.cumsum(histogram) >= total * (PERCENTILE / 100)
            limits[index] = maxima[index] * np.float32((int(below.argmax()) + 1) / BINS)
    return limits


def _groups(sizes: npt.NDArray[np.int64], maxima: npt.NDArray[np.float32]) -> Iterator[list[int]]:
    """Indices of tensors that are fetched together; a tensor that is always zero needs no histogram."""
    group: list[int] = []
    for index in np.flatnonzero(maxima):
        if group and 4 * int(sizes[group].sum() + sizes[index]) > GROUP_BYTES:
            yield group
            group = []
        group.append(int(index))
    if group:
        yield group


def _save_observed(model: ModelProto, names: Sequence[str], path: Path) -> None:
    """The model with the extra outputs; they are taken away again, because a copy of a large model costs its size."""
    graph = model.graph
    nodes, outputs = len(graph.node), len(graph.output)
    for index, name in enumerate(names):
        absolute = _output("abs", index)
        graph.node.append(helper.make_node("Abs", [name], [absolute]))
        graph.output.append(helper.make_tensor_value_info(absolute, TensorProto.FLOAT, None))
        for kind, op, dtype in (
            ("max", "ReduceMax", TensorProto.FLOAT),
            ("sum", "ReduceSum", TensorProto.FLOAT),
            ("size", "Size", TensorProto.INT64),
        ):
            node = helper.make_node(op, [absolute], [_output(kind, index)])
            if op != "Size":
                node.attribute.append(helper.make_attribute("keepdims", 0))
            graph.node.append(node)
            graph.output.append(helper.make_tensor_value_info(_output(kind, index), dtype, []))
    large.save(model, path)
    del graph.node[nodes:]
    del graph.output[outputs:]


def _output(kind: str, index: int) -> str:
    return f"trt_action.{kind}.{index}"


def _not_finite(name: str, producers: dict[str, str]) -> PrecisionError:
    maker = f"the output of the node {quote(producers[name])}" if name in producers else "an input of the model"
    return PrecisionError(
        f"Calibration met NaN or infinity in the tensor {quote(name)}, {maker}.",
        why="No range can be taken from it: the calibration data hold values that the float32 model cannot digest, "
        "or the model itself overflows.",
        fix="Look for NaN and extreme values in the calibration data, and whether they were scaled like training data.",
    )
