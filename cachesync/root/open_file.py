"""A regular file that is read: its stat, its writers, its bytes."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from types import TracebackType
from typing import Self

from cachesync.model.errors import FileUnreadable
from cachesync.model.policy import FINE_TICK, Writer
from cachesync.model.values import UNMEASURED, Capabilities, FileStat, Leases
from cachesync.root.openat2 import writer_of
from cachesync.root.stats import to_stat, volume_of

_TELLS_HOLES = frozenset({"ext4", "xfs", "btrfs", "tmpfs", "overlayfs"})
"""Kinds of file systems where SEEK_DATA also finds what is not on the disk yet."""

_ZEROS = bytes(1024 * 1024)


class OpenFile:
    """A regular file open for reading. ``stat`` is its stat at the time of opening. ``capabilities`` are those of its
    file system: the given ones (the root's), or UNMEASURED if the file is on another file system."""

    def __init__(self, descriptor: int, path: str, capabilities: Capabilities = UNMEASURED) -> None:
        self.descriptor = descriptor
        self.path = path
        found, root = os.fstat(descriptor), capabilities.device.number
        self._volume = None if root in {found.st_dev, UNMEASURED.device.number} else volume_of(found.st_dev, root)
        self.stat = to_stat(found, None, self._volume)
        self.capabilities = capabilities if found.st_dev == root else UNMEASURED
        self._was_linked = found.st_nlink > 0
        is_sparse = found.st_blocks * 512 < found.st_size
        self._skips_holes = is_sparse and self.capabilities.device.kind in _TELLS_HOLES

    def restat(self) -> FileStat:
        """The file's stat now."""
        return to_stat(os.fstat(self.descriptor), None, self._volume)

    def is_gone(self) -> bool:
        """Whether the file lost its last name since it was opened: it was deleted, or another file replaced it."""
        return self._was_linked and os.fstat(self.descriptor).st_nlink == 0

    def await_write(self) -> None:
        """Return when a write(2) that is under way has ended: looking for data takes the inode's lock, which reading
        does not on ext4 (ext4_seek_data, btrfs_file_llseek, shmem_file_llseek; XFS locks its reads anyway)."""
        with contextlib.suppress(OSError):
            os.lseek(self.descriptor, 0, os.SEEK_DATA)

    def await_tick(self, now: float) -> None:
        """Wait until any later write gets another time stamp. Does nothing if stamps are fresh, or coarser than
        FINE_TICK. ``now`` is the current time in seconds."""
        tick, age = self.capabilities.tick, now - self.stat.ctime_ns / 1e9
        if 0 <= age < tick <= FINE_TICK:
            time.sleep(tick - age)

    def writer(self) -> Writer:
        """Return whether a process has the file open for writing; UNKNOWN if leases cannot be trusted there."""
        leases = self.capabilities.leases
        if leases is Leases.REFUSED:
            return Writer.UNKNOWN
        found = writer_of(self.descriptor)
        return Writer.UNKNOWN if found is Writer.CLOSED and leases is not Leases.HONEST else found

    def read(self, offset: int, length: int) -> bytes:
        """At most ``length`` bytes from ``offset``; fewer only at the end. Raises FileUnreadable."""
        try:
            data = os.pread(self.descriptor, length, offset)
            while 0 < len(data) < length:
                more = os.pread(self.descriptor, length - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise FileUnreadable("read", self.path, error.strerror) from error
        return data

    def content(self, offset: int, length: int) -> bytes:
        """As ``read``, but nothing is read of a hole. The bytes of a hole are zeros. Raises FileUnreadable."""
        if self._skips_holes and length <= len(_ZEROS) and self._is_hole(offset, length):
            return _ZEROS[:length]
        return self.read(offset, length)

    def _is_hole(self, offset: int, length: int) -> bool:
        try:
            return os.lseek(self.descriptor, offset, os.SEEK_DATA) >= offset + length
        except OSError as error:  # ENXIO: no data from there to the end
            return error.errno == errno.ENXIO and os.fstat(self.descriptor).st_size >= offset + length

    def close(self) -> None:
        """Let the descriptor go."""
        os.close(self.descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
