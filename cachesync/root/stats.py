"""What one name stands for, by its stat."""

from __future__ import annotations

import errno
import os
import stat as st

from cachesync.model.values import FileStat, Kind, Skipped
from cachesync.root.openat2 import mount_identity

ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""What the kernel says of a name that is not there; a link on the way leads nowhere."""

_END_OF_TIME = 2**63 - 1
"""What the journal can count to: a file may be dated after 2262, and inode numbers are unsigned."""

_SPECIAL = {
    st.S_IFIFO: "a pipe",
    st.S_IFSOCK: "a socket",
    st.S_IFBLK: "a block device",
    st.S_IFCHR: "a character device",
}
_KINDS = {st.S_IFREG: Kind.FILE, st.S_IFLNK: Kind.LINK, st.S_IFDIR: Kind.DIRECTORY}


def examine(
    directory: int, name: str, path: str, root: int, found: os.stat_result | None = None, device: int | None = None
) -> FileStat | Skipped:
    """Return the stat of ``name`` in an open directory, or why it is skipped. ``root`` is the root's device number.
    ``found`` is the name's stat and ``device`` the directory's device number, if known. If a link is replaced
    meanwhile, the name is examined again. Raises OSError."""
    while True:
        found = found or os.stat(name, dir_fd=directory, follow_symlinks=False)
        kind = st.S_IFMT(found.st_mode)
        if kind in _SPECIAL:
            return Skipped(path, _SPECIAL[kind])
        if kind == st.S_IFDIR:
            device = os.fstat(directory).st_dev if device is None else device
            return to_stat(found, None, mount_identity(directory, name, found, device))
        mount = volume_of(found.st_dev, root)
        if kind != st.S_IFLNK:
            return to_stat(found, None, mount)
        try:
            return to_stat(found, os.readlink(name, dir_fd=directory), mount)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            found = None


def volume_of(device: int, root: int) -> str | None:
    """Return an identifier of a file's file system; None if it is the root's."""
    return None if device == root else str(device)


def to_stat(found: os.stat_result, target: str | None, mount: str | None = None) -> FileStat:
    """Convert a stat to the journal's form. ``target`` is a link's target; ``mount`` is a directory's mount or a file's
    file system."""
    return FileStat(
        _KINDS[st.S_IFMT(found.st_mode)],
        found.st_size,
        max(-_END_OF_TIME, min(found.st_mtime_ns, _END_OF_TIME)),
        max(-_END_OF_TIME, min(found.st_ctime_ns, _END_OF_TIME)),
        found.st_ino if found.st_ino <= _END_OF_TIME else found.st_ino - 2**64,
        st.S_IMODE(found.st_mode),
        target,
        mount,
    )
