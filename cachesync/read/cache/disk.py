"""The cache's folder: files that hold values, and what diskcache may make of a row.

diskcache by itself unpickles what it finds, opens and deletes any file that a row names, and makes files that others
may read. Here values are bytes and nothing else, and a row names a file of ours or the cache is damaged.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import diskcache

_GIB = 1024**3

LONGEST = 4 * 1024 * 1024
"""Bytes of the longest value."""

INLINE = 16 * 1024
"""Values below this lie in the database: a file would take a block, an inode and a name of its own."""

_RAW, _BINARY = 1, 2
_VALUE_FILE = re.compile(r"[0-9a-f]{32}\.val")
_OURS = re.compile(r"cache\.db(-journal|-wal|-shm)?|[0-9a-f]{32}\.val|swept")
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Damaged(Exception):
    """What is in the folder is not what we put there."""


class ValueFile(NamedTuple):
    """A value in a file of its own; ``allocated`` is what that takes of the disk, for rows to count."""

    name: str
    allocated: int = 0


class BytesDisk(diskcache.Disk):  # type: ignore[misc]
    """Turns keys and values into columns and back: bytes as they are. Anything else is refused with Damaged."""

    def put(self, key: object) -> tuple[memoryview, bool]:
        """A key as the database has it."""
        if type(key) is not bytes:
            raise TypeError(key)
        return memoryview(key), True

    def get(self, key: object, raw: object) -> bytes:
        """The inverse of ``put``."""
        if raw != 1 or type(key) is not bytes:
            raise Damaged("a key that is not bytes")
        return key

    def store(self, value: object, read: object, key: object = None) -> tuple[int, int, str | None, memoryview | None]:
        """Size, mode, file name and inline value for a row; a file is there already."""
        del read, key
        if isinstance(value, ValueFile):
            return value.allocated, _BINARY, value.name, None
        if type(value) is not bytes or len(value) >= INLINE:
            raise TypeError(value)
        return 0, _RAW, None, memoryview(value)

    def fetch(self, mode: object, filename: object, value: object, read: object) -> bytes | ValueFile:
        """What a row holds. Its file is not opened here."""
        del read
        if mode == _RAW and filename is None and type(value) is bytes:
            return value
        if mode != _BINARY or value is not None:
            raise Damaged(f"a value of mode {mode!r}")
        return ValueFile(_checked(filename))

    def remove(self, file_path: object) -> None:
        """Remove a value's file, if it is there."""
        remove_value(Path(self._directory), _checked(file_path))


def has_room(folder: Path, need: int) -> bool:
    """Whether the disk can spare ``need`` bytes: the last twentieth of it, and of small disks the last quarter up to
    1 GiB, is for those who write files."""
    try:
        at = os.statvfs(folder)
    except OSError:
        return True  # what is wrong with it, the write will tell
    whole = at.f_blocks * at.f_frsize
    return at.f_bavail * at.f_frsize - need >= max(whole // 20, min(_GIB, whole // 4))


def _checked(name: object) -> str:
    if type(name) is not str or not _VALUE_FILE.fullmatch(name):
        raise Damaged("a row that names no file of ours")
    return name


def prepare(folder: Path) -> None:
    """Make the folder, for us alone. Raises OSError, also if a link or somebody else's folder stands in its place."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(held).st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "it belongs to another user", str(folder))
        os.fchmod(held, 0o700)
    finally:
        os.close(held)


def create(path: Path) -> None:
    """Make a file of ours if there is none, for us alone whatever the umask, and touch it. Raises OSError, Damaged."""
    descriptor = os.open(path, _WRITE, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Damaged(f"{path.name} is no file")
        os.fchmod(descriptor, 0o600)
        os.utime(descriptor)
    finally:
        os.close(descriptor)


def read_value(folder: Path, name: str) -> bytes:
    """A file's bytes; none if it has more than a value may. Raises OSError."""
    descriptor = os.open(f"{folder}/{name}", _READ)
    try:
        found = os.fstat(descriptor)
        return os.read(descriptor, found.st_size) if found.st_size <= LONGEST else b""
    finally:
        os.close(descriptor)


def write_value(folder: Path, data: bytes, allocated: int) -> ValueFile:
    """Write a file of its own for a value. Raises OSError, and leaves nothing then."""
    name = f"{secrets.token_hex(16)}.val"
    descriptor = os.open(f"{folder}/{name}", _WRITE | os.O_EXCL, 0o600)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
        finally:
            os.close(descriptor)
    except BaseException:
        remove_value(folder, name)
        raise
    return ValueFile(name, allocated)


def remove_value(folder: Path, name: str) -> None:
    """Remove a value's file, if it is there."""
    with contextlib.suppress(OSError):
        os.unlink(f"{folder}/{name}")


def value_files(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Every file in the folder that could be a value's."""
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if _VALUE_FILE.fullmatch(entry.name))


def throw_away(folder: Path) -> None:
    """Remove everything of ours in the folder; what is not ours stays. Raises OSError, also if the folder is a link."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for name in os.listdir(held):
            if _OURS.fullmatch(name):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=held)
    finally:
        os.close(held)
