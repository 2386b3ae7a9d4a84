"""Write the digits network with outlier channels: the same function in float32, and broken by plain int8.

    python examples/digits/fragile.py fragile.onnx

Behind `pool1`, four of the 112 channels are multiplied by 2,000 and the weights of `conv4` that read them are divided by
it, as gains of a normalisation do in trained transformers (Dettmers et al. 2022, "LLM.int8()"). One scale for the whole
tensor leaves nothing of the other channels. Only `conv4` reads that tensor: it alone has to stay in higher precision.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

CHANNELS = (3, 17, 31, 45)
FACTOR = 2_000.0


def make(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the digits network with outliers in the input of `conv4`."""
    fragile = onnx.ModelProto()
    fragile.CopyFrom(model)
    graph = fragile.graph
    reader = next(node for node in graph.node if node.name == "conv4")
    weight = next(tensor for tensor in graph.initializer if tensor.name == reader.input[1])
    values = numpy_helper.to_array(weight).copy()
    gains = np.ones((1, values.shape[1], 1, 1), np.float32)
    gains[0, list(CHANNELS)] = FACTOR
    weight.CopyFrom(numpy_helper.from_array(values / gains, weight.name))
    graph.initializer.append(numpy_helper.from_array(gains, "gains"))
    position = list(graph.node).index(reader)
    graph.node.insert(position, helper.make_node("Mul", [reader.input[0], "gains"], ["amplified"], "amplify"))
    reader.input[0] = "amplified"
    onnx.checker.check_model(fragile, full_check=True)
    return fragile


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the digits network with outlier channels.")
    parser.add_argument("path", type=Path, help="where to write the .onnx file")
    path = parser.parse_args().path
    onnx.save(make(onnx.load(Path(__file__).with_name("model.onnx"))), path)
    print(path)


if __name__ == "__main__":
    main()
