"""A folder that holds one engine and its record: what `trt-action build` leaves, `compare` takes, and an image serves.

The *version folder*: the engine's files, `engine.json` (its record), and, of an engine that was measured, `evidence.json`
without the long series, and `selftest.npz`: inputs and outputs as the measured engine gave them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, ValidationError

from trt_action import engine, files, process
from trt_action.engine import cache as caches
from trt_action.engine.backend import Loadable, RuntimeOptions
from trt_action.engine.building import BuiltEngine, digest
from trt_action.errors import BuildError, StorageError
from trt_action.evidence import Comparison, Engine, Evidence, ModelInfo, Name, Record, Side
from trt_action.inputs import open_regular, quote

RECORD = "engine.json"
EVIDENCE = "evidence.json"
SELFTEST = "selftest.npz"
SELFTEST_SECONDS = 300.0
MAX_RECORD_BYTES = 4_000_000


class Kept(Record):
    """What `engine.json` holds; the engine's file names are relative to it, the first one is loaded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: Engine
    model: ModelInfo
    options: dict[str, Any]
    files: list[Name]


def keep(
    built: BuiltEngine,
    model: ModelInfo,
    folder: Path,
    *,
    feeds: Path | None = None,
) -> Path:
    """Copy the engine's files into `folder`; the record is written last. Returns the engine file.

    Args:
        feeds: an `.npz` of one batch, the one that was measured: the engine's answer to it becomes `selftest.npz`.

    Raises:
        StorageError: the folder cannot be written.
        BuildError: the copy does not load or run.
    """
    source = built.loadable.path
    names = engine.backend(built.loadable.backend).files(source)
    for name in names:
        files.copy_atomic(source.with_name(name), folder / name)
    if feeds is not None:
        _record_selftest(replace(built.loadable, path=folder / names[0]), feeds, folder / SELFTEST)
    kept = Kept(engine=built.record, model=model, options=built.loadable.options.as_json(), files=names)
    files.write_atomic(folder / RECORD, kept.model_dump_json(indent=2) + "\n")
    return folder / names[0]


def write_evidence(folder: Path, evidence: Evidence) -> Path:
    """The evidence of the run that measured the engine, beside it and without the long series.

    Raises:
        StorageError: the folder cannot be written.
    """
    path = folder / EVIDENCE
    files.write_atomic(path, without_series(evidence).model_dump_json(indent=1) + "\n")
    return path


def _record_selftest(loadable: Loadable, feeds: Path, out: Path) -> None:
    request = {"loadable": loadable.as_json(), "feeds": str(feeds.absolute()), "out": str(out.absolute())}
    process.call("trt_action.engine.selftest:record", request, timeout=SELFTEST_SECONDS)


def without_series(evidence: Evidence) -> Evidence:
    """The same evidence without its samples: what every copy of an image can afford to carry."""

    def side(one: Side | None) -> Side | None:
        if one is None or one.latency is None:
            return one
        return one.model_copy(update={"latency": one.latency.model_copy(update={"series": None})})

    comparison: Comparison | None = evidence.comparison
    if comparison is not None:
        comparison = comparison.model_copy(update={"series": None})
    return evidence.model_copy(
        update={"head": side(evidence.head), "base": side(evidence.base), "comparison": comparison}
    )


def is_kept(path: Path) -> bool:
    """A folder with a record of an engine in it."""
    return (path / RECORD).is_file()


def load(folder: Path) -> tuple[BuiltEngine, ModelInfo]:
    """The engine in `folder`, if its bytes are those that were built.

    Raises:
        BuildError, StorageError: as `read`.
    """
    kept = read(folder)
    path = folder / kept.files[0]
    options = RuntimeOptions.from_json(kept.options)
    loadable = Loadable(kept.engine.backend, path, options, prepared=True, sha256=kept.engine.sha256)
    return BuiltEngine(loadable, kept.engine, path), kept.model


def read(folder: Path) -> Kept:
    """The record in `folder`, if the engine's bytes are those that were built.

    Raises:
        BuildError: the record or the engine is damaged, or was changed after the build.
        StorageError: a file cannot be read.
    """
    try:
        with open_regular(folder / RECORD, noun="record", wrong=BuildError) as file:
            text = file.read(MAX_RECORD_BYTES + 1)
        kept = Kept.model_validate_json(text)
        RuntimeOptions.from_json(kept.options)
        if not kept.files or any(os.path.basename(name) != name or name in ("", "..") for name in kept.files):  # noqa: PTH119 - text, not a path yet
            raise ValueError("it names files outside its folder")
        records: Mapping[str, caches.FileRecord] = {name: caches.file_record(folder / name) for name in kept.files}
    except OSError as error:
        raise StorageError(f"The engine in {quote(folder)} cannot be read: {error.strerror or error}.") from None
    except (ValidationError, ValueError, TypeError) as error:
        raise _damaged(folder, f"its record is not valid ({type(error).__name__})") from None
    if digest(records, kept.files) != kept.engine.sha256:
        raise _damaged(folder, "its bytes are not those that were recorded")
    return kept


def _damaged(folder: Path, why: str) -> BuildError:
    return BuildError(
        f"The engine in {quote(folder)} cannot be trusted: {why}.",
        why="An engine is executable code: it is loaded only as it was built.",
        fix="Build it again with `trt-action build`.",
    )
