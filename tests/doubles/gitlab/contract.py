"""What GitLab's REST API v4 takes and answers, as far as we ask it: written after GitLab's own OpenAPI description
(`doc/api/openapi/openapi_v3.yaml`), which `against.py` holds it to.

The description itself is not kept here: it is licensed CC BY-SA. It marks no field of an answer as required, types lists as
single objects in older versions, and does not say what a 4xx holds; the rest is after https://docs.gitlab.com/api/rest/.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker

_TEXT, _NUMBER, _FLAG = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
_TIME = {"type": "string", "format": "date-time"}


def _record(**fields: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(fields), "properties": fields}


USER = _record(id=_NUMBER, username=_TEXT, name=_TEXT, state=_TEXT, web_url=_TEXT)
NOTE = _record(
    id=_NUMBER, body=_TEXT, author=USER, created_at=_TIME, updated_at=_TIME, system=_FLAG,
    noteable_id=_NUMBER, noteable_type=_TEXT, noteable_iid=_NUMBER, resolvable=_FLAG, internal=_FLAG,
)  # fmt: skip
MERGE_REQUEST = _record(id=_NUMBER, iid=_NUMBER, project_id=_NUMBER, sha=_TEXT, state=_TEXT, source_branch=_TEXT)
STATUS = _record(id=_NUMBER, sha=_TEXT, ref=_TEXT, status=_TEXT, name=_TEXT)
_BODY = {"type": "object", "required": ["body"], "properties": {"body": _TEXT}, "additionalProperties": False}
_STATE = {"type": "string", "enum": ["pending", "running", "success", "failed", "canceled", "skipped"]}

NOTES = "/projects/{id}/merge_requests/{noteable_id}/notes"
OPERATIONS: dict[tuple[str, str], dict[str, Any]] = {
    ("GET", "/user"): {"query": {}, "body": None, "answer": {200: USER}},
    ("GET", "/projects/{id}/merge_requests/{merge_request_iid}"): {
        "query": {},
        "body": None,
        "answer": {200: MERGE_REQUEST},
    },
    ("GET", NOTES): {
        "query": {
            "order_by": {"enum": ["created_at", "updated_at"]},
            "sort": {"enum": ["asc", "desc"]},
            "activity_filter": {"enum": ["all_notes", "only_comments", "only_activity"]},
            "page": _NUMBER,
            "per_page": _NUMBER,
        },
        "body": None,
        "answer": {200: {"type": "array", "items": NOTE}},
    },
    ("POST", NOTES): {"query": {}, "body": _BODY, "answer": {201: NOTE, 202: {"type": "object"}}},
    ("PUT", NOTES + "/{note_id}"): {"query": {}, "body": _BODY, "answer": {200: NOTE}},
    ("DELETE", NOTES + "/{note_id}"): {"query": {}, "body": None, "answer": {204: None}},
    ("POST", "/projects/{id}/statuses/{sha}"): {
        "query": {},
        "body": {
            "type": "object",
            "required": ["state"],
            "properties": {
                "state": _STATE, "name": _TEXT, "description": _TEXT, "target_url": _TEXT, "pipeline_id": _NUMBER,
            },
            "additionalProperties": False,
        },
        "answer": {200: STATUS, 201: STATUS},
    },
}  # fmt: skip


@dataclass(frozen=True)
class Operation:
    """One method of one path, with the values in the path."""

    method: str
    template: str
    values: dict[str, str]

    @property
    def record(self) -> dict[str, Any]:
        return OPERATIONS[self.method, self.template]


def find(method: str, path: str) -> Operation | None:
    """The operation of a request, or None if there is none that we know."""
    for known, template in OPERATIONS:
        match = re.fullmatch(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", template), path)
        if match and known == method:
            return Operation(method, template, match.groupdict())
    return None


def request_problems(operation: Operation, query: dict[str, str], body: Any) -> list[str]:
    """What is wrong with this request."""
    described = operation.record["query"]
    found = [f"unknown parameter {name}" for name in query if name not in described]
    for name, text in query.items():
        found += problems(described.get(name, {}), int(text) if text.isdecimal() else text)
    schema = operation.record["body"]
    if schema is None:
        return found + (["a body where none is expected"] if body is not None else [])
    return found + problems(schema, body)


def response_problems(operation: Operation, status: int, data: Any) -> list[str]:
    """What is wrong with an answer of the double's."""
    if status >= 400:
        return [] if isinstance(data, dict) and ("message" in data or "error" in data) else ["an error says nothing"]
    schemas = operation.record["answer"]
    if status not in schemas:
        return [f"status {status} is not described"]
    if schemas[status] is None:
        return [] if data is None else ["a body where none is described"]
    return problems(schemas[status], data)


def problems(schema: dict[str, Any], data: Any) -> list[str]:
    """Violations of a schema, as `place: message`."""
    validator = Draft202012Validator(schema, format_checker=FormatChecker())
    return [f"{'.'.join(map(str, e.absolute_path))}: {e.message[:300]}" for e in validator.iter_errors(data)]
