"""Holds `contract.py` to GitLab's own OpenAPI description, which is not kept here (4 MB, CC BY-SA):

    python tests/doubles/gitlab/against.py openapi_v3.yaml

Says what our contract has and the description has not; ends with 1 if there is anything. Last run: see docs/gitlab.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.doubles.gitlab.contract import OPERATIONS

PREFIX = "/api/v4"


def main() -> int:
    """Print every difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("description", type=Path)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    document = yaml.load(parser.parse_args().description.read_bytes(), Loader=loader)  # noqa: S506 - both are safe
    found = [line for key, ours in OPERATIONS.items() for line in _differences(document, *key, ours)]
    sys.stdout.write("\n".join(found) + f"\n{len(OPERATIONS)} operations, {len(found)} differences\n")
    return 1 if found else 0


def _differences(document: Any, method: str, template: str, ours: dict[str, Any]) -> list[str]:
    name = f"{method} {template}"
    theirs = document["paths"].get(PREFIX + template, {}).get(method.lower())
    if theirs is None:
        return [f"{name}: not described"]
    found = []
    described = {one["name"]: one["schema"] for one in theirs.get("parameters") or [] if one["in"] == "query"}
    for parameter, schema in ours["query"].items():
        if parameter not in described:
            found.append(f"{name}: no parameter {parameter}")
        elif set(schema.get("enum", [])) - set(described[parameter].get("enum") or schema.get("enum", [])):
            found.append(f"{name}: {parameter} takes other values")
    if ours["body"] is not None:
        schema = _schema(document, theirs["requestBody"]["content"])
        found += [f"{name}: no field {one} in the body" for one in set(ours["body"]["properties"]) - set(schema)]
        found += [
            f"{name}: {one} takes other values"
            for one, field in ours["body"]["properties"].items()
            if set(field.get("enum", [])) - set(schema.get(one, {}).get("enum") or field.get("enum", []))
        ]
    for status, answer in ours["answer"].items():
        if answer and (content := theirs["responses"].get(str(status), {}).get("content")):
            fields = answer.get("items", answer).get("properties", {})
            found += [f"{name}: no field {one} in {status}" for one in set(fields) - set(_schema(document, content))]
    return found


def _schema(document: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    """The fields of a body, through references and lists."""
    schema: Any = next(iter(content.values()))["schema"]
    while "$ref" in schema or schema.get("type") == "array" or "allOf" in schema:
        if "$ref" in schema:
            schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        elif "allOf" in schema:
            schema = schema["allOf"][0]
        else:
            schema = schema["items"]
    return dict(schema.get("properties", {}))


if __name__ == "__main__":
    sys.exit(main())
