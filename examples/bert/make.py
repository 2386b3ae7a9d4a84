"""Write BERT-base with seeded random weights, built with `onnx.helper` alone.

    python examples/bert/make.py bert.onnx [--layers 12] [--seed 0] [--external-data]

For performance work: the arithmetic is that of the real network (109.5 M parameters, 11.2 G multiply-accumulates for
128 tokens), the predictions mean nothing. Architecture: Devlin et al. 2018, BERT-base, with pooler and two classes;
weights are drawn as that network is initialised (standard deviation 0.02).

Input `ids` int64 [N, 128], token numbers below 30,522; output `logits` float32 [N, 2]; about 438 MB.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

VOCABULARY, POSITIONS, TYPES = 30_522, 512, 2
TOKENS, HIDDEN, HEADS, WIDE, CLASSES = 128, 768, 12, 3_072, 2


class Graph:
    """Nodes and weights in the order they are added."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def embeddings(self, ids: str) -> str:
        """Word, position and (always the first) type, summed and normalised."""
        words = self.add("Gather", [self.random("words", VOCABULARY, HIDDEN), ids], "embed.words")
        first = self.stored("embed.first", np.array([0]))
        positions = self.add(
            "Slice",
            [
                self.random("positions", POSITIONS, HIDDEN),
                first,
                self.stored("embed.tokens", np.array([TOKENS])),
                first,
            ],
            "embed.positions",
        )
        kind = self.add("Gather", [self.random("types", TYPES, HIDDEN), first], "embed.types")
        x = self.add("Add", [words, positions], "embed.add_positions")
        return self.norm(self.add("Add", [x, kind], "embed.add_types"), "embed.norm")

    def layer(self, x: str, name: str) -> str:
        """Attention and feed-forward, each with its residual and a normalisation behind it."""
        attended = self.dense(self.attention(x, f"{name}.attention"), f"{name}.attention.out", HIDDEN, HIDDEN)
        x = self.norm(self.add("Add", [attended, x], f"{name}.attention.residual"), f"{name}.attention.norm")
        wide = self.add("Gelu", [self.dense(x, f"{name}.up", HIDDEN, WIDE)], f"{name}.gelu")
        narrow = self.dense(wide, f"{name}.down", WIDE, HIDDEN)
        return self.norm(self.add("Add", [narrow, x], f"{name}.residual"), f"{name}.norm")

    def attention(self, x: str, name: str) -> str:
        split = self.stored(f"{name}.split", np.array([0, TOKENS, HEADS, HIDDEN // HEADS]))
        merged = self.stored(f"{name}.merged", np.array([0, TOKENS, HIDDEN]))
        parts = {}
        for part, order in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])):
            dense = self.dense(x, f"{name}.{part}", HIDDEN, HIDDEN)
            heads = self.add("Reshape", [dense, split], f"{name}.{part}.heads")
            parts[part] = self.add("Transpose", [heads], f"{name}.{part}.turn", perm=order)
        scores = self.add("MatMul", [parts["query"], parts["key"]], f"{name}.scores")
        root = self.stored(f"{name}.root", np.array(np.sqrt(HIDDEN // HEADS), np.float32))
        scaled = self.add("Div", [scores, root], f"{name}.scale")
        shares = self.add("Softmax", [scaled], f"{name}.softmax", axis=-1)
        mixed = self.add("MatMul", [shares, parts["value"]], f"{name}.mix")
        turned = self.add("Transpose", [mixed], f"{name}.turn", perm=[0, 2, 1, 3])
        return self.add("Reshape", [turned, merged], f"{name}.merge")

    def classifier(self, x: str) -> None:
        token = self.stored("pool.token", np.array(0))
        first = self.add("Gather", [x, token], "pool.first", axis=1)
        pooled = self.add("Tanh", [self.dense(first, "pool", HIDDEN, HIDDEN)], "pool.tanh")
        self.dense(pooled, "classifier", HIDDEN, CLASSES, "logits")

    def dense(self, x: str, name: str, inputs: int, outputs: int, result: str = "") -> str:
        product = self.add("MatMul", [x, self.random(f"{name}.weight", inputs, outputs)], name)
        return self.add("Add", [product, self.random(f"{name}.bias", outputs)], f"{name}.add", result)

    def norm(self, x: str, name: str) -> str:
        gain = self.stored(f"{name}.gain", np.ones(HIDDEN, np.float32))
        shift = self.stored(f"{name}.shift", np.zeros(HIDDEN, np.float32))
        return self.add("LayerNormalization", [x, gain, shift], name, epsilon=1e-12, axis=-1)

    def random(self, name: str, *shape: int) -> str:
        return self.stored(name, self.rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02))

    def stored(self, name: str, array: npt.NDArray[Any]) -> str:
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def add(self, op: str, inputs: list[str], name: str, output: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output or f"{name}.y"], name, **attributes))
        return output or f"{name}.y"


def build(layers: int = 12, seed: int = 0) -> onnx.ModelProto:
    """The whole network; the same seed gives the same weights."""
    graph = Graph(seed)
    x = graph.embeddings("ids")
    for index in range(layers):
        x = graph.layer(x, f"layer{index}")
    graph.classifier(x)
    return helper.make_model(
        helper.make_graph(
            graph.nodes,
            "bert",
            [helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", TOKENS])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
            graph.weights,
        ),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
        producer_name="examples/bert/make.py",
    )


def calibration() -> dict[str, npt.NDArray[np.int64]]:
    """Random token numbers, for `calibration-data: examples/bert/make.py:calibration`; 32 samples of 128 tokens."""
    return {"ids": np.random.default_rng(0).integers(0, VOCABULARY, (32, TOKENS))}


def main() -> int:
    parser = argparse.ArgumentParser(description="Write BERT-base with seeded random weights.")
    parser.add_argument("path", type=Path, help="where to write the .onnx file")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--external-data", action="store_true", help="weights in PATH.data beside the model")
    args = parser.parse_args()
    model = build(args.layers, args.seed)
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
