"""What is said about head's layers against base's, and what is not."""

from __future__ import annotations

from typing import Any

import pytest

from trt_action.layers.diff import MOST_CHANGES, diff
from trt_action.layers.graph import Node
from trt_action.layers.parsed import ParsedLayer
from trt_action.layers.summary import MOST_LAYERS, Seen, asked_share, report


def layer(name: str, rounds: tuple[float, ...] = (1.0, 1.0, 1.0), **changes: Any) -> ParsedLayer:
    values: dict[str, Any] = {"role": "compute", "precision": "fp16", "nodes": (name,), "rounds": rounds}
    values["fastest"] = min(rounds, default=0.0)
    return ParsedLayer(name, changes.pop("kind", "Conv"), **values | changes)


def seen(*layers: ParsedLayer) -> Seen:
    names = dict.fromkeys(name for one in layers for name in one.nodes)
    nodes = tuple(Node(name, "Conv", (), (), name) for name in names)
    rounds = max((len(one.rounds) for one in layers), default=0)
    return Seen("tensorrt-inspector", "gpu", layers, nodes, rounds, 10 * rounds)


def kinds(head: Seen, base: Seen, asked: str = "fp16") -> dict[str, list[str]]:
    return {change.title: list(change.kinds) for change in diff(head, base, asked).changes}


SIX = (1.0, 1.01, 1.02, 1.03, 1.04, 1.05)
TIMES: dict[str, tuple[tuple[float, ...], tuple[float, ...], list[str]]] = {
    "every round is slower": (tuple(1.3 * x for x in SIX), SIX, ["slower"]),
    "one round is not": ((1.02, *(1.3 * x for x in SIX[1:])), SIX, []),
    "surely, and by too little": (tuple(1.06 * x for x in SIX), SIX, []),
    "every round is faster": (tuple(0.5 * x for x in SIX), SIX, ["faster"]),
    "three rounds each, 20 %": ((1.2, 1.2, 1.2), (1.0, 1.0, 1.0), []),
    "three rounds each, 40 %": ((1.4, 1.4, 1.4), (1.0, 1.0, 1.0), ["slower"]),
    "one round each, whatever": ((9.0,), (1.0,), []),
    "no times": ((), (), []),
}


@pytest.mark.parametrize("case", TIMES)
def test_when_a_layer_is_slower(case: str) -> None:
    now, before, expected = TIMES[case]
    assert kinds(seen(layer("a", now)), seen(layer("a", before))).get("a", []) == expected


def test_a_disturbed_host_makes_no_layer_slower() -> None:
    """Every mean is larger, and the fastest inference took as long as ever: others took the time."""
    disturbed = layer("a", tuple(3 * x for x in SIX), fastest=1.0)
    assert kinds(seen(disturbed), seen(layer("a", SIX))) == {}


def test_a_layer_that_takes_no_part_of_the_time_is_not_slower() -> None:
    rest = layer("rest", (1000.0,) * 3)
    assert kinds(seen(rest, layer("a", (3.0,) * 3)), seen(rest, layer("a", (1.0,) * 3))) == {}
    assert kinds(seen(rest, layer("a", (9.0,) * 3)), seen(rest, layer("a", (1.0,) * 3))) == {"a": ["slower"]}


FALL_BACKS = {
    "half became float": ("fp32", "fp16", "fp16", ["higher-precision"]),
    "int8 became half, and half was asked": ("fp16", "int8", "fp16", []),
    "int8 became half, and int8 was asked": ("fp16", "int8", "int8", ["higher-precision"]),
    "float was asked": ("fp32", "int8", "fp32", []),
    "cheaper than before": ("int8", "fp32", "int8", []),
    "half and bfloat16 are alike": ("bf16", "fp16", "fp16", []),
    "tf32 became fp32": ("fp32", "tf32", "tf32", ["higher-precision"]),
    "unknown": (None, "fp16", "fp16", []),
    "integers that count": ("int64", "int32", "fp16", []),
}


@pytest.mark.parametrize("case", FALL_BACKS)
def test_when_a_layer_fell_back(case: str) -> None:
    now, before, asked, expected = FALL_BACKS[case]
    assert kinds(seen(layer("a", precision=now)), seen(layer("a", precision=before)), asked).get("a", []) == expected


def test_new_gone_and_converted() -> None:
    reformat = layer(
        "Reformatting CopyNode 1",
        kind="Reformat",
        role="convert",
        nodes=(),
        inputs=("Half [1]",),
        outputs=("Float [1]",),
    )
    found = diff(seen(layer("a"), layer("new", kind="Gelu"), reformat), seen(layer("a"), layer("old")), "fp16")
    told = {change.title: (change.kinds, change.delta_ms, change.detail) for change in found.changes}
    assert told == {
        "new": (["appeared"], 1.0, "Gelu"),
        "old": (["vanished"], -1.0, "Conv"),
        "Reformatting CopyNode 1": (["new-conversion"], 1.0, "Reformat: fp16 → fp32"),
    }
    assert (found.matched, found.unchanged, found.head_ms, found.base_ms) == (1, 1, 3.0, 2.0)


def test_the_largest_difference_comes_first_and_the_rest_is_counted() -> None:
    head = [layer(f"n{i}", (5.0 + i,) * 3) for i in range(MOST_CHANGES + 5)]
    found = diff(seen(*head), seen(*(layer(f"n{i}", (0.5,) * 3) for i in range(MOST_CHANGES + 5))), "fp16")
    assert found.changes[0].title == f"n{MOST_CHANGES + 4}"
    assert (len(found.changes), found.left_out) == (MOST_CHANGES, 5)


def test_a_report_is_bounded_and_keeps_the_slowest() -> None:
    many = [layer(f"n{i}", ((1.0 if i % 2 else 9.0),) * 3, nodes=("x" * 5_000,) * 50) for i in range(3 * MOST_LAYERS)]
    found = report(seen(*many), "fp16")
    assert len(found.layers) == MOST_LAYERS
    assert {one.ms for one in found.layers} == {9.0}
    assert found.left_out == 2 * MOST_LAYERS
    assert found.total_ms == pytest.approx(1.5 * MOST_LAYERS * 10)
    assert len(found.layers[0].nodes) == 20
    assert len(found.layers[0].nodes[0]) == 300
    assert report(seen(layer("\ud800")), "fp16").model_dump_json()  # a lone surrogate is no text


SHARES: dict[str, tuple[list[tuple[str, str | None, float]], str, float | None]] = {
    "all": ([("compute", "fp16", 1.0), ("compute", "fp16", 3.0)], "fp16", 1.0),
    "by time": ([("compute", "fp16", 1.0), ("compute", "fp32", 3.0)], "fp16", 0.25),
    "cheaper counts": ([("compute", "int8", 1.0), ("compute", "fp16", 3.0)], "fp16", 1.0),
    "costlier does not": ([("compute", "int8", 1.0), ("compute", "fp16", 3.0)], "int8", 0.25),
    "int8 is not fp8": ([("compute", "int8", 1.0), ("compute", "fp8", 1.0)], "fp8", 0.5),
    "unknown does not count as reached": ([("compute", None, 1.0), ("compute", "fp16", 1.0)], "fp16", 0.5),
    "a softmax and a cast do not matter": (
        [("compute", "int8", 1.0), ("other", "fp32", 9.0), ("convert", "fp32", 9.0)], "int8", 1.0,
    ),
    "no type is known": ([("compute", None, 1.0)], "fp16", None),
    "no products": ([("other", "fp16", 1.0)], "fp16", None),
    "TF32 has the type of fp32": ([("compute", "fp32", 1.0)], "tf32", None),
}  # fmt: skip


@pytest.mark.parametrize("case", SHARES)
def test_the_share_of_time_in_the_asked_precision(case: str) -> None:
    written, asked, expected = SHARES[case]
    layers = [layer(f"n{i}", (ms,), role=role, precision=kind) for i, (role, kind, ms) in enumerate(written)]
    assert asked_share(layers, asked) == expected
