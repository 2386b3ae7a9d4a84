"""A user's own function, `file.py:function`, called in a child process with a time limit.

The function gets its arguments **by name**, and only those that it names (all of them if it has `**kwargs`). Arrays
come from an `.npz`: the entry `labels` is the argument `labels`; entries `outputs/<name>` together are the argument
`outputs`, a dict by name. What it may return:

- a number: the value `value`;
- an array or a list of numbers: the array `value`;
- a dict by name of numbers, booleans and texts (values) and arrays or lists of numbers (arrays);
- a generator (any iterator) of dicts of arrays: batches, joined along axis 0 under each name.

The function runs in `base_dir` as the current folder; its own folder is first on `sys.path`.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from trt_action import arrays as storage
from trt_action.arrays import Array
from trt_action.errors import MetricError, OutOfMemoryError, TrtActionError
from trt_action.inputs import nearest, open_regular, quote, quote_all
from trt_action.process import Channel, Child

EXAMPLE = "`metrics.py:top3`"


@dataclass(frozen=True)
class Resamples:
    """Call the function again on bootstrap samples: arrays are indexed along axis 0, all alike.

    At most `count` times and within `seconds`, the first call on all samples included; the same `seed` draws the
    same samples in the same order.
    """

    count: int
    seed: int
    seconds: float


def is_spec(spec: str) -> bool:
    """Whether `spec` is meant as `file.py:function`."""
    return ".py:" in spec


def locate(spec: str, base_dir: Path) -> tuple[Path, str]:
    """The file and the function's name; a relative path starts at `base_dir`.

    Raises:
        MetricError: not of the form `file.py:function`, or no such file.
        StorageError: the file may not be read.
    """
    file, _, function = spec.rpartition(":")
    if not file.endswith(".py") or not function.isidentifier():
        raise MetricError(
            f"{quote(spec)} does not name a function.",
            fix=f"Write the path of a Python file, a colon and the function's name, e.g. {EXAMPLE}.",
        )
    path = (base_dir / file).absolute()
    open_regular(path, noun="Python file", wrong=MetricError).close()
    return path, function


def call(
    spec: str,
    *,
    arrays: Path | None = None,
    arguments: Mapping[str, Any],
    out: Path | None = None,
    timeout: float,
    base_dir: Path,
    limit: int | None = None,
    resamples: Resamples | None = None,
) -> dict[str, Any]:
    """Call the function in a fresh child process.

    Args:
        spec: `file.py:function`, relative to `base_dir`.
        arrays: `.npz` whose entries are arguments (see the module's docstring).
        arguments: further arguments; JSON values.
        out: `.npz` that gets the arrays it returned; None if arrays are not wanted.
        timeout: seconds for everything, imports included.
        limit: stop a generator after this many samples (axis 0).
        resamples: also call the function on bootstrap samples of `arrays`, if it returned no array.

    Returns:
        `{"values": {name: number | bool | str}, "arrays": [names in out]}`, and with `resamples`, if there are no
        arrays, `"replicates": [number | None]`: the `value` on each bootstrap sample, None if the function failed.

    Raises:
        MetricError: no such function, wrong parameters, it raised, took too long, crashed, or returned something else.
        OutOfMemoryError: it was killed for memory.
        StorageError: a file cannot be read or written.
    """
    path, function = locate(spec, base_dir)
    request = {
        "path": str(path),
        "function": function,
        "spec": spec,
        "arrays": str(arrays) if arrays else None,
        "arguments": dict(arguments),
        "out": str(out) if out else None,
        "limit": limit,
        "resamples": asdict(resamples) if resamples else None,
    }
    start = time.monotonic()
    child = Child("trt_action.user_code:serve", died=MetricError, cwd=base_dir)
    try:
        with child:
            return child.request(request, timeout=timeout)
    except OutOfMemoryError as error:
        raise OutOfMemoryError(f"The function {quote(spec)} ran out of memory.", why=error.why) from None
    except MetricError as error:
        if "child process" not in error.what:
            raise
        raise _death(spec, timeout, time.monotonic() - start, error) from None


def _death(spec: str, timeout: float, seconds: float, error: MetricError) -> MetricError:
    if seconds >= timeout:
        return MetricError(
            f"The function {quote(spec)} did not finish within {timeout:g} s.",
            why="The time limit covers its imports, reading its files and its work.",
            fix="Make it faster or use fewer samples, or raise `metric-timeout`.",
        )
    return MetricError(
        f"The function {quote(spec)} ended its process ({error.what.rpartition('(')[2].rstrip(').')}).",
        why=error.why,
        fix="Run the function by itself in a Python shell; the crash is in it or in a library that it uses.",
    )


def serve(channel: Channel) -> None:
    """The child's side."""
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
