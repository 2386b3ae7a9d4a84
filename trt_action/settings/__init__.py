"""What is asked? Defaults, config file, environment and command line become one typed `Settings` per model.

`trt-action --help` reads the table in `options.py` and must stay instant, so pydantic and YAML are imported on first use.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trt_action.settings.schema import Settings, config_schema

__all__ = ["ENGINE_FIELDS", "Settings", "config_schema", "for_base", "load"]

ENGINE_FIELDS = (
    "precision",
    "keep_accuracy",
    "high_precision",
    "toolchain",
    "calibration_method",
    "calibration_samples",
    "op_types",
    "exclude_nodes",
)
"""The precision recipe: what a base from Git takes from its own config. Runtime options and shapes stay head's, so that
both sides go through the same toolchain at the same measured shape."""


def load(
    cli: Mapping[str, str | None], env: Mapping[str, str], cwd: Path, config: Path | None = None
) -> list[Settings]:
    """The settings of every model that is to be judged: defaults < config file < environment < command line.

    Args:
        cli: kebab-case names to the text that was typed; None or an empty text = not given.
        env: the environment; `TRT_ACTION_<UPPER_SNAKE>` and the action's `INPUT_<UPPER-KEBAB>` are read.
        cwd: folder in which a config file is looked for; relative paths from `cli` and `env` start here.
        config: the config file, if it was named; relative paths in it start at its folder.

    Raises:
        SettingsError: anything unknown, malformed, out of range or contradictory; names the key and the place.
        StorageError: the config file exists and cannot be read.
    """
    from trt_action.settings.layers import load as load_layers

    return load_layers(cli, env, cwd, config)


def for_base(head: Settings, config: Path | None) -> Settings:
    """`head` with the precision recipe of the base: `base-precision`, else the base's own config, else head's. To `shapes`
    the base's own config adds the inputs that head's does not name.

    Args:
        head: settings of the model that is judged.
        config: the config file as it was at the base's commit, or None.

    Raises:
        SettingsError: the base's config cannot be used.
    """
    from trt_action.settings.recipe import for_base as recipe_for_base

    return recipe_for_base(head, config)


def __getattr__(name: str) -> Any:
    if name in {"Settings", "config_schema"}:
        from trt_action.settings import schema

        return getattr(schema, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
