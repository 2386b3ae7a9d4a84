"""How an API server reads patches: strategic merge, JSON merge (RFC 7386), JSON patch (RFC 6902), apply.

https://github.com/kubernetes/community/blob/main/contributors/devel/sig-api-machinery/strategic-merge-patch.md
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import yaml

Json = dict[str, Any]
Patcher = Callable[[Json, bytes], Json]

MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "imagePullSecrets": "name",
    "conditions": "type",
    "ownerReferences": "uid",
}


class BadPatchError(Exception):
    """It cannot be applied."""


def strategic(found: Json, body: bytes) -> Json:
    return _strategic(copy.deepcopy(found), _object(body))


def merge(found: Json, body: bytes) -> Json:
    return dict(_merge(copy.deepcopy(found), _object(body)))


def apply(found: Json, body: bytes) -> Json:
    """Server-side apply, without the ownership of fields."""
    data = yaml.safe_load(body)
    if not isinstance(data, dict):
        raise BadPatchError("an apply patch is an object")
    return _strategic(copy.deepcopy(found), data)


def operations(found: Json, body: bytes) -> Json:
    result: Any = copy.deepcopy(found)
    for one in json.loads(body):
        parts = [part.replace("~1", "/").replace("~0", "~") for part in one["path"].split("/")[1:]]
        holder = result
        for part in parts[:-1]:
            holder = holder[int(part)] if isinstance(holder, list) else holder[part]
        key: Any = int(parts[-1]) if isinstance(holder, list) and parts[-1] != "-" else parts[-1]
        if one["op"] == "test":
            if holder[key] != one["value"]:
                raise BadPatchError(f"test failed at {one['path']}")
        elif one["op"] == "remove":
            del holder[key]
        elif one["op"] in ("add", "replace"):
            if one["op"] == "replace" and key not in holder:
                raise BadPatchError(f"nothing to replace at {one['path']}")
            if isinstance(holder, list):
                holder.insert(len(holder) if key == "-" else key, one["value"])
            else:
                holder[key] = one["value"]
        else:
            raise BadPatchError(f"unknown operation {one['op']}")
    return dict(result)


PATCHERS: dict[str, Patcher] = {
    "application/strategic-merge-patch+json": strategic,
    "application/merge-patch+json": merge,
    "application/json-patch+json": operations,
    "application/apply-patch+yaml": apply,
}


def _object(body: bytes) -> Json:
    data = json.loads(body)
    if not isinstance(data, dict):
        raise BadPatchError("a patch is an object")
    return data


def _merge(found: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    result = found if isinstance(found, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merge(result.get(key), value)
    return result


def _strategic(found: Json, patch: Json) -> Json:
    if patch.get("$patch") == "replace":
        return {key: value for key, value in patch.items() if key != "$patch"}
    for key, value in patch.items():
        if key.startswith(("$setElementOrder/", "$retainKeys", "$patch")):
            continue
        if key.startswith("$deleteFromPrimitiveList/"):
            raise BadPatchError(key)
        if value is None:
            found.pop(key, None)
        elif isinstance(value, dict):
            found[key] = _strategic(found.get(key) or {}, value)
        elif isinstance(value, list) and key in MERGE_KEYS:
            found[key] = _list(found.get(key) or [], value, MERGE_KEYS[key])
        else:
            found[key] = value
    return found


def _list(found: list[Json], patch: list[Json], key: str) -> list[Json]:
    result = list(found)
    for one in patch:
        if key not in one:
            raise BadPatchError(f"map: {one} does not contain declared merge key: {key}")
        place = next((n for n, old in enumerate(result) if old.get(key) == one[key]), None)
        if one.get("$patch") == "delete":
            result = [old for old in result if old.get(key) != one[key]]
        elif place is None:
            result.append(_strategic({}, one))
        else:
            result[place] = _strategic(result[place], one)
    return result
