"""The timing cache: what the builder has measured once on this GPU, kept for the next build."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import Any

from trt_action import files
from trt_action.errors import StorageError

FOLDER = "timing-caches"
MAX_BYTES = 256 << 20
"""Of a file that is read: a foreign one of any size is not taken into memory."""


def path(cache: Path, backend: str, version: str, gpu: str, driver: str) -> Path:
    """Where the measurements of this GPU, library and driver are kept: others' would be measurements of something else."""
    key = hashlib.sha256("\0".join((backend, version, gpu, driver)).encode()).hexdigest()
    return cache / FOLDER / f"{key[:32]}.timing"


def put_into(config: Any, file: Path) -> Any:
    """Give the builder what is in `file`; a file that is missing, damaged, of another GPU or of another user counts as
    empty.

    Returns:
        The cache object: it must outlive the build.
    """
    blob = _ours(file)
    timing_cache = config.create_timing_cache(blob) or config.create_timing_cache(b"")
    if not config.set_timing_cache(timing_cache, False):
        timing_cache = config.create_timing_cache(b"")
        config.set_timing_cache(timing_cache, False)
    return timing_cache


def _ours(file: Path) -> bytes:
    """Its content; empty where somebody else could have written it: the library parses it unseen."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as opened:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode) or not files.is_trusted(status, file.parent.parent):
                return b""
            content = opened.read(MAX_BYTES + 1)
    except OSError:
        return b""
    return content if len(content) <= MAX_BYTES else b""


def keep(config: Any, file: Path) -> None:
    """Write back what the builder knows now. A build is not worth less where this fails."""
    timing_cache = config.get_timing_cache()
    memory = timing_cache.serialize() if timing_cache is not None else None
    if memory is None:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        files.write_atomic(file, bytes(memory))
    except (OSError, StorageError):
        return
