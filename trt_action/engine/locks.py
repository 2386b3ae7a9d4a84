"""Advisory locks (flock(2)) on files and folders: they are gone when their process is, however it ended."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

POLL_SECONDS = 0.1
"""flock has no time limit of its own; a waiter looks ten times a second."""

_BUSY = (errno.EAGAIN, errno.EACCES)


class Lock:
    """A held lock. It ends with `release`, with the `with` block, or with the process."""

    def __init__(self, handle: int) -> None:
        self._handle: int | None = handle

    def release(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.release()


def exclusive_file(path: Path, *, timeout: float, waiting: Callable[[], None] | None = None) -> Lock | None:
    """Lock a file of its own (made if missing) for one process; None after `timeout` seconds.

    `waiting` is called once if another process holds it.

    Raises:
        OSError: the file cannot be made or locked here.
    """
    deadline = time.monotonic() + timeout
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            got = _try_lock(handle, fcntl.LOCK_EX) and _still_there(handle, path)
        except BaseException:
            os.close(handle)
            raise
        if got:
            return Lock(handle)
        os.close(handle)
        if time.monotonic() >= deadline:
            return None
        if waiting is not None:
            waiting()
            waiting = None
        time.sleep(POLL_SECONDS)


def folder(path: Path, *, shared: bool) -> Lock | None:
    """Lock a folder itself, without waiting: shared = in use, exclusive = about to go.

    Returns:
        None if it is missing, not a folder, a link, or locked the other way.

    Raises:
        OSError: it may not be opened, or this file system has no locks.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
    try:
        if _try_lock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX) and _still_there(handle, path):
            return Lock(handle)
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None


def _try_lock(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY:
            return False
        raise
    return True


def _still_there(handle: int, path: Path) -> bool:
    """False if the name now stands for something else: it was removed or replaced before the lock was had."""
    try:
        now = path.lstat()
    except FileNotFoundError:
        return False
    mine = os.fstat(handle)
    return (mine.st_dev, mine.st_ino) == (now.st_dev, now.st_ino)
