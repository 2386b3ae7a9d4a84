"""The engine cache: content-addressed folders, whole or absent, safe under parallel runs. It never fails a run.

    <folder>/<first 2 hex of key>/<key>/{engine.onnx, prepared.onnx, …, entry.json}
    <folder>/<first 2 hex of key>/<key>.lock      held by the process that builds this key
    <folder>/<first 2 hex of key>/.tmp-<key>-…    being written; renamed when whole

A process that uses an entry holds a shared lock on the entry's folder; eviction needs it exclusively.
Age is the modification time of `entry.json`, touched on every hit.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trt_action import files
from trt_action.engine import locks
from trt_action.evidence import AchievedPrecision
from trt_action.inputs import quote

SCHEMA = 1
ENTRY = "entry.json"
ENTRY_LIMIT = 4 << 20
"""Bytes of an `entry.json` that are read: a foreign file of any size is not taken into memory."""

_KEY = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,200}")
_CHUNK = 1 << 20

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._+-]{0,200}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class FileRecord(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Sha256
    bytes: int = Field(ge=0)


class Facts(BaseModel):
    """What the builder wants back. `engine`: its files, the one to load first. `build_seconds`: as it was built."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    engine: list[FileName] = Field(min_length=1)
    prepared: FileName
    achieved_precision: AchievedPrecision
    build_seconds: float = Field(ge=0)
    notes: list[str] = Field(default_factory=list)


class EntryRecord(BaseModel):
    """`entry.json`. `material` is what the key is the hash of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = Field(alias="schema")
    key: Sha256
    material: dict[str, Any]
    facts: Facts
    files: dict[FileName, FileRecord] = Field(min_length=1, max_length=10_000)


@dataclass(frozen=True)
class Entry:
    """A whole entry that this process holds: its folder stays until the process ends or `Cache.release`."""

    folder: Path
    files: dict[str, FileRecord]
    facts: Facts


@dataclass(frozen=True)
class Claim:
    """What `Cache.claim` found: an entry, or None and the right (`owner`) to build and `put` it."""

    key: str
    entry: Entry | None
    owner: bool


def key_of(material: Mapping[str, Any]) -> str:
    """sha256 of the canonical JSON (sorted keys, no spaces, UTF-8) of everything that decides the engine's bytes."""
    canonical = json.dumps(
        {"schema": SCHEMA, **material}, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


def file_record(path: Path) -> FileRecord:
    """sha256 and size of a regular file, read once.

    Raises:
        OSError: missing, a link, or not readable.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(f"{path.name} is not a regular file")
        digest = hashlib.sha256()
        size = 0
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return FileRecord(sha256=digest.hexdigest(), bytes=size)


class Cache:
    """`folder` None = no cache. What could not be cached, and why, collects in `warnings`; nothing is raised."""

    def __init__(self, folder: Path | None, limit_bytes: int) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self.warnings: list[str] = []
        self._in_use: dict[str, locks.Lock] = {}

    @contextlib.contextmanager
    def claim(self, key: str, *, timeout: float, waiting: Callable[[], None] | None = None) -> Iterator[Claim]:
        """The entry of `key`; or, for the length of the block, the right to build it while other runs wait.

        `waiting` is called once if another run builds it right now. After `timeout` seconds of waiting, or where
        the folder cannot be locked, there is neither: the caller builds for itself and `put` does nothing.
        """
        if self.folder is None:
            yield Claim(key, None, owner=False)
            return
        if entry := self._read(key):
            yield Claim(key, entry, owner=False)
            return
        lock = self._lock(key, timeout, waiting)
        if lock is None:
            yield Claim(key, None, owner=False)
            return
        with lock:
            entry = self._read(key)
            if entry is None:
                self._clear(key)
            yield Claim(key, entry, owner=entry is None)

    def put(self, claim: Claim, files: Mapping[str, Path], material: Mapping[str, Any], facts: Facts) -> Entry | None:
        """Copy `files` (name in the entry -> path) into the cache, all or nothing, and hold the entry.

        Returns:
            None where nothing could be cached; why is in `warnings`.
        """
        if self.folder is None or not claim.owner:
            return None
        home = self._home(claim.key)
        temporary = home.parent / f".tmp-{claim.key}-{secrets.token_hex(8)}"
        try:
            needed = sum(path.stat().st_size for path in files.values())
            if needed > self.limit_bytes:
                self._note(
                    f"An engine of {needed / 1e6:,.1f} MB was not cached: `cache-size` is {self.limit_bytes / 1e6:,.1f} MB."
                )
                return None
            temporary.mkdir(mode=0o700)
            records = {name: _copy(path, temporary / name) for name, path in files.items()}
            record = EntryRecord(schema=SCHEMA, key=claim.key, material=dict(material), facts=facts, files=records)
            _write_durably(temporary / ENTRY, record.model_dump_json(by_alias=True, indent=1).encode())
            _sync_folder(temporary)
            temporary.rename(home)
            _sync_folder(home.parent)
        except OSError as error:
            self._note(f"The engine was not cached in {quote(self.folder)}: {error.strerror or error}.")
            return None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        lock = locks.folder(home, shared=True)
        entry = self._hold(home, record, lock) if lock is not None else None
        self.evict()
        return entry

    def evict(self) -> None:
        """Drop the entries that were used longest ago until the rest fits; never one that a process uses."""
        if self.folder is None:
            return
        with contextlib.suppress(OSError):
            self._drop_leftovers()
            entries = sorted(self._entries())
            total = sum(size for _, size, _ in entries)
            for _, size, home in entries:
                if total <= self.limit_bytes:
                    return
                if self._drop(home):
                    total -= size

    def release(self) -> None:
        """Let go of every entry that this cache gave out."""
        for lock in self._in_use.values():
            lock.release()
        self._in_use.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _home(self, key: str) -> Path:
        if self.folder is None or not _KEY.fullmatch(key):
            raise ValueError(f"not a cache key: {key!r}")
        return self.folder / key[:2] / key

    def _lock(self, key: str, timeout: float, waiting: Callable[[], None] | None) -> locks.Lock | None:
        home = self._home(key)
        try:
            home.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = locks.exclusive_file(home.with_name(f"{key}.lock"), timeout=timeout, waiting=waiting)
        except OSError as error:
            self._note_unusable(error)
            return None
        if lock is None:
            self._note(f"Another run has been building the same engine for {timeout:g} s: built here once more.")
        return lock

    def _read(self, key: str) -> Entry | None:
        """The entry, held, if it is there, whole and ours; a note otherwise (none if it is just not there)."""
        home = self._home(key)
        try:
            lock = locks.folder(home, shared=True)
        except OSError as error:
            self._note_unusable(error)
            return None
        if lock is None:
            return None
        reason = ""
        try:
            record = _read_record(home, key)
            _verify(home, record)
        except ValidationError as error:
            reason = f"{ENTRY}: {error.error_count()} fields are wrong"
        except (OSError, ValueError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or str(error)
        if reason:
            lock.release()
            self._note(f"A damaged or foreign entry of the engine cache was not used ({home.name[:12]}…): {reason}.")
            return None
        with contextlib.suppress(OSError):
            os.utime(home / ENTRY)
        return self._hold(home, record, lock)

    def _hold(self, home: Path, record: EntryRecord, lock: locks.Lock) -> Entry:
        if (held := self._in_use.pop(record.key, None)) is not None:
            held.release()
        self._in_use[record.key] = lock
        return Entry(home, record.files, record.facts)

    def _clear(self, key: str) -> None:
        """Called with the key's lock held: whatever is left under this key is of no use."""
        home = self._home(key)
        try:
            for leftover in home.parent.glob(f".tmp-{key}-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            if home.is_symlink() or home.is_file():
                home.unlink()
            elif home.exists():
                _remove(home)
        except OSError as error:
            self._note(f"{quote(home)} cannot be removed: {error.strerror or error}.")

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """Last use, bytes, folder of every entry."""
        for home in (self.folder or Path()).glob("??/*"):
            if _KEY.fullmatch(home.name) and home.is_dir() and not home.is_symlink():
                with contextlib.suppress(OSError):
                    sizes = [file.lstat().st_size for file in home.iterdir()]
                    marker = home / ENTRY
                    used = (marker if marker.exists() else home).lstat().st_mtime
                    yield used, sum(sizes), home

    def _drop(self, home: Path) -> bool:
        """True if the entry is gone. Not while it is being built, or used."""
        marker = home.with_name(f"{home.name}.lock")
        with contextlib.suppress(OSError):
            building = locks.exclusive_file(marker, timeout=0)
            if building is None:
                return False
            with building:
                use = locks.folder(home, shared=False)
                if use is None:
                    return False
                with use:
                    _remove(home)
                marker.unlink()
                return True
        return False

    def _drop_leftovers(self) -> None:
        """Temporary folders of writers that died: their lock is free."""
        for leftover in (self.folder or Path()).glob("??/.tmp-*"):
            key = leftover.name.split("-")[1]
            if not _KEY.fullmatch(key):
                continue
            with contextlib.suppress(OSError):
                if lock := locks.exclusive_file(leftover.with_name(f"{key}.lock"), timeout=0):
                    with lock:
                        shutil.rmtree(leftover, ignore_errors=True)

    def _note_unusable(self, error: OSError) -> None:
        self._note(
            f"The engine cache {quote(self.folder)} cannot be used: {error.strerror or error}. Built without it."
        )

    def _note(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)


def _read_record(home: Path, key: str) -> EntryRecord:
    if not files.is_trusted(home.stat(), home.parent.parent):
        raise ValueError("it belongs to another user")
    handle = os.open(home / ENTRY, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError(f"{ENTRY} is not a regular file")
        content = file.read(ENTRY_LIMIT + 1)
    if len(content) > ENTRY_LIMIT:
        raise ValueError(f"{ENTRY} is too large")
    record = EntryRecord.model_validate_json(content)
    if record.key != key or key_of(record.material) != key:
        raise ValueError(f"{ENTRY} is of another key")
    if not {*record.facts.engine, record.facts.prepared} <= record.files.keys():
        raise ValueError(f"{ENTRY} does not list the engine")
    return record


def _verify(home: Path, record: EntryRecord) -> None:
    for name, expected in record.files.items():
        path = home / name
        if path.lstat().st_size != expected.bytes or file_record(path) != expected:
            raise ValueError(f"{name} is not what was stored")


def _copy(source: Path, target: Path) -> FileRecord:
    if not _NAME.fullmatch(target.name):
        raise OSError(f"{quote(target.name)} is no name for a file of the cache")
    with source.open("rb") as reader, target.open("xb") as writer:
        shutil.copyfileobj(reader, writer, _CHUNK)
        writer.flush()
        os.fsync(writer.fileno())
    return file_record(target)


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(home: Path) -> None:
    """First out of sight under one name, then file by file: a reader never finds half an entry."""
    gone = home.with_name(f".tmp-{home.name}-{secrets.token_hex(8)}")
    home.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)
