"""Which node is which, and which layers do the same work."""

from __future__ import annotations

import pytest

from trt_action.layers.graph import Node
from trt_action.layers.match import Group, groups, pair_nodes
from trt_action.layers.parsed import ParsedLayer


def chain(*written: str) -> list[Node]:
    """`conv1:Conv` or `conv1:Conv:signature`; each reads what the one before makes."""
    nodes = []
    for i, one in enumerate(written):
        name, op, signature = (*one.split(":"), "")[:3]
        nodes.append(Node(name, op, (f"t{i}",), (f"t{i + 1}",), signature or op))
    return nodes


PAIRS = {
    "chosen names stay, wherever they are": (
        chain("stem:Conv", "body:Conv", "tail:Conv"),
        chain("tail:Conv", "stem:Conv", "body:Conv"),
        {"stem": "stem", "body": "body", "tail": "tail"},
    ),
    "the same name with another operator is another node": (
        chain("a:Relu", "b:Conv"),
        chain("a:Conv:x", "b:Conv"),
        {"b": "b"},
    ),
    "one node more in front shifts names that count": (
        chain("Conv_0:Conv:new", "Conv_1:Conv:a", "Relu_2:Relu", "Conv_3:Conv:b"),
        chain("Conv_0:Conv:a", "Relu_1:Relu", "Conv_2:Conv:b"),
        {"Conv_1": "Conv_0", "Relu_2": "Relu_1", "Conv_3": "Conv_2"},
    ),
    "torch's newer names count too": (
        chain("node_relu:Relu:r", "node_conv2d_1:Conv:a"),
        chain("node_conv2d_1:Conv:z", "node_conv2d_2:Conv:a"),
        {"node_conv2d_1": "node_conv2d_2"},
    ),
    "another exporter, other names": (
        chain("/features/0/Conv:Conv:a", "/features/1/Relu:Relu:r", "/head/Gemm:Gemm:g"),
        chain("conv_stem:Conv:a", "act1:Relu:r", "classifier:Gemm:g"),
        {"/features/0/Conv": "conv_stem", "/features/1/Relu": "act1", "/head/Gemm": "classifier"},
    ),
    "casts and Q/DQ are not there": (
        chain("x.cast:Cast", "conv:Conv", "conv.q:QuantizeLinear"),
        chain("conv:Conv", "x.cast:Cast"),
        {"conv": "conv"},
    ),
    "what the preparation for int8 renames": (
        chain("pool/MatMulAddFusion:Gemm:g"),
        chain("pool:MatMul:m", "pool.add:Add"),
        {"pool/MatMulAddFusion": "pool"},
    ),
    "a wider convolution keeps its counted name": (
        chain("Conv_0:Conv:wide"),
        chain("Conv_0:Conv:narrow"),
        {"Conv_0": "Conv_0"},
    ),
    "nothing in common": (chain("a:Conv:a"), chain("b:Relu:b"), {}),
    "nothing at all": ([], [], {}),
}


@pytest.mark.parametrize("case", PAIRS)
def test_nodes_are_paired(case: str) -> None:
    head, base, expected = PAIRS[case]
    assert pair_nodes(head, base) == expected


@pytest.mark.timeout(30)
def test_a_graph_of_equal_nodes_takes_no_quadratic_time() -> None:
    head = chain(*(f"Relu_{i}:Relu" for i in range(20_000)))
    base = chain(*(f"Relu_{i + 7}:Relu" for i in range(20_000)))
    assert len(pair_nodes(head, base)) == 19_993  # by name at last: by place would be 400 million comparisons


def layer(name: str, *nodes: str, kind: str = "Conv", ms: float = 1.0, **changes: object) -> ParsedLayer:
    values = {"role": "compute", "inputs": ("float [1]",), "outputs": ("float [1]",)} | changes
    return ParsedLayer(name, kind, nodes=nodes, rounds=(ms,), **values)  # type: ignore[arg-type]


def same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


def test_layers_that_share_nodes_are_one_group() -> None:
    head = [layer("conv", "conv"), layer("relu", "relu", kind="Relu", role="other"), layer("tail", "tail")]
    base = [layer("conv+relu", "conv", "relu"), layer("old tail", "tail")]
    assert groups(head, base, same("conv", "relu", "tail")) == [Group((0, 1), (0,)), Group((2,), (1,))]


def test_a_layer_that_only_moves_data_for_a_product_joins_no_two_groups() -> None:
    """Myelin's kernels name the products around them: the product's own layer does its work."""
    head = [layer("a", "a", ms=5), layer("move", "a", "b", kind="kgen", role="other", ms=1), layer("b", "b", ms=5)]
    base = [layer("a", "a"), layer("b", "b")]
    assert groups(head, base, same("a", "b")) == [Group((0, 1), (0,)), Group((2,), (1,))]


def test_conversions_are_matched_by_kind_and_formats_first_at_their_place() -> None:
    def cast(name: str, kind: str = "Cast") -> ParsedLayer:
        return layer(name, kind=kind, role="convert")

    head = [cast("h1"), layer("conv", "conv"), cast("h2"), cast("r", "Reformat")]
    base = [layer("conv", "conv"), cast("b1"), cast("q", "QuantizeLinear")]
    found = groups(head, base, same("conv"))
    assert Group((2,), (1,)) in found  # h2 is behind the convolution, as b1 is; h1 is the new one
    assert [group for group in found if not group.base] == [Group((0,), ()), Group((3,), ())]
    assert [group for group in found if not group.head] == [Group((), (2,))]


def test_a_conversion_that_moved_is_not_new() -> None:
    cast = layer("c", kind="Cast", role="convert")
    head, base = [cast, layer("conv", "conv")], [layer("conv", "conv"), cast]
    assert Group((0,), (1,)) in groups(head, base, same("conv"))


@pytest.mark.parametrize(
    ("name", "inputs", "same_one"),
    [
        ("c", ("float [8, 128]",), True),  # a wider network: the same cast of a larger tensor
        ("c", ("float16 [8, 112]",), False),
        ("d", ("float [8, 128]",), False),
    ],
)
def test_a_conversion_of_one_name_may_have_another_size(name: str, inputs: tuple[str, ...], same_one: bool) -> None:
    def cast(name: str, inputs: tuple[str, ...]) -> ParsedLayer:
        return layer(name, kind="QuantizeLinear", role="convert", inputs=inputs)

    found = groups([cast(name, inputs)], [cast("c", ("float [8, 112]",))], {})
    assert (found == [Group((0,), (0,))]) == same_one


def test_other_work_of_the_same_kind_is_other_work() -> None:
    """A convolution went away in front, and one of the same shape came behind."""
    head, base = [layer("conv", "conv"), layer("new", "new")], [layer("old", "old"), layer("conv", "conv")]
    assert groups(head, base, same("conv")) == [Group((0,), (1,)), Group((1,), ()), Group((), (0,))]
