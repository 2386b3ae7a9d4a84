"""A folder that holds one engine and its record: what `trt-action build` leaves and `compare` takes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, ValidationError

from trt_action import files
from trt_action.engine import cache as caches
from trt_action.engine import onnx_files
from trt_action.engine.backend import Loadable, RuntimeOptions
from trt_action.engine.building import BuiltEngine, digest
from trt_action.errors import BuildError, StorageError
from trt_action.evidence import Engine, ModelInfo, Name, Record
from trt_action.inputs import open_regular, quote

RECORD = "engine.json"
MAX_RECORD_BYTES = 4_000_000


class Kept(Record):
    """What `engine.json` holds; the engine's file names are relative to it, the first one is loaded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: Engine
    model: ModelInfo
    options: dict[str, Any]
    files: list[Name]


def keep(built: BuiltEngine, model: ModelInfo, folder: Path) -> Path:
    """Copy the engine's files into `folder`; the record is written last. Returns the engine file.

    Raises:
        StorageError: the folder cannot be written.
    """
    source = built.loadable.path
    names = [source.name, *sorted(name for name in onnx_files.names(source) if name != source.name)]
    for name in names:
        files.copy_atomic(source.with_name(name), folder / name)
    kept = Kept(engine=built.record, model=model, options=asdict(built.loadable.options), files=names)
    files.write_atomic(folder / RECORD, kept.model_dump_json(indent=2) + "\n")
    return folder / names[0]


def is_kept(path: Path) -> bool:
    """A folder with a record of an engine in it."""
    return (path / RECORD).is_file()


def load(folder: Path) -> tuple[BuiltEngine, ModelInfo]:
    """The engine in `folder`, if its bytes are those that were built.

    Raises:
        BuildError: the record or the engine is damaged, or was changed after the build.
        StorageError: a file cannot be read.
    """
    try:
        with open_regular(folder / RECORD, noun="record", wrong=BuildError) as file:
            text = file.read(MAX_RECORD_BYTES + 1)
        kept = Kept.model_validate_json(text)
        options = RuntimeOptions(**kept.options)
        if not kept.files or any(os.path.basename(name) != name or name in ("", "..") for name in kept.files):  # noqa: PTH119 - text, not a path yet
            raise ValueError("it names files outside its folder")
        records: Mapping[str, caches.FileRecord] = {name: caches.file_record(folder / name) for name in kept.files}
    except OSError as error:
        raise StorageError(f"The engine in {quote(folder)} cannot be read: {error.strerror or error}.") from None
    except (ValidationError, ValueError, TypeError) as error:
        raise _damaged(folder, f"its record is not valid ({type(error).__name__})") from None
    if digest(records, kept.files) != kept.engine.sha256:
        raise _damaged(folder, "its bytes are not those that were recorded")
    path = folder / kept.files[0]
    return BuiltEngine(Loadable(kept.engine.backend, path, options, prepared=True), kept.engine, path), kept.model


def _damaged(folder: Path, why: str) -> BuildError:
    return BuildError(
        f"The engine in {quote(folder)} cannot be trusted: {why}.",
        why="An engine is executable code: it is loaded only as it was built.",
        fix="Build it again with `trt-action build`.",
    )
