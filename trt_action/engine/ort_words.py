"""What ONNX Runtime says, made readable: without C++ source lines, error codes, and names of temporary folders."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

LONGEST = 600
"""Characters of foreign text that a message keeps."""

_CODE = re.compile(r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ?")
_LOADING = re.compile(r"Load model from \S+ failed: ?")
_SOURCE = re.compile(r"(?:/\S+/)?[\w.-]+\.(?:cc|h|hpp|cpp):\d+ ")
_UNSUPPORTED = (
    re.compile(
        r"Could not find an implementation for (?P<op>[\w.:]+)\((?P<version>-?\d+)\) node with name '(?P<node>[^']*)'"
    ),
    re.compile(r"No Op registered for (?P<op>[\w.:]+) with domain_version of (?P<version>\d+)"),
    re.compile(r"(?P<op>[\w.:]+)\((?P<version>-?\d+)\) is not a registered function/op"),
    # The optimiser made a node that no provider has a kernel for, e.g. on CUDA in bfloat16.
    re.compile(r"Provider type for (?P<op>[\w.:]+) node with name '(?P<node>[^']*)' is not set"),
)
_OUT_OF_MEMORY = (
    "bad_alloc",
    "Failed to allocate memory",
    "bad allocation",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def readable(error: BaseException, paths: Iterable[Path] = ()) -> str:
    """The message of an exception from ONNX Runtime; each of `paths` is reduced to its file name.

    Returns:
        One line, printable, at most 600 characters.
    """
    text = str(error)[:20_000]
    for path in paths:
        for name in {str(path), str(path.absolute()), str(path.resolve())}:
            text = text.replace(name, path.name)
        for folder in {str(path.parent.absolute()), str(path.parent.resolve())} - {"/"}:
            text = text.replace(folder + "/", "")
    text = _LOADING.sub("", _CODE.sub("", text))
    text = _without_source(text)
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text[:LONGEST] or type(error).__name__


def unsupported_operator(error: BaseException) -> tuple[str, str, str] | None:
    """Operator (`domain:Type`), ` (version n)` or nothing, and node name, if that is what the exception is about."""
    for pattern in _UNSUPPORTED:
        if found := pattern.search(str(error)):
            parts = found.groupdict()
            version = f" (version {parts['version']})" if int(parts.get("version") or 0) > 0 else ""
            return found["op"], version, parts.get("node") or ""
    return None


def is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or any(word in str(error) for word in _OUT_OF_MEMORY)


def _without_source(text: str) -> str:
    """Drop every `file.cc:123 void f(const T&) ` that its macros put before the words for people."""
    while found := _SOURCE.search(text):
        end = _after_signature(text, found.end())
        text = text[: found.start()] + text[end:]
    return text


def _after_signature(text: str, start: int) -> int:
    """Where the words begin after a C++ function's signature, or `start` if there is none.

    A signature has `::` before its bracket (`T ns::f(args) const`, also followed by `::<lambda(x)>` and `[with …]`).
    """
    opening = text.find("(", start)
    if opening < 0 or "::" not in text[start:opening] or "\n" in text[start:opening]:
        return start
    depth = 0
    for index in range(opening, len(text)):
        depth += (text[index] in "([") - (text[index] in ")]")
        if depth == 0 and not re.match(r"\s*(?:const\b|\(|\[with)", text[index + 1 :]):
            return _after_const(text, index + 1)
    return start


def _after_const(text: str, index: int) -> int:
    tail = re.match(r"\s*(?:const)?(?:::<lambda\([^>]*\)>)?\s*", text[index:])
    return index + (tail.end() if tail else 0)
