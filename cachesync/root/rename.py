"""renameat2(2): a name that must be free, or two names exchanged; and the nearest to it where there is no such call."""

from __future__ import annotations

import ctypes
import errno
import os

_NOREPLACE, _EXCHANGE = 1, 2
_LACKING = frozenset({errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM})
"""An old kernel, a file system that knows no flags, an old seccomp filter."""

_UNLINKABLE = _LACKING | {errno.EISDIR, errno.EMLINK, errno.EACCES}

_libc = ctypes.CDLL(None, use_errno=True)


def _renameat2(old: int, old_name: str, new: int, new_name: str, flags: int) -> int:
    """0, or the error's number."""
    if not hasattr(_libc, "renameat2"):
        return errno.ENOSYS
    if _libc.renameat2(old, os.fsencode(old_name), new, os.fsencode(new_name), ctypes.c_uint(flags)) == 0:
        return 0
    return ctypes.get_errno()


def move(old: int, old_name: str, new: int, new_name: str) -> None:
    """Rename between two open directories. Raises FileExistsError if something has the new name, and OSError.

    Where the kernel cannot promise that, a hard link does; for directories, and without hard links, a look before.
    """
    code = _renameat2(old, old_name, new, new_name, _NOREPLACE)
    if not code:
        return
    if code not in _LACKING:
        raise OSError(code, os.strerror(code), new_name)
    try:
        os.link(old_name, new_name, src_dir_fd=old, dst_dir_fd=new, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _UNLINKABLE:
            raise
    else:
        os.unlink(old_name, dir_fd=old)
        return
    try:
        os.stat(new_name, dir_fd=new, follow_symlinks=False)
    except FileNotFoundError:
        os.rename(old_name, new_name, src_dir_fd=old, dst_dir_fd=new)
    else:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new_name)


def exchange(old: int, old_name: str, new: int, new_name: str) -> bool:
    """Let two names change places at one instant; False where that cannot be done. Raises OSError."""
    code = _renameat2(old, old_name, new, new_name, _EXCHANGE)
    if code and code not in _LACKING:
        raise OSError(code, os.strerror(code), new_name)
    return not code
