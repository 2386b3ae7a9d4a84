"""Which layers of head do the work of which layers of base? By the ONNX nodes they come from, not by their names.

Three steps, each for what the one before has left:
1. nodes of the two graphs are paired (`pair_nodes`);
2. layers that share paired nodes form a group: one to one, or several where they are fused differently;
3. layers without nodes (casts, reformats) are paired by kind and formats, in the order of execution between the groups; last
   by name, where only a size is another.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from trt_action.layers.graph import HELPERS, Node
from trt_action.layers.parsed import COMPUTE, ParsedLayer

_PASS = re.compile(r"/\w+Fusion/?$")
"""What ONNX Runtime's preparation for int8 adds to a name: `pool/MatMulAddFusion`."""

_SIZES = re.compile(r"\[[^\]]*\]")
"""The shape in a tensor's description: `float [8, 112]`, `Half[1,3,8]`."""

_MOST_STEPS = 4_000_000
"""Pairs of equal signatures that a comparison by place may have to look at; above, names alone decide."""


@dataclass(frozen=True)
class Group:
    """Indexes of layers that do the same work. One side is empty for a layer that appeared or vanished."""

    head: tuple[int, ...]
    base: tuple[int, ...]


def groups(head: Sequence[ParsedLayer], base: Sequence[ParsedLayer], paired: Mapping[str, str]) -> list[Group]:
    """Every layer in exactly one group, in head's order; then what only base has. `paired` is of `pair_nodes`."""
    by_nodes = _by_nodes(head, base, paired)
    by_place = _by_place(head, base, by_nodes)
    found = [*by_nodes, *by_place]
    taken = ({i for group in found for i in group.head}, {i for group in found for i in group.base})
    found += [Group((i,), ()) for i in range(len(head)) if i not in taken[0]]
    found += [Group((), (i,)) for i in range(len(base)) if i not in taken[1]]
    return sorted(found, key=lambda group: (group.head[0] if group.head else len(head), group.base[:1]))


def pair_nodes(head: Sequence[Node], base: Sequence[Node]) -> dict[str, str]:
    """Head's node → base's node. What a change of precision adds (casts, Q/DQ) is left out.

    A name that somebody chose pairs nodes of one operator. Names like `Conv_12` only count nodes: one node more in
    front, and all of them mean another node. Those, and nodes that are called differently, are paired by place: longest
    common runs of the same operator with the same attributes and shapes of weights.
    """
    ours, theirs = ([node for node in side if node.op not in HELPERS] for side in (head, base))
    known = {node.name: node for node in theirs if not _counts(node)}
    found = {
        node.name: node.name
        for node in ours
        if not _counts(node) and node.name in known and known[node.name].op == node.op
    }
    named = set(found.values())
    keys = (
        [f"={node.name}" if node.name in found else node.signature for node in ours],
        [f"={node.name}" if node.name in named else node.signature for node in theirs],
    )
    for first, second in _common(*keys):
        found[ours[first].name] = theirs[second].name
    used = set(found.values())
    left = {node.name: node for node in theirs if node.name not in used}
    for node in ours:  # at last a counted name is better than none, and so is the one before a preparing pass
        bare = node.name if node.name in left else _PASS.sub("", node.name)
        if (
            node.name not in found
            and bare in left
            and (left[bare].op == node.op or {left[bare].op, node.op} <= COMPUTE)
        ):
            found[node.name] = left.pop(bare).name
    return found


def _counts(node: Node) -> bool:
    """`Conv_12`, `/Conv`, `node_conv2d_12`, `345`: operator and number, as exporters write them. Not `conv1`."""
    written = rf"/?{re.escape(node.op)}(?:_\d+)?|node_[A-Za-z0-9_]+_\d+|(?:node_of_)?\d+"
    return re.fullmatch(written, node.name) is not None


def _common(first: Sequence[str], second: Sequence[str]) -> list[tuple[int, int]]:
    counts: dict[str, int] = {}
    for one in second:
        counts[one] = counts.get(one, 0) + 1
    if sum(counts.get(one, 0) for one in first) > _MOST_STEPS:
        return []
    blocks = SequenceMatcher(None, first, second, autojunk=False).get_matching_blocks()
    return [(block.a + i, block.b + i) for block in blocks for i in range(block.size)]


def _by_nodes(head: Sequence[ParsedLayer], base: Sequence[ParsedLayer], paired: Mapping[str, str]) -> list[Group]:
    theirs = main_layers(base)
    ours = main_layers(head)
    edges = sorted({(ours[a], theirs[b]) for a, b in paired.items() if a in ours and b in theirs})
    parent: dict[tuple[str, int], tuple[str, int]] = {}

    def root(key: tuple[str, int]) -> tuple[str, int]:
        while (above := parent.setdefault(key, key)) != key:
            parent[key] = parent[above]
            key = above
        return key

    for a, b in edges:
        parent[root(("head", a))] = root(("base", b))
    for side, layers, main in (("head", head, ours), ("base", base, theirs)):
        for i, owner in _pieces(layers, main):
            if (side, owner) in parent:
                parent[root((side, i))] = root((side, owner))
    members: dict[tuple[str, int], tuple[list[int], list[int]]] = {}
    for key in sorted(parent):
        members.setdefault(root(key), ([], []))[0 if key[0] == "head" else 1].append(key[1])
    return [Group(tuple(heads), tuple(bases)) for heads, bases in members.values()]


def main_layers(layers: Sequence[ParsedLayer]) -> dict[str, int]:
    """The layer that does a node's work: several may name it (a kernel that moves its data does too). The product goes
    first, then the one that names fewest others; conversions do no node's work. Times do not decide: two passes over one
    engine must agree."""
    found: dict[str, int] = {}
    order = sorted(
        (i for i, layer in enumerate(layers) if layer.role != "convert"),
        key=lambda i: (layers[i].role != "compute", len(layers[i].nodes), i),
    )
    for i in order:
        for name in layers[i].nodes:
            found.setdefault(name, i)
    return found


def _pieces(layers: Sequence[ParsedLayer], main: Mapping[str, int]) -> list[tuple[int, int]]:
    """Layers that help with a node whose work another one does, and that one: a Softmax in five kernels."""
    doing = set(main.values())
    return [
        (i, main[layer.nodes[0]])
        for i, layer in enumerate(layers)
        if i not in doing and layer.role != "convert" and layer.nodes and layer.nodes[0] in main
    ]


def _by_place(head: Sequence[ParsedLayer], base: Sequence[ParsedLayer], matched: Sequence[Group]) -> list[Group]:
    """Pairs among the layers that no node has matched: the same kind and formats, at the same place between the
    groups; then, for conversions, anywhere, since one that moved is not a new one; last those of one name whose tensor has
    another size."""
    keys = (
        _keys(head, {i: n for n, g in enumerate(matched) for i in g.head}),
        _keys(base, {i: n for n, g in enumerate(matched) for i in g.base}),
    )
    pairs = [(a, b) for a, b in _common(keys[0], keys[1]) if not keys[0][a].startswith("=")]
    pairs += _conversions(keys, head, base, pairs)
    named = [f"{layer.name}|{_SIZES.sub('', key)}" for layer, key in zip(head, keys[0], strict=True)]
    called = [f"{layer.name}|{_SIZES.sub('', key)}" for layer, key in zip(base, keys[1], strict=True)]
    pairs += _conversions((named, called), head, base, pairs)
    return [Group((a,), (b,)) for a, b in pairs]


def _conversions(
    keys: tuple[list[str], list[str]],
    head: Sequence[ParsedLayer],
    base: Sequence[ParsedLayer],
    pairs: Sequence[tuple[int, int]],
) -> list[tuple[int, int]]:
    """Pairs of equal keys among the conversions that are in none of the `pairs`."""
    used = {a for a, _ in pairs}, {b for _, b in pairs}
    left: dict[str, list[int]] = {}
    for i, key in enumerate(keys[1]):
        if i not in used[1] and base[i].role == "convert":
            left.setdefault(key, []).append(i)
    more = []
    for i, key in enumerate(keys[0]):
        if i not in used[0] and head[i].role == "convert" and left.get(key):
            more.append((i, left[key].pop(0)))
    return more


def _keys(layers: Sequence[ParsedLayer], group: Mapping[int, int]) -> list[str]:
    return [f"={group[i]}" if i in group else f"{x.kind}|{x.inputs[:1]}|{x.outputs[:1]}" for i, x in enumerate(layers)]
