"""Files that are either whole or absent."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from trt_action.errors import StorageError


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
    """A private folder for one run, gone afterwards.

    Raises:
        StorageError: no temporary folder can be made.
    """
    with _storage_errors(Path(tempfile.gettempdir())):
        folder = tempfile.TemporaryDirectory(prefix="trt-action-", ignore_cleanup_errors=True)
    with folder as name:
        yield Path(name)


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
