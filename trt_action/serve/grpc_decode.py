"""Messages of the gRPC side and what the rest of the server works with: questions in, answers out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from trt_action.engine.backend import Array
from trt_action.serve import open_inference_pb2, refusal
from trt_action.serve.decode import MAX_ID, MAX_TIMEOUT_US, Question
from trt_action.serve.refusal import shown
from trt_action.serve.tensors import Port, check_names, check_shape, from_bytes, to_bytes

CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""Field of `InferTensorContents` by datatype; FP16 and BF16 have none: they go as raw contents."""

Message = Any
messages: Any = open_inference_pb2
"""Classes that protobuf makes while it is imported."""


def question(request: Message, inputs: Mapping[str, Port], outputs: Mapping[str, Port]) -> Question:
    """Decode one `ModelInferRequest`.

    Raises:
        RefusedError: anything is not as the protocol and the model ask for.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise refusal.bad(f"There are {len(raw)} raw contents for {len(request.inputs)} inputs.")
    check_names(inputs, [tensor.name for tensor in request.inputs])
    feeds: dict[str, Array] = {}
    for index, tensor in enumerate(request.inputs):
        wanted = inputs[tensor.name]
        if tensor.datatype != wanted.datatype:
            raise refusal.bad(f"Input {shown(wanted.name)} takes {wanted.datatype}, not {shown(tensor.datatype)}.")
        _no_shared_memory(tensor.parameters)
        shape = check_shape(wanted, list(tensor.shape))
        if raw:
            feeds[wanted.name] = from_bytes(wanted, shape, memoryview(raw[index]))
        else:
            feeds[wanted.name] = _listed(wanted, shape, tensor.contents)
    asked = [output.name for output in request.outputs]
    for output in request.outputs:
        if output.name not in outputs or "classification" in output.parameters:
            raise refusal.bad(f"There is no output {shown(output.name)}, or it is asked for in a way not offered here.")
        _no_shared_memory(output.parameters)
    if len(request.id) > MAX_ID or len(set(asked)) != len(asked):
        raise refusal.bad(f"`id` has more than {MAX_ID} characters, or an output is asked for twice.")
    return Question(feeds, request.id, dict.fromkeys(asked, True) or None, True, _timeout(request.parameters))


def answer(
    asked: Question, arrays: Mapping[str, Array], outputs: Mapping[str, Port], model: str, version: str
) -> Message:
    """The `ModelInferResponse`; tensors are raw contents, whatever the request had."""
    response = messages.ModelInferResponse(model_name=model, model_version=version, id=asked.id)
    for name in asked.outputs if asked.outputs is not None else outputs:
        response.outputs.add(name=name, datatype=outputs[name].datatype, shape=arrays[name].shape)
        response.raw_output_contents.append(bytes(to_bytes(outputs[name], arrays[name])))
    return response


def _listed(wanted: Port, shape: tuple[int, ...], contents: Message) -> Array:
    field = CONTENTS.get(wanted.datatype)
    if field is None:
        raise refusal.bad(f"{wanted.datatype} goes as raw contents only.")
    values = list(getattr(contents, field))
    if len(values) != math.prod(shape):
        raise refusal.bad(f"Input {shown(wanted.name)} takes {math.prod(shape)} elements, not {len(values)}.")
    try:
        if wanted.dtype == "string":
            return np.array([value.decode() for value in values], dtype=object).reshape(shape)
        return np.array(values, dtype=wanted.stored).reshape(shape)
    except (OverflowError, ValueError):
        raise refusal.bad(f"Input {shown(wanted.name)} has elements that are no {wanted.datatype}.") from None


def _no_shared_memory(parameters: Mapping[str, Message]) -> None:
    if any(key.startswith("shared_memory") for key in parameters):
        raise refusal.bad("Shared memory is not offered by this server.")


def _timeout(parameters: Mapping[str, Message]) -> int | None:
    if "timeout" not in parameters:
        return None
    parameter = parameters["timeout"]
    timeout = parameter.int64_param or parameter.uint64_param
    if not 0 <= timeout <= MAX_TIMEOUT_US:
        raise refusal.bad("The parameter `timeout` is not a number of microseconds.")
    return int(timeout) or None
