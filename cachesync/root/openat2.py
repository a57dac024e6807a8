"""Opening paths that cannot escape: openat2(2) with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS, and asking for writers."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import sys
from typing import NamedTuple

from cachesync.model.policy import Writer

_LINUX = sys.platform.startswith("linux")
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY
HOLD = os.O_PATH if _LINUX else os.O_RDONLY
"""The flag for holding a directory without reading it."""

_OPENAT2 = 437  # one number on all architectures
_NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x02, 0x04, 0x08
_AT_SYMLINK_NOFOLLOW, _STATX_BTIME, _BTIME_AT = 0x100, 0x800, 80
_STATX_MNT_ID, _STATX_MNT_ID_UNIQUE, _MNT_ID_AT = 0x1000, 0x4000, 144
_ATTRIBUTES_AT, _MOUNT_ROOT = 8, 0x2000
_F_SETLEASE, _F_RDLCK, _F_UNLCK = 1024, 0, 2


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_libc = ctypes.CDLL(None, use_errno=True)
# PyDLL keeps the interpreter's lock, so no other thread can come between taking and dropping a lease.
_locked_libc = ctypes.PyDLL(None, use_errno=True)


def open_beneath(directory: int, path: str, flags: int) -> int:
    """Open ``path`` under the descriptor ``directory``: ELOOP for a symlink anywhere in it, EXDEV for an escape."""
    flags |= os.O_CLOEXEC | os.O_NOFOLLOW
    if not _LINUX:
        return _walk(directory, path, flags)
    how = _OpenHow(flags, 0, _NO_MAGICLINKS | _NO_SYMLINKS | _BENEATH)
    raw = os.fsencode(path) or b"."
    descriptor: int = _libc.syscall(_OPENAT2, directory, raw, ctypes.byref(how), ctypes.sizeof(how))
    if descriptor >= 0:
        return descriptor
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EPERM, errno.ENAMETOOLONG):  # an old kernel, an old seccomp filter, past PATH_MAX
        return _walk(directory, path, flags)
    raise OSError(code, os.strerror(code), path)


def _walk(directory: int, path: str, flags: int) -> int:
    """The same by one openat(2) a component."""
    *parents, last = [part for part in path.split("/") if part] or ["."]
    if ".." in (*parents, last):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
    held = os.dup(directory)
    try:
        for part in parents:
            step = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=held)
            os.close(held)
            held = step
        return os.open(last, flags, dir_fd=held)
    finally:
        os.close(held)


def open_regular(directory: int, path: str) -> int | None:
    """Open a regular file under ``directory`` for reading; None if what is there is none.

    It is held before it is opened, since opening a pipe would let a writer through that waits at it.
    """
    if not _LINUX:
        descriptor = open_beneath(directory, path, _READ)
        return _if_regular(descriptor)
    held = open_beneath(directory, path, os.O_PATH)
    try:
        if not stat.S_ISREG(os.fstat(held).st_mode):
            return None
        try:
            return os.open(f"/proc/self/fd/{held}", _READ | os.O_CLOEXEC)
        except OSError as error:  # no /proc here, or none of ours; or the file itself says no, and will again
            if error.errno not in (errno.ENOENT, errno.EACCES, errno.EPERM):
                raise
        return _if_regular(open_beneath(directory, path, _READ))
    finally:
        os.close(held)


def _if_regular(descriptor: int) -> int | None:
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


def birth_ns(directory: int, name: str) -> int | None:
    """Return a file's birth time in nanoseconds since the epoch; None if the file system or the kernel does not record
    it (statx(2)). Raises OSError if the file cannot be examined."""
    return _statx(directory, name).birth_ns


def mount_identity(directory: int, name: str, found: os.stat_result, device: int) -> str | None:
    """Return the identity of the mount whose root is this directory; None if the directory is not a mount's root.

    ``found`` is its stat, ``device`` the device number of its parent directory. Each mount has its own identity, even
    of the same volume at the same place (statx(2), STATX_ATTR_MOUNT_ROOT since Linux 5.8, STATX_MNT_ID_UNIQUE since
    6.8). Raises OSError.
    """
    told = _statx(directory, name)
    if found.st_dev == device and not told.mount_root:
        return None
    return f"{found.st_dev}:{found.st_ino}:{told.birth_ns}:{told.mount_id}"


class _Told(NamedTuple):
    """The result of statx(2) for a name. A field is None if the system does not support it."""

    birth_ns: int | None = None
    mount_id: int | None = None
    mount_root: bool = False


def _statx(directory: int, name: str) -> _Told:
    """Call statx(2). Raises OSError."""
    if not _LINUX:
        return _Told()
    answer = ctypes.create_string_buffer(256)
    wanted = _STATX_BTIME | _STATX_MNT_ID | _STATX_MNT_ID_UNIQUE
    if _libc.statx(directory, os.fsencode(name), _AT_SYMLINK_NOFOLLOW, wanted, answer) != 0:
        code = ctypes.get_errno()
        if code in (errno.ENOSYS, errno.EPERM):  # an old kernel, an old seccomp filter
            return _Told()
        raise OSError(code, os.strerror(code), name)
    (mask,) = struct.unpack_from("=I", answer, 0)
    (attributes,) = struct.unpack_from("=Q", answer, _ATTRIBUTES_AT)
    seconds, nanoseconds = struct.unpack_from("=qI", answer, _BTIME_AT)
    (mount,) = struct.unpack_from("=Q", answer, _MNT_ID_AT)
    birth = int(seconds * 1_000_000_000 + nanoseconds) if mask & _STATX_BTIME else None
    known = mask & (_STATX_MNT_ID | _STATX_MNT_ID_UNIQUE)
    return _Told(birth, mount if known else None, bool(attributes & _MOUNT_ROOT))


def writer_of(descriptor: int) -> Writer:
    """Ask the kernel whether anyone has the file of a read-only descriptor open for writing, or mapped so.

    A read lease is refused while a writer is there (fcntl(2), F_SETLEASE). It is dropped at once: an ``open`` that
    comes in between waits for some microseconds and sends us SIGIO, which the process must ignore. Needs the file's
    owner or CAP_LEASE, and a local file system; UNKNOWN otherwise.
    """
    if not _LINUX:
        return Writer.UNKNOWN
    if _locked_libc.fcntl(descriptor, _F_SETLEASE, _F_RDLCK) == 0:
        _locked_libc.fcntl(descriptor, _F_SETLEASE, _F_UNLCK)
        return Writer.CLOSED
    return Writer.OPEN if ctypes.get_errno() == errno.EAGAIN else Writer.UNKNOWN
