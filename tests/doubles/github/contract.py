"""GitHub's own description of its API: which requests it takes, what it answers, and minimal valid records."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry
from referencing.jsonschema import DRAFT202012

DESCRIPTION = json.loads(Path(__file__).with_name("api.json").read_text())
_ROOT = "urn:github"
_REGISTRY: Registry[Any] = Registry().with_resource(_ROOT, DRAFT202012.create_resource({"$defs": DESCRIPTION["$defs"]}))
_EXAMPLES = {
    "uri": "https://github.invalid/",
    "date-time": "2030-01-02T03:04:05Z",
    "email": "ada@github.invalid",
    "hex": "0" * 40,
}


@dataclass(frozen=True)
class Operation:
    """One method of one path, with the values in the path."""

    template: str
    method: str
    values: dict[str, str]

    @property
    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = DESCRIPTION["paths"][self.template][self.method.lower()]
        return found


def find(method: str, path: str) -> Operation | None:
    """The operation of a request, or None if GitHub (as described) has none."""
    for template, methods in DESCRIPTION["paths"].items():
        form = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(template))
        match = re.fullmatch(form, path)
        if match and method.lower() in methods:
            return Operation(template, method, match.groupdict())
    return None


def request_problems(operation: Operation, query: dict[str, str], body: Any) -> list[str]:
    """What GitHub's description says against this request."""
    described = {(one["in"], one["name"]): one for one in operation.record["parameters"]}
    found = [f"unknown parameter {name}" for name in query if ("query", name) not in described]
    for (place, name), one in described.items():
        text = query.get(name) if place == "query" else operation.values.get(name) if place == "path" else None
        if text is not None:
            found += [f"{name}: {p}" for p in problems(one["schema"], _typed(text, one["schema"]))]
        elif one["required"]:
            found.append(f"parameter {name} is missing")
    schema = operation.record["request"]
    if schema is None:
        return found + (["a body where none is expected"] if body is not None else [])
    allowed = set(schema.get("properties", {}))
    unknown = sorted(set(body) - allowed) if isinstance(body, dict) and allowed else []
    return found + [f"unknown key {key}" for key in unknown] + problems(schema, body)


def response_problems(operation: Operation, status: int, data: Any) -> list[str]:
    """What GitHub's description says against this answer. Statuses that it does not list are errors with a message."""
    schemas = operation.record["responses"]
    if str(status) not in schemas:
        return (
            problems({"$ref": "#/$defs/basic-error"}, data) if status >= 400 else [f"status {status} is not described"]
        )
    schema = schemas[str(status)]
    if schema is None:
        return [] if data is None else ["a body where none is described"]
    return problems(schema, data)


def problems(schema: dict[str, Any], data: Any) -> list[str]:
    """Violations of a schema, as `place: message`."""
    validator = Draft202012Validator(_absolute(schema), registry=_REGISTRY, format_checker=FormatChecker())
    return [f"{'.'.join(map(str, e.absolute_path))}: {e.message[:300]}" for e in validator.iter_errors(data)]


def minimal(name: str) -> Any:
    """The smallest record that a schema of the description allows: every required field, nothing else."""
    return _minimal(DESCRIPTION["$defs"][name])


def _absolute(schema: Any) -> Any:
    """References of a fragment, pointed at the registered document."""
    if isinstance(schema, dict):
        return {
            key: _ROOT + value if key == "$ref" and value.startswith("#") else _absolute(value)
            for key, value in schema.items()
        }
    return [_absolute(one) for one in schema] if isinstance(schema, list) else schema


def _typed(text: str, schema: dict[str, Any]) -> Any:
    kind = schema.get("type")
    if kind == "integer" and re.fullmatch(r"-?\d+", text):
        return int(text)
    return text == "true" if kind == "boolean" and text in ("true", "false") else text


def _minimal(schema: dict[str, Any]) -> Any:  # noqa: C901 - one line per form of a schema
    if "$ref" in schema:
        return _minimal(DESCRIPTION["$defs"][schema["$ref"].rpartition("/")[2]])
    if "enum" in schema:
        return schema["enum"][0]
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return None if {"type": "null"} in schema[key] else _minimal(schema[key][0])
    if "allOf" in schema:
        merged: dict[str, Any] = {}
        for one in schema["allOf"]:
            merged |= _minimal(one)
        return merged
    kind = schema.get("type", "object")
    if isinstance(kind, list):
        return None
    if kind == "object":
        return {name: _minimal(schema["properties"][name]) for name in schema.get("required", ())}
    if kind == "array":
        return []
    if kind == "string":
        return _EXAMPLES.get(schema.get("format", ""), "x" * schema.get("minLength", 1))
    return {"integer": 1, "number": 1, "boolean": False}[kind]
