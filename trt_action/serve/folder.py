"""Version folders on disk: which are there, and what their records say. Nothing is loaded here.

    <repository>/<model>/<version>/{engine.json, <engine files>, evidence.json?, selftest.npz?}

The records are read by hand and not with the classes of `evidence`: a server needs no pydantic.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import orjson

from trt_action.engine.backend import Loadable
from trt_action.errors import BuildError, EvidenceError, SettingsError, StorageError, TrtActionError
from trt_action.inputs import open_regular, quote

RECORD = "engine.json"
EVIDENCE = "evidence.json"
SELF_TEST = "selftest.npz"
MAX_RECORD_BYTES = 4_000_000
MAX_EVIDENCE_BYTES = 64_000_000

_VERSION = re.compile(r"[1-9][0-9]{0,17}")
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Place:
    """Where one version of a model lies."""

    model: str
    version: str
    path: Path


@dataclass(frozen=True)
class Range:
    """Shapes of one input in the engine's profile; `values` of an input that holds sizes, where they were given."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]
    values: Range | None = None


@dataclass(frozen=True)
class Served:
    """The records of one version folder. `engine` and `model` as in engine.json; `evidence` as in evidence.json."""

    place: Place
    loadable: Loadable
    profile: Mapping[str, Range]
    engine: Mapping[str, Any]
    model: Mapping[str, Any]
    evidence: Mapping[str, Any] | None

    @property
    def self_test(self) -> Path | None:
        path = self.place.path / SELF_TEST
        return path if path.is_file() else None


def find(path: Path) -> list[Place]:
    """Every version folder under `path`: a repository, the folder of a model, or one version folder.

    Raises:
        SettingsError: it is none of them.
    """
    try:
        found = _found(path)
    except OSError as error:
        raise SettingsError(
            f"The folder {quote(path)} cannot be read: {error.strerror or error}.",
            why=f"It is about {quote(error.filename)}." if error.filename not in (None, str(path)) else "",
            fix="Name a folder that exists and that this user may read, with everything in it; `trt-action build MODEL "
            "--output FOLDER` makes one.",
        ) from None
    if not found:
        raise SettingsError(
            f"There is no engine to serve in {quote(path)}.",
            why=f"It is neither a folder with `{RECORD}`, nor `<version>/{RECORD}`, nor `<model>/<version>/{RECORD}`.",
            fix="Name a folder that `trt-action build --output DIR` made, or a repository of such folders.",
        )
    return found


def _found(path: Path) -> list[Place]:
    if (path / RECORD).is_file():
        return [_single(path)]
    if versions := _versions(path):
        return versions
    return [place for folder in _folders(path) if _MODEL.fullmatch(folder.name) for place in _versions(folder)]


def newest(places: list[Place]) -> dict[str, Place]:
    """The version with the highest number of each model."""
    chosen: dict[str, Place] = {}
    for place in places:
        if place.model not in chosen or int(place.version) > int(chosen[place.model].version):
            chosen[place.model] = place
    return chosen


def read(place: Place) -> Served:
    """The records of a version folder, after the engine's bytes were found to be those that were recorded.

    Raises:
        BuildError: the record or the engine is damaged, or was changed after the build.
        EvidenceError: the evidence is not readable, or speaks of another engine.
        StorageError: a file cannot be read.
    """
    record = _json(place.path / RECORD, MAX_RECORD_BYTES, BuildError)
    try:
        engine, model, names = dict(record["engine"]), dict(record["model"]), [str(name) for name in record["files"]]
        if not names or any(os.path.basename(name) != name or name in ("", "..") for name in names):  # noqa: PTH119 - text
            raise ValueError("it names files outside its folder")
        profile = {str(name): _range(shapes) for name, shapes in dict(model["shapes"]).items()}
        backend, recorded = str(engine["backend"]), str(engine["sha256"])
        loadable = Loadable.from_json(
            {
                "backend": backend,
                "path": place.path / names[0],
                "options": record["options"],
                "prepared": True,
                "sha256": recorded,
            }
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(place.path, f"its record is not valid ({type(error).__name__})") from None
    if digest(place.path, names) != recorded:
        raise _damaged(place.path, "its bytes are not those that were recorded")
    return Served(place, loadable, profile, engine, model, _evidence(place.path, recorded))


def digest(folder: Path, names: list[str]) -> str:
    """sha256 of the engine's file; of several files, of what `sha256sum` prints for them (docs/evidence.md)."""
    digests = {name: _sha256(folder / name) for name in names}
    if len(names) == 1:
        return digests[names[0]]
    return hashlib.sha256("".join(f"{digests[name]}  {name}\n" for name in sorted(names)).encode()).hexdigest()


def _single(path: Path) -> Place:
    """A version folder named by itself: the folders above say model and version where they are laid out so, by the
    path as it is given or by what a link (`current`) leads to."""
    for named in (_absolute(path), path.resolve()):
        if _VERSION.fullmatch(named.name) and _MODEL.fullmatch(named.parent.name):
            return Place(named.parent.name, named.name, path)
    record = _json(path / RECORD, MAX_RECORD_BYTES, BuildError)
    model = record.get("model")
    return Place(_name(str(model.get("name", "")) if isinstance(model, dict) else ""), "1", path)


def _versions(folder: Path) -> list[Place]:
    """A model has the name of its folder here, also where that is a link to another one."""
    name = _name(_absolute(folder).name)
    return [
        Place(name, entry.name, entry)
        for entry in _folders(folder)
        if _VERSION.fullmatch(entry.name) and (entry / RECORD).is_file()
    ]


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if not entry.name.startswith(".") and entry.is_dir())


def _absolute(path: Path) -> Path:
    """Without resolving links, which `Path.resolve` would."""
    return Path(os.path.abspath(path))  # noqa: PTH100


def _name(text: str) -> str:
    """A text as a name that an address can hold."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:200] or "model"


def _range(shapes: Mapping[str, Any]) -> Range:
    low, opt, high = (tuple(int(size) for size in shapes[key]) for key in ("min", "opt", "max"))
    return Range(low, opt, high, _range(shapes["values"]) if shapes.get("values") else None)


def _evidence(folder: Path, recorded: str) -> Mapping[str, Any] | None:
    path = folder / EVIDENCE
    if not path.exists():
        return None
    evidence = _json(path, MAX_EVIDENCE_BYTES, EvidenceError)
    head = evidence.get("head")
    found = head["engine"].get("sha256") if isinstance(head, dict) and isinstance(head.get("engine"), dict) else None
    if found != recorded:
        raise EvidenceError(
            f"The evidence in {quote(folder)} speaks of another engine.",
            why=f"It names {quote(found)}; the engine there is {quote(recorded)}.",
            fix="Put the evidence of the run that built this engine beside it, or build the folder again.",
        )
    return evidence


def _json(path: Path, limit: int, wrong: type[TrtActionError]) -> dict[str, Any]:
    try:
        with open_regular(path, noun="record", wrong=wrong) as file:
            text = file.read(limit + 1)
        document = orjson.loads(text) if len(text) <= limit else None
    except OSError as error:
        raise StorageError(f"{quote(path)} cannot be read: {error.strerror or error}.") from None
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        raise wrong(f"{quote(path)} is not the JSON record that it should be.", fix="Build the folder again.")
    return cast("dict[str, Any]", document)


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    try:
        with open_regular(path, noun="engine file", wrong=BuildError) as file:
            while chunk := file.read(_CHUNK):
                found.update(chunk)
    except OSError as error:
        raise StorageError(f"The engine file {quote(path)} cannot be read: {error.strerror or error}.") from None
    return found.hexdigest()


def _damaged(folder: Path, why: str) -> BuildError:
    return BuildError(
        f"The engine in {quote(folder)} cannot be trusted: {why}.",
        why="An engine is executable code: it is loaded only as it was built.",
        fix="Build it again with `trt-action build`.",
    )
