"""Owners and POSIX ACLs: read before something leaves the disk, given to what comes before a path leads to it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat as st
import sys
from collections.abc import Iterator

from cachesync.model.values import Rights

ACCESS = "system.posix_acl_access"
DEFAULT = "system.posix_acl_default"

_LINUX = sys.platform.startswith("linux")
_NO_ACL = frozenset({errno.ENODATA, errno.EOPNOTSUPP, errno.ENOENT})
"""There is none; the file system has none; there is no /proc."""


def rights_of(descriptor: int, found: os.stat_result) -> tuple[int, Rights]:
    """Return permission bits and rights of an open directory, whose stat is ``found``. Raises OSError."""
    rights = Rights(found.st_uid, found.st_gid, _acl(descriptor, ACCESS), _acl(descriptor, DEFAULT))
    return st.S_IMODE(found.st_mode), rights


def rights_at(directory: int, name: str) -> Rights | None:
    """Return the rights of a name in an open directory, None if it is free; a link is not followed. Raises OSError."""
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if st.S_ISLNK(found.st_mode):
        return Rights(found.st_uid, found.st_gid)
    place = f"/proc/self/fd/{directory}/{name}"
    default = _acl(place, DEFAULT) if st.S_ISDIR(found.st_mode) else None
    return Rights(found.st_uid, found.st_gid, _acl(place, ACCESS), default)


def _acl(where: int | str, name: str) -> bytes | None:
    if not _LINUX:
        return None
    try:
        return os.getxattr(where, name) if isinstance(where, int) else os.getxattr(where, name, follow_symlinks=False)
    except OSError as error:
        if error.errno in _NO_ACL:
            return None
        raise


def restorable(uid: int, gid: int) -> tuple[int, int]:
    """Return the owner that this process can give to what it makes for ``uid`` and ``gid``: as root those, otherwise
    itself, and a group that it is in."""
    if (own := os.geteuid()) == 0:
        return uid, gid
    return own, gid if gid == os.getegid() or gid in os.getgroups() else os.getegid()


def owner_for(rights: Rights | None, above: int) -> tuple[int, int]:
    """Return the owner of what is put into the open directory ``above``. Without ``rights`` it is the directory's: who
    works in it works with what comes from another host too."""
    if rights is not None:
        return restorable(rights.uid, rights.gid)
    found = os.fstat(above)
    return restorable(found.st_uid, found.st_gid)


def give(descriptor: int, rights: Rights | None, above: int, mode: int) -> None:
    """Give an open file or directory that no path of a session leads to yet its owner (see ``owner_for``), ACLs and
    permission bits. If it cannot have its ACL, its group gets nothing: those bits are the ACL's mask. Raises OSError.
    """
    found, owner = os.fstat(descriptor), owner_for(rights, above)
    if (found.st_uid, found.st_gid) != owner:
        with _as_far_as_allowed():
            os.fchown(descriptor, *owner)
    if rights is not None and not _give_acls(descriptor, rights):
        mode &= ~st.S_IRWXG
    set_mode(descriptor, mode)


def give_link(directory: int, name: str, rights: Rights | None, above: int) -> None:
    """Give what has a name in an open directory its owner only; a link is not followed. Raises OSError."""
    found, owner = os.stat(name, dir_fd=directory, follow_symlinks=False), owner_for(rights, above)
    if (found.st_uid, found.st_gid) != owner:
        with _as_far_as_allowed():
            os.chown(name, *owner, dir_fd=directory, follow_symlinks=False)


@contextlib.contextmanager
def _as_far_as_allowed() -> Iterator[None]:
    """Root may lack CAP_CHOWN, or be in a user namespace that does not have the user."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EINVAL):
            raise


def set_mode(descriptor: int, mode: int) -> None:
    """Set permission bits; without the set-group-ID bit where that is refused (systemd's RestrictSUIDSGID=). Raises
    OSError."""
    try:
        os.fchmod(descriptor, mode)
    except PermissionError:
        os.fchmod(descriptor, mode & ~st.S_ISGID)


def _give_acls(descriptor: int, rights: Rights) -> bool:
    """Whether it has its access ACL now, if there was one."""
    try:
        if rights.default_acl is not None:
            os.setxattr(descriptor, DEFAULT, rights.default_acl)
        if rights.acl is not None:
            os.setxattr(descriptor, ACCESS, rights.acl)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EPERM, errno.EINVAL, errno.EACCES):
            raise
        return rights.acl is None
    return True
