"""Files that are either whole or absent."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from trt_action.errors import StorageError

WORK = "trt-action-run-"
"""How the names of runs' temporary folders begin."""

_MADE = re.compile(WORK + "[a-z0-9_]{8}")
"""As `tempfile` ends them; with the mode that it gives, what tells them from a folder that somebody called alike."""


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write beside the target, then rename: a reader sees the old file or the new one.

    Raises:
        StorageError: the folder cannot be made or written, or the disk is full; the target is as it was.
    """
    data = content.encode() if isinstance(content, str) else content
    with _storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def check_folder(folder: Path) -> None:
    """Make the folder and try a file in it: before the work, not after it.

    Raises:
        StorageError: it cannot be made or written.
    """
    with _storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def copy_atomic(source: Path, target: Path) -> None:
    """Like `write_atomic`, for a file that may be large.

    Raises:
        StorageError: as `write_atomic`.
    """
    with _storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            shutil.copyfile(source, temporary)
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`: it becomes `path` when the block ends well, and is gone otherwise.

    Raises:
        StorageError: as `write_atomic`.
    """
    with _storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            yield temporary
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def work_folder() -> Iterator[Path]:
    """A private folder for one run, gone afterwards; what runs left that were killed goes before. The folder is locked
    (flock(2)) as long as its process lives, and nobody takes one without a lock for left while it is empty.

    Raises:
        StorageError: no temporary folder can be made.
    """
    parent = Path(tempfile.gettempdir())
    _remove_left(parent)
    with _storage_errors(parent):
        folder = tempfile.TemporaryDirectory(prefix=WORK, ignore_cleanup_errors=True)
    with folder as name, _locked(Path(name)):
        yield Path(name)


def _remove_left(parent: Path) -> None:
    with contextlib.suppress(OSError):
        for folder in parent.glob(f"{WORK}*"):
            with contextlib.suppress(OSError):
                if _is_ours(folder) and any(folder.iterdir()):
                    with _locked(folder) as free:
                        if free:
                            shutil.rmtree(folder, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    """Made by `work_folder`, for this user."""
    status = folder.lstat()
    private = stat.S_ISDIR(status.st_mode) and stat.S_IMODE(status.st_mode) & 0o777 == 0o700
    return private and status.st_uid == os.geteuid() and _MADE.fullmatch(folder.name) is not None


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Whether it could be: False where another process holds it, and on file systems that know no such locks."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        got = False
    else:
        got = True
    try:
        yield got
    finally:
        os.close(handle)


def is_trusted(status: os.stat_result, folder: Path) -> bool:
    """Whether nobody else wrote what this is the status of: what is cached is executable code.

    Trusted is what belongs to us or to root. Root also takes what belongs to the owner of the cache `folder` (a runner's
    user restores it, the action's container uses it), unless everybody may write there.

    Raises:
        OSError: there is no such folder.
    """
    owners = {os.geteuid(), 0}
    if os.geteuid() == 0:
        cache = folder.stat()
        owners |= set() if cache.st_mode & stat.S_IWOTH else {cache.st_uid}
    return status.st_uid in owners and not status.st_mode & stat.S_IWOTH


@contextlib.contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"`{path}` cannot be written: {error.strerror or error}.",
            fix="Check permissions and free space (`df -h`), or choose another folder with `--output` (of temporary files: "
            "`TMPDIR`).",
        ) from error
