"""Write ResNet-50 v1.5 with seeded random weights, built with `onnx.helper` alone.

    python examples/resnet50/make.py resnet50.onnx [--seed 0] [--external-data]

For performance work: the arithmetic is that of the real network (25.6 M parameters, 4.1 G multiply-accumulates at
224 × 224), the predictions mean nothing. Architecture: He et al. 2015, table 1; "v1.5" puts the stride of a
bottleneck into its 3 × 3 convolution. Batch normalisation is folded into the convolutions, as for any deployed model.

Input `image` float32 [N, 3, 224, 224], output `logits` float32 [N, 1000]; about 102 MB.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))  # blocks, width, stride of the first block
EXPANSION = 4


class Graph:
    """Nodes and weights in the order they are added."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def conv(self, x: str, name: str, inputs: int, outputs: int, kernel: int, stride: int, gain: float = 2.0) -> str:
        """`gain` 2 keeps the variance through ReLU (He et al. 2015)."""
        scale = np.sqrt(gain / (inputs * kernel * kernel))
        weight = self.rng.standard_normal((outputs, inputs, kernel, kernel), dtype=np.float32) * np.float32(scale)
        bias = self.rng.standard_normal(outputs, dtype=np.float32) * np.float32(0.01)
        return self._add(
            "Conv",
            [x, self._weight(f"{name}.weight", weight), self._weight(f"{name}.bias", bias)],
            name,
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[kernel // 2] * 4,
        )

    def relu(self, x: str, name: str) -> str:
        return self._add("Relu", [x], name)

    def bottleneck(self, x: str, name: str, inputs: int, width: int, stride: int) -> str:
        outputs = width * EXPANSION
        y = self.relu(self.conv(x, f"{name}.conv1", inputs, width, 1, 1), f"{name}.relu1")
        y = self.relu(self.conv(y, f"{name}.conv2", width, width, 3, stride), f"{name}.relu2")
        y = self.conv(y, f"{name}.conv3", width, outputs, 1, 1, gain=0.25)  # the sum of 16 blocks stays bounded
        if stride != 1 or inputs != outputs:
            x = self.conv(x, f"{name}.downsample", inputs, outputs, 1, stride, gain=1.0)
        return self.relu(self._add("Add", [y, x], f"{name}.add"), f"{name}.relu3")

    def classifier(self, x: str, inputs: int, classes: int) -> None:
        x = self._add("GlobalAveragePool", [x], "pool")
        x = self._add("Flatten", [x], "flatten")
        weight = self.rng.standard_normal((inputs, classes), dtype=np.float32) / np.float32(np.sqrt(inputs))
        bias = np.zeros(classes, np.float32)
        self._add("Gemm", [x, self._weight("fc.weight", weight), self._weight("fc.bias", bias)], "fc", "logits")

    def max_pool(self, x: str) -> str:
        return self._add("MaxPool", [x], "maxpool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)

    def _weight(self, name: str, array: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> str:
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def _add(self, op: str, inputs: list[str], name: str, output: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output or f"{name}.y"], name, **attributes))
        return output or f"{name}.y"


def build(seed: int = 0) -> onnx.ModelProto:
    """The whole network; the same seed gives the same weights."""
    graph = Graph(seed)
    x = graph.relu(graph.conv("image", "stem", 3, 64, 7, 2), "stem.relu")
    x = graph.max_pool(x)
    channels = 64
    for stage, (blocks, width, stride) in enumerate(STAGES, start=1):
        for block in range(blocks):
            x = graph.bottleneck(x, f"layer{stage}.{block}", channels, width, stride if block == 0 else 1)
            channels = width * EXPANSION
    graph.classifier(x, channels, 1000)
    return helper.make_model(
        helper.make_graph(
            graph.nodes,
            "resnet50",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 224, 224])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 1000])],
            graph.weights,
        ),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
        producer_name="examples/resnet50/make.py",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Write ResNet-50 v1.5 with seeded random weights.")
    parser.add_argument("path", type=Path, help="where to write the .onnx file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--external-data", action="store_true", help="weights in PATH.data beside the model")
    args = parser.parse_args()
    model = build(args.seed)
    if args.external_data:
        location = f"{args.path.name}.data"
        (args.path.parent / location).unlink(missing_ok=True)  # onnx appends to a file that is there
        onnx.save(model, args.path, save_as_external_data=True, location=location)
    else:
        onnx.save(model, args.path)
    onnx.checker.check_model(str(args.path), full_check=True)
    elements = sum(int(np.prod(weight.dims)) for weight in model.graph.initializer)
    print(f"{args.path}: {elements:,} parameters, {args.path.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
