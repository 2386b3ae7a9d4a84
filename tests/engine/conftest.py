"""Small real ONNX models."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

F32 = TensorProto.FLOAT
Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """`save(nodes, inputs, outputs, weights=(), name="model.onnx", opset=20, ir=9, external=False)`."""

    def write(
        nodes: Sequence[NodeProto],
        inputs: Sequence[ValueInfoProto],
        outputs: Sequence[ValueInfoProto],
        weights: Sequence[TensorProto] = (),
        *,
        name: str = "model.onnx",
        opset: int = 20,
        ir: int = 9,
        external: bool = False,
    ) -> Path:
        graph = helper.make_graph(nodes, "graph", inputs, outputs, list(weights))
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid("my.ops", 1)]
        path = tmp_path / name
        model = helper.make_model(graph, opset_imports=opsets, ir_version=ir)
        onnx.save(model, path, save_as_external_data=external, location=f"{name}.data", size_threshold=0)
        return path

    return write


@pytest.fixture
def conv(save: Save) -> Path:
    """`x` float32 [N, 1, 8, 8] -> `y` float32 [N, 8]; a convolution that the optimiser fuses and lays out anew."""
    weights = np.random.default_rng(0).normal(size=(8, 1, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], name="conv"),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    return save(
        nodes,
        [helper.make_tensor_value_info("x", F32, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("y", F32, ["N", 8])],
        [numpy_helper.from_array(weights, "w")],
        name="conv.onnx",
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"this container may not mount: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
