"""Defaults < config file < environment < command line, per model. Each value keeps where it came from, so that a
complaint can say it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trt_action.errors import SettingsError
from trt_action.settings import config_file, contradictions, explain, values
from trt_action.settings.config_file import ConfigFile
from trt_action.settings.fields import METRICS
from trt_action.settings.options import BY_NAME
from trt_action.settings.schema import MAX_MODELS, Settings, Source

PATHS = frozenset(
    {
        "model",
        "base",
        "calibration-data",
        "validation-data",
        "metric",
        "cache",
        "output",
        "template",
        "modelopt-python",
        "prompts",
        "quality",
    }
)
"""Settings whose text may be a path. `base`, `metric` and `cache` also have words that are not."""

NOT_SETTINGS = frozenset({"config", "parent", "sibling", "endpoint-key", "base-endpoint-key"})
"""`TRT_ACTION_…` variables that are no settings: the config file, those that the program sets for its children, and
secrets."""


@dataclass(frozen=True)
class Given:
    """A value with its origin. `where` is for a person, e.g. `.trt-action.yml, line 7`."""

    value: Any
    source: Source
    where: str


Layer = dict[str, Given]

JUDGED = ("model", "endpoint", "endpoint-image")
"""What an entry of `models` may be about."""


def load(
    cli: Mapping[str, str | None], env: Mapping[str, str], cwd: Path, config: Path | None = None
) -> list[Settings]:
    """See `trt_action.settings.load`."""
    cwd = cwd.absolute()
    above, notes = _environment(env, cwd)
    above |= _command_line(cli, cwd)
    named = config or _config_of(env)
    path = cwd / named if named else config_file.find(cwd)
    chosen = _choose(config_file.read(path), above) if path else [above]
    found = [_build(layer, cwd, path, notes) for layer in chosen]
    _refuse_equal_names(found)
    return found


def _config_of(env: Mapping[str, str]) -> Path | None:
    text = env.get("INPUT_CONFIG", "").strip() or env.get("TRT_ACTION_CONFIG", "").strip()
    return Path(text) if text else None


def _environment(env: Mapping[str, str], cwd: Path) -> tuple[Layer, tuple[str, ...]]:
    """`TRT_ACTION_MAX_SECONDS`, then over it the action's `INPUT_MAX-SECONDS`. Inputs that are no settings belong to
    the action; a variable that is almost a setting is refused, any other is only noted: a cluster may set some of
    its own (`TRT_ACTION_SERVICE_HOST`)."""
    layer: Layer = {}
    notes: list[str] = []
    for variable, text in sorted(env.items()):
        if not variable.startswith("TRT_ACTION_") or not text.strip():
            continue
        name = variable.removeprefix("TRT_ACTION_").lower().replace("_", "-")
        if name in BY_NAME and variable == _variable(name):
            layer[name] = Given(_from_text(name, text, cwd, variable), "env", f"environment variable {variable}")
        elif name in NOT_SETTINGS:
            continue
        elif values.nearest(name, BY_NAME, cutoff=0.8):
            raise explain.unknown_key(variable, "environment", [_variable(valid) for valid in BY_NAME])
        else:
            notes.append(f"The environment variable `{values.shown(variable)}` is no setting and was not read.")
    for name in BY_NAME:
        variable = f"INPUT_{name.upper()}"
        if text := env.get(variable, "").strip():
            layer[name] = Given(_from_text(name, text, cwd, variable), "env", f"input `{name}`")
    return layer, tuple(notes)


def _variable(name: str) -> str:
    return "TRT_ACTION_" + name.upper().replace("-", "_")


def _command_line(cli: Mapping[str, str | None], cwd: Path) -> Layer:
    layer: Layer = {}
    for name, text in cli.items():
        if name not in BY_NAME:
            raise explain.unknown_key(name, "command line", BY_NAME)
        if text is not None and text.strip():
            layer[name] = Given(_from_text(name, text, cwd, f"--{name}"), "cli", "command line")
    return layer


def _from_text(name: str, text: str, cwd: Path, where: str) -> Any:
    """Text as it would be typed in a config file; `shapes` is JSON or YAML flow."""
    if name == "shapes":
        return config_file.parse_yaml(text, where)[0]
    return _absolute(name, text, cwd)


def _choose(file: ConfigFile, above: Layer) -> list[Layer]:
    """The layers of the models to judge. A model that is named from outside picks its entries of `models` by path;
    a model that the file does not know gets the keys of the top level."""
    shared, entries = file_layers(file)
    wanted = above.get("model")
    if wanted is None:
        return [layer | above for layer in entries or [shared]]
    matching = [layer for layer in entries if "model" in layer and _same_path(layer["model"].value, wanted.value)]
    if not matching:
        other = "model" in shared and not _same_path(shared["model"].value, wanted.value)
        matching = [{key: given for key, given in shared.items() if not (other and key == "name")}]
    return [layer | above for layer in matching]


def _same_path(one: object, other: object) -> bool:
    return os.path.normpath(str(one)) == os.path.normpath(str(other))


def file_layers(file: ConfigFile) -> tuple[Layer, list[Layer]]:
    """The keys of the top level, and one layer per entry of `models`: its keys override the top level, and null takes
    a key back to its default.

    Raises:
        SettingsError: an unknown key, `model` beside `models`, or an entry without `model`.
    """
    folder = file.path.parent
    shared = _layer(file, {key: value for key, value in file.values.items() if key != "models"}, folder, ())
    models = file.values.get("models")
    if models is None:
        return _set_keys(shared), []
    place = file.where("models")
    if "model" in _set_keys(shared):
        raise SettingsError(f"Both `model` and `models` are given ({place}).", fix="Move `model` into the list.")
    if not isinstance(models, list) or not 1 <= len(models) <= MAX_MODELS:
        raise SettingsError(
            f"`models` ({place}) is not a list of 1 to {MAX_MODELS} entries.", fix="Write `models: [{model: a.onnx}]`."
        )
    entries = []
    for index, entry in enumerate(models):
        if not isinstance(entry, dict) or all(entry.get(key) in (None, "") for key in JUDGED):
            raise SettingsError(
                f"Entry {index + 1} of `models` ({place}) has no `model`.",
                fix="Add `model: PATH`, or `endpoint: URL` of a served language model.",
            )
        entries.append(_set_keys(shared | _layer(file, entry, folder, ("models", index))))
    return _set_keys(shared), entries


def _layer(file: ConfigFile, content: Mapping[str, Any], folder: Path, keys: tuple[str | int, ...]) -> Layer:
    layer: Layer = {}
    for key, value in content.items():
        where = file.where(*keys, key)
        if key not in BY_NAME:
            raise explain.unknown_key(key, where, [*BY_NAME, *(() if keys else ("models",))])
        empty = value is None or (isinstance(value, str) and not value.strip())
        layer[key] = Given(None if empty else _absolute(key, value, folder), "file", where)
    return layer


def _set_keys(layer: Layer) -> Layer:
    return {key: given for key, given in layer.items() if given.value is not None}


def _absolute(name: str, value: Any, folder: Path) -> Any:
    """A path from `folder` on; words that are no path, and everything that is not text, stay as they are."""
    if name not in PATHS or not isinstance(value, str) or not _is_path(name, value.strip()):
        return value
    return str(folder / value.strip())


def _is_path(name: str, text: str) -> bool:
    """Whether the text of a setting in `PATHS` means a file. A `base` is one if it looks like one: it starts with
    `./`, `../` or `/`, or ends in `.onnx` without being `REVISION:PATH`; else it is a word or a Git revision."""
    if text.startswith("~/"):
        return False  # not ours to expand: the parser of paths refuses it in words
    if name == "base":
        return text.startswith(("./", "../", "/")) or (text.endswith(".onnx") and ":" not in text)
    if name == "metric":
        return text not in METRICS and ".py:" in text
    if name == "cache":
        return text not in {"auto", "true", "false"}
    return True


def _build(layer: Layer, cwd: Path, path: Path | None, notes: tuple[str, ...]) -> Settings:
    try:
        output = {"output": str(cwd / BY_NAME["output"].default)}
        settings = Settings.model_validate(output | {key: given.value for key, given in layer.items()})
    except ValidationError as error:
        raise explain.refused(error, lambda key: layer[key].where if key in layer else "default") from error
    settings._sources = {key: given.source for key, given in layer.items()}
    settings._config_file = path
    settings._cwd = cwd
    settings._notes = (*notes, *contradictions.check(settings))
    return settings


def _refuse_equal_names(found: list[Settings]) -> None:
    names = [settings.display_name for settings in found]
    for name in names:
        if names.count(name) > 1:
            raise SettingsError(
                f"Two models are called `{values.shown(name)}`.",
                why="A report, its folder and its comment are found by the name.",
                fix="Give each entry of `models` its own `name`.",
            )
