"""`.trt-action.yml`, `.yaml` or `.toml` as plain values with the line of each key. The file is foreign text.

YAML is read as nodes, and only the plain part of the language means something here: mappings, lists, text, numbers,
`true`/`false` and `null` of the YAML 1.2 core schema (https://yaml.org/spec/1.2.2/#103-core-schema). So `on` is text
and not a boolean, `1:30` is not 90, a key cannot be given twice, and there are no aliases that grow into gigabytes.
"""

from __future__ import annotations

import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from trt_action.errors import SettingsError, StorageError
from trt_action.settings.values import shown

NAMES = (".trt-action.yml", ".trt-action.yaml", ".trt-action.toml")
MAX_BYTES = 256 * 1024
MAX_DEPTH = 12

_TAG = "tag:yaml.org,2002:"
_RESOLVED = {_TAG + kind for kind in ("str", "bool", "int", "float", "null", "timestamp", "merge", "value")}
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})", re.ASCII)
_FLOAT = re.compile(r"[-+]?[0-9]{1,18}\.[0-9]{0,30}", re.ASCII)


@dataclass(frozen=True)
class ConfigFile:
    """A config file as it was read. `lines` holds the line of a key by its path: `("models", 0, "precision")`."""

    path: Path
    values: Mapping[str, Any]
    lines: Mapping[tuple[str | int, ...], int] = field(default_factory=dict)

    def where(self, *keys: str | int) -> str:
        """For a message: `.trt-action.yml, line 7`."""
        line = self.lines.get(keys)
        return shown(self.path.name) + (f", line {line}" if line else "")


def find(cwd: Path) -> Path | None:
    """The config file of a folder, or None.

    Raises:
        SettingsError: there are two: which one counts would be a guess.
    """
    found = [cwd / name for name in NAMES if (cwd / name).exists()]
    if len(found) > 1:
        names = " and ".join(f"`{path.name}`" for path in found)
        raise SettingsError(f"There are {names} in one folder.", fix="Keep one of them, or name it with `--config`.")
    return found[0] if found else None


def read(path: Path) -> ConfigFile:
    """Read and parse; nothing is executed and nothing is looked up.

    Raises:
        SettingsError: missing, not a file, too large, not UTF-8, not YAML or TOML, not a mapping, a key given twice.
        StorageError: the operating system refuses to open it.
    """
    text = _decode(path, _bytes(path))
    if path.suffix == ".toml":
        return ConfigFile(path, _toml(path, text))
    values, lines = parse_yaml(text, path.name)
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise SettingsError(
            f"`{shown(path.name)}` holds {_kind(values)}, not a mapping of settings.",
            fix="Write one setting per line, e.g. `precision: int8`.",
        )
    return ConfigFile(path, values, lines)


def _bytes(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise SettingsError(f"The config `{shown(str(path))}` is not a regular file.", fix="Name a file.")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SettingsError(
            f"The config file `{shown(str(path))}` does not exist.",
            fix="Check `--config`; without it, `.trt-action.yml` in the current folder is read.",
        ) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise StorageError(f"The config file `{shown(str(path))}` cannot be read: {reason}.") from error
    if len(content) > MAX_BYTES:
        raise SettingsError(
            f"The config file `{shown(str(path))}` is larger than {MAX_BYTES // 1024} KiB.",
            why="Settings are a few lines; this is probably another file.",
            fix="Check `--config`.",
        )
    return content


def _decode(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SettingsError(
            f"`{shown(path.name)}`, line {line}: byte 0x{content[error.start]:02x} is not UTF-8.",
            fix="Save the file as UTF-8.",
        ) from error


def _toml(path: Path, text: str) -> dict[str, Any]:
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise SettingsError(
            f"`{shown(path.name)}` is not TOML: {shown(reason, 200)}.", fix="Correct the file."
        ) from error
    _check_plain(path.name, values, 0)
    return values


def _check_plain(name: str, value: Any, depth: int) -> None:
    """TOML has dates and integers without end; no setting is one."""
    if depth > MAX_DEPTH:
        raise SettingsError(f"`{shown(name)}` is nested more than {MAX_DEPTH} levels deep.", fix="Correct the file.")
    if isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            _check_plain(name, item, depth + 1)
    elif isinstance(value, int) and abs(value) >= 10**18:
        raise SettingsError(f"`{shown(name)}` holds a whole number above 10^18.", fix="No setting is that large.")
    elif not isinstance(value, (str, int, float)):
        raise SettingsError(
            f"`{shown(name)}` holds {_kind(value)} (`{shown(value)}`).", fix="Put it in quotes if it is meant as text."
        )


class _Nodes(yaml.SafeLoader):
    """Composes nodes only; refuses aliases and deep nesting while doing so."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        mark: yaml.Mark = event.start_mark
        self.depth += 1
        if isinstance(event, yaml.AliasEvent):
            problem = "aliases (`*name`) are not supported; keys of the top level already hold for every model"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        if self.depth > MAX_DEPTH:
            problem = f"nested more than {MAX_DEPTH} levels deep"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def parse_yaml(text: str, name: str) -> tuple[Any, dict[tuple[str | int, ...], int]]:
    """One YAML (or JSON) document as plain values, and the line of each mapping key by its path.

    Args:
        name: what the text is called in a message.

    Raises:
        SettingsError: with the line, where YAML knows one.
    """
    lines: dict[tuple[str | int, ...], int] = {}
    try:
        node = yaml.compose(text, _Nodes)
        return (None if node is None else _value(node, (), lines)), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        reason = error.problem or error.context or "it cannot be parsed"
        raise SettingsError(
            f"`{shown(name)}`{line}: {shown(reason, 300)}.", fix="Correct the YAML; quote text with `:` or `#`."
        ) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise SettingsError(
            f"`{shown(name)}` is not YAML: {shown(str(error) or 'nested too deeply', 200)}.", fix="Correct the file."
        ) from error


def _value(node: yaml.Node, keys: tuple[str | int, ...], lines: dict[tuple[str | int, ...], int]) -> Any:
    if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = _key(key_node)
            if key in result:
                raise yaml.MarkedYAMLError(
                    problem=f"the key `{shown(key)}` is given twice", problem_mark=key_node.start_mark
                )
            lines[(*keys, key)] = key_node.start_mark.line + 1
            result[key] = _value(value_node, (*keys, key), lines)
        return result
    if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
        return [_value(item, (*keys, index), lines) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node)
    raise _unknown_tag(node)


def _key(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise yaml.MarkedYAMLError(problem="a key is a list or a mapping", problem_mark=node.start_mark)
    if node.tag == _TAG + "merge":
        raise yaml.MarkedYAMLError(problem="merge keys (`<<`) are not supported", problem_mark=node.start_mark)
    return str(node.value)


def _scalar(node: yaml.ScalarNode) -> str | int | float | bool | None:
    """YAML 1.2 core schema; what PyYAML resolved by the rules of YAML 1.1 is decided again from the text."""
    text = str(node.value)
    if node.tag not in _RESOLVED or (node.style is not None and node.tag != _TAG + "str"):
        raise _unknown_tag(node)
    if node.tag == _TAG + "str":
        return text
    if text in {"", "~", "null"}:
        return None
    if text in {"true", "false"}:
        return text == "true"
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def _unknown_tag(node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=f"the tag `{shown(node.tag)}` is not supported", problem_mark=node.start_mark)


def _kind(value: object) -> str:
    kinds = {str: "text", int: "a number", float: "a number", bool: "a boolean", list: "a list", dict: "a mapping"}
    return kinds.get(type(value), "a date or time")
