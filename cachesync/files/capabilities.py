"""What a file system can do, measured on a file of our own: time stamps, birth times, leases."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import time
from collections.abc import Iterator

from cachesync.files.beneath import birth_ns, writer_of
from cachesync.model import LONGEST_TICK, Capabilities, Device, Leases
from cachesync.policy import FINE_TICK, Writer

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
"""statfs(2), f_type. Only this kernel's programs write there, and each through the inode that a lease is asked of."""

_STACKED = {0x794C7630: "overlayfs", 0x65735546: "fuse", 0xF15F: "ecryptfs", 0x61756673: "aufs"}
"""Another inode holds the bytes: a lease knows of some writers only."""

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
"""Other hosts write there, and a client refuses leases for reasons of its own (NFSv4 without a delegation: EAGAIN)."""

_KINDS = _LOCAL | _STACKED | _REMOTE

_LIBFS = ("tmpfs", "ramfs")
"""Where writes get fresh time stamps, removals do not: the directory gets the stamp of the file that went, which nobody
has looked at (Linux, fs/libfs.c, simple_unlink). It is not measured: any fresh stamp on the machine hides it."""

_PAGE = 4096
_TRIES = 32
_PAUSE = 0.0005
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PROT_READ_WRITE, _MAP_SHARED = 3, 1


def device_of(directory: int) -> Device:
    """The file system that an open directory lies on. Raises OSError."""
    number, kind = os.fstat(directory).st_dev, sys.platform
    if sys.platform.startswith("linux"):
        answer = ctypes.create_string_buffer(256)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.fstatfs(directory, answer) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        magic = ctypes.c_ulong.from_buffer(answer).value & 0xFFFFFFFF
        kind = _KINDS.get(magic, f"{magic:#x}")
    # Of another kernel the stamps may be finer or coarser.
    return Device(f"{number}:{kind}:{os.statvfs(directory).f_fsid:x}:{os.uname().release}", number, kind)


def measure(folder: int, device: Device) -> Capabilities:
    """Try out what the file system of an open folder can do: some milliseconds where it tells every two writes apart,
    ``LONGEST_TICK`` seconds at most. Raises OSError."""
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
    """What is to be believed, by what was said of a file that was open for writing, mapped for it, and neither."""
    if kind in _REMOTE.values() or at_rest is not Writer.CLOSED:
        return Leases.REFUSED
    honest = (while_open, while_mapped) == (Writer.OPEN, Writer.OPEN) and kind in _LOCAL.values()
    return Leases.HONEST if honest else Leases.LYING


@contextlib.contextmanager
def _mapped(descriptor: int) -> Iterator[None]:
    """A page of the file is mapped for writing, and has been written to. Python's own ``mmap`` would keep a descriptor
    open beside it. A file system without mappings has no writers of this kind."""
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
    """How far apart two writes must be, in seconds, for a stat between them to show both; 0 where it always does.

    Linux 6.13 and later give a file that was looked at a fresh time stamp on its next write (multigrain timestamps);
    before, two writes in one tick of the kernel's clock look alike, and on a file system that keeps whole seconds those
    of one second do.
    """
    last = _rewritten(descriptor)
    for _ in range(_TRIES):
        if (stamp := _rewritten(descriptor)) == last:
            break
        last = stamp
    else:
        return 0.0
    tick, deadline = LONGEST_TICK, time.monotonic() + LONGEST_TICK
    while tick > FINE_TICK and time.monotonic() < deadline:  # a pause of this thread looks like a coarse tick, once
        if (stamp := _rewritten(descriptor)) > last:
            tick = min(tick, (stamp - last) / 1e9)
        last = stamp
        time.sleep(_PAUSE)
    return max(tick, FINE_TICK)


def _rewritten(descriptor: int) -> int:
    os.pwrite(descriptor, b"x", 0)
    return os.fstat(descriptor).st_ctime_ns
