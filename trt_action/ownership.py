"""What a container leaves in the workspace belongs to root and would break the next checkout: hand it over."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path


def hand_over(folder: Path, *, since: float) -> int:
    """Give what this process has made below `folder` to the owner of `folder`. Returns how many entries it gave.

    Only entries that belong to us and changed after `since` (seconds since 1970) are given; links themselves, never what
    they point to, and no file with a second name, which may lie outside. Does nothing unless we are root.
    """
    if os.geteuid() != 0:
        return 0
    try:
        owner = folder.lstat()
    except OSError:
        return 0
    if owner.st_uid == 0 or not stat.S_ISDIR(owner.st_mode):
        return 0
    given = 0
    for _, folders, files, handle in os.fwalk(folder, follow_symlinks=False):
        for name in (*folders, *files):
            with contextlib.suppress(OSError):  # gone meanwhile, or a file system without owners
                about = os.lstat(name, dir_fd=handle)
                single = stat.S_ISDIR(about.st_mode) or about.st_nlink == 1
                if about.st_uid == 0 and about.st_ctime >= since and single:
                    os.chown(name, owner.st_uid, owner.st_gid, dir_fd=handle, follow_symlinks=False)
                    given += 1
    return given
