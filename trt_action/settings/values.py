"""Plain values: text, whole numbers, booleans, choices, lists, shapes. Text comes from the command line and the
environment, typed values from a config file; both forms mean the same.
"""

from __future__ import annotations

import difflib
import math
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

MAX_TEXT = 4096
SHOWN = 80


class BadValueError(ValueError):
    """A value that a setting cannot take. pydantic collects it; `explain.py` adds the key and the place.

    Args:
        reason: what is wrong with the value, without the key: "has no unit".
        allowed: what would be right, as a list in words.
        example: one value that would be accepted.
    """

    def __init__(self, reason: str, *, allowed: str, example: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.allowed = allowed
        self.example = example


def shown(value: object, limit: int = SHOWN) -> str:
    """A foreign value for a message: one line, printable, at most `limit` characters."""
    text = value if isinstance(value, str) else _as_text(value)
    printable = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text[: limit + 1])
    return printable if len(printable) <= limit else printable[: limit - 1] + "…"


def _as_text(value: object) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def nearest(name: str, valid: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The valid name that a person most likely meant, or None."""
    spellings = {_spelling(word): word for word in valid}
    found = difflib.get_close_matches(_spelling(name[:100]), list(spellings), n=1, cutoff=cutoff)
    return spellings[found[0]] if found else None


def _spelling(name: str) -> str:
    return name.lower().replace("_", "-")


def decimal(number: float) -> str:
    """The shortest decimal that reads back as the same float, without an exponent: 0.5, 50, 0.00002."""
    written = format(Decimal(repr(float(number))), "f")
    return written.rstrip("0").rstrip(".") if "." in written else written


def text(value: object) -> str:
    """One line of text without control characters.

    Raises:
        BadValueError: not text, empty, too long, or with characters that cannot be printed.
    """
    allowed = f"one line of at most {MAX_TEXT} printable characters"
    if isinstance(value, Path):
        value = str(value)
    if not isinstance(value, str):
        raise BadValueError("is not text", allowed=allowed)
    stripped = value.strip()
    if not stripped or len(stripped) > MAX_TEXT:
        raise BadValueError("is empty" if not stripped else "is too long", allowed=allowed)
    if not stripped.isprintable():
        raise BadValueError("holds control characters or is not UTF-8", allowed=allowed)
    return stripped


def word(value: object) -> str:
    """`text`, or a whole number that was meant as one: `name: 2024`, or a commit of digits only."""
    return text(str(value) if isinstance(value, int) and not isinstance(value, bool) else value)


def path(value: object) -> Path:
    """Raises: BadValueError: not text that can be a path, or one that only a shell expands."""
    written = text(value)
    if written.startswith("~"):
        raise BadValueError("starts with `~`, which only a shell expands", allowed="the whole path")
    return Path(written)


def whole(value: object, low: int, high: int) -> int:
    """A whole number in [low, high]; from text, ASCII digits only.

    Raises:
        BadValueError: anything else, booleans included.
    """
    allowed = f"a whole number from {low} to {high}"
    if isinstance(value, str) and re.fullmatch(r"\s*[-+]?[0-9]{1,18}\s*", value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadValueError("is not a whole number", allowed=allowed, example=str(max(low, 1)))
    if not low <= value <= high:
        raise BadValueError("is out of range", allowed=allowed, example=str(max(low, 1)))
    return value


def number(value: object) -> float | None:
    """A finite number that YAML or TOML gave as a number; None for everything else (text and booleans too)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def boolean(value: object) -> bool:
    """Exactly `true` or `false`.

    Raises:
        BadValueError: `yes`, `1`, `True` and the like: they mean different things in different tools.
    """
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return value == "true"
    raise BadValueError("is not a boolean", allowed="exactly `true` or `false`", example="true")


def choice(value: object, choices: Sequence[str]) -> str:
    """Raises: BadValueError: not one of `choices`; names the nearest."""
    if isinstance(value, str) and value.strip() in choices:
        return value.strip()
    near = nearest(value, choices) if isinstance(value, str) else None
    reason = f"is not one of the choices; did you mean `{near}`?" if near else "is not one of the choices"
    raise BadValueError(reason, allowed=", ".join(f"`{item}`" for item in choices), example=near or choices[0])


def names(value: object, pattern: str, what: str) -> tuple[str, ...]:
    """A list of names; as text separated by commas or line ends, or a list in brackets.

    Raises:
        BadValueError: an entry does not match `pattern`, or there are more than 10,000.
    """
    allowed = f"a list of {what}"
    if isinstance(value, str):
        bare = value.strip()
        bare = bare[1:-1] if bare.startswith("[") and bare.endswith("]") else bare
        items: Sequence[Any] = [
            item.strip().strip("\"'") for item in bare.replace("\n", ",").split(",") if item.strip()
        ]
    elif isinstance(value, (list, tuple)):
        items = value
    else:
        raise BadValueError("is not a list", allowed=allowed)
    if len(items) > 10_000:
        raise BadValueError("has more than 10,000 entries", allowed=allowed)
    for item in items:
        if not isinstance(item, str) or not item.isprintable() or not re.fullmatch(pattern, item):
            raise BadValueError(f"holds `{shown(item)}`", allowed=allowed)
    return tuple(items)


Sizes = list[int] | dict[str, list[int]]
"""One for all, or `min`, `opt` and `max`."""

Shapes = dict[str, list[int] | dict[str, list[int] | dict[str, list[int]]]]
"""By input: the `Sizes` of its axes, or `{"values": …}` with the `Sizes` of the numbers that it holds."""

MAX_AXES = 32
MAX_VALUES = 64
"""Numbers in one input; TensorRT takes no more in a tensor that decides shapes. Each has 32 bits, whatever the input's
type: no size is larger."""

VALUES = "values"
_SHAPES = (
    "`{input: [1, 3, 224, 224]}` or `{input: {min: […], opt: […], max: […]}}`, sizes from 1 to 2147483647, "
    "min ≤ opt ≤ max; for an input that holds sizes itself `{input: {values: {min: […], opt: […], max: […]}}}`"
)


def shapes(value: object) -> Shapes:
    """Input name to a fixed shape, or to `min`, `opt` and `max`; or to `values`, which hold either.

    Raises:
        BadValueError: another form, ranks that differ, or sizes out of order.
    """
    if not isinstance(value, Mapping) or not value:
        raise BadValueError("is not a mapping from input names to shapes", allowed=_SHAPES)
    return {_input_name(name): _shape_or_values(name, entry) for name, entry in value.items()}


def _input_name(name: object) -> str:
    if not isinstance(name, str) or not name or len(name) > 1000:
        raise BadValueError(f"has the input name `{shown(name)}`", allowed=_SHAPES)
    return name


def _shape_or_values(name: str, entry: object) -> list[int] | dict[str, list[int] | dict[str, list[int]]]:
    if isinstance(entry, Mapping) and VALUES in entry:
        if len(entry) > 1:
            raise BadValueError(f"has more than `values` for `{shown(name)}`", allowed=_SHAPES)
        return {VALUES: _one_or_range(name, entry[VALUES], _values)}
    found = _one_or_range(name, entry, _shape)
    return found if isinstance(found, list) else {**found}


def _one_or_range(name: str, entry: object, read: Callable[[str, object], list[int]]) -> Sizes:
    if not isinstance(entry, Mapping):
        return read(name, entry)
    if set(entry) != {"min", "opt", "max"}:
        raise BadValueError(f"needs exactly `min`, `opt` and `max` for `{shown(name)}`", allowed=_SHAPES)
    low, opt, high = (read(name, entry[key]) for key in ("min", "opt", "max"))
    if not len(low) == len(opt) == len(high):
        raise BadValueError(f"has `min`, `opt` and `max` of different lengths for `{shown(name)}`", allowed=_SHAPES)
    if not all(a <= b <= c for a, b, c in zip(low, opt, high, strict=True)):
        raise BadValueError(f"is not in the order min ≤ opt ≤ max for `{shown(name)}`", allowed=_SHAPES)
    return {"min": low, "opt": opt, "max": high}


def _shape(name: str, entry: object) -> list[int]:
    if not isinstance(entry, (list, tuple)) or len(entry) > MAX_AXES:
        raise BadValueError(f"has no list of sizes for `{shown(name)}`", allowed=_SHAPES)
    for size in entry:
        if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size < 2**31:
            raise BadValueError(f"has the size `{shown(size)}` for `{shown(name)}`", allowed=_SHAPES)
    return list(entry)


def _values(name: str, entry: object) -> list[int]:
    """Any whole numbers: -1 and 0 have a meaning in the target of a Reshape, and a large one in the end of a Slice."""
    if not isinstance(entry, (list, tuple)) or not 1 <= len(entry) <= MAX_VALUES:
        raise BadValueError(f"has no list of 1 to {MAX_VALUES} values for `{shown(name)}`", allowed=_SHAPES)
    for value in entry:
        if not isinstance(value, int) or isinstance(value, bool) or not -(2**31) <= value < 2**31:
            raise BadValueError(f"has the value `{shown(value)}` for `{shown(name)}`", allowed=_SHAPES)
    return list(entry)


def whole_numbers(value: object, low: int, high: int) -> tuple[int, ...]:
    """`1,4,16` or a list, ascending and without repetition.

    Raises:
        BadValueError: not whole numbers in [low, high], none, or more than 16.
    """
    allowed = f"1 to 16 whole numbers from {low} to {high}, e.g. `1,4,16`"
    if isinstance(value, str):
        bare = value.strip().removeprefix("[").removesuffix("]")
        value = [item.strip() for item in bare.replace("\n", ",").split(",") if item.strip()]
    elif isinstance(value, int) and not isinstance(value, bool):
        value = [value]
    if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= 16:
        raise BadValueError("is no list of whole numbers", allowed=allowed, example="1,4,16")
    return tuple(sorted({whole(item, low, high) for item in value}))


def arguments(value: object) -> str:
    """Raises: BadValueError: a quotation that does not end."""
    written = text(value)
    try:
        shlex.split(written)
    except ValueError as error:
        raise BadValueError(
            f"cannot be split as a shell does ({error})", allowed="arguments, quoted as in a shell"
        ) from None
    return written


def http_parts(written: str) -> SplitResult | None:
    """The parts of an address of http or https with a host; None of anything else."""
    try:
        parts = urlsplit(written)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return None
    sound = parts.scheme in {"http", "https"} and host and not any(c.isspace() for c in written)
    return parts if sound else None


def url(value: object) -> str:
    """Without a slash at its end. Whatever could be a secret has no place in it: it is shown in reports.

    Raises:
        BadValueError: not http or https, no host, with a user, a query or a fragment.
    """
    allowed = "a URL such as `http://host:8000/v1`"
    written = text(value)
    parts = http_parts(written)
    if parts is None:
        raise BadValueError("is no URL of http or https", allowed=allowed, example="http://host:8000/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise BadValueError(
            "holds a user, a query or a fragment",
            allowed=f"{allowed}; a key belongs into the environment (TRT_ACTION_ENDPOINT_KEY)",
            example="http://host:8000/v1",
        )
    return written.rstrip("/")
