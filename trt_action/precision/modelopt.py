"""NVIDIA ModelOpt as a toolchain: in a Python environment of its own, because it pins other versions of torch, onnx and
ONNX Runtime and patches `onnxruntime.quantization` process-wide; and in a child process, as everything of this room.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import GraphProto

from trt_action import process
from trt_action.errors import BackendUnavailableError, PrecisionError, TrtActionError
from trt_action.inputs import quote
from trt_action.process import Progress

PACKAGE = "nvidia-modelopt"
SCRIPT = Path(__file__).with_name("modelopt_child.py")
VENV = "trt-action-modelopt"
PROBE_SECONDS = 60.0

METHODS = {"minmax": "max", "entropy": "entropy"}
"""Calibration methods that ModelOpt has under another name. It takes every word that it does not know for `max`."""
INT4_METHOD = "awq_clip"


@dataclass(frozen=True)
class ModelOpt:
    """An environment that has it. `versions`: name and version of what decides the bytes of its results, sorted."""

    python: Path
    versions: tuple[tuple[str, str], ...]

    @property
    def version(self) -> str:
        return dict(self.versions)[PACKAGE]


def places(env: Mapping[str, str]) -> tuple[Path, ...]:
    """Where an environment is looked for when nobody named one."""
    roots = [Path("/opt/modelopt")]
    share = env.get("XDG_DATA_HOME") or (env["HOME"] + "/.local/share" if env.get("HOME") else "")
    if share.startswith("/"):
        roots.append(Path(share) / VENV)
    return tuple(root / "bin/python" for root in roots)


def install_command(env: Mapping[str, str] | None = None) -> str:
    """What a person types to get one where it is found."""
    venv = places(os.environ if env is None else env)[-1].parents[1]
    return f"python3 -m venv {venv} && {venv}/bin/pip install '{PACKAGE}[onnx]'"


def find(named: Path | None, env: Mapping[str, str] | None = None) -> ModelOpt | None:
    """The environment that was named (`modelopt-python`), else the first that is installed; None if there is none.

    Raises:
        BackendUnavailableError: the named one is no interpreter or lacks ModelOpt; says what to type.
    """
    env = os.environ if env is None else env
    if named is not None:
        return _probe(named, env)
    for python in places(env):
        if os.access(python, os.X_OK):
            try:
                return _probe(python, env)
            except BackendUnavailableError:
                continue
    return None


def required(what: str, env: Mapping[str, str] | None = None) -> BackendUnavailableError:
    """The error for who needs ModelOpt and has none. `what`: the beginning of the sentence."""
    env = os.environ if env is None else env
    return BackendUnavailableError(
        f"{what} needs ModelOpt, which is not installed here.",
        why="Looked for in " + ", ".join(quote(python) for python in places(env)) + ".",
        fix=f"Run `{install_command(env)}` (about 2 GB), or name an interpreter that has it: `modelopt-python`.",
    )


def _probe(python: Path, env: Mapping[str, str]) -> ModelOpt:
    try:
        answer = _ask(python, {"do": "versions"}, timeout=PROBE_SECONDS)
    except (OSError, subprocess.SubprocessError, TrtActionError) as error:
        raise BackendUnavailableError(
            f"`modelopt-python` names {quote(python)}, which does not work as a Python interpreter.",
            why=error.what if isinstance(error, TrtActionError) else str(error),
            fix=f"Name the `bin/python` of an environment with ModelOpt; to make one: `{install_command(env)}`.",
        ) from None
    versions = dict(answer["versions"])
    if answer["missing"] or PACKAGE not in versions:
        lacking = ", ".join(answer["missing"]) or PACKAGE
        raise BackendUnavailableError(
            f"The Python environment of {quote(python)} lacks {lacking}.",
            fix=f"Run `{python} -m pip install '{PACKAGE}[onnx]'`.",
        )
    return ModelOpt(python, tuple(sorted({**versions, "python": answer["python"]}.items())))


def hide_names(graph: GraphProto) -> list[str]:
    """Number the nodes; returns their own names. ModelOpt takes the names of nodes that it leaves out by itself for the
    beginning of a regular expression: `fc` would take `fc1` with it, and `[fc` is an error."""
    names = [node.name for node in graph.node]
    for index, node in enumerate(graph.node):
        node.name = hidden(index)
    return names


def hidden(index: int) -> str:
    return f"node_{index:07d}"


def own_names(text: str, names: Sequence[str]) -> str:
    """A name or a message with the nodes' own names in it again."""
    return re.sub(r"node_(\d{7})", lambda hit: names[int(hit[1])] if int(hit[1]) < len(names) else hit[0], text)


def convert(
    tool: ModelOpt,
    precision: str,
    *,
    source: Path,
    target: Path,
    scratch: Path,
    names: Sequence[str],
    excluded: Sequence[str],
    op_types: Sequence[str],
    method: str,
    feeds: Mapping[str, Any],
    large: bool,
    timeout: float | None,
    progress: Progress | None,
) -> None:
    """Write `target`: Q/DQ nodes for int8, fp8 and int4, AutoCast for fp16 and bf16.

    Args:
        names: what the nodes of the source are called for the user (`hide_names`).
        excluded: names of nodes in the source, exactly.
        method: ModelOpt's own word for the calibration method.
        feeds: what the worker wrote of the calibration data: `feeds` (folder), `names`, `rows`.
        scratch: for its temporary files, of which it leaves some behind; and where it runs: what it compiles would
            take the `pyproject.toml` of the folder for its own.

    Raises:
        PrecisionError: it failed, did not survive, or the time was up.
        OutOfMemoryError: it was killed for memory.
    """
    request = {
        "do": "cast" if precision in ("fp16", "bf16") else "quantize",
        "precision": precision,
        "source": str(source.absolute()),
        "target": str(target.absolute()),
        "exclude": sorted(excluded),
        "op_types": sorted(set(op_types)),
        "method": method,
        "large": large,
        **feeds,
    }
    env = {"PYTHONHASHSEED": "0", "TMPDIR": str(scratch.absolute()), "CUDA_VISIBLE_DEVICES": ""}
    try:
        _ask(tool.python.absolute(), request, timeout=timeout, progress=progress, env=env, cwd=scratch)
    except PrecisionError as error:
        error.why = own_names(error.why, names)
        raise


def _ask(
    python: Path,
    request: process.Message,
    *,
    timeout: float | None,
    progress: Progress | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> process.Message:
    return process.call(
        "ModelOpt",
        request,
        timeout=timeout,
        progress=progress,
        died=PrecisionError,
        env={"PYTHONPATH": "", "PYTHONHOME": "", **(env or {})},
        cwd=cwd,
        command=(str(python), "-s", str(SCRIPT)),
    )
