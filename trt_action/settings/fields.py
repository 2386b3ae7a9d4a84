"""How pydantic reads one setting and how an editor knows it: a parser and a piece of JSON Schema, side by side."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from trt_action.settings import mlflow, rules, units, values
from trt_action.settings.options import BY_NAME

METRICS = ("top1", "top5")
FUNCTION = r"[^\n]+\.py:[A-Za-z_][A-Za-z0-9_]*"
OPERATOR = r"[A-Za-z][A-Za-z0-9_]*"


@dataclass(frozen=True)
class Reads:
    """Annotation of a field. `optional`: None means unset and is not parsed."""

    parse: Callable[[Any], Any]
    schema: dict[str, Any]
    optional: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._read)

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return dict(self.schema)

    def _read(self, value: Any) -> Any:
        return None if self.optional and value is None else self.parse(value)


def _matching(pattern: str) -> dict[str, Any]:
    return {"type": "string", "pattern": rf"^\s*(?:{pattern})\s*$"}


_ONE_LINE = {
    "type": "string",
    "minLength": 1,
    "maxLength": values.MAX_TEXT,
    "pattern": r"^[^\n\r\u0000]*\S[^\n\r\u0000]*$",
}
_TIME = rf"{units.NUMBER}\s*(?:us|µs|μs|ms|s)"
_RULE = _matching(
    rf"(?:(?:[Tt][Tt][Ff][Tt]|[Ii][Tt][Ll]|[Tt][Pp][Oo][Tt]|[Ee]2[Ee])\s+)?(?:[Mm][Ee][Aa][Nn]|[Mm][Ee][Dd][Ii][Aa][Nn]|[Mm][Aa][Xx]|[Pp](?:50|90|95|99))\s*(?:<=?|≤)\s*{_TIME}(?:\s+at\s+[0-9]{{1,4}})?"
    rf"|{_TIME}|{units.NUMBER}"
)
_RULE_LINE = {"type": "string", "minLength": 1}
_POSITIVE = {"type": "number", "exclusiveMinimum": 0}
_SIZES = {
    "type": "array",
    "items": {"type": "integer", "minimum": 1, "maximum": 2**31 - 1},
    "maxItems": values.MAX_AXES,
}
_VALUES = {
    "type": "array",
    "items": {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1},
    "minItems": 1,
    "maxItems": values.MAX_VALUES,
}


def _one_or_range(numbers: dict[str, Any]) -> list[dict[str, Any]]:
    keys = ("min", "opt", "max")
    properties = dict.fromkeys(keys, numbers)
    return [
        numbers,
        {"type": "object", "properties": properties, "required": list(keys), "additionalProperties": False},
    ]


_SHAPES = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {
        "anyOf": [
            *_one_or_range(_SIZES),
            {
                "type": "object",
                "properties": {values.VALUES: {"anyOf": _one_or_range(_VALUES)}},
                "required": [values.VALUES],
                "additionalProperties": False,
            },
        ]
    },
}


def text(*, optional: bool = False) -> Reads:
    return Reads(values.text, _ONE_LINE, optional)


def word(*, optional: bool = False) -> Reads:
    return Reads(values.word, {"anyOf": [_ONE_LINE, {"type": "integer"}]}, optional)


def path(*, optional: bool = False) -> Reads:
    return Reads(values.path, _ONE_LINE, optional)


def choice(name: str) -> Reads:
    """One of the choices in the option's row; optional when the row has no default."""
    row = BY_NAME[name]
    return Reads(
        partial(values.choice, choices=row.choices),
        {"type": "string", "enum": list(row.choices)},
        row.default is None,
    )


def whole(low: int, high: int, *, optional: bool = False) -> Reads:
    return Reads(
        partial(values.whole, low=low, high=high), {"type": "integer", "minimum": low, "maximum": high}, optional
    )


def boolean() -> Reads:
    return Reads(values.boolean, {"type": "boolean"})


def device() -> Reads:
    return Reads(_device, {"type": "string", "pattern": r"^(?:auto|cpu|cuda(?::[0-9]{1,3})?)$"})


def _device(value: object) -> str:
    written = values.text(value).lower()
    if re.fullmatch(r"auto|cpu|cuda(?::[0-9]{1,3})?", written):
        return written
    raise values.BadValueError(
        "is not a device", allowed="`auto`, `cpu`, `cuda`, or `cuda:N` for the N-th visible GPU", example="cuda:0"
    )


def names(pattern: str, what: str) -> Reads:
    item = {"type": "string", "pattern": f"^(?:{pattern})$"}
    schema = {"anyOf": [{"type": "array", "items": item, "maxItems": 10_000}, {"type": "string"}]}
    return Reads(partial(values.names, pattern=pattern, what=what), schema)


def percent(*, low: str = "0", high: str = "100000", inside: bool = False, optional: bool = False) -> Reads:
    return Reads(
        partial(units.percent, low=low, high=high, inside=inside), _matching(rf"\+?{units.NUMBER}\s*%"), optional
    )


def duration(*, bare: bool = False) -> Reads:
    written = _matching(rf"\+?{units.NUMBER}\s*(?:us|µs|μs|ms|s|m|min|h)" + ("|" + units.NUMBER if bare else ""))
    return Reads(partial(units.duration, bare=bare), {"anyOf": [written, _POSITIVE]} if bare else written)


def size(*, zero: bool = False, optional: bool = False) -> Reads:
    return Reads(partial(units.size, zero=zero), _matching(rf"\+?{units.NUMBER}\s*(?:[KkMmGgTt][Ii]?)?[Bb]"), optional)


def device_memory(*words: str) -> Reads:
    """One of `words`, a size, or a share of the GPU's memory."""
    written = _matching(rf"{'|'.join(words)}|\+?{units.NUMBER}\s*(?:%|(?:[KkMmGgTt][Ii]?)?[Bb])")
    return Reads(partial(_device_memory, words=words), written)


def _device_memory(value: object, words: tuple[str, ...]) -> str:
    """As `units` prints it, so that equal amounts are written alike."""
    if isinstance(value, str) and value.strip() in words:
        return value.strip()
    try:
        if isinstance(value, str) and value.strip().endswith("%"):
            return units.percent_text(units.percent(value, low="1", high="100"))
        return units.size_text(units.size(value))
    except values.BadValueError as error:
        alternatives = ", ".join(f"`{word}`" for word in words)
        raise values.BadValueError(
            error.reason, allowed=f"{alternatives}, a size (`4GB`) or a share (`80%`)", example="4GB"
        ) from None


def capabilities() -> Reads:
    """Compute capabilities as NVIDIA writes them; YAML reads `8.9` as a number."""
    one = {
        "anyOf": [{"type": "string", "pattern": r"^(?:[0-9]{1,2}\.[0-9]|(?:sm_?|SM_?)[0-9]{2,3})$"}, {"type": "number"}]
    }
    return Reads(_capabilities, {"anyOf": [{"type": "array", "items": one, "maxItems": 64}, {"type": "string"}]})


def _capabilities(value: object) -> tuple[str, ...]:
    items = [str(item) if isinstance(item, float) else item for item in value] if isinstance(value, list) else value
    pattern = r"[0-9]{1,2}\.[0-9]|[sS][mM]_?[0-9]{2,3}"
    names = values.names(items, pattern=pattern, what="compute capabilities, e.g. `8.9` or `sm_89`")
    return tuple(dict.fromkeys(_dotted(name) for name in names))


def _dotted(name: str) -> str:
    """`sm_89` → `8.9`."""
    digits = name.lower().removeprefix("sm").removeprefix("_")
    return digits if "." in digits else f"{digits[:-1]}.{digits[-1]}"


def rate(*, optional: bool = False) -> Reads:
    return Reads(rules.rate, _matching(rf"\+?{units.NUMBER}\s*(?:samples\s*|tok(?:ens)?\s*)?/s"), optional)


def url(*, optional: bool = False) -> Reads:
    return Reads(values.url, {"type": "string", "pattern": r"^\s*https?://[^\s@?#]+\s*$"}, optional)


def tracking_uri() -> Reads:
    return Reads(mlflow.tracking_uri, {"type": "string", "pattern": r"^\s*https?://[^\s@?#]+\s*$"}, optional=True)


def registered_name() -> Reads:
    return Reads(
        mlflow.registered_name, {**_ONE_LINE, "maxLength": 256, "pattern": r"^[^\n\r\u0000/:]*$"}, optional=True
    )


def model_alias() -> Reads:
    return Reads(mlflow.alias, _matching("[A-Za-z0-9_-]{1,255}"), optional=True)


def arguments() -> Reads:
    return Reads(values.arguments, _ONE_LINE, optional=True)


def whole_numbers(low: int, high: int) -> Reads:
    one = {"type": "integer", "minimum": low, "maximum": high}
    several = {"type": "array", "items": one, "minItems": 1, "maxItems": 16}
    return Reads(partial(values.whole_numbers, low=low, high=high), {"anyOf": [several, one, {"type": "string"}]})


def latency_rules() -> Reads:
    one = {"anyOf": [_RULE, _POSITIVE]}
    several = {"type": "array", "items": one, "minItems": 1, "maxItems": 32}
    return Reads(rules.latency_rules, {"anyOf": [_RULE_LINE, _POSITIVE, several]})


def accuracy_drop() -> Reads:
    written = _matching(rf"\+?{units.NUMBER}\s*(?:%\s*(?:relative|points|absolute)?)?")
    return Reads(rules.accuracy_drop, {"anyOf": [written, {"type": "number", "minimum": 0}]}, optional=True)


def min_accuracy() -> Reads:
    written = _matching(rf"\+?{units.NUMBER}\s*%?")
    return Reads(rules.min_accuracy, {"anyOf": [written, {"type": "number", "minimum": 0}]}, optional=True)


def shapes() -> Reads:
    return Reads(values.shapes, _SHAPES, optional=True)


def metric() -> Reads:
    return Reads(_metric, {"anyOf": [{"type": "string", "enum": list(METRICS)}, _matching(FUNCTION)]})


def _metric(value: object) -> str:
    written = values.text(value)
    if written in METRICS or re.fullmatch(FUNCTION, written):
        return written
    near = values.nearest(written, METRICS)
    raise values.BadValueError(
        f"is not a metric; did you mean `{near}`?" if near else "is not a metric",
        allowed="`top1`, `top5`, or your own `file.py:function`",
        example=near or "top1",
    )


def cache() -> Reads:
    return Reads(_cache, {"anyOf": [{"type": "boolean"}, _ONE_LINE]})


def _cache(value: object) -> Path | Literal["auto"] | None:
    if isinstance(value, bool):
        return "auto" if value else None
    written = values.text(value)
    if written in {"auto", "true"}:
        return "auto"
    return None if written == "false" else Path(written)
