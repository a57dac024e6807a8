"""Measures what a file system supports, with a temporary file: time stamps, birth times, leases."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import time
from collections.abc import Iterator

from cachesync.model.policy import FINE_TICK, Writer
from cachesync.model.values import LONGEST_TICK, Capabilities, Device, Leases
from cachesync.root.openat2 import birth_ns, writer_of

_LOCAL = {
    0xEF53: "ext4",  # ext2 and ext3 too
    0x58465342: "xfs",
    0x9123683E: "btrfs",
    0x01021994: "tmpfs",
    0x858458F6: "ramfs",
    0x2FC12FC1: "zfs",
    0xF2F52010: "f2fs",
    0xCA451A4E: "bcachefs",
    0x3434: "nilfs2",
    0x3153464A: "jfs",
    0x52654973: "reiserfs",
    0x4D44: "vfat",
    0x2011BAB0: "exfat",
    0x7366746E: "ntfs3",
    0x482B: "hfsplus",
}
"""f_type of statfs(2). Only programs of this kernel write there, and all use the inode on which the lease is taken."""

_STACKED = {0x794C7630: "overlayfs", 0x65735546: "fuse", 0xF15F: "ecryptfs", 0x61756673: "aufs"}
"""Another inode holds the bytes, so a lease detects only some writers."""

_REMOTE = {
    0x6969: "nfs",
    0x01021997: "9p",
    0xFF534D42: "cifs",
    0xFE534D42: "smb",
    0x517B: "smbfs",
    0x00C36400: "ceph",
    0x0BD00BD0: "lustre",
    0x47504653: "gpfs",
    0x19830326: "beegfs",
    0x01161970: "gfs2",
    0x7461636F: "ocfs2",
    0x5346414F: "afs",
}
"""Other hosts write there, and clients may refuse leases for other reasons (NFSv4 without a delegation: EAGAIN)."""

_KINDS = _LOCAL | _STACKED | _REMOTE

_LIBFS = ("tmpfs", "ramfs")
"""On these, a write gets a fresh time stamp, but a removal does not: the directory gets the stamp of the removed file
(Linux, fs/libfs.c, simple_unlink). That cannot be measured, since any fresh stamp on the machine hides it."""

_PAGE = 4096
_TRIES = 32
_PAUSE = 0.0005
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PROT_READ_WRITE, _MAP_SHARED = 3, 1


def device_of(directory: int) -> Device:
    """Return the file system of an open directory. Raises OSError."""
    number, kind = os.fstat(directory).st_dev, sys.platform
    if sys.platform.startswith("linux"):
        answer = ctypes.create_string_buffer(256)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.fstatfs(directory, answer) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        magic = ctypes.c_ulong.from_buffer(answer).value & 0xFFFFFFFF
        kind = _KINDS.get(magic, f"{magic:#x}")
    # The id includes the kernel's release, because another kernel may have finer or coarser stamps.
    return Device(f"{number}:{kind}:{os.statvfs(directory).f_fsid:x}:{os.uname().release}", number, kind)


def measure(folder: int, device: Device) -> Capabilities:
    """Measure the file system of an open folder. Takes some milliseconds if every write gets its own time stamp, else
    up to ``LONGEST_TICK`` seconds. Raises OSError."""
    name = f"probe-{os.getpid()}"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
    with contextlib.ExitStack() as undo:
        writing = os.open(name, _NEW, 0o600, dir_fd=folder)
        closing = undo.enter_context(contextlib.ExitStack())
        closing.callback(os.close, writing)
        undo.callback(os.unlink, name, dir_fd=folder)
        reading = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        undo.callback(os.close, reading)
        tick = _tick(writing) or (FINE_TICK if device.kind in _LIBFS else 0.0)
        births = birth_ns(folder, name) is not None
        os.ftruncate(writing, _PAGE)
        while_open = writer_of(reading)
        with _mapped(writing):
            closing.close()
            while_mapped = writer_of(reading)
        leases = _leases(device.kind, while_open, while_mapped, writer_of(reading))
    return Capabilities(device, tick, births, leases)


def _leases(kind: str, while_open: Writer, while_mapped: Writer, at_rest: Writer) -> Leases:
    """Return how far leases can be trusted, from their answers for a file that was open for writing, mapped for
    writing, and neither."""
    if kind in _REMOTE.values() or at_rest is not Writer.CLOSED:
        return Leases.REFUSED
    honest = (while_open, while_mapped) == (Writer.OPEN, Writer.OPEN) and kind in _LOCAL.values()
    return Leases.HONEST if honest else Leases.LYING


@contextlib.contextmanager
def _mapped(descriptor: int) -> Iterator[None]:
    """Map a page of the file for writing and write to it. Python's ``mmap`` module is not used, because it keeps a
    descriptor open. Raises OSError."""
    if not sys.platform.startswith("linux"):
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    address = libc.mmap(None, _PAGE, _PROT_READ_WRITE, _MAP_SHARED, descriptor, 0)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    try:
        ctypes.memset(address, 1, 1)
        yield
    finally:
        libc.munmap(address, _PAGE)


def _tick(descriptor: int) -> float:
    """Return how far apart, in seconds, two writes must be to get different time stamps; 0 if they always do.

    Since Linux 6.13, a write after a stat gets a fresh time stamp (multigrain timestamps). Before, two writes in one
    tick of the kernel's clock get the same stamp, and on some file systems two writes in one second do.
    """
    last = _rewritten(descriptor)
    for _ in range(_TRIES):
        if (stamp := _rewritten(descriptor)) == last:
            break
        last = stamp
    else:
        return 0.0
    tick, deadline = LONGEST_TICK, time.monotonic() + LONGEST_TICK
    while tick > FINE_TICK and time.monotonic() < deadline:  # one pause of this thread looks like a coarse tick
        if (stamp := _rewritten(descriptor)) > last:
            tick = min(tick, (stamp - last) / 1e9)
        last = stamp
        time.sleep(_PAUSE)
    return max(tick, FINE_TICK)


def _rewritten(descriptor: int) -> int:
    os.pwrite(descriptor, b"x", 0)
    return os.fstat(descriptor).st_ctime_ns
