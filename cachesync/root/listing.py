"""What a held directory shows: its stamp, and a stat of each name in it. All of it raises OSError."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cachesync.model.values import FileStat, Kind, Rights, Skipped
from cachesync.root.stats import ABSENT, examine

_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
"""As os.fsencode has them, for where a call of that is too much."""


@dataclass(slots=True)
class Listing:
    """The content of one directory. ``found`` has all names but unchanged ones, ``special`` what cannot be stored.

    ``stamp`` is the directory's ctime before the listing, ``stamped_at`` the time when it was read, in nanoseconds.
    ``volume`` identifies its file system if it is not the root's. ``own`` are the permission bits and rights
    of a session's directory.
    """

    stamp: int = 0
    stamped_at: int = 0
    volume: str | None = None
    own: tuple[int, Rights] | None = None
    same_files: list[str] = field(default_factory=list)
    same_directories: list[str] = field(default_factory=list)
    found: dict[str, FileStat] = field(default_factory=dict)
    special: list[Skipped] = field(default_factory=list)

    def files(self) -> list[str]:
        """The names of all files and links."""
        return self.same_files + [name for name, stat in self.found.items() if stat.kind is not Kind.DIRECTORY]

    def directories(self) -> list[str]:
        """The names of all directories."""
        return self.same_directories + [name for name, stat in self.found.items() if stat.kind is Kind.DIRECTORY]


@contextlib.contextmanager
def listed(directory: int) -> Iterator[Iterator[os.DirEntry[str]]]:
    """What is in a held directory, through a descriptor of its own: two listings that share one would each miss what
    the other has read."""
    descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
    try:
        with os.scandir(descriptor) as entries:
            yield entries
    finally:
        os.close(descriptor)


def stamp_of(directory: int) -> tuple[int, int, os.stat_result]:
    """Return a directory's ctime, the current time (both in nanoseconds) and its stat."""
    found = os.fstat(directory)
    return found.st_ctime_ns, time.time_ns(), found


def fill(
    listing: Listing,
    descriptor: int,
    entries: Iterator[os.DirEntry[str]],
    directory: str,
    seen: dict[bytes, tuple[Any, ...]],
    device: int,
    root: int,
) -> None:
    """Add ``entries`` to ``listing``. A scan calls this for every file of the root, so an unchanged file costs only a
    stat and no new object. ``device`` is the directory's device number, ``root`` the root's."""
    for entry in entries:
        name = entry.name
        try:
            s = entry.stat(follow_symlinks=False)
            raw = name.encode(_ENCODING, _ERRORS)
            if seen.get(raw) == (raw, s.st_mode, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino):
                del seen[raw]
                listing.same_files.append(name)
                continue
            found = examine(descriptor, name, directory + name, root, s, device)
        except OSError as error:
            if error.errno in ABSENT:  # deleted since it was listed
                continue
            raise
        if isinstance(found, Skipped):
            listing.special.append(found)
            continue
        was = seen.get(raw + b"/") if found.kind is Kind.DIRECTORY else None
        if was is not None and s.st_dev == device and was[1::2] == (s.st_mode, s.st_mtime_ns, s.st_ino):
            del seen[raw + b"/"]
            listing.same_directories.append(name)  # its size and ctime say nothing that its entries do not
        else:
            listing.found[name] = found
