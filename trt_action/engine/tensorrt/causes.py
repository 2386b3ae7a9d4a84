"""From TensorRT's log to one error with a cause and a next step. The patterns are lines that were seen."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from re import Match
from typing import Any

from trt_action.engine.tensorrt.configure import sizes_unknown
from trt_action.engine.tensorrt.log import Log
from trt_action.errors import BackendUnavailableError, BuildError, OutOfMemoryError, TrtActionError
from trt_action.inputs import quote

LONGEST = 600
"""Characters of foreign text that a message keeps."""

_PREFIX = re.compile(r"^I\w+::\w+: Error Code \d+: [\w ]+ \(|^\[[\w.:]+::\d+\] Error Code \d+: [\w ]+ \(")
_ORIGIN = re.compile(r"^\[\w+\.\w+:\d+(?:: \w+)?\] (?:\w+Exception: )?")
_PLACE = re.compile(r"\s*In \w[\w:]*(?:\(\))? at /\S+\.\w+:\d+")
_AFTERWARDS = re.compile(r"(?<=\S)\s+\[checkMacros\.cpp::catchCudaError::\d+\] Error Code 1: Cuda Runtime \(.*$")
"""Behind an error of a build for absent GPUs: the library also asks CUDA, which is not there."""
_NO_CUDA = re.compile(r"CUDA initialization failure with error:? \d+")
_OLD_DRIVER = re.compile(r"driver version is insufficient|cudaErrorInsufficientDriver|no CUDA-capable device")
_SIZES = re.compile(r"[Ii]nput (?P<name>\S+) is a shape tensor")
_NO_MEMORY = re.compile(
    r"out of memory|OutOfMemory|cudaErrorMemoryAllocation|insufficient memory|insufficient workspace|bad_alloc"
    r"|MEM_ALLOC_FAILED|Requested amount of GPU memory",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Situation:
    """What was tried. `doing` completes "cannot …": `build`, `load`; `memory` is said where memory ran out."""

    title: str
    name: str
    doing: str
    memory: str = ""


def made(kind: Callable[[Any], Any], logger: Any, log: Log, situation: Situation) -> Any:
    """A builder or a runtime. Where CUDA does not start, above all under a driver that is too old, TensorRT logs an error and
    returns nothing (pybind11 makes that a TypeError) or an object that crashes when it is used or let go (seen: 10.16).

    Raises:
        BackendUnavailableError: CUDA does not start.
        BuildError: there is no such object, for another reason.
    """
    try:
        one = kind(logger)
    except TypeError:
        raise found(log, situation) from None
    if any(_NO_CUDA.search(line) for line in (*log.errors, *log.warnings)):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(one))  # never let go, not even when Python ends
        raise found(log, situation)
    return one


def found(log: Log, situation: Situation) -> TrtActionError:
    """The error for a `None`: a known cause, else the library's own first words."""
    for lines in (log.errors, log.warnings):
        for pattern, error in _KNOWN:
            for line in lines:
                if match := pattern.search(line):
                    return error(situation, match, readable(line), log)
    if log.errors and (match := _OLD_DRIVER.search(log.errors[0])):  # later lines say it wherever there is no GPU
        return _driver(situation, match, readable(log.errors[0]), log)
    first = log.errors[0] if log.errors else log.last[-1] if log.last else ""
    return BuildError(
        f"{situation.title} could not {situation.doing} {quote(situation.name)}: {readable(first) or 'it gave no reason'}",
        why=_more(log),
        fix="Check the model with `onnx.checker.check_model(path, full_check=True)`; if it passes, try another precision, "
        "`optimization-level: 2`, or another version of the library.",
    )


def readable(line: str) -> str:
    """A line of the log without C++ places, at most 600 characters."""
    text = _ORIGIN.sub("", _PLACE.sub("", _PREFIX.sub("", _AFTERWARDS.sub("", line))).strip())
    text = text.removesuffix(")") if text.count(")") > text.count("(") else text
    return "".join(c if c.isprintable() else " " for c in text)[:LONGEST].strip()


def refused(errors: Sequence[Any], log: Log, situation: Situation) -> TrtActionError:
    """The error for a graph that the parser did not take. `errors` are its `ParserError`s.

    An operator that is not supported is named with its node: the parser's own words are often just "false".
    """
    for error in errors:
        code = error.code().name
        operator, node, words = error.node_operator(), error.node_name(), readable(error.desc())
        if code == "MEM_ALLOC_FAILED" or _NO_MEMORY.search(words):
            return _out_of_memory(situation, None, words, log)
        if match := _SIZES.search(words):
            return _shape_values(situation, match, words, log)
        where = f"operator {quote(operator)}" if operator else "an input, an output or a weight"
        where += f" (node {quote(node)})" if node else ""
        if code.startswith("UNSUPPORTED_NODE") or "lugin not found" in words or "registered" in words:
            return BuildError(
                f"{situation.title} does not support {where} of {quote(situation.name)} as it is used there.",
                why=f"In its own words: {code}" + (f", {words}" if words not in ("", "false") else ""),
                fix="Export the model without it, e.g. with other operators or a fixed shape; "
                "github.com/onnx/onnx-tensorrt lists what is supported. Custom operators are not loaded.",
            )
        return BuildError(
            f"{situation.title} cannot read {quote(situation.name)}: {where}: "
            f"{words if words not in ('', 'false') else code}",
            fix="Give the Slice its input `axes`: without it, `starts` and `ends` are for all axes."
            if operator == "Slice" and "input axes" in words
            else "Check the model with `onnx.checker.check_model(path, full_check=True)` and export it again.",
        )
    return found(log, situation)


def _more(log: Log) -> str:
    others = [readable(line) for line in log.errors[1:4]]
    return f"It also said: {' | '.join(others)}"[:LONGEST] if others else ""


def _no_profile(situation: Situation, match: Match[str], words: str, log: Log) -> TrtActionError:
    return BuildError(
        f"{situation.title} needs a shape range for every dynamic input of {quote(situation.name)}.",
        why=words,
        fix='Add the sizes that production uses: `shapes: {"input": {"min": […], "opt": […], "max": […]}}`.',
    )


def _shape_values(situation: Situation, match: Match[str], words: str, log: Log) -> TrtActionError:
    return BuildError(
        f"Input {quote(match['name'])} of {quote(situation.name)} holds sizes, not data, in a type that "
        f"{situation.title} does not take sizes in.",
        why=words,
        fix="Export the model with int64 sizes there (of a Resize: `sizes` in place of `scales`), or make them constants.",
    )


def _no_values(situation: Situation, match: Match[str], words: str, log: Log) -> TrtActionError:
    return sizes_unknown(match["name"])


def _impossible(situation: Situation, match: Match[str], words: str, log: Log) -> TrtActionError:
    """As TensorRT says it of values that cannot vary: it takes them for constants of the graph."""
    return BuildError(
        f"{situation.title} cannot compute the shapes in {quote(situation.name)}.",
        why=words,
        fix="Correct `shapes`: its shapes and `values` must fit the graph, all at once.",
    )


def _values_clash(situation: Situation, match: Match[str], words: str, log: Log) -> TrtActionError:
    which = match["which"].lower()
    return BuildError(
        f"The `{which}` shapes and values in `shapes` do not go together in {quote(situation.name)}.",
        why=words,
        fix=f"Correct `{which}` in `shapes`: the graph must be able to run with all of them at once.",
    )


def _targets(situation: Situation, match: Match[str], words: str, log: Log) -> TrtActionError:
    return BuildError(
        f"{situation.title} cannot build {quote(situation.name)} for {match['target']}: that GPU does not compute in "
        f"{match['kind']}.",
        why=words,
        fix="Leave that GPU out of `compute-capabilities` (fp8 needs 8.9 or newer, bf16 needs 8.0), or use another precision.",
    )


def _turing(situation: Situation, match: Match[str], words: str, log: Log) -> TrtActionError:
    return BuildError(
        f"{situation.title} cannot build {quote(situation.name)} for compute capability 7.5: {match['what']} "
        f"(operation {quote(match['node'])}).",
        why=words,
        fix="Use `precision: fp16` for that GPU, or leave 7.5 out of `compute-capabilities`.",
    )


def _lean(situation: Situation, match: Match[str], words: str, log: Log) -> TrtActionError:
    return BackendUnavailableError(
        f"{situation.title} needs its lean runtime to {situation.doing} a version-compatible plan, and it is not installed.",
        why=words,
        fix="Install the package `tensorrt-lean` of the same version, or set `version-compatible: none`.",
    )


def _driver(situation: Situation, match: Match[str], words: str, log: Log) -> TrtActionError:
    return BackendUnavailableError(
        f"{situation.title} could not {situation.doing} {quote(situation.name)}: the GPU's driver is missing or too old for it.",
        why=words,
        fix="Check `nvidia-smi`: the driver must support the library's CUDA. Libraries for CUDA 13 need driver 580 or newer; "
        "for an older one install those for CUDA 12 (docs/tensorrt.md).",
    )


def _out_of_memory(situation: Situation, match: Match[str] | None, words: str, log: Log) -> TrtActionError:
    return OutOfMemoryError(
        f"{situation.title} ran out of memory while it tried to {situation.doing} {quote(situation.name)}.",
        why=" ".join(part for part in (words, situation.memory) if part),
        fix="Use a smaller maximum shape or batch, a smaller `workspace`, a lower precision or `weight-streaming: auto`, "
        "or end the other processes on this GPU (`nvidia-smi`).",
    )


def _no_implementation(situation: Situation, match: Match[str], words: str, log: Log) -> TrtActionError:
    """Too little memory is often reported like this; then the warnings tell of kernels that were skipped for it."""
    if short := next((line for line in log.warnings if _NO_MEMORY.search(line)), None):
        return _out_of_memory(situation, None, f"{words} {readable(short)}", log)
    return BuildError(
        f"{situation.title} found no implementation for node {quote(match['node'])} of {quote(situation.name)}.",
        why=f"{words} That means that the workspace is too small for every kernel it has, or that the GPU has none for "
        f"this precision. {situation.memory}",
        fix="Raise `workspace`, or keep this node in higher precision with `exclude-nodes`.",
    )


def _other_gpu(situation: Situation, match: Match[str], words: str, log: Log) -> TrtActionError:
    return BuildError(
        f"{quote(situation.name)} was built for another GPU than the one that is here.",
        why=words,
        fix="Build it on this GPU, or with `hardware-compatibility` (docs/tensorrt.md).",
    )


def _other_version(situation: Situation, match: Match[str], words: str, log: Log) -> TrtActionError:
    return BuildError(
        f"{quote(situation.name)} was built by another version of {situation.title}.",
        why=words,
        fix="Build it again with the installed version.",
    )


_Error = Callable[[Situation, Match[str], str, Log], TrtActionError]
_KNOWN: tuple[tuple[re.Pattern[str], _Error], ...] = (
    (_NO_CUDA, _driver),
    (_NO_MEMORY, _out_of_memory),
    (re.compile(r"no optimization profile has been defined|has \d+ dimensions but profile"), _no_profile),
    (re.compile(r"missing values for shape input tensor (?P<name>\S+)\."), _no_values),
    (re.compile(r"k(?P<which>MIN|OPT|MAX) values for profile \d+ violate shape constraints"), _values_clash),
    (
        re.compile(r"reshape changes volume|reshape dimension is less than|ISliceLayer has out of bounds access"),
        _impossible,
    ),
    (re.compile(r"Cannot compile for target\(s\) (?P<target>[\w, ]+), because .*datatypes: (?P<kind>\w+)"), _targets),
    (re.compile(r"Cannot compile operation '(?P<node>[^']*)' for Turing \(SM75\): (?P<what>[^.]+)"), _turing),
    (re.compile(r"Unable to load library: \S*lean\S*"), _lean),
    (re.compile(r"ould not find any implementation for node (?P<node>.+?)(?: due|\.? In |\.\)|$)"), _no_implementation),
    (
        re.compile(r"incompatible (?:device|with (?:this|the) (?:device|platform|GPU))|compute capability", re.I),
        _other_gpu,
    ),
    (re.compile(r"expecting library version|Version tag does not match|version mismatch", re.I), _other_version),
)
"""In this order: what is certain before what it may hide."""
