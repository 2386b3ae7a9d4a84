"""A folder as an image's layer: the same files give the same bytes, whoever packs them and when.

Layers: https://github.com/opencontainers/image-spec/blob/v1.1.0/layer.md (POSIX ustar; long names as PAX records).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol

from trt_action.errors import StorageError
from trt_action.inputs import quote
from trt_action.publish.oci import LAYER, LAYER_GZIP, LAYER_ZSTD, Blob

USER = 65532
"""Owner of the folder and of all that is in it: the user that the image runs as, and that no host has."""

DIRECTORY_MODE, FILE_MODE, PROGRAM_MODE = 0o755, 0o644, 0o755
MAX_FILES = 100_000
ZSTD_LEVEL, GZIP_LEVEL = 3, 6
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
"""RFC 1952: no name, no time, an unknown system."""

Compression = Literal["none", "zstd", "gzip"]


def pack(folder: Path, place: str, target: Path, *, compression: Compression = "none", time: int = 0) -> Blob:
    """Write the tar of `folder`, seen at `place` in the image (`/models/digits/1`), to `target`.

    The same bytes come out every time; of the compressed forms, with the same version of zlib or zstd.
    Only regular files and folders: a link inside is followed if it stays inside, and refused otherwise.

    Args:
        time: modification time of everything, seconds since 1970.

    Raises:
        StorageError: something cannot be read, is no file, or leads out of the folder; or `target` cannot be written.
    """
    try:
        with target.open("wb") as file:
            sink = _Hashed(file)
            squeezed = _compressor(compression, sink)
            plain = _Hashed(squeezed)
            _write_tar(plain, folder, PurePosixPath(place), time)
            squeezed.close()
    except OSError as error:
        raise StorageError(
            f"The layer of {quote(folder)} cannot be made: {error.strerror or error}.",
            fix="Check permissions, and free space for a copy of the folder (`df -h`).",
        ) from None
    media_type = {"none": LAYER, "zstd": LAYER_ZSTD, "gzip": LAYER_GZIP}[compression]
    return Blob(sink.digest(), sink.size, media_type, target, diff_id=plain.digest())


class _Sink(Protocol):
    def write(self, data: bytes, /) -> object: ...


class _Closable(_Sink, Protocol):
    def close(self) -> None: ...


class _Hashed:
    """Passes on what is written, and knows its hash and size."""

    def __init__(self, sink: _Sink) -> None:
        self._sink, self._sum, self.size = sink, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self._sink.write(data)
        self._sum.update(data)
        self.size += len(data)
        return len(data)

    def digest(self) -> str:
        return f"sha256:{self._sum.hexdigest()}"


class _Plain:
    def __init__(self, sink: _Sink) -> None:
        self._sink = sink

    def write(self, data: bytes) -> None:
        self._sink.write(data)

    def close(self) -> None:
        """Nothing is held back."""


class _Gzip:
    """`gzip.GzipFile` would do, but what it writes into the header differs between Python's versions."""

    def __init__(self, sink: _Sink) -> None:
        self._sink = sink
        self._squeeze = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        self._crc, self._size = 0, 0
        sink.write(_GZIP_HEADER)

    def write(self, data: bytes) -> None:
        self._crc, self._size = zlib.crc32(data, self._crc), self._size + len(data)
        self._sink.write(self._squeeze.compress(data))

    def close(self) -> None:
        self._sink.write(self._squeeze.flush())
        self._sink.write(self._crc.to_bytes(4, "little") + (self._size % 2**32).to_bytes(4, "little"))


class _Zstd:
    def __init__(self, sink: _Sink) -> None:
        import zstandard

        self._sink: _Sink = sink
        self._squeeze: Any = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True).compressobj()

    def write(self, data: bytes) -> None:
        self._sink.write(self._squeeze.compress(data))

    def close(self) -> None:
        self._sink.write(self._squeeze.flush())


def _compressor(compression: Compression, sink: _Sink) -> _Closable:
    made: dict[str, type[_Plain | _Gzip | _Zstd]] = {"none": _Plain, "gzip": _Gzip, "zstd": _Zstd}
    return made[compression](sink)


def _write_tar(sink: _Hashed, folder: Path, place: PurePosixPath, time: int) -> None:
    inside = PurePosixPath(*(part for part in place.parts if part not in ("/", ".")))
    if ".." in inside.parts or not inside.parts:
        raise StorageError(f"A layer cannot be put at {quote(place)}.", fix="Name an absolute folder of the image.")
    for parent in [*reversed(inside.parents)][1:]:
        info = _folder(str(parent), time)
        info.uid = info.gid = 0  # they may be the base's own, `/opt` for example
        _entry(sink, info)
    for path, name in _walk(folder, inside):
        if path.is_file():
            _file(sink, path, name, time)
        else:
            _entry(sink, _folder(name, time))
    sink.write(b"\0" * (2 * tarfile.BLOCKSIZE))
    sink.write(b"\0" * (-sink.size % tarfile.RECORDSIZE))


def _walk(folder: Path, inside: PurePosixPath) -> Iterator[tuple[Path, str]]:
    """Folders before what is in them, names in the order of their bytes."""
    root = folder.resolve(strict=True)
    waiting = [(folder, inside, frozenset({root}))]
    count = 0
    while waiting:
        path, name, above = waiting.pop()
        count += 1
        if count > MAX_FILES:
            raise StorageError(f"{quote(folder)} holds more than {MAX_FILES} files.")
        yield path, str(name)
        if not path.is_dir():
            continue
        entries = sorted(path.iterdir(), key=lambda entry: os.fsencode(entry.name), reverse=True)
        for entry in entries:
            real = _real(entry, root)
            if real in above:
                raise StorageError(f"{quote(entry)} is a link to a folder that it is in.", fix="Remove the link.")
            waiting.append((entry, name / entry.name, above | {real} if entry.is_dir() else above))


def _real(entry: Path, root: Path) -> Path:
    """Where an entry leads, which must be inside of the folder."""
    try:
        real = entry.resolve(strict=True)
    except (OSError, RuntimeError):
        raise StorageError(f"{quote(entry)} is a link to nothing.", fix="Remove it, or give the file.") from None
    if not real.is_relative_to(root):
        raise StorageError(
            f"{quote(entry)} is a link that leads out of {quote(root)}.",
            why="Whatever is there would become a part of the image.",
            fix="Copy the file into the folder.",
        )
    mode = real.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise StorageError(f"{quote(entry)} is neither a file nor a folder.", fix="Remove it.")
    return real


def _folder(name: str, time: int) -> tarfile.TarInfo:
    info = _info(name, DIRECTORY_MODE, time)
    info.type = tarfile.DIRTYPE
    return info


def _info(name: str, mode: int, time: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.mode, info.mtime, info.uid, info.gid = mode, time, USER, USER
    return info


def _entry(sink: _Hashed, info: tarfile.TarInfo) -> None:
    try:
        info.name.encode()  # tarfile would write such a name as bytes, which not every engine reads
        header = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")
    except UnicodeEncodeError:
        raise StorageError(
            f"The name {quote(info.name)} is no UTF-8; it cannot be put into an image.", fix="Rename the file."
        ) from None
    sink.write(header)


def _file(sink: _Hashed, path: Path, name: str, time: int) -> None:
    with contextlib.closing(os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb", 0)) as file:
        status = os.fstat(file.fileno())
        info = _info(name, PROGRAM_MODE if status.st_mode & 0o100 else FILE_MODE, time)
        info.size = status.st_size
        _entry(sink, info)
        left = info.size
        while left and (piece := file.read(min(1 << 20, left))):
            sink.write(piece)
            left -= len(piece)
    if left:
        raise StorageError(f"{quote(path)} became shorter while it was read.", fix="Leave it alone during the run.")
    sink.write(b"\0" * (-info.size % tarfile.BLOCKSIZE))
