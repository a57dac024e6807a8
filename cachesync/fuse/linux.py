"""System calls that Python's os lacks. Each raises OSError."""

from __future__ import annotations

import ctypes
import os

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_SYMLINK_FOLLOW = 0x400
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
UTIME_NOW = (1 << 30) - 1
UTIME_OMIT = (1 << 30) - 2

MS_NOSUID = 2
MS_NODEV = 4
MS_REMOUNT = 32
MS_NOSYMFOLLOW = 256
MS_BIND = 4096
MS_REC = 16384
MS_SLAVE = 1 << 19
MNT_DETACH = 2
CLONE_NEWNS = 0x00020000

_libc = ctypes.CDLL(None, use_errno=True)
_LONG = ctypes.c_long


class _TimeSpec(ctypes.Structure):
    _fields_ = (("sec", ctypes.c_long), ("ns", ctypes.c_long))


def _check(result: int, path: bytes | str | None = None) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def rename(old: bytes, new: bytes, flags: int) -> None:
    """renameat2(2), relative to the working directory."""
    _check(_libc.renameat2(AT_FDCWD, old, AT_FDCWD, new, flags), old)


def link_open(file: int, new: bytes) -> None:
    """Give an open file without a name one: linkat(2) by its descriptor."""
    _check(_libc.linkat(AT_FDCWD, b"/proc/self/fd/%d" % file, AT_FDCWD, new, AT_SYMLINK_FOLLOW), new)


def set_times(where: bytes | int, atime: tuple[int, int], mtime: tuple[int, int]) -> None:
    """utimensat(2) of a path (a link itself), or futimens(3) of an open file. Seconds, nanoseconds."""
    times = (_TimeSpec * 2)(_TimeSpec(*atime), _TimeSpec(*mtime))
    if isinstance(where, int):
        _check(_libc.futimens(where, times))
    else:
        _check(_libc.utimensat(AT_FDCWD, where, times, AT_SYMLINK_NOFOLLOW), where)


def fallocate(file: int, mode: int, offset: int, length: int) -> None:
    """Reserve, punch or zero a part of an open file, as the call of this name does."""
    _check(_libc.fallocate(file, mode, _LONG(offset), _LONG(length)))


def mount(source: bytes | None, target: bytes, kind: bytes | None, flags: int, options: bytes | None = None) -> None:
    """Attach a file system, or change how one is attached, as the call of this name does."""
    _check(_libc.mount(source, target, kind, ctypes.c_ulong(flags), options), target)


def umount(target: bytes, flags: int = 0) -> None:
    """Detach what is mounted, as umount2 does."""
    _check(_libc.umount2(target, flags), target)


def unshare(flags: int) -> None:
    """Leave what is shared with the parent process, as the call of this name does."""
    _check(_libc.unshare(flags))


def die_with_parent(parent: int) -> None:
    """Get SIGTERM when the parent process, which is ``parent``, ends; or end now if it has."""
    _check(_libc.prctl(1, 15, 0, 0, 0))  # PR_SET_PDEATHSIG, SIGTERM
    if os.getppid() != parent:
        raise SystemExit(1)
