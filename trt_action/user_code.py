"""A user's own function, `file.py:function`, called in a child process with a time limit.

The function gets its arguments **by name**, and only those that it names (all of them if it has `**kwargs`). Arrays
come from an `.npz`: the entry `labels` is the argument `labels`; entries `outputs/<name>` together are the argument
`outputs`, a dict by name. What it may return:

- a number: the value `value`;
- an array or a list of numbers: the array `value`;
- a dict by name of numbers, booleans and texts (values) and arrays or lists of numbers (arrays);
- a generator (any iterator) of dicts of arrays: batches, joined along axis 0 under each name.

The function runs in `base_dir` as the current folder; its own folder is first on `sys.path`. Where we are root and
`base_dir` is not root's (the container of a GitHub Action), it runs as the owner of `base_dir` without any group: it can
read neither our memory and environment, which hold the job's token, nor use Docker's socket.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trt_action import files
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
        "arguments": dict(arguments),
        "limit": limit,
        "resamples": asdict(resamples) if resamples else None,
    }
    user = owner(base_dir)
    start = time.monotonic()
    try:
        with (
            _exchanged(arrays, out, user) as places,
            Child("trt_action.user_function:serve", died=MetricError, cwd=base_dir, user=user) as child,
        ):
            return child.request(request | places, timeout=timeout)
    except OutOfMemoryError as error:
        raise OutOfMemoryError(f"The function {quote(spec)} ran out of memory.", why=error.why) from None
    except MetricError as error:
        if "child process" not in error.what:
            raise
        raise _death(spec, timeout, time.monotonic() - start, error) from None


def owner(folder: Path) -> int | None:
    """Whose id a user's function runs with: the owner's of `folder`; None = ours, also where this Python lies in a
    folder that only root may enter (never so in the action's image)."""
    if os.geteuid() != 0 or not all(_open_to_all(Path(path)) for path in (sys.executable, __file__)):
        return None
    return folder.stat().st_uid or None


def _open_to_all(path: Path) -> bool:
    return all(parent.stat().st_mode & 0o001 for parent in path.resolve().parents)


@contextlib.contextmanager
def _exchanged(arrays: Path | None, out: Path | None, user: int | None) -> Iterator[dict[str, str | None]]:
    """Where the child finds its arrays and leaves its own: our files, or for another `user` a folder of theirs, from
    which only a plain file comes back."""
    if user is None:
        yield {"arrays": str(arrays) if arrays else None, "out": str(out) if out else None}
        return
    with tempfile.TemporaryDirectory(prefix="trt-action-user-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        given, left = folder / "arrays.npz", folder / "out.npz"
        if arrays:
            shutil.copyfile(arrays, given)
            given.chmod(0o444)
        os.chown(folder, user, -1)
        yield {"arrays": str(given) if arrays else None, "out": str(left) if out else None}
        if out and left.is_symlink():
            raise MetricError("The function left a link where its arrays should be.", fix="Return the arrays.")
        if out and left.is_file():
            files.copy_atomic(left, out)


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
