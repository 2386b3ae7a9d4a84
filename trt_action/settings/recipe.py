"""The precision recipe of the base: what a pull request changes here must not change the base with it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trt_action.settings import ENGINE_FIELDS, config_file, explain, layers
from trt_action.settings.layers import Layer
from trt_action.settings.schema import Settings, kebab


def for_base(head: Settings, config: Path | None) -> Settings:
    """See `trt_action.settings.for_base`."""
    if head.base_precision is not None:
        return head.model_copy(update={"precision": head.base_precision})
    if config is None:
        return head
    layer = _matching(head, config)
    wanted = {kebab(name): name for name in ENGINE_FIELDS if head.sources[kebab(name)] not in {"env", "cli"}}
    given = {key: layer[key].value for key in (*wanted, "shapes") if key in layer}
    try:
        own = Settings.model_validate({"model": str(head.model_file), **given})
    except ValidationError as error:
        raise explain.refused(error, lambda key: f"config of the base, {layer[key].where}") from error
    changes: dict[str, Any] = {name: getattr(own, name) for name in wanted.values()}
    if own.shapes:
        changes["shapes"] = {**own.shapes, **(head.shapes or {})}
    return head.model_copy(update=changes)


def _matching(head: Settings, config: Path) -> Layer:
    """The entry of the base's `models` for the same file (seen from the config's folder) or the same name, else the
    keys of its top level."""
    shared, entries = layers.file_layers(config_file.read(config))
    ours = os.path.relpath(head.model_file, head.config_file.parent if head.config_file else Path.cwd())
    for entry in entries:
        if "model" in entry and os.path.relpath(entry["model"].value, config.parent) == ours:
            return entry
    for entry in entries:
        if "name" in entry and entry["name"].value == head.display_name:
            return entry
    return shared
