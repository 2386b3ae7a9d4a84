"""From the bytes of an inference request to arrays. Sources: Open Inference Protocol v2 (REST), Triton's "Binary
Tensor Data Extension" (`Inference-Header-Content-Length`, `binary_data*`, raw bodies).

Whatever the bytes are, the only way to fail is `RefusedError`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import orjson

from trt_action.engine.backend import Array
from trt_action.serve import refusal
from trt_action.serve.refusal import shown
from trt_action.serve.tensors import Port, check_names, check_shape, from_bytes

MAX_TENSORS = 1_000
"""Entries of `inputs` and `outputs` that are looked at."""

MAX_ID = 1_000
MAX_PLANS = 64
MAX_PLAN_BYTES = 4_096
"""Most and largest JSON texts that a model remembers."""

MAX_TIMEOUT_US = 10**12


@dataclass(frozen=True)
class Question:
    """One inference request, checked: every input is there in its type and in a shape that the engine takes.

    `outputs` says for each asked output whether its answer is binary; None = all outputs, `binary` for each.
    """

    feeds: dict[str, Array]
    id: str = ""
    outputs: Mapping[str, bool] | None = None
    binary: bool = False
    timeout_us: int | None = None


@dataclass(frozen=True)
class Plan:
    """What the JSON of a request with binary tensors says: everything but the elements. Clients send the same JSON again
    and again, so that it need not be read every time."""

    tensors: tuple[tuple[Port, tuple[int, ...], int, int], ...]
    size: int
    rest: Question

    def question(self, tail: memoryview) -> Question:
        """Raises:
        RefusedError: the binary data are not what was announced.
        """
        if len(tail) != self.size:
            raise refusal.bad(f"{len(tail)} bytes of binary data are there; {self.size} were announced.")
        rest = self.rest
        feeds = dict(rest.feeds)
        for port, shape, start, stop in self.tensors:
            feeds[port.name] = from_bytes(port, shape, tail[start:stop])
        return Question(feeds, rest.id, rest.outputs, rest.binary, rest.timeout_us)


class Decoder:
    """Requests of one model."""

    def __init__(self, inputs: Mapping[str, Port], outputs: Mapping[str, Port]) -> None:
        self._inputs = inputs
        self._outputs = outputs
        self._plans: dict[bytes, Plan] = {}

    def question(self, body: memoryview, json_bytes: int | None) -> Question:
        """Decode one request.

        Args:
            body: the whole body, decompressed.
            json_bytes: `Inference-Header-Content-Length`; None = all of it, 0 = a raw tensor without JSON.

        Raises:
            RefusedError: anything is not as the protocol and the model ask for.
        """
        if json_bytes is None:
            json_bytes = len(body)
        elif json_bytes == 0:
            return raw(body, self._inputs)
        elif json_bytes > len(body):
            raise refusal.bad("Inference-Header-Content-Length is more than the body.")
        head, tail = body[:json_bytes], body[json_bytes:]
        if json_bytes > MAX_PLAN_BYTES or not tail:
            return self._read(head).question(tail)
        text = bytes(head)
        plan = self._plans.get(text)
        if plan is None:
            plan = self._read(head)
            if not plan.rest.feeds:
                if len(self._plans) >= MAX_PLANS:
                    self._plans.clear()
                self._plans[text] = plan
        return plan.question(tail)

    def _read(self, text: memoryview) -> Plan:
        document = _document(text)
        parameters = _parameters(document)
        binary = _flag(parameters, "binary_data_output")
        feeds, tensors, size = _tensors(document, self._inputs)
        asked = _asked(document, self._outputs, binary)
        return Plan(tensors, size, Question(feeds, _id(document), asked, binary, _timeout(parameters)))


def raw(body: memoryview, inputs: Mapping[str, Port]) -> Question:
    """A body that is nothing but the elements of the model's one input; the answer is binary.

    An open axis that other axes leave undecided follows from the number of bytes.
    """
    if len(inputs) != 1:
        raise refusal.bad(f"A raw body needs a model with one input; this one has {len(inputs)}.")
    (wanted,) = inputs.values()
    if wanted.dtype == "string":
        raise refusal.bad("A raw body cannot hold BYTES.")
    open_axes = [axis for axis, size in enumerate(wanted.shape) if size < 0]
    if len(open_axes) > 1:
        raise refusal.bad(f"The shape {list(wanted.shape)} of a raw body is open in more than one axis.")
    shape = list(wanted.shape)
    if open_axes:
        one = math.prod(size for size in shape if size >= 0) * wanted.stored.itemsize
        shape[open_axes[0]] = len(body) // one if one else 0
    return Question({wanted.name: from_bytes(wanted, check_shape(wanted, shape), body)}, binary=True)


def _document(text: memoryview) -> dict[str, Any]:
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise refusal.bad(f"The body is not JSON: {error.msg} at character {error.pos}.") from None
    if not isinstance(document, dict):
        raise refusal.bad("The body is not a JSON object.")
    return document


def _tensors(
    document: Mapping[str, Any], inputs: Mapping[str, Port]
) -> tuple[dict[str, Array], tuple[tuple[Port, tuple[int, ...], int, int], ...], int]:
    """Inputs that are there as JSON; where the others are in the binary data; and how long those are together."""
    feeds: dict[str, Array] = {}
    tensors = []
    given = _list(document.get("inputs"), "inputs")
    check_names(inputs, [_name(tensor) for tensor in given])
    at = 0
    for tensor in given:
        wanted = inputs[tensor["name"]]
        if (datatype := tensor.get("datatype")) != wanted.datatype:
            raise refusal.bad(f"Input {shown(wanted.name)} takes {wanted.datatype}, not {shown(datatype)}.")
        shape = check_shape(wanted, tensor.get("shape"))
        size = _binary_size(tensor, wanted)
        if size is None:
            feeds[wanted.name] = from_json(wanted, shape, tensor.get("data"))
        elif "data" in tensor:
            raise refusal.bad(f"Input {shown(wanted.name)} has `data` and binary data.")
        else:
            tensors.append((wanted, shape, at, at + size))
            at += size
    return feeds, tuple(tensors), at


def from_json(wanted: Port, shape: tuple[int, ...], data: object) -> Array:
    """`data` of a tensor: a list in row-major order, flat or nested.

    Raises:
        RefusedError: another number of elements, or elements that are no values of the type.
    """
    flat = _flat(wanted, data, len(shape))
    if len(flat) != math.prod(shape):
        raise refusal.bad(
            f"Input {shown(wanted.name)} of shape {list(shape)} takes {math.prod(shape)} elements, not {len(flat)}."
        )
    if not set(map(type, flat)) <= _taken(wanted.dtype):
        raise refusal.bad(f"Input {shown(wanted.name)} has elements that are no {wanted.datatype}.")
    if wanted.dtype == "string":
        return np.array(flat, dtype=object).reshape(shape)
    try:
        with np.errstate(over="ignore"):
            array = np.array(flat, dtype=wanted.stored)
    except (OverflowError, ValueError):
        raise refusal.bad(f"Input {shown(wanted.name)} has elements out of the range of {wanted.datatype}.") from None
    if array.dtype.kind in "fV" and not np.isfinite(array).all():
        raise refusal.bad(f"Input {shown(wanted.name)} has elements out of the range of {wanted.datatype}.")
    return array.reshape(shape)


def _flat(wanted: Port, data: object, axes: int) -> list[Any]:
    if not isinstance(data, list):
        raise refusal.bad(f"Input {shown(wanted.name)} has no list `data`.")
    flat: list[Any] = data
    depth = 1
    while flat and isinstance(flat[0], list):
        depth += 1
        length = len(flat[0])
        if depth > max(axes, 1) or any(type(part) is not list or len(part) != length for part in flat):
            raise refusal.bad(f"The nested `data` of input {shown(wanted.name)} are not of its shape.")
        flat = list(chain.from_iterable(flat))
    return flat


def _taken(dtype: str) -> set[type]:
    if dtype == "bool":
        return {bool}
    if dtype == "string":
        return {str}
    return {int, float} if "float" in dtype else {int}


def _binary_size(tensor: Mapping[str, Any], wanted: Port) -> int | None:
    parameters = _parameters(tensor)
    if not parameters:
        return None
    if any(key.startswith("shared_memory") for key in parameters):
        raise refusal.bad("Shared memory is not offered by this server.")
    size = parameters.get("binary_data_size")
    if size is None:
        return None
    if type(size) is not int or size < 0:
        raise refusal.bad(f"`binary_data_size` of input {shown(wanted.name)} is not a number of bytes.")
    return size


def _asked(document: Mapping[str, Any], outputs: Mapping[str, Port], binary: bool) -> dict[str, bool] | None:
    if "outputs" not in document:
        return None
    asked: dict[str, bool] = {}
    for output in _list(document["outputs"], "outputs"):
        name = _name(output)
        if name not in outputs or name in asked:
            known = ", ".join(map(shown, outputs))
            raise refusal.bad(f"Output {shown(name)} is asked for twice, or is none of {known}.")
        parameters = _parameters(output)
        if "classification" in parameters or any(key.startswith("shared_memory") for key in parameters):
            raise refusal.bad("Classification and shared memory are not offered by this server.")
        asked[name] = _flag(parameters, "binary_data", binary)
    return asked or None


def _parameters(holder: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = holder.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise refusal.bad("`parameters` is not a JSON object.")
    return parameters


def _flag(parameters: Mapping[str, Any], name: str, default: bool = False) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise refusal.bad(f"The parameter `{name}` is neither true nor false.")
    return value


def _list(value: object, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or len(value) > MAX_TENSORS or not all(isinstance(entry, dict) for entry in value):
        raise refusal.bad(f"`{name}` is not a list of at most {MAX_TENSORS} JSON objects.")
    return value


def _name(tensor: Mapping[str, Any]) -> str:
    name = tensor.get("name")
    if not isinstance(name, str):
        raise refusal.bad("A tensor has no name.")
    return name


def _id(document: Mapping[str, Any]) -> str:
    found = document.get("id", "")
    if not isinstance(found, str) or len(found) > MAX_ID:
        raise refusal.bad(f"`id` is not a text of at most {MAX_ID} characters.")
    return found


def _timeout(parameters: Mapping[str, Any]) -> int | None:
    """Microseconds (Triton's "Schedule Policy Extension"); `priority` has no effect: there is one queue."""
    timeout = parameters.get("timeout")
    if timeout is None:
        return None
    if type(timeout) is not int or not 0 <= timeout <= MAX_TIMEOUT_US:
        raise refusal.bad("The parameter `timeout` is not a number of microseconds.")
    return timeout or None
