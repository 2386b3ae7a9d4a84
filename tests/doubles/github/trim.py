"""Cuts GitHub's OpenAPI description down to what the double serves, as JSON Schema.

    npm pack @octokit/openapi@23.0.2 && tar xzf octokit-openapi-*.tgz
    python tests/doubles/github/trim.py package

Kept: parameters, request bodies and responses of `PATHS`. Dropped: prose, examples, vendor extensions. OpenAPI 3.0's
`nullable` becomes a type of JSON Schema. The description is MIT licensed (its notice is in the result).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

PATHS = {
    "/repos/{owner}/{repo}/issues/{issue_number}/comments": ("get", "post"),
    "/repos/{owner}/{repo}/issues/comments/{comment_id}": ("get", "patch", "delete"),
    "/repos/{owner}/{repo}/pulls": ("get", "post"),
    "/repos/{owner}/{repo}/dispatches": ("post",),
    "/repos/{owner}/{repo}/pulls/{pull_number}": ("get",),
    "/repos/{owner}/{repo}/commits/{commit_sha}/pulls": ("get",),
    "/repos/{owner}/{repo}/check-runs": ("post",),
    "/repos/{owner}/{repo}/statuses/{sha}": ("post",),
    "/orgs/{org}/packages/{package_type}/{package_name}/versions": ("get",),
    "/orgs/{org}/packages/{package_type}/{package_name}/versions/{package_version_id}": ("delete",),
    "/users/{username}/packages/{package_type}/{package_name}/versions": ("get",),
    "/users/{username}/packages/{package_type}/{package_name}/versions/{package_version_id}": ("delete",),
    "/user": ("get",),
}
PAGED = ("/users/{username}/packages/{package_type}/{package_name}/versions",)
"""Lists that take `page` and `per_page` although the description does not say so (GitHub's own clients page them)."""

PROSE = {"description", "example", "examples", "externalDocs", "summary", "tags", "deprecated", "title", "default"}
RESULT = Path(__file__).with_name("api.json")


def main() -> None:
    """Write `api.json` beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path, help="the unpacked npm package")
    package = parser.parse_args().package
    source = json.loads((package / "generated" / "api.github.com.json").read_text())
    version = json.loads((package / "package.json").read_text())["version"]
    schemas: dict[str, Any] = {}
    result = {
        "from": f"npm @octokit/openapi {version} (generated/api.github.com.json), cut by trim.py",
        "license": (package / "LICENSE").read_text().strip(),
        "paths": {path: {m: operation(source, path, m, schemas) for m in methods} for path, methods in PATHS.items()},
        "$defs": dict(sorted(schemas.items())),
    }
    RESULT.write_text(json.dumps(result, separators=(",", ":"), ensure_ascii=False) + "\n")


def operation(source: dict[str, Any], path: str, method: str, schemas: dict[str, Any]) -> dict[str, Any]:
    """Parameters by place, the request's schema, the schema of each response."""
    record = source["paths"][path][method]
    parameters = [
        {
            "name": p["name"],
            "in": p["in"],
            "required": p.get("required", False),
            "schema": cut(source, p["schema"], schemas),
        }
        for p in (resolve(source, one) for one in record.get("parameters", []))
    ]
    if path in PAGED:
        paging = ({"name": name, "in": "query", "required": False} for name in ("page", "per_page"))
        parameters += [one | {"schema": {"type": "integer"}} for one in paging]
    body = resolve(source, record.get("requestBody", {}))
    responses = {status: resolve(source, one) for status, one in record["responses"].items()}
    return {
        "parameters": parameters,
        "request": json_schema(source, body, schemas),
        "responses": {status: json_schema(source, one, schemas) for status, one in responses.items()},
    }


def json_schema(source: dict[str, Any], holder: dict[str, Any], schemas: dict[str, Any]) -> Any:
    """The schema of the JSON content of a request or response, or None."""
    content = holder.get("content", {}).get("application/json")
    return cut(source, content["schema"], schemas) if content else None


def resolve(source: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """What a reference points at."""
    while "$ref" in node:
        found: Any = source
        for part in node["$ref"].removeprefix("#/").split("/"):
            found = found[part.replace("~1", "/").replace("~0", "~")]
        node = found
    return node


def cut(source: dict[str, Any], node: Any, schemas: dict[str, Any]) -> Any:
    """A schema without prose, as JSON Schema; what it refers to goes into `schemas`."""
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        name = node["$ref"].rpartition("/")[2]
        if name not in schemas:
            schemas[name] = None  # schemas refer to themselves
            schemas[name] = cut(source, resolve(source, node), schemas)
        return {"$ref": f"#/$defs/{name}"}
    kept: dict[str, Any] = {}
    for key, value in node.items():
        if key in PROSE or key.startswith("x-") or key == "nullable":
            continue
        if key == "properties":
            kept[key] = {name: cut(source, one, schemas) for name, one in value.items()}
        elif isinstance(value, list) and key in ("allOf", "anyOf", "oneOf"):
            kept[key] = [cut(source, one, schemas) for one in value]
        elif isinstance(value, dict):
            kept[key] = cut(source, value, schemas)
        else:
            kept[key] = value
    return or_null(kept) if node.get("nullable") else kept


def or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The same, or null."""
    if isinstance(schema.get("type"), str) and "enum" not in schema:
        return schema | {"type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


if __name__ == "__main__":
    main()
