"""TensorRT's engine inspector, in the layouts of 10.x, 11.x and RTX, and what a stranger could make of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trt_action.errors import MeasureError
from trt_action.layers.graph import Graph, Node
from trt_action.layers.inspector import parse

DATA = Path(__file__).parent / "data"


def graph(*nodes: tuple[str, str, str, str]) -> Graph:
    """(name, operator, input, output)."""
    return Graph(tuple(Node(name, op, (x,), (y,), op) for name, op, x, y in nodes))


CNN = graph(
    ("conv1", "Conv", "image", "conv1.out"),
    ("conv1.relu", "Relu", "conv1.out", "conv1.y"),
    ("conv2.weight_QuantizeLinear", "QuantizeLinear", "conv2.weight", "conv2.q"),
    ("conv2", "Conv", "conv1.y", "conv2.y"),
    ("head", "MatMul", "conv2.y", "head.y"),
    ("head.add", "Add", "head.y", "logits"),
    ("softmax.exp", "Exp", "logits", "e"),
    ("softmax.log", "Log", "e", "y"),
)
BERT = graph(
    ("conv1", "Conv", "image", "c"),
    ("conv1.relu", "Relu", "c", "q"),
    ("/qk/MatMul", "MatMul", "q", "s"),
    ("/softmax/Softmax", "Softmax", "s", "p"),
    ("/av/MatMul", "MatMul", "p", "mixed"),
    ("/norm/LayerNormalization", "LayerNormalization", "mixed", "n"),
    ("/fc/MatMul", "MatMul", "n", "y"),
)
BLOCK = graph(
    ("/before/Relu", "Relu", "w", "x"),
    ("/block/q/MatMul", "MatMul", "x", "a"),
    ("/block/gelu/Gelu", "Gelu", "a", "b"),
    ("/block/out/Add", "Add", "b", "y"),
    ("/tail/Conv", "Conv", "y", "z"),
)


def read(name: str) -> str:
    return (DATA / f"inspector-{name}.json").read_text()


def test_the_layout_of_10() -> None:
    document = read("10")
    names = [layer["Name"] for layer in json.loads(document)["Layers"]]
    runs = [[(name, 0.1 * (i + 1)) for i, name in enumerate(names)] for _ in range(5)]
    layers, note = parse(document, runs, CNN)
    assert note == ""
    assert [(x.role, x.precision, x.nodes) for x in layers] == [
        ("convert", "fp32", ()),
        ("compute", "fp16", ("conv1", "conv1.relu")),
        ("compute", "int8", ("conv2.weight_QuantizeLinear", "conv2")),
        ("convert", "fp16", ()),  # it names the product it moves data for, and is none
        ("compute", "tf32", ("head", "head.add")),  # typed Float; the kernel says what it computes in
        ("other", "fp32", ("softmax.exp", "softmax.log")),
    ]
    assert [layer.ms for layer in layers] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert layers[1].tactic.startswith("sm80_xmma_fprop")
    assert layers[2].inputs[0] == "Thirty-two wide channel vectorized row major Int8 format. [1, 64, 32, 32]"


def test_the_layout_of_11() -> None:
    layers, note = parse(read("11"), [], BERT)
    assert note == "There are no times of layers."
    assert [(x.role, x.precision, x.nodes) for x in layers] == [
        ("compute", "fp16", ("conv1", "conv1.relu")),
        ("compute", "bf16", ("/qk/MatMul", "/softmax/Softmax", "/av/MatMul")),
        ("other", "bf16", ("/norm/LayerNormalization",)),
        ("compute", "fp8", ("/fc/MatMul",)),
    ]
    assert layers[0].outputs == ("Half [1, 64, 32, 32], Channel major FP16 format where C % 8 == 0 (kHWC8)",)
    assert {layer.ms for layer in layers} == {None}


def test_rtx_with_an_open_dimension() -> None:
    layers, _ = parse(read("rtx"), [], BLOCK)
    assert layers[0].nodes == ("/block/q/MatMul", "/block/gelu/Gelu", "/block/out/Add")  # the way between the two ends
    assert [(layer.role, layer.precision) for layer in layers] == [("compute", None), ("compute", "fp16")]


def test_names_alone() -> None:
    layers, note = parse(read("names"), [[("conv1 + conv1.relu", 0.2), ("head", 0.1)]], CNN)
    assert "without detailed profiling verbosity" in note
    assert "no time for 1 of 3 layers" in note
    assert [(x.role, x.precision, x.nodes, x.ms) for x in layers] == [
        ("convert", None, ("conv1", "conv1.relu"), None),
        ("compute", None, ("conv1", "conv1.relu"), 0.2),
        ("compute", None, ("head",), 0.1),
    ]


def test_reports_that_repeat_and_names_that_repeat() -> None:
    document = json.dumps({"Layers": ["loop", "twin", "twin"]})
    run = [("loop", 0.2), ("loop", 0.3), ("twin", 0.4), ("twin", 0.4), ("stranger", 0.1)]
    layers, note = parse(document, [run, run], Graph())
    assert {layer.name: layer.ms for layer in layers} == pytest.approx(
        {"loop": 0.5, "twin": 0.4, "twin #2": 0.4, "stranger": 0.1}
    )
    assert "times for 1 that the inspector does not list" in note


def test_names_of_layers_without_metadata() -> None:
    nodes = graph(("a/Conv", "Conv", "x", "y"), ("b", "Add", "y", "z"), ("c", "Relu", "z", "u"))
    names = [
        "a/Conv + fused(PWN(b, c))",
        "a/Conv_myl2_17",
        "Reformatting CopyNode for Output Tensor 0 to c",
        "(Unnamed Layer* 3)",
    ]
    layers, _ = parse(json.dumps({"Layers": names}), [], nodes)
    assert [layer.nodes for layer in layers] == [("a/Conv", "b", "c"), ("a/Conv",), ("c",), ()]


HOSTILE: dict[str, Any] = {
    "nothing": {},
    "no object": [1, 2],
    "layers is text": {"Layers": "conv"},
    "no JSON": None,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_report_is_refused(name: str) -> None:
    document = "{" if HOSTILE[name] is None else json.dumps(HOSTILE[name])
    with pytest.raises(MeasureError):
        parse(document, [], CNN)


def test_a_deep_report_is_refused() -> None:
    with pytest.raises(MeasureError):
        parse('{"Layers": ' + "[" * 200_000, [], CNN)


def test_wrong_types_are_read_as_nothing() -> None:
    odd: list[Any] = [
        None,
        7,
        {"x": 1},
        [],
        "a" * 100_000,
        {"Dimensions": "wide", "Datatype": 5, "Format/Datatype": {}},
    ]
    entries = [
        {
            "Name": one,
            "LayerType": one,
            "Inputs": one,
            "Outputs": [one],
            "Metadata": one,
            "TacticName": one,
            "Weights": one,
        }
        for one in odd
    ]
    layers, _ = parse(json.dumps({"Layers": [*entries, None, 5, [1]], "Bindings": 3}), [], CNN)
    assert len(layers) == len(odd)
    assert {layer.precision for layer in layers} == {None}


@pytest.mark.timeout(20)
def test_large_reports_take_no_quadratic_time() -> None:
    metadata = "[ONNX Layer: " * 70_000
    ranges = "{ForeignNode[n0...n4999]}"
    nodes = graph(*((f"n{i}", "Relu", f"t{i}", f"t{i + 1}") for i in range(5_000)))
    entries = [{"Name": "PWN(" * 4_000 + ")" * 4_000, "Metadata": metadata}] + [{"Name": ranges}] * 5_000
    layers, _ = parse(json.dumps({"Layers": entries}), [], nodes)
    assert len(layers[1].nodes) == 5_000
    assert layers[-1].nodes == ("n0", "n4999")
