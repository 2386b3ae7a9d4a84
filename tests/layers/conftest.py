"""Small real models, and the engines that ONNX Runtime makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from trt_action import arrays, engine, layers
from trt_action.engine.backend import BuildContext, Loadable, RuntimeOptions

ONE_THREAD = RuntimeOptions(threads=1)
MakeSide = Callable[..., layers.Side]


def model(
    path: Path,
    *,
    convolutions: int = 3,
    channels: int = 16,
    wide: int | None = None,
    seen: bool = False,
    half: bool = False,
    names: Callable[[str, int], str] = lambda op, i: f"{op.lower()}{i}",
) -> Path:
    """Conv → Relu, several times, on `x` [1, channels, 32, 32].

    Args:
        wide: this convolution (from 1) has eight times the channels inside.
        seen: what the first convolution gives is an output too, so that its Relu cannot be merged into it.
        half: through float16 and back before the last convolution.
        names: node's name from operator and number.
    """
    rng = np.random.default_rng(0)
    nodes: list[Any] = []
    weights: list[Any] = []

    def add(op: str, inputs: Sequence[str], **attributes: Any) -> str:
        name = names(op, len(nodes) + 1)
        nodes.append(helper.make_node(op, list(inputs), [f"t{len(nodes) + 1}"], name=name, **attributes))
        return f"t{len(nodes)}"

    x, into, extra = "x", channels, []
    for i in range(1, convolutions + 1):
        out = channels * 8 if i == wide else channels
        weights.append(numpy_helper.from_array(rng.standard_normal((out, into, 3, 3), dtype=np.float32) * 0.1, f"w{i}"))
        if half and i == convolutions:
            x = add("Cast", [add("Cast", [x], to=TensorProto.FLOAT16)], to=TensorProto.FLOAT)
        x = add("Conv", [x, f"w{i}"], pads=[1, 1, 1, 1])
        if seen and i == 1:
            extra = [helper.make_tensor_value_info(x, TensorProto.FLOAT, [1, out, 32, 32])]
        x = add("Relu", [x])
        into = out
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, 32, 32])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, [1, into, 32, 32]), *extra],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def built(path: Path) -> Loadable:
    """As the engine of a run: optimised, saved, loaded with the optimiser off."""
    folder = path.with_suffix(".engine")
    folder.mkdir()
    file = engine.backend("onnxruntime").build(path, folder, ONE_THREAD, BuildContext())
    return Loadable("onnxruntime", file, ONE_THREAD, prepared=True)


@pytest.fixture
def side(tmp_path: Path) -> MakeSide:
    """`side("head", wide=2)` → a built side; the arguments are `model`'s."""
    feeds = tmp_path / "feeds.npz"
    arrays.save_npz(feeds, {"x": np.random.default_rng(1).standard_normal((1, 16, 32, 32), dtype=np.float32)})

    def make(name: str, **arguments: Any) -> layers.Side:
        path = model(tmp_path / f"{name}.onnx", **arguments)
        return layers.Side(built(path), path, feeds, "fp32")

    return make
