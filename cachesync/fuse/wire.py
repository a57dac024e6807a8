"""The FUSE protocol as bytes: what the kernel sends, and what it is answered. Pure.

Names and layouts are those of include/uapi/linux/fuse.h (7.31 to 7.45), little-endian. Every request begins with
``IN``, every answer with ``OUT``; what follows is unpacked where it is used.
"""

from __future__ import annotations

import os
import struct
from enum import IntEnum, IntFlag
from typing import Any

from cachesync.model.record import record

ROOT = 1
"""The number of the mount's own directory."""

VERSION = (7, 31)
"""The oldest protocol that is spoken: Linux 5.4's. NEWEST is the last whose answers are laid out as here."""
NEWEST = 45

HEADER = 40
"""Bytes of a request before its own part."""

MAX_WRITE = 1024 * 1024
"""Bytes of one read or write."""


class Op(IntEnum):
    """``enum fuse_opcode``."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    SETLK = 32
    SETLKW = 33
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SYNCFS = 50
    TMPFILE = 51


class Init(IntFlag):
    """``FUSE_INIT`` flags that are asked for."""

    ASYNC_READ = 1 << 0
    ATOMIC_O_TRUNC = 1 << 3
    BIG_WRITES = 1 << 5
    DONT_MASK = 1 << 6
    FLOCK_LOCKS = 1 << 10
    READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    PARALLEL_DIROPS = 1 << 18
    POSIX_ACL = 1 << 20
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    HANDLE_KILLPRIV_V2 = 1 << 28
    SETXATTR_EXT = 1 << 29
    EXTENDED = 1 << 30
    DIRECT_IO_ALLOW_MMAP = 1 << 36
    PASSTHROUGH = 1 << 37


class Opened:
    """``FOPEN_`` flags of an answer to OPEN, CREATE and OPENDIR. Plain numbers: an enum's arithmetic takes longer than
    the rest of a request."""

    KEEP_CACHE = 1 << 1
    NOFLUSH = 1 << 5
    PASSTHROUGH = 1 << 7


class Set:
    """``FATTR_`` bits: which fields of SETATTR count. Plain numbers, as Opened."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8
    KILL_SUIDGID = 1 << 11


KILL_SUIDGID = 1 << 2
"""Of a WRITE: the bits that run a file as somebody else go, because the writer is not privileged."""

ACL_KILL_SGID = 1
"""Of a SETXATTR of an ACL: the set-group-ID bit goes, because the program is not in the file's group."""

FSYNC_DATA = 1

RELEASE_FLOCK = 1 << 1
"""Of a RELEASE: the lock of its owner goes with it."""

IN = struct.Struct("<IIQQIIIHH")  # length, opcode, unique, node, uid, gid, pid, extensions, padding
OUT = struct.Struct("<IiQ")  # length, -errno, unique
INIT_IN = struct.Struct("<IIIII")  # major, minor, readahead, flags, the other flags
INIT_OUT = struct.Struct("<IIIIHHIIHHIIH22x")
SETATTR_IN = struct.Struct("<IIQQQQQQIIIIIIII")
CREATE_IN = struct.Struct("<IIII")  # flags, mode, umask, open flags
MKNOD_IN = struct.Struct("<IIII")  # mode, device, umask, padding
MKDIR_IN = struct.Struct("<II")  # mode, umask
RENAME2_IN = struct.Struct("<QII")  # new parent, flags, padding
READ_IN = struct.Struct("<QQIIQII")  # handle, offset, size, flags, lock owner, open flags, padding
RELEASE_IN = struct.Struct("<QIIQ")  # handle, open flags, release flags, lock owner
FSYNC_IN = struct.Struct("<QII")  # handle, flags, padding
FALLOCATE_IN = struct.Struct("<QQQII")  # handle, offset, length, mode, padding
LK_IN = struct.Struct("<QQQQIIII")  # handle, owner, start, end, type as of fcntl, pid, flags, padding
LSEEK_IN = struct.Struct("<QQII")  # handle, offset, whence, padding
COPY_IN = struct.Struct("<7Q")  # handle, offset, node out, handle out, offset out, length, flags
SETXATTR_IN = struct.Struct("<II")  # size, flags
SETXATTR_EXT_IN = struct.Struct("<IIII")  # with Init.SETXATTR_EXT: size, flags, flags of FUSE's own, padding
GETXATTR_IN = struct.Struct("<II")  # size, padding
U32 = struct.Struct("<I")
U64 = struct.Struct("<Q")
TWO_U64 = struct.Struct("<QQ")
TWO_U32 = struct.Struct("<II")

_ATTR = "3Q3q10I"
_ENTRY_OUT = struct.Struct(f"<4Q2I{_ATTR}")  # node, generation, valid times in s, in ns, attributes
_ATTR_OUT = struct.Struct(f"<QII{_ATTR}")
_OPEN_OUT = struct.Struct("<QIi")  # handle, flags, backing id
_DIRENT = struct.Struct("<QQII")  # inode, next offset, length of the name, type
_STATFS_OUT = struct.Struct("<5Q10I")
_INVAL_INODE = struct.Struct("<Qqq")
_INVAL_ENTRY = struct.Struct("<QII")

NOTIFY_INVAL_INODE = 2
NOTIFY_INVAL_ENTRY = 3

Attributes = tuple[int, ...]
"""The 16 numbers of ``struct fuse_attr``."""

_G = 1_000_000_000


@record(frozen=True, slots=True)
class Offer:
    """What the kernel can do, as its INIT says."""

    major: int
    minor: int
    readahead: int
    flags: int


def attributes(s: os.stat_result) -> Attributes:
    """A file's attributes as the kernel wants them."""
    numbers: Any = s  # as a tuple it has the whole seconds, which need no division then
    mode, inode, _, links, uid, gid, size, atime, mtime, ctime = numbers
    return (
        inode, size, s.st_blocks, atime, mtime, ctime, s.st_atime_ns % _G, s.st_mtime_ns % _G, s.st_ctime_ns % _G,
        mode, links, uid, gid, s.st_rdev, s.st_blksize, 0,
    )  # fmt: skip


def made_attributes(inode: int, size: int, mtime_ns: int, mode: int, links: int, owner: tuple[int, int]) -> Attributes:
    """Attributes of something that is not on a disk.

    Its blocks are those of a file without holes: cp and tar take a file with too few for a sparse one, and one with
    none for a hole, which they do not read.
    """
    s, ns = mtime_ns // _G, mtime_ns % _G
    blocks = (size + 511) // 512
    return (inode, size, blocks, s, s, s, ns, ns, ns, mode, links, *owner, 0, 4096, 0)


def answer(unique: int, payload: bytes) -> bytes:
    """An answer that says yes."""
    return OUT.pack(16 + len(payload), 0, unique) + payload


def refusal(unique: int, number: int) -> bytes:
    """An answer that says no: ``number`` is the errno."""
    return OUT.pack(16, -number, unique)


def entry_out(node: int, valid: tuple[int, int], attr: Attributes) -> bytes:
    """A name's node, and its attributes. ``valid`` is how long both are believed: seconds, nanoseconds."""
    s, ns = valid
    return _ENTRY_OUT.pack(node, 0, s, s, ns, ns, *attr)


def no_entry(valid: tuple[int, int]) -> bytes:
    """There is nothing of this name."""
    s, ns = valid
    return _ENTRY_OUT.pack(0, 0, s, 0, ns, 0, *_NOTHING)


_NOTHING = (0,) * 16


def attr_out(valid: tuple[int, int], attr: Attributes) -> bytes:
    """A node's attributes."""
    return _ATTR_OUT.pack(valid[0], valid[1], 0, *attr)


def open_out(handle: int, flags: int, backing: int = 0) -> bytes:
    """An open file."""
    return _OPEN_OUT.pack(handle, flags, backing)


def dirent(inode: int, following: int, kind: int, name: bytes) -> bytes:
    """One entry of READDIR; ``following`` is the offset of the next one, ``kind`` the type bits of a mode."""
    length = 24 + len(name)
    return _DIRENT.pack(inode, following, len(name), kind >> 12) + name + bytes(-length & 7)


def direntplus(entry: bytes, inode: int, following: int, kind: int, name: bytes) -> bytes:
    """One entry of READDIRPLUS; ``entry`` is ``entry_out`` or, for a name without a node, NO_NODE."""
    return entry + dirent(inode, following, kind, name)


NO_NODE = bytes(_ENTRY_OUT.size)


def statfs_out(v: os.statvfs_result) -> bytes:
    """A file system's size and room."""
    return _STATFS_OUT.pack(
        v.f_blocks, v.f_bfree, v.f_bavail, v.f_files, v.f_ffree, v.f_bsize, v.f_namemax, v.f_frsize, *(0,) * 7
    )


def offer(body: memoryview | bytes) -> Offer:
    """What an INIT says."""
    major, minor, readahead, flags, more = INIT_IN.unpack_from(body)
    return Offer(major, minor, readahead, flags | more << 32 if flags & Init.EXTENDED else flags)


def init_out(offered: Offer, flags: int, depth: int) -> bytes:
    """The answer to INIT. ``depth`` is how many file systems may be stacked below a passed-through file, 0 for none."""
    return INIT_OUT.pack(
        7, min(offered.minor, NEWEST), offered.readahead, flags & 0xFFFFFFFF,
        64, 48, MAX_WRITE, 1, MAX_WRITE // 4096, 0, flags >> 32, depth, 0,
    )  # fmt: skip


def inval_inode(node: int) -> bytes:
    """A notice: forget a node's attributes and cached pages."""
    return OUT.pack(16 + _INVAL_INODE.size, NOTIFY_INVAL_INODE, 0) + _INVAL_INODE.pack(node, 0, 0)


def inval_entry(parent: int, name: bytes) -> bytes:
    """A notice: forget what a name is."""
    body = _INVAL_ENTRY.pack(parent, len(name), 0) + name + b"\0"
    return OUT.pack(16 + len(body), NOTIFY_INVAL_ENTRY, 0) + body
