"""From arrays to the bytes of an inference answer, JSON and binary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from trt_action.engine.backend import Array
from trt_action.serve.decode import Question
from trt_action.serve.tensors import Port, to_bytes

JSON = [(b"content-type", b"application/json")]
_DUMP = orjson.OPT_SERIALIZE_NUMPY

Headers = list[tuple[bytes, bytes]]


def answer(
    asked: Question, arrays: Mapping[str, Array], outputs: Mapping[str, Port], model: str, version: str
) -> tuple[Headers, bytes]:
    """Headers and body of the answer. NaN and infinity have no JSON: such elements are `null` there."""
    described: list[dict[str, Any]] = []
    parts: list[bytes | memoryview] = []
    for name in asked.outputs if asked.outputs is not None else outputs:
        found, array = outputs[name], arrays[name]
        entry: dict[str, Any] = {"name": name, "datatype": found.datatype, "shape": array.shape}
        if asked.outputs[name] if asked.outputs is not None else asked.binary:
            part = to_bytes(found, array)
            entry["parameters"] = {"binary_data_size": len(part)}
            parts.append(part)
        else:
            entry["data"] = _listed(found, array)
        described.append(entry)
    document: dict[str, Any] = {"model_name": model, "model_version": version}
    if asked.id:
        document["id"] = asked.id
    document["outputs"] = described
    head = orjson.dumps(document, option=_DUMP)
    if not parts:
        return [*JSON, (b"content-length", b"%d" % len(head))], head
    body = b"".join((head, *parts))
    return [
        (b"content-type", b"application/octet-stream"),
        (b"inference-header-content-length", b"%d" % len(head)),
        (b"content-length", b"%d" % len(body)),
    ], body


def _listed(found: Port, array: Array) -> Any:
    """What orjson writes as a flat list."""
    if found.dtype == "string":
        return [str(text) for text in array.ravel()]
    if found.dtype == "bfloat16":
        array = array.astype(np.float32)
    return np.ascontiguousarray(array).reshape(-1)
