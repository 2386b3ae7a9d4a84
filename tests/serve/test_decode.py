"""Bytes that nobody sane sends: the only way to fail is a refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_action.engine.backend import Tensor
from trt_action.serve import body, decode, encode, trace
from trt_action.serve.refusal import RefusedError
from trt_action.serve.tensors import Port, port

DTYPES = ["bool", "int8", "uint64", "float16", "bfloat16", "float32", "string"]


def ports(dtype: str) -> dict[str, Port]:
    return {"x": port(Tensor("x", dtype, ("N", 2)), None, lower_bounds=False, max_batch=4)}


X = ports("float32")
Y = {"y": port(Tensor("y", "float32", ("N", 2)), None, lower_bounds=False, max_batch=None)}


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_encoded_is_decoded(dtype: str, binary: bool) -> None:
    """Also the types that no engine of a test has: bfloat16 and strings."""
    wanted = ports(dtype)["x"]
    array: Any = np.array([[0, 1], [1, 1]])
    array = np.array([["", "né"], ["a\0b", "x" * 300]], object) if dtype == "string" else array.astype(wanted.stored)
    asked = decode.Question({}, id="q", binary=binary)
    headers, content = encode.answer(asked, {"x": array}, {"x": wanted}, "m", "1")
    size = dict(headers).get(b"inference-header-content-length")
    answered = json.loads(content[: int(size)] if size else content)
    request = json.dumps({"inputs": answered["outputs"]}).encode()
    tail = content[int(size) :] if size else b""
    found = decode.Decoder({"x": wanted}, Y).question(memoryview(request + tail), len(request))
    assert found.feeds["x"].dtype == (object if dtype == "string" else wanted.stored)
    np.testing.assert_array_equal(found.feeds["x"], array)
    assert found.feeds["x"].flags.aligned


def test_the_same_json_with_other_elements_and_with_other_lengths() -> None:
    """A request that was read once is remembered without its elements."""
    entry = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
    head = json.dumps({"inputs": [entry]}).encode()
    decoder = decode.Decoder(X, Y)
    for values in ([1, 2], [3, 4]):
        x = np.array([values], np.float32)
        np.testing.assert_array_equal(decoder.question(memoryview(head + x.tobytes()), len(head)).feeds["x"], x)
    for wrong in (b"", b"x" * 7, b"x" * 9):
        assert tried(decoder.question, memoryview(head + wrong), len(head)) == 400
    for n in range(2 * decode.MAX_PLANS):
        other = json.dumps({"id": str(n), "inputs": [entry]}).encode()
        assert decoder.question(memoryview(other + x.tobytes()), len(other)).id == str(n)


def test_bfloat16_crosses_as_its_own_bytes() -> None:
    array = np.array([[1.5, -3]], ml_dtypes.bfloat16)
    found = decode.raw(memoryview(array.tobytes()), ports("bfloat16"))
    np.testing.assert_array_equal(found.feeds["x"], array)


def tensor(**changes: Any) -> bytes:
    return json.dumps(
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2], **changes}]}
    ).encode()


HOSTILE: list[tuple[bytes, int | None]] = [
    (b"", None),
    (b"[" * 100_000, None),
    (b'{"a":' * 5_000, None),
    (b"\xff\xfe", None),
    (b'{"inputs": 1}', None),
    (b'{"inputs": [1]}', None),
    (b'{"inputs": [{}]}', None),
    (tensor(shape="[1,2]"), None),
    (tensor(shape=[1, True]), None),
    (tensor(shape=[1.0, 2]), None),
    (tensor(shape=[1, 2**40]), None),
    (tensor(shape=[-1, -2]), None),
    (tensor(data={"a": 1}), None),
    (tensor(data=[[1], [2, 3]]), None),
    (tensor(data=[[[[[[1, 2]]]]]]), None),
    (tensor(data=[1, None]), None),
    (tensor(data=[1, True]), None),
    (tensor(data=[[], []]), None),
    (tensor(data=["a" * 1_000_000, 1]), None),
    (tensor(data=[1, 10**400]), None),
    (tensor(parameters=[]), None),
    (tensor(parameters={"binary_data_size": -1}), None),
    (tensor(parameters={"binary_data_size": 2**62}), None),
    (tensor(parameters={"binary_data_size": True}), None),
    (tensor(name=["x"]), None),
    (tensor(), 10**9),
    (tensor(), 3),
    (tensor() + b"tail", len(tensor())),
    (b"abc", 0),
    (b"", 0),
    (b'{"inputs":[],"outputs":[{"name":"y","parameters":{"binary_data":1}}]}', None),
    (b'{"id":' + b"9" * 20 + b',"inputs":[]}', None),
]


@pytest.mark.parametrize(("data", "json_bytes"), HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_bodies_are_refused(data: bytes, json_bytes: int | None) -> None:
    with pytest.raises(RefusedError) as caught:
        decode.Decoder(X, Y).question(memoryview(data), json_bytes)
    assert caught.value.status == 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["name", "data", "shape", "a"]), inner),
    max_leaves=12,
)
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "name": st.just("x") | JSON,
        "datatype": st.just("FP32") | JSON,
        "shape": st.just([1, 2]) | JSON,
        "data": st.just([1, 2]) | JSON,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.just(8) | JSON}) | JSON,
    },
)
DOCUMENT = st.fixed_dictionaries(
    {"inputs": st.lists(ENTRY, max_size=2) | JSON},
    optional={"outputs": st.lists(ENTRY, max_size=2) | JSON, "id": JSON, "parameters": JSON},
)


def tried(function: Callable[..., Any], *arguments: Any) -> Any:
    """What it returns, or the status with which it refuses."""
    try:
        return function(*arguments)
    except RefusedError as error:
        return error.status


@given(document=DOCUMENT, tail=st.binary(max_size=12), size=st.none() | st.integers(0, 200))
def test_any_document_is_answered_or_refused(document: Any, tail: bytes, size: int | None) -> None:
    head = json.dumps(document).encode()
    found = tried(decode.Decoder(X, Y).question, memoryview(head + tail), len(head) if size is None else size)
    assert found == 400 or found.feeds["x"].dtype == np.float32


@given(data=st.binary(max_size=64), size=st.none() | st.integers(0, 80))
def test_any_bytes_are_answered_or_refused(data: bytes, size: int | None) -> None:
    for dtype in DTYPES:
        found = tried(decode.Decoder(ports(dtype), Y).question, memoryview(data), size)
        assert found == 400 or found.feeds["x"].shape[1] == 2


@given(data=st.binary(max_size=200), gzip=st.booleans())
def test_anything_inflates_within_its_room_or_is_refused(data: bytes, gzip: bool) -> None:
    assert body.inflate(body.deflate(data, gzip), gzip, len(data)) == data
    for hostile in (data, body.deflate(data, gzip)[:-1], body.deflate(data, gzip) + b"x"):
        found = tried(body.inflate, hostile, gzip, 100)
        assert found in (400, 413) or len(found) <= 100


def test_a_bomb_is_not_inflated() -> None:
    bomb = body.deflate(bytes(50_000_000), gzip=True)
    assert len(bomb) < 300_000
    with pytest.raises(RefusedError) as caught:
        body.inflate(bomb, True, 1_000_000)
    assert caught.value.status == 413


@pytest.mark.parametrize(
    "header",
    [b"", b"00", b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01", b"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
     b"00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", b"00-0af7651916cd43dd8448eb211c80319c-" + b"0" * 16 + b"-01"],
)  # fmt: skip
def test_malformed_traces_are_ignored(header: bytes) -> None:
    assert trace.incoming(header) is None
