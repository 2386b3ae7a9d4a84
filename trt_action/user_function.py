"""The child's side of `user_code.py`: import the user's file, call the function, sort out what it returned."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from trt_action import arrays as storage
from trt_action.arrays import Array
from trt_action.errors import MetricError, TrtActionError
from trt_action.inputs import nearest, quote, quote_all
from trt_action.process import Channel
from trt_action.user_code import Resamples


def serve(channel: Channel) -> None:
    """One request, as `user_code.call` makes it; answers `{values, arrays}`."""
    request = channel.receive()
    if request is None:
        return
    channel.send(_answer(request))


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    spec = str(request["spec"])
    given = _arguments(request)
    try:
        function = _function(Path(request["path"]), request["function"], spec)
        given = _wanted(function, given, spec)
        start = time.monotonic()
        result = function(**given)
        if isinstance(result, Iterator):
            result = _joined(result, spec, request["limit"])
    except (TrtActionError, MemoryError):
        raise
    except BaseException as error:  # noqa: BLE001 - foreign code may raise anything, SystemExit included
        raise _raised(spec, Path(request["path"]), error) from None
    values, arrays = _sorted_out(result, spec)
    if arrays and request["out"]:
        storage.save_npz(Path(request["out"]), arrays)
    answer: dict[str, Any] = {"values": values, "arrays": list(arrays)}
    if request["resamples"] and not arrays:
        answer["replicates"] = _replicates(function, given, Resamples(**request["resamples"]), start)
    return answer


def _replicates(
    function: Callable[..., Any], given: dict[str, Any], plan: Resamples, start: float
) -> list[float | None]:
    samples = _rows(given)
    if samples is None:
        return []
    generator = np.random.default_rng(plan.seed)
    values: list[float | None] = []
    now = time.monotonic()
    last = now - start
    while len(values) < plan.count and now + last < start + plan.seconds:
        rows = generator.integers(0, samples, samples)
        values.append(_replicate(function, {name: _taken(value, rows) for name, value in given.items()}))
        now, last = time.monotonic(), time.monotonic() - now
    return values


def _replicate(function: Callable[..., Any], given: dict[str, Any]) -> float | None:
    try:
        result = function(**given)
        value = float(result["value"] if isinstance(result, Mapping) else result)
    except (Exception, SystemExit):  # noqa: BLE001 - some draws have no value, e.g. without any sample of a class
        return None
    return value if np.isfinite(value) else None


def _rows(given: Any) -> int | None:
    """Length of axis 0 of the first array."""
    if isinstance(given, np.ndarray):
        return len(given) if given.ndim else None
    if isinstance(given, dict):
        return next((rows for value in given.values() if (rows := _rows(value)) is not None), None)
    return None


def _taken(value: Any, rows: Array) -> Any:
    if isinstance(value, dict):
        return {name: _taken(item, rows) for name, item in value.items()}
    return value[rows] if isinstance(value, np.ndarray) else value


def _arguments(request: dict[str, Any]) -> dict[str, Any]:
    given: dict[str, Any] = dict(request["arguments"])
    if request["arrays"]:
        for name, array in storage.load_npz(Path(request["arrays"])).items():
            group, slash, rest = name.partition("/")
            if slash:
                given.setdefault(group, {})[rest] = array
            else:
                given[name] = array
    return given


def _function(path: Path, name: str, spec: str) -> Callable[..., Any]:
    sys.path.insert(0, str(path.parent))
    module = _module(path)
    function = getattr(module, name, None)
    if not callable(function):
        close = nearest(name, (n for n, v in vars(module).items() if callable(v)))
        raise MetricError(
            f"{quote(path.name)} has no function {quote(name)} (asked for as {quote(spec)}).",
            fix=f"Did you mean {quote(close)}?" if close else "Correct the name after the colon.",
        )
    return function  # type: ignore[no-any-return]


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("user_functions", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and multiprocessing look their module up
    spec.loader.exec_module(module)
    return module


def _wanted(function: Callable[..., Any], given: dict[str, Any], spec: str) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return given
    named = [p for p in parameters if p.kind is not p.VAR_POSITIONAL]
    missing = [p.name for p in named if p.kind is p.POSITIONAL_ONLY or (p.default is p.empty and p.name not in given)]
    if missing:
        raise MetricError(
            f"The function {quote(spec)} asks for {quote_all(missing)}, which it cannot get.",
            why=f"Arguments are passed by name; there are: {quote_all(given) or 'none'}.",
            fix="Rename its parameters, or give the others defaults.",
        )
    return {p.name: given[p.name] for p in named if p.name in given}


def _joined(batches: Iterator[Any], spec: str, limit: int | None) -> dict[str, Array]:
    """Batches of a generator along axis 0; the first `limit` samples are enough."""
    parts: dict[str, list[Array]] = {}
    samples = size = 0
    for index, batch in enumerate(batches):
        arrays = _batch(batch, index, parts, spec)
        for name, array in arrays.items():
            parts.setdefault(name, []).append(array)
        samples += min((len(array) for array in arrays.values()), default=0)
        size += sum(array.nbytes for array in arrays.values())
        if size > storage.MAX_BYTES:
            raise MetricError(
                f"The generator {quote(spec)} yields more than {storage.MAX_BYTES / 1e9:.1f} GB.",
                fix="Yield fewer samples.",
            )
        if limit is not None and samples >= limit:
            break
    return {name: np.concatenate(pieces)[:limit] for name, pieces in parts.items()}


def _batch(batch: Any, index: int, before: Mapping[str, list[Array]], spec: str) -> dict[str, Array]:
    where = f"Batch {index} of the generator {quote(spec)}"
    if not isinstance(batch, Mapping) or not batch:
        raise MetricError(
            f"{where} is {_kind(batch)}, not a dict of arrays.",
            fix="Yield `{'<input>': array, 'labels': array}`, each with the samples along axis 0.",
        )
    arrays = {str(name): np.atleast_1d(np.asarray(value)) for name, value in batch.items()}
    if before and before.keys() != arrays.keys():
        raise MetricError(f"{where} has the names {quote_all(arrays)}; the batches before had {quote_all(before)}.")
    for name, array in arrays.items():
        first = before[name][0] if before else array
        if array.shape[1:] != first.shape[1:] or array.dtype != first.dtype:
            raise MetricError(
                f"{where}: {quote(name)} is {array.dtype}{list(array.shape)}; "
                f"the first one was {first.dtype}{list(first.shape)}.",
                why="Batches are joined along axis 0; all other axes and the dtype must agree.",
                fix="Give every sample the same shape, e.g. by padding.",
            )
    return arrays


def _sorted_out(result: Any, spec: str) -> tuple[dict[str, Any], dict[str, Array]]:
    """Plain values and arrays of what the function returned."""
    values: dict[str, Any] = {}
    arrays: dict[str, Array] = {}
    named = result if isinstance(result, Mapping) else {"value": result}
    for key, item in named.items():
        name = str(key)
        if isinstance(item, bool | str):
            values[name] = item
            continue
        try:
            array = np.asarray(item)
        except (ValueError, TypeError):  # lists of unequal length
            array = np.asarray(None)
        if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
            raise _unusable(spec, name, item)
        if array.ndim:
            arrays[name] = array
            continue
        values[name] = array.item()
        if not np.isfinite(values[name]):
            raise MetricError(
                f"The function {quote(spec)} returned {values[name]} for {quote(name)}.",
                why="Not a finite number; usually a division by zero or an empty selection.",
                fix="Return a finite number.",
            )
    return values, arrays


def _unusable(spec: str, name: str, item: Any) -> MetricError:
    return MetricError(
        f"The function {quote(spec)} returned {_kind(item)} for {quote(name)}.",
        why="Numbers, arrays of numbers, a dict of these, or a generator of dicts of arrays can be used.",
        fix="Return one of these.",
    )


def _kind(item: Any) -> str:
    return "nothing (None)" if item is None else f"a {quote(type(item).__name__)}"


def _raised(spec: str, path: Path, error: BaseException) -> MetricError:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line = f" at line {frames[-1].lineno} of {quote(path.name)}" if frames else ""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        line = f" at line {error.lineno} of {quote(path.name)}"
    text = " ".join(str(error).split())[:500]
    return MetricError(
        f"The function {quote(spec)} raised {type(error).__name__}{line}: {text or 'no message'}.",
        why="The error comes from the function itself or from what it calls.",
        fix="Run the function by itself in a Python shell and correct it.",
    )
