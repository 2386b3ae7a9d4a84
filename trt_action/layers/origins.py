"""From which ONNX nodes does a node of ONNX Runtime's optimised graph come? The optimiser does not say.

What it leaves are names: a fused node bears the name of one of its parts, or of the tensor that it makes, with marks of
the passes it went through. Nodes that are found in no name have gone into a neighbour: the one that reads what they make,
and if none is found there (an activation between a convolution and a QuantizeLinear), the one that they read from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from trt_action.layers.graph import Graph, Node

_MARKS = (
    re.compile(r"^(?:InsertedPrecisionFreeCast_|InsertedCast_|FusedBack_|Inserted_)+"),
    re.compile(r"_token_\d+$"),  # a name that was taken
    re.compile(r"_nc?hwc?$"),  # a layout
    re.compile(r"_(?:Fused|fused|Fusion|QuickGelu|Gelu|matmul|gemm)$"),
)
_MOST_OWNERS = 4
_SUMS = frozenset({"Add", "Sum"})
_WITHOUT_SUM = 3
"""Inputs of a convolution: data, weights, bias."""


def trace(
    engine: Sequence[Node], source: Graph, *, products: frozenset[str], conversions: frozenset[str]
) -> dict[int, tuple[str, ...]]:
    """Names of the source's nodes by index into `engine`. A node that was duplicated has several owners.

    `products` and `conversions` name operators of the engine: none of them is a part of a function that was taken apart,
    and a conversion does no other node's work.
    """
    seeds = _seeds(engine, source, conversions)
    _pieces(seeds, engine, source, products | conversions)
    owners: dict[str, tuple[int, ...]] = {}
    for index, names in seeds.items():
        for name in names:
            owners[name] = (*owners.get(name, ()), index)
    _endings(owners, engine, source)
    _absorb(owners, source)
    found: dict[int, list[str]] = {}
    for node in source.nodes:  # in the order of the source
        for index in owners.get(node.name, ()):
            found.setdefault(index, []).append(node.name)
    return {index: tuple(dict.fromkeys(names)) for index, names in found.items()}


def _seeds(engine: Sequence[Node], source: Graph, conversions: frozenset[str]) -> dict[int, list[str]]:
    names = {node.name: node.op for node in source.nodes}
    makers = {tensor: node.name for node in source.nodes for tensor in node.outputs if tensor}
    found = {}
    for index, node in enumerate(engine):
        hints = [hint for written in (node.name, *node.outputs) for hint in _hints(written)]
        known = [name for hint in hints for name in (hint if hint in names else None, makers.get(hint)) if name]
        if node.op in conversions:  # that the tensor it converts has a name says nothing about who made it
            known = [name for name in known if names[name] == node.op]
        if known:
            found[index] = list(dict.fromkeys(known))
    return found


def _hints(written: str) -> list[str]:
    """The name as it is, and without the marks of the optimiser, one after the other."""
    hints = [written]
    for _ in range(4):  # marks are nested: a cast around a layout around a taken name
        for mark in _MARKS:
            bare = mark.sub("", hints[-1])
            if bare != hints[-1] and bare:
                hints.append(bare)
    return hints


def _pieces(seeds: dict[int, list[str]], engine: Sequence[Node], source: Graph, whole: frozenset[str]) -> None:
    """A function that no kernel computes (Softmax in half on a CPU) is taken apart: only its last part keeps the name.
    The parts before it, which are in no name, belong to it too."""
    operators = {node.name: node.op for node in source.nodes}
    readers: dict[str, list[int]] = {}
    for index, node in enumerate(engine):
        for tensor in node.inputs:
            readers.setdefault(tensor, []).append(index)
    parts = {
        index
        for index, names in seeds.items()
        if engine[index].op not in whole and not any(operators[name] == engine[index].op for name in names)
    }
    for index in reversed(range(len(engine))):
        if index in seeds or engine[index].op in whole:
            continue
        after = [other for tensor in engine[index].outputs for other in readers.get(tensor, ()) if other in parts]
        if after:
            seeds[index] = list(dict.fromkeys(name for other in after for name in seeds[other]))
            parts.add(index)


def _endings(owners: dict[str, tuple[int, ...]], engine: Sequence[Node], source: Graph) -> None:
    """What a fused product does at its end: the sum with another tensor (its fourth input), its activation. They follow
    its last known node, in no name of their own, and the nodes behind them are of other layers."""
    readers: dict[str, list[Node]] = {}
    for node in source.nodes:
        for tensor in node.inputs:
            readers.setdefault(tensor, []).append(node)
    ends = {owners[node.name][0]: node for node in source.nodes if node.name in owners}
    for index, last in ends.items():
        wanted = {engine[index].activation} | (_SUMS if len(engine[index].inputs) > _WITHOUT_SUM else set())
        while (after := _next(last, readers, wanted, owners)) is not None:
            owners[after.name] = (index,)
            wanted -= _SUMS if after.op in _SUMS else {after.op}
            last = after


def _next(
    node: Node, readers: Mapping[str, Sequence[Node]], wanted: set[str], owners: Mapping[str, object]
) -> Node | None:
    after = [reader for tensor in node.outputs for reader in readers.get(tensor, ())]
    return next((one for one in after if one.op in wanted and one.name not in owners), None)


def _absorb(owners: dict[str, tuple[int, ...]], source: Graph) -> None:
    constant = source.constant()
    readers: dict[str, list[Node]] = {}
    for node in source.nodes:
        for tensor in node.inputs:
            readers.setdefault(tensor, []).append(node)
    makers = {tensor: node for node in source.nodes for tensor in node.outputs if tensor}
    for node in reversed(source.nodes):
        if node.name in owners or node.name in constant or node.op == "QuantizeLinear":
            continue
        _take(owners, node, [reader for tensor in node.outputs for reader in readers.get(tensor, ())])
    for node in source.nodes:
        if node.name not in owners and node.name not in constant:
            _take(owners, node, [makers[tensor] for tensor in node.inputs if tensor in makers])


def _take(owners: dict[str, tuple[int, ...]], node: Node, neighbours: Sequence[Node]) -> None:
    found = dict.fromkeys(index for other in neighbours for index in owners.get(other.name, ()))
    if found:
        owners[node.name] = tuple(found)[:_MOST_OWNERS]
