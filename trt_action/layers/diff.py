"""How head's layers differ from base's: what is slower, what is no longer fused, what was converted, what fell back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from trt_action.layer_records import LayerChange, LayerChangeKind, LayerDiff
from trt_action.layers import types
from trt_action.layers.graph import HELPERS
from trt_action.layers.match import Group, groups, pair_nodes
from trt_action.layers.parsed import ParsedLayer
from trt_action.layers.summary import Seen, clip, total_ms

_SHAPE = re.compile(r"\[[-\d, ]*\]")
MOST_CHANGES = 300
_MOST_NAMES = 10

RELATIVE = 0.1
"""A layer is slower or faster from this change of its own time on,"""
OF_TOTAL = 0.005
"""and from this share of base's time of all layers on,"""
FEW_ROUNDS = 6
"""and if every round agrees, and the fastest inference of all moved at least half as much. With fewer rounds than this,"""
RELATIVE_OF_FEW = 0.3
"""only from this change on; with a single round, never."""

_TELLING: tuple[LayerChangeKind, ...] = (
    "higher-precision",
    "lost-fusion",
    "new-conversion",
    "slower",
    "faster",
    "appeared",
    "vanished",
    "new-fusion",
)


def diff(head: Seen, base: Seen, asked: str) -> LayerDiff:
    """Head against base. `asked` is head's precision: what it asks for itself is no fall-back."""
    paired = pair_nodes(head.nodes, base.nodes)
    found = groups(head.layers, base.layers, paired)
    total = total_ms(base.layers) or 0.0
    helpers = {node.name for side in (head, base) for node in side.nodes if node.op in HELPERS}
    changes = [
        change
        for group in found
        if (change := _change(group, head.layers, base.layers, paired, total, asked, helpers)) is not None
    ]
    changes.sort(key=lambda change: (-abs(change.delta_ms or 0.0), _TELLING.index(change.kinds[0]), change.title))
    matched = sum(bool(group.head and group.base) for group in found)
    differing = sum(bool(change.head and change.base) for change in changes)
    return LayerDiff(
        changes=changes[:MOST_CHANGES],
        left_out=max(0, len(changes) - MOST_CHANGES),
        matched=matched,
        unchanged=matched - differing,
        head_ms=_rounded(total_ms(head.layers)),
        base_ms=_rounded(total_ms(base.layers)),
        note=_note(head, base),
    )


def _note(head: Seen, base: Seen) -> str:
    said = []
    if head.source != base.source:
        said.append("Head and base run on different backends: their layers are cut and timed differently.")
    elif min(head.rounds, base.rounds) == 1:
        said.append("An inference takes long, so there was one round: no layer is called slower or faster.")
    return " ".join(said)


def _fusion(
    ours: Sequence[ParsedLayer], theirs: Sequence[ParsedLayer], paired: Mapping[str, str]
) -> set[LayerChangeKind]:
    """Lost: nodes of one layer of base are spread over several of head, and there are more layers for the same work."""
    ours, theirs = ([layer for layer in side if layer.role != "convert"] for side in (ours, theirs))
    now = [{paired[name] for name in layer.nodes if name in paired} for layer in ours]
    before = [set(layer.nodes) for layer in theirs]
    if len(ours) > len(theirs) and any(sum(bool(nodes & one) for nodes in now) > 1 for one in before):
        return {"lost-fusion"}
    if len(ours) < len(theirs) and any(sum(bool(nodes & one) for nodes in before) > 1 for one in now):
        return {"new-fusion"}
    return set()


def _change(
    group: Group,
    head: Sequence[ParsedLayer],
    base: Sequence[ParsedLayer],
    paired: Mapping[str, str],
    total: float,
    asked: str,
    helpers: set[str],
) -> LayerChange | None:
    ours, theirs = [head[i] for i in group.head], [base[i] for i in group.base]
    kinds: set[LayerChangeKind] = set()
    if not theirs:
        kinds.add("new-conversion" if all(layer.role == "convert" for layer in ours) else "appeared")
    elif not ours:
        kinds.add("vanished")
    else:
        kinds |= _fusion(ours, theirs, paired) | _in_time(ours, theirs, total) | _in_precision(ours, theirs, asked)
    if not kinds:
        return None
    head_ms, base_ms = _sum(ours), _sum(theirs)
    known = head_ms is not None or base_ms is not None
    return LayerChange(
        kinds=sorted(kinds, key=_TELLING.index),
        title=clip(_title(ours or theirs, helpers)),
        head=[clip(layer.name) for layer in ours[:_MOST_NAMES]],
        base=[clip(layer.name) for layer in theirs[:_MOST_NAMES]],
        head_ms=head_ms,
        base_ms=base_ms,
        delta_ms=round((head_ms or 0.0) - (base_ms or 0.0), 6) if known else None,
        detail=clip(_detail(ours, theirs), 1_000),
    )


def _in_time(ours: Sequence[ParsedLayer], theirs: Sequence[ParsedLayer], total: float) -> set[LayerChangeKind]:
    if any(not layer.rounds for layer in (*ours, *theirs)):
        return set()
    h, b = ([sum(one) for one in zip(*(x.rounds for x in side), strict=False)] for side in (ours, theirs))
    before, delta = _sum(theirs) or 0.0, (_sum(ours) or 0.0) - (_sum(theirs) or 0.0)
    relative = RELATIVE if min(len(h), len(b)) >= FEW_ROUNDS else RELATIVE_OF_FEW
    fastest = sum(layer.fastest for layer in ours) - sum(layer.fastest for layer in theirs)
    if min(len(h), len(b)) == 1 or fastest * delta < 0 or abs(fastest) < abs(delta) / 2:
        return set()
    if abs(delta) < relative * before or abs(delta) < OF_TOTAL * total:
        return set()
    if delta > 0 and min(h) > max(b):
        return {"slower"}
    return {"faster"} if delta < 0 and max(h) < min(b) else set()


def _in_precision(ours: Sequence[ParsedLayer], theirs: Sequence[ParsedLayer], asked: str) -> set[LayerChangeKind]:
    now, before = _precision(ours), _precision(theirs)
    if now is None or before is None or types.RANK[now] <= types.RANK[before]:
        return set()
    return {"higher-precision"} if types.RANK[now] > types.RANK.get(asked, 9) else set()


def _precision(layers: Sequence[ParsedLayer]) -> str | None:
    """What the work is done in: of the products, if there are any, the one that takes longest."""
    working = [layer for layer in layers if layer.role != "convert" and layer.precision in types.RANK]
    first = max(working, key=lambda layer: (layer.role == "compute", layer.ms or 0.0), default=None)
    return first.precision if first else None


def _sum(layers: Sequence[ParsedLayer]) -> float | None:
    times = [layer.ms for layer in layers if layer.ms is not None]
    return _rounded(sum(times)) if times else None


def _rounded(ms: float | None) -> float | None:
    return None if ms is None else round(ms, 6)


def _title(layers: Sequence[ParsedLayer], helpers: set[str]) -> str:
    """What the layers come from, as a person knows it from the model; else what the backend calls them."""
    nodes = list(dict.fromkeys(name for layer in layers for name in layer.nodes if name not in helpers))
    if not nodes or all(layer.role == "convert" for layer in layers):
        return " + ".join(
            f"{layer.kind} {layer.name}" if layer.kind not in layer.name else layer.name for layer in layers
        )
    more = f" + {len(nodes) - 6} more" if len(nodes) > 6 else ""
    return " + ".join(nodes[:6]) + more


def _detail(ours: Sequence[ParsedLayer], theirs: Sequence[ParsedLayer]) -> str:
    if not theirs or not ours:
        only = (ours or theirs)[0]
        ends = [(types.precision(one[0]) or "?") if one else "?" for one in (only.inputs, only.outputs)]
        told = only.role == "convert" and "?" not in ends and ends[0] != ends[1]
        return f"{only.kind}: {ends[0]} → {ends[1]}" if told else only.kind if only.kind not in only.name else ""
    said = []
    if (now := _precision(ours)) != (before := _precision(theirs)) and now and before:
        said.append(f"{before} → {now}")
    if len(ours) != len(theirs):
        said.append(f"{len(theirs)} → {len(ours)} layers ({_kinds(theirs)} → {_kinds(ours)})")
    elif _kinds(ours) != _kinds(theirs):
        said.append(f"{_kinds(theirs)} → {_kinds(ours)}")
    elif [layer.tactic for layer in ours] != [layer.tactic for layer in theirs]:
        said.append("another kernel")
    return "; ".join([*said, *_shapes(ours, theirs)])


def _shapes(ours: Sequence[ParsedLayer], theirs: Sequence[ParsedLayer]) -> list[str]:
    """`output [1, 16, 32, 32] → [1, 128, 32, 32]` where the same work is done on another amount of data."""
    for word, now, before in (
        ("input", ours[0].inputs, theirs[0].inputs),
        ("output", ours[-1].outputs, theirs[-1].outputs),
    ):
        shapes = [_SHAPE.search(side[0]) for side in (before, now) if side]
        if len(shapes) == 2 and shapes[0] and shapes[1] and shapes[0][0] != shapes[1][0]:
            return [f"{word} {shapes[0][0]} → {shapes[1][0]}"]
    return []


def _kinds(layers: Sequence[ParsedLayer]) -> str:
    return " + ".join(layer.kind for layer in layers[:4]) + (" + …" if len(layers) > 4 else "")
