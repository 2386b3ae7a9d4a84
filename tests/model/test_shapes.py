from __future__ import annotations

from typing import Any

import pytest

from trt_action.errors import ModelError
from trt_action.model.shapes import Input, Profile, Values, parse, resolve

IDS = Input("input_ids", "int64", 8, ("batch", "seq"))
MASK = Input("attention_mask", "int64", 8, ("batch", "seq"))
IMAGE = Input("image", "float32", 4, (None, 3, 8, 8))
FIXED = Input("fixed", "float32", 4, (2, 3))
SCALAR = Input("scale", "float32", 4, ())


def test_only_the_batch_is_assumed() -> None:
    profiles, notes = resolve([IMAGE, FIXED, SCALAR], {}, 4)
    assert [profiles[name].opt for name in ("image", "fixed", "scale")] == [(4, 3, 8, 8), (2, 3), ()]
    assert notes == []
    assert resolve([IMAGE], {}, None)[1] == ["Assumed batch = 1 for input `image` `[?, 3, 8, 8]`."]


@pytest.mark.parametrize(("batch", "said"), [(4, True), (1, False)])
def test_a_batch_that_the_model_fixes_otherwise_is_said(batch: int, said: bool) -> None:
    fixed = Input("image", "float32", 4, (1, 3, 8, 8))
    profiles, notes = resolve([fixed], {}, batch)
    assert profiles["image"].opt == (1, 3, 8, 8)
    assert [f"`batch-size: {batch}` changes nothing" in note for note in notes] == [True] * said
    assert resolve([fixed, IMAGE], {}, 4)[1] == []


def test_given_shapes() -> None:
    shapes = parse({"image": {"min": [1, 3, 8, 8], "opt": [8, 3, 8, 8], "max": [32, 3, 8, 8]}})
    profiles, notes = resolve([IMAGE], shapes, 1)
    assert profiles["image"].as_json() == {"min": [1, 3, 8, 8], "opt": [8, 3, 8, 8], "max": [32, 3, 8, 8]}
    assert notes == []
    assert parse({"x": {"opt": [2]}})["x"].as_json() == {"min": [2], "opt": [2], "max": [2]}


SIZE = Input("size", "int64", 8, (2,))
LIMIT = Input("limit", "int32", 4, ())


def test_values_of_inputs_that_hold_sizes() -> None:
    shapes = parse({"size": {"values": {"min": [-1, 0], "opt": [8, 16], "max": [64, 64]}}, "limit": {"values": [7]}})
    again = {name: Profile.from_json(profile.as_json()) for name, profile in shapes.items()}
    profiles, _ = resolve([IMAGE, SIZE, LIMIT], again | parse({"image": [4, 3, 8, 8]}), None)
    assert profiles["size"] == Profile((2,), (2,), (2,), Values((-1, 0), (8, 16), (64, 64)))
    assert profiles["limit"] == Profile((), (), (), Values((7,), (7,), (7,)))
    assert profiles["image"].values is None


def test_an_open_axis_has_as_many_elements_as_values_and_says_nothing_of_other_inputs() -> None:
    size = Input("size", "int64", 8, ("N",))
    profiles, _ = resolve([size, Input("x", "float32", 4, ("N", 3))], parse({"size": {"values": [5, 6, 7]}}), 2)
    assert profiles["size"].opt == (3,)
    assert profiles["x"].opt == (2, 3)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"size": {"values": [1, 2, 3]}}, "3 values; it holds 2"),
        ({"limit": {"values": [1, 2]}}, "2 values; it holds 1"),
        ({"image": {"values": [1]}}, "which is float32"),
        ({"input_ids": {"values": [1]}}, "at most one axis"),
        ({"size": {"values": {"min": [3, 1], "opt": [2, 2], "max": [4, 4]}}}, "min ≤ opt ≤ max"),
        ({"size": {"values": {"min": [1], "opt": [2, 2], "max": [4, 4]}}}, "differ in length"),
        ({"size": {"values": {"max": [4, 4]}}}, "`opt`, which is measured"),
        ({"size": {"values": []}}, "not a list of values"),
        ({"size": {"values": [True, 1]}}, "not a whole number"),
        ({"size": {"values": [1, 1 << 31]}}, "not a whole number"),
        ({"size": {"values": [1, 1], "opt": [2]}}, "beside `values`"),
    ],
)
def test_values_that_are_refused(shapes: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError) as caught:
        resolve([SIZE, LIMIT, IMAGE, IDS], parse({"image": [1, 3, 8, 8], **shapes}), 1)
    assert words in f"{caught.value.what} {caught.value.why} {caught.value.fix}"


def test_axes_of_one_name_have_one_size() -> None:
    shapes = parse({"input_ids": {"min": [1, 8], "opt": [2, 64], "max": [4, 128]}})
    profiles, notes = resolve([IDS, MASK], shapes, 1)
    assert profiles["attention_mask"] == profiles["input_ids"]
    assert notes == []


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({}, 'shapes: {"input_ids": [1, 128]}'),
        ({"input_id": [1, 8]}, "Did you mean `input_ids`"),
        ({"input_ids": [1, 8, 1]}, "3 axes; the model declares 2"),
        ({"image": [1, 4, 8, 8]}, "axis 1 of input `image` the size 4; the model fixes it to 3"),
        ({"image": {"min": [1, 1, 8, 8], "opt": [1, 3, 8, 8]}}, "the size 1; the model fixes it to 3"),
        ({"image": {"min": [2, 3, 8, 8], "opt": [1, 3, 8, 8]}}, "min ≤ opt ≤ max"),
        ({"image": {"opt": [1, 3, 8, 8], "max": [1, 3, 8]}}, "differ in length"),
        ({"image": {"min": [1, 3, 8, 8]}}, "`opt`, which is measured, is missing"),
        ({"image": {"opt": [1], "typical": [1]}}, "`typical` is not one of"),
        ({"image": "1x3x8x8"}, "`1x3x8x8` is not a list"),
        ({"image": [0, 3, 8, 8]}, "`0` is not a size"),
        ({"image": [True, 3, 8, 8]}, "`True` is not a size"),
        ({"image": [1.5, 3, 8, 8]}, "`1.5` is not a size"),
        ({"image": [-1, 3, 8, 8]}, "`-1` is not a size"),
        ({"image": [1 << 30, 3, 8, 8]}, "per inference"),
    ],
)
def test_what_is_refused(shapes: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError) as caught:
        resolve([IMAGE, IDS, MASK], parse(shapes), 1)
    assert words in f"{caught.value.what} {caught.value.why} {caught.value.fix}"
