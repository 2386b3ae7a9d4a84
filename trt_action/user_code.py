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

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trt_action.errors import MetricError, OutOfMemoryError
from trt_action.inputs import open_regular, quote
from trt_action.process import Child

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
    child = Child("trt_action.user_function:serve", died=MetricError, cwd=base_dir)
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
