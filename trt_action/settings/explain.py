"""From a refused value to words: the key, the value, the place, what is allowed, the nearest valid name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from pydantic import ValidationError

from trt_action.errors import SettingsError
from trt_action.settings.options import BY_NAME
from trt_action.settings.values import BadValueError, nearest, shown


def unknown_key(key: object, where: str, valid: Iterable[str]) -> SettingsError:
    """A key that no setting has; `valid` are the names that would be right in that place."""
    near = nearest(str(key), valid)
    return SettingsError(
        f"Unknown setting `{shown(key)}` ({where}).",
        why="A setting that is not understood is not ignored: a gate that never ran would look like one that passed.",
        fix=f"Did you mean `{near}`?" if near else "",
    )


def refused(error: ValidationError, where: Callable[[str], str]) -> SettingsError:
    """The first refused value in full, the others by name.

    Args:
        where: place of a key, e.g. `.trt-action.yml, line 7`.
    """
    details = error.errors(include_url=False)
    first, others = details[0], [str(detail["loc"][0]) for detail in details[1:] if detail["loc"]]
    key = str(first["loc"][0]) if first["loc"] else "settings"
    complaint = first.get("ctx", {}).get("error")
    if first["type"] == "missing":
        return no_model()
    if not isinstance(complaint, BadValueError):
        complaint = BadValueError(f"is not accepted ({shown(first['msg'], 200)})", allowed=_allowed(key))
    also = f" Also refused: {', '.join(f'`{shown(other)}`' for other in dict.fromkeys(others))}." if others else ""
    return SettingsError(
        f"`{shown(key)}: {_value(first['input'])}` ({where(key)}) {complaint.reason}{'' if complaint.reason.endswith('?') else '.'}",
        why=f"Allowed: {complaint.allowed}.{also}",
        fix=f"Write for example `{key}: {complaint.example}`." if complaint.example else "",
    )


def no_model() -> SettingsError:
    """Nothing to judge."""
    return SettingsError(
        "No model is named.",
        why="Neither the command line, nor `INPUT_MODEL`, nor a config file names one.",
        fix="Run `trt-action run model.onnx`, or write `model: model.onnx` into `.trt-action.yml`.",
    )


def _value(value: Any) -> str:
    """Without what may be a secret in a URL: its user and its query."""
    if value == "":
        return '""'
    if "://" in str(value):
        value = re.sub(r"\?\S*", "?***", re.sub(r"//[^/\s]*@", "//***@", str(value)))
    return shown(value)


def _allowed(key: str) -> str:
    row = BY_NAME.get(key)
    return row.metavar if row else "a known setting"
