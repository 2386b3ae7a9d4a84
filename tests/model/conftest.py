"""Small models, built for each test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

Build = Callable[..., onnx.ModelProto]


def _model(
    shape: Any = ("N", 4),
    *,
    weight: Any = None,
    op: str = "MatMul",
    domain: str = "",
    dtype: int = TensorProto.FLOAT,
    opset: int = 21,
    output: Any = ("N", 3),
    nodes: Any = None,
    more: Any = (),
) -> onnx.ModelProto:
    """`y = x @ w` with `w` of 4 x 3, or what the arguments change in it."""
    stored = numpy_helper.from_array(np.eye(4, 3, dtype=np.float32), "w") if weight is None else weight
    graph = helper.make_graph(
        nodes or [helper.make_node(op, ["x", "w"], ["y"], name="product", domain=domain)],
        "g",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)],
        [stored, *more],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


@pytest.fixture
def build() -> Build:
    return _model


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    def save(model: onnx.ModelProto, name: str = "model.onnx") -> Path:
        path = tmp_path / name
        path.write_bytes(model.SerializeToString())
        return path

    return save
