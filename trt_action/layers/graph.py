"""The ONNX graph behind an engine, as far as layers need it: names, operators, edges, and what tells nodes apart."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import GraphProto, NodeProto

from trt_action.errors import MeasureError
from trt_action.inputs import quote

HELPERS = frozenset({"Cast", "CastLike", "QuantizeLinear", "DequantizeLinear", "Identity"})
"""What a change of precision adds and an optimiser moves: never what a layer is recognised by."""

MOST_NODES = 50_000


@dataclass(frozen=True)
class Node:
    """`signature` is the same for the same operator with the same attributes and shapes of weights, whatever it is called."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    signature: str
    activation: str = ""
    """What a fused node of ONNX Runtime's computes at its end, e.g. `Relu`."""


@dataclass(frozen=True)
class Graph:
    """The main graph: at most `MOST_NODES` nodes in its order, which ONNX wants topological, and names of weights."""

    nodes: tuple[Node, ...] = ()
    weights: frozenset[str] = frozenset()

    def constant(self) -> set[str]:
        """Names of nodes that depend on no input of the graph: they are computed when the engine is built."""
        made = {name for node in self.nodes for name in node.outputs}
        alive: set[str] = set()
        found = set()
        for node in self.nodes:
            fed = any(
                name and (name in alive or (name not in made and name not in self.weights)) for name in node.inputs
            )
            if fed:
                alive.update(node.outputs)
            else:
                found.add(node.name)
        return found


def read(path: Path) -> Graph:
    """Called in a child process: parsers crash on hostile bytes. A node without a name is called
    `node_of_<first output>`, as TensorRT's parser does.

    Raises:
        MeasureError: the file cannot be read, or is no ONNX model.
    """
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except (OSError, DecodeError) as error:
        raise MeasureError(f"The graph behind the engine, {quote(path.name)}, cannot be read: {error}.") from None
    weights = _weights(graph)
    nodes = tuple(
        Node(
            node.name or f"node_of_{next(iter(node.output), '')}",
            node.op_type,
            tuple(node.input),
            tuple(node.output),
            _signature(node, weights),
            _activation(node),
        )
        for node in graph.node[:MOST_NODES]
    )
    return Graph(nodes, frozenset(tensor.name for tensor in graph.initializer))


def _weights(graph: GraphProto) -> dict[str, tuple[int, ...]]:
    """Shapes of weights, also of those that come through a cast or a DequantizeLinear."""
    known = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in HELPERS and node.input and node.input[0] in known and node.output:
            known[node.output[0]] = known[node.input[0]]
    return known


def _activation(node: NodeProto) -> str:
    found = next((one.s for one in node.attribute if one.name == "activation"), b"")
    return found[:100].decode("utf-8", "replace")


def _signature(node: NodeProto, weights: Mapping[str, tuple[int, ...]]) -> str:
    digest = hashlib.sha256(f"{node.domain}:{node.op_type}".encode())
    for attribute in sorted(node.attribute, key=lambda one: one.name):
        if attribute.type not in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
            digest.update(attribute.SerializeToString(deterministic=True))
    # Only what has more than one axis: biases come and go when a normalisation is folded into its convolution.
    digest.update(repr([weights[name] for name in node.input if len(weights.get(name, ())) > 1]).encode())
    return digest.hexdigest()[:16]
