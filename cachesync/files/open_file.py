"""A regular file that is read: its stat, its writers, its bytes."""

from __future__ import annotations

import contextlib
import os
from types import TracebackType
from typing import Self

from cachesync.errors import FileUnreadable
from cachesync.files.beneath import writer_of
from cachesync.files.stats import to_stat, volume_of
from cachesync.model import FileStat
from cachesync.policy import Writer


class OpenFile:
    """A regular file open for reading. ``stat`` is what it was when it was opened; ``root`` is the device number of the
    root that it lies below."""

    def __init__(self, descriptor: int, path: str, root: int | None = None) -> None:
        self._root = root
        self.descriptor = descriptor
        self.path = path
        self.stat = self.restat()

    def restat(self) -> FileStat:
        """The file's stat now."""
        found = os.fstat(self.descriptor)
        return to_stat(found, None, None if self._root is None else volume_of(found.st_dev, self._root))

    def await_write(self) -> None:
        """Return when a write(2) that is under way has ended: looking for data takes the inode's lock, which reading
        does not on ext4 (ext4_seek_data, btrfs_file_llseek, shmem_file_llseek; XFS locks its reads anyway)."""
        with contextlib.suppress(OSError):
            os.lseek(self.descriptor, 0, os.SEEK_DATA)

    def writer(self) -> Writer:
        """Whether some process has it open for writing."""
        return writer_of(self.descriptor)

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

    def close(self) -> None:
        """Let the descriptor go."""
        os.close(self.descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
