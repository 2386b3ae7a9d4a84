"""What users hand in: files opened only if they are regular files, and their names put safely into messages."""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from trt_action.errors import StorageError, TrtActionError

LFS_HEAD = b"version https://git-lfs.github.com/spec/"
"""How a Git LFS pointer begins: the text that Git stores, and leaves behind where the object was not fetched."""

SHOWN = 120
"""Characters of a foreign name that a message shows."""


def quote(name: object) -> str:
    """A foreign name for a message: in backticks, one line, printable, shortened in the middle."""
    text = "".join(c if c.isprintable() and c != "`" else " " for c in str(name))
    if len(text) > SHOWN:
        half = SHOWN // 2
        text = f"{text[:half]} … {text[-half:]}"
    return f"`{text}`"


def quote_all(names: Iterable[object], most: int = 8) -> str:
    """Names for a message, the first `most` of them."""
    quoted = [quote(name) for name in names]
    more = f" and {len(quoted) - most} more" if len(quoted) > most else ""
    return ", ".join(quoted[:most]) + more


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` was most likely meant to be, or None."""
    found = difflib.get_close_matches(name[:1_000], list(known)[:1_000], n=1)
    return found[0] if found else None


def is_lfs_pointer(head: bytes) -> bool:
    """Whether a file that begins with `head` is a Git LFS pointer."""
    return head.startswith(LFS_HEAD)


def open_regular(path: Path, *, noun: str, wrong: type[TrtActionError]) -> BinaryIO:
    """Open for reading what must be a regular file (or a link to one); never blocks on a pipe or a device.

    Raises:
        wrong: missing, a folder, a pipe, a device or a name that no file can have.
        StorageError: it is there and cannot be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise wrong(
            f"The {noun} {quote(path)} does not exist.",
            why=_missing(path),
            fix="Correct the path; relative paths start at the folder of the config file or the current one.",
        ) from None
    except PermissionError:
        raise StorageError(
            f"The {noun} {quote(path)} may not be read by this user.",
            fix="Give this user read permission on the file and on every folder above it (`namei -l` shows them).",
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        raise wrong(f"The {noun} {quote(path)} cannot be opened: {error}.", fix="Name a regular file.") from None
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
    raise wrong(f"The {noun} {quote(path)} is {kind}, not a regular file.", fix="Name the file itself.")


def _missing(path: Path) -> str:
    if path.is_symlink():
        return f"It is a link to {quote(path.readlink())}, and nothing is there."
    folder = path.parent
    try:
        close = nearest(path.name, (entry.name for entry in folder.iterdir())) if folder.is_dir() else None
    except OSError:
        close = None
    if close:
        return f"In the same folder there is {quote(close)}."
    return "" if folder.is_dir() else f"The folder {quote(folder)} does not exist either."
