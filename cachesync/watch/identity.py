"""Which directory stands at a path. A root that comes back under its name may be another one."""

from __future__ import annotations

import errno
import os
import stat


def identify(root: str) -> tuple[int, int]:
    """Device and inode of the directory at ``root``. Raises OSError if there is none."""
    status = os.stat(root)
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), root)
    return status.st_dev, status.st_ino
