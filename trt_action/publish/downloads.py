"""Reading one blob: in pieces, gone on with where the connection broke, and checked against its digest."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import requests
from urllib3.exceptions import HTTPError

from trt_action import files, http
from trt_action.errors import RegistryError
from trt_action.publish import uploads
from trt_action.publish.transport import Answer, Ask, Transport

PIECE = 65_536
"""Bytes that are read at once: a break costs what was read of one piece."""

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(?:\d{1,18}|\*)")


def hashed(data: bytes, algorithm: str = "sha256") -> str:
    """`<algorithm>:<hex>` of some bytes."""
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def whole(transport: Transport, ask: Ask, digest: str, limit: int) -> bytes:
    """A blob of at most `limit` bytes.

    Raises:
        RegistryError: it is not there, larger, or not what its digest says.
    """
    content = bytearray()
    for piece in pieces(transport, ask, digest):
        content += piece
        if len(content) > limit:
            raise RegistryError(f"{transport.host}: the blob {digest} is larger than {limit} bytes; it is not read.")
    return bytes(content)


def into_file(content: Iterator[bytes], path: Path) -> None:
    """Write it beside `path`, and rename at the end.

    Raises:
        StorageError: the file cannot be written.
    """
    with files.replacing(path) as temporary, temporary.open("wb") as file:
        for piece in content:
            file.write(piece)


def pieces(transport: Transport, ask: Ask, digest: str) -> Iterator[bytes]:
    """The content; its hash is known, and checked, at the end.

    Raises:
        RegistryError: it is not there, does not come in time, or is not what `digest` says.
    """
    algorithm = digest.partition(":")[0]
    sum_ = hashlib.new(algorithm)
    offset, tries = 0, transport.patience.tries()
    while True:
        before = offset
        opened = transport.open(replace(ask, headers={"Range": f"bytes={offset}-"} if offset else {}))
        got: Answer | http.Lost | None
        if isinstance(opened, http.Lost):
            got = opened
        else:
            with contextlib.closing(opened):
                got = _failed(opened, offset)
                if got is None:
                    try:
                        for piece in _after(opened, offset):
                            offset += len(piece)
                            sum_.update(piece)
                            yield piece
                        break
                    except requests.RequestException as error:
                        got = http.lost(error)
        if offset > before:  # it moves: patience begins anew
            tries = transport.patience.tries()
        if not tries.again(transport.wait(got, tries.number), transport.said(got), ask.words()):
            raise transport.refused(ask, got)
    if (found := f"{algorithm}:{sum_.hexdigest()}") != digest:
        raise uploads.mismatch(transport.host, digest, found)


def _failed(opened: requests.Response, offset: int) -> Answer | http.Lost | None:
    """The answer, if it is not the content from `offset` on."""
    if opened.status_code == 200:
        return None
    if opened.status_code == 206:
        found = _CONTENT_RANGE.fullmatch(opened.headers.get("Content-Range", ""))
        return None if found and int(found[1]) == offset else http.Lost("it sent another range than asked", final=True)
    try:
        content = opened.raw.read(65_536)
    except (HTTPError, OSError):
        content = b""
    return Answer(opened.status_code, opened.headers, content, opened.url)


def _after(opened: requests.Response, offset: int) -> Iterator[bytes]:
    """The pieces from `offset` on; an answer that ignores the range begins at 0."""
    skip = offset if opened.status_code == 200 else 0
    for piece in opened.iter_content(PIECE):
        kept = piece[skip:]
        skip -= len(piece) - len(kept)
        if kept:
            yield kept
