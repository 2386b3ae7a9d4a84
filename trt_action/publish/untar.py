"""Reading a layer's tar as it streams by, nothing of it on disk.

Layers come from strangers. The standard library's reader takes a header's own word for how much memory it needs; this one
has limits. Formats: POSIX ustar and PAX (https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html), and GNU's
long names and base-256 sizes, as Docker and BuildKit write them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, Protocol

from trt_action.errors import VerificationError

BLOCK = 512
PIECE = 1 << 20
MAX_ENTRIES = 200_000
MAX_HEADER = 1 << 20
"""Bytes of an extended header."""

Kind = Literal["file", "folder", "other"]
_KINDS: dict[bytes, Kind] = {b"0": "file", b"\0": "file", b"7": "file", b"5": "folder"}


class Source(Protocol):
    """Something to read from; fewer bytes than asked only at the end."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True)
class Entry:
    """One file, folder or other thing; `path` without a leading `/` or `./`."""

    path: PurePosixPath
    kind: Kind
    size: int


class Reader:
    """Iterate for the entries; `content` gives the bytes of the one that was just given, once.

    Raises (while reading):
        VerificationError: it is no tar, has a path that leads out of it, or is beyond the limits.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._left = 0
        self._padding = 0

    def __iter__(self) -> Iterator[Entry]:
        more: dict[str, str] = {}
        for _ in range(MAX_ENTRIES):
            self._skip()
            header = self._source.read(BLOCK)
            if not header.strip(b"\0"):
                return
            size, kind = _checked(header), header[156:157]
            if kind in (b"x", b"L"):
                more |= self._extended(kind, size)
                continue
            if kind in (b"g", b"K"):  # defaults and link targets: nothing that is looked at here
                self._extended(kind, size)
                continue
            known = _KINDS.get(kind, "other")
            size = _number(more["size"].encode(), 10) if "size" in more else size
            self._left = size if known == "file" else 0
            self._padding = -self._left % BLOCK
            yield Entry(_path(more.get("path") or _name(header)), known, self._left)
            more = {}
        raise _bad(f"it has more than {MAX_ENTRIES} entries")

    def content(self) -> Iterator[bytes]:
        """The bytes of the current file in pieces."""
        while self._left:
            piece = self._read(min(PIECE, self._left))
            self._left -= len(piece)
            yield piece

    def _skip(self) -> None:
        for _ in self.content():
            pass
        self._read(self._padding)
        self._padding = 0

    def _extended(self, kind: bytes, size: int) -> dict[str, str]:
        if size > MAX_HEADER:
            raise _bad("it has a header that is too large")
        data = self._read(size)
        self._read(-size % BLOCK)
        if kind == b"L":
            return {"path": data.rstrip(b"\0").decode("utf-8", "surrogateescape")}
        return _pax(data) if kind == b"x" else {}

    def _read(self, size: int) -> bytes:
        data = self._source.read(size)
        if len(data) != size:
            raise _bad("it ends too early")
        return data


def _checked(header: bytes) -> int:
    """The size in a header whose checksum is right."""
    if len(header) != BLOCK:
        raise _bad("it ends too early")
    total = sum(header) - sum(header[148:156]) + 8 * 32
    if _number(header[148:156].strip(b"\0 "), 8) != total:
        raise _bad("a header is damaged")
    size = header[124:136]
    return int.from_bytes(size[1:], "big") if size[0] == 0x80 else _number(size.strip(b"\0 "), 8)


def _number(text: bytes, base: int) -> int:
    try:
        value = int(text or b"0", base)
    except ValueError:
        value = -1
    if value < 0 or len(text) > 24:
        raise _bad("a header has no number where one belongs")
    return value


def _name(header: bytes) -> str:
    name, prefix = (header[a:b].partition(b"\0")[0] for a, b in ((0, 100), (345, 500)))
    whole = prefix + b"/" + name if prefix and header[257:262] == b"ustar" and header[262:263] == b"\0" else name
    return whole.decode("utf-8", "surrogateescape")


def _pax(data: bytes) -> dict[str, str]:
    found = {}
    while data:
        digits, _, rest = data.partition(b" ")
        length = _number(digits, 10)
        record, newline = data[len(digits) + 1 : length - 1], data[length - 1 : length]
        if not rest or newline != b"\n":
            raise _bad("an extended header is damaged")
        key, _, value = record.partition(b"=")
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        data = data[length:]
    return {key: value for key, value in found.items() if key in ("path", "size")}


def _path(name: str) -> PurePosixPath:
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise _bad("a path leads out of it")
    return PurePosixPath(*parts)


def _bad(why: str) -> VerificationError:
    return VerificationError(f"A layer of the image is no sound tar: {why}.")
