"""The engine that lies in an image: found in its layers as they stream by, and hashed. Nothing is unpacked to disk."""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import IO, Any, cast

from pydantic import ValidationError

from trt_action.engine import kept
from trt_action.engine.building import digest
from trt_action.engine.cache import FileRecord
from trt_action.errors import RegistryError, VerificationError
from trt_action.inputs import quote
from trt_action.publish import untar
from trt_action.publish.oci import Descriptor, Fetched
from trt_action.publish.registry import Registry

MAX_PLAIN_BYTES = 1 << 38
"""Bytes that a layer may unpack to: a bomb is told from an engine by its size alone."""

WHITEOUT = ".wh."


@dataclass(frozen=True)
class Found:
    """The engine of an image. `folder` is where it lies, `sha256` as docs/evidence.md defines it, over the layer's bytes."""

    folder: str
    layer: str
    sha256: str
    bytes: int
    evidence_digest: str | None
    """Of the `evidence.json` beside it."""


@dataclass
class _Layer:
    """What one layer holds."""

    files: dict[PurePosixPath, FileRecord] = field(default_factory=dict)
    others: list[PurePosixPath] = field(default_factory=list)
    records: dict[PurePosixPath, bytes] = field(default_factory=dict)


def engine(registry: Registry, repository: str, manifest: Fetched) -> Found:
    """The only engine in the image: layers are read from the last on, until one has an `engine.json`.

    Raises:
        VerificationError: there is none or more than one, a file is missing, or a later layer changes its folder.
        RegistryError: a layer cannot be read, or its bytes are not what its digest says.
    """
    above: list[tuple[Descriptor, _Layer]] = []
    for descriptor in reversed(manifest.listed("layers")):
        layer = _read(registry, repository, descriptor)
        if layer.records:
            return _found(descriptor, layer, above)
        above.append((descriptor, layer))
    raise VerificationError(
        "The image holds no engine of this tool: no layer has an `engine.json`.",
        fix="Name an image that `trt-action publish` made.",
    )


def _found(descriptor: Descriptor, layer: _Layer, above: Sequence[tuple[Descriptor, _Layer]]) -> Found:
    if len(layer.records) > 1:
        folders = ", ".join(quote(path.parent) for path in sorted(layer.records)[:5])
        raise VerificationError(f"The image holds several engines ({folders}); evidence speaks of one.")
    ((path, text),) = layer.records.items()
    folder = path.parent
    for upper, contents in above:
        if any(_touches(one, folder) for one in [*contents.files, *contents.others]):
            raise VerificationError(f"The layer {upper.digest} changes the engine's folder {quote(folder)} afterwards.")
    try:
        record = kept.Kept.model_validate_json(text)
    except ValidationError:
        raise VerificationError("The engine's record in the image (`engine.json`) is not valid.") from None
    records = {name: layer.files[folder / name] for name in record.files if folder / name in layer.files}
    missing = [name for name in record.files if name not in records]
    if missing or not record.files:
        raise VerificationError(f"The image lacks a file of its engine: {quote((missing or ['all of them'])[0])}.")
    evidence = layer.files.get(folder / kept.EVIDENCE)
    return Found(
        f"/{folder}",
        descriptor.digest,
        digest(records, record.files),
        sum(one.bytes for one in records.values()),
        f"sha256:{evidence.sha256}" if evidence else None,
    )


def _touches(path: PurePosixPath, folder: PurePosixPath) -> bool:
    """Whether an entry of a later layer changes what is seen in `folder`: something in it, or in the place of it or of a
    folder above it (also as a whiteout, which removes)."""
    if folder == path or folder in path.parents:
        return True
    target = path
    if path.name.startswith(WHITEOUT):
        removed = path.name.removeprefix(WHITEOUT)
        target = path.parent if removed.startswith(WHITEOUT) else path.parent / removed
    return target == folder or target in folder.parents


def _read(registry: Registry, repository: str, descriptor: Descriptor) -> _Layer:
    layer = _Layer()
    pieces = registry.blob(repository, descriptor.digest)
    raw = io.BufferedReader(_Stream(pieces, descriptor), untar.PIECE)
    try:
        plain = _Limited(_unpacked(raw, descriptor))
        reader = untar.Reader(plain)
        for entry in reader:
            if entry.kind == "file":
                _file(layer, entry, reader)
            elif entry.kind == "other":
                layer.others.append(entry.path)
        while piece := plain.read(untar.PIECE):
            if piece.strip(b"\0"):  # another reader might take it for more files
                raise VerificationError(f"The layer {descriptor.digest} goes on behind the end of its tar.")
    except (zlib.error, gzip.BadGzipFile, EOFError, _zstd_error()):
        raise VerificationError(f"The layer {descriptor.digest} is not packed as its media type says.") from None
    for _ in iter(lambda: raw.read(untar.PIECE), b""):
        pass  # only at the end of the stream is its digest known
    return layer


def _file(layer: _Layer, entry: untar.Entry, reader: untar.Reader) -> None:
    sum_, record = hashlib.sha256(), b""
    keep = entry.path.name == kept.RECORD and entry.size <= kept.MAX_RECORD_BYTES
    for piece in reader.content():
        sum_.update(piece)
        record += piece if keep else b""
    layer.files[entry.path] = FileRecord(sha256=sum_.hexdigest(), bytes=entry.size)
    if keep:
        layer.records[entry.path] = record


class _Stream(io.RawIOBase):
    """The pieces of a blob as a file; more than its descriptor says is refused."""

    def __init__(self, pieces: Iterator[bytes], descriptor: Descriptor) -> None:
        self._pieces, self._descriptor = pieces, descriptor
        self._rest, self._seen = b"", 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest, self._seen = piece, self._seen + len(piece)
            if self._seen > self._descriptor.size:
                raise RegistryError(f"The blob {self._descriptor.digest} is larger than its manifest says.")
        taken = self._rest[: len(buffer)]
        buffer[: len(taken)] = taken
        self._rest = self._rest[len(taken) :]
        return len(taken)


class _Limited:
    """Reads exactly as much as asked where there is so much, and never more than a layer may hold."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source, self._seen = source, 0

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size and (piece := self._source.read(size - len(data))):
            data = data + piece if data else piece
        self._seen += len(data)
        if self._seen > MAX_PLAIN_BYTES:
            raise VerificationError(f"A layer of the image unpacks to more than {MAX_PLAIN_BYTES >> 30} GiB.")
        return data


def _unpacked(raw: io.BufferedReader[_Stream], descriptor: Descriptor) -> IO[bytes]:
    """The plain tar, by what the bytes are: media types of old registries are not always right."""
    head = raw.peek(4)[:4]
    if head[:2] == b"\x1f\x8b":
        return cast("IO[bytes]", gzip.GzipFile(fileobj=raw))
    if head == b"\x28\xb5\x2f\xfd":
        import zstandard

        unpacker = zstandard.ZstdDecompressor(max_window_size=1 << 27)
        return cast("IO[bytes]", unpacker.stream_reader(raw, read_across_frames=True))
    if descriptor.media_type.endswith(("gzip", "zstd")):
        raise VerificationError(f"The layer {descriptor.digest} is not packed as its media type says.")
    return cast("IO[bytes]", raw)


def _zstd_error() -> type[Exception]:
    import zstandard

    found: type[Exception] = zstandard.ZstdError
    return found
