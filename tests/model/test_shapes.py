from __future__ import annotations

from typing import Any

import pytest

from trt_action.errors import ModelError
from trt_action.model.shapes import Input, parse, resolve

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
        ({"image": {"min": [1, 3, 8, 8]}}, "`opt`, the measured shape, is missing"),
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
