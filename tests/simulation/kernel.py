"""What the kernel tells the product of the disk, where a schedule has a disk that a test machine has not: with coarse
time stamps, without birth times, with leases that lie or are refused, with volumes, with files that a power cut has
changed behind their time stamps.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import cachesync.root
import cachesync.root.listing
import cachesync.root.open_file
import cachesync.root.openat2
import cachesync.root.session_dir
import cachesync.root.tree
from cachesync.model.policy import Writer
from cachesync.model.values import Capabilities, Device, Leases

_MODULES = ("openat2", "listing", "open_file", "session_dir", "rename", "staging", "stats", "tree")


@dataclass(frozen=True, slots=True)
class Nature:
    """What a kind of disk can do. ``tick`` is the resolution of its time stamps, in seconds; ``births`` says whether it
    tells birth times; ``leases`` are honest, lying (nobody ever has a file open) or refused."""

    tick: float = 0.0
    births: bool = True
    leases: str = "honest"


NATURES = {
    "plain": Nature(),
    "coarse": Nature(tick=1.0),
    "ext3": Nature(tick=1.0, births=False),
    "birthless": Nature(births=False),
    "overlay": Nature(leases="lying"),
    "nfs": Nature(leases="refused"),
}


def is_below(path: str, other: str) -> bool:
    """Whether a path is another one, or below it."""
    return path == other or path.startswith(f"{other}/")


class _Stat:
    """An os.stat_result, some fields of which are others."""

    def __init__(self, found: os.stat_result, **others: int) -> None:
        self._found = found
        self.__dict__ |= others

    def __getattr__(self, name: str) -> Any:
        return getattr(self._found, name)


class _Entry:
    """An os.DirEntry on such a disk."""

    def __init__(self, entry: os.DirEntry[str], look: Callable[[], Any]) -> None:
        self._entry = entry
        self._look = look
        self.name = entry.name

    def stat(self, *, follow_symlinks: bool = True) -> Any:
        return self._look()

    def inode(self) -> int:
        return int(self._look().st_ino)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._entry, name)


@dataclass(slots=True)
class Disk:
    """One host's disk: ``clock`` gives the time stamps of one that is not plain, or ``timed``. ``mounted``
    are the directories of the session that volumes are mounted at."""

    root: str
    session: str
    nature: Nature
    clock: Callable[[], float]
    timed: bool = False
    mounted: list[str] = field(default_factory=list)
    inodes: dict[int, int] = field(default_factory=dict)
    """By a file's inode: the one that it had before it came back."""
    times: dict[tuple[int, int], int] = field(default_factory=dict)
    """By inode and ctime: the ctime that it is said to have."""
    births: dict[int, int] = field(default_factory=dict)
    """By the inode of a file that came back: a time when it was there already."""

    changes: Counter[int] = field(default_factory=Counter)
    """By a directory's inode: how often names came or went there."""

    def renamed(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        """Names came to directories or went (host.Folders)."""
        for path, folder in after.items():
            if before.get(path) != folder:
                self.changes[folder.inode] += 1

    @property
    def odd(self) -> bool:
        """Whether anything of it is not as the test machine's disk."""
        return self.stamped or bool(self.inodes or self.times or self.mounted) or not self.nature.births

    def volume(self, path: str) -> str:
        """The volume that a path in the session lies on; "" for the session's own."""
        return max((other for other in self.mounted if is_below(path, other)), key=len, default="")

    @property
    def stamped(self) -> bool:
        """Whether its time stamps are of the simulation's time."""
        return self.timed or self.nature.tick > 0 or self.nature.leases != "honest"

    def seen(self, found: os.stat_result, path: str) -> Any:
        """What is told of a path."""
        known = (found.st_ino, found.st_ctime_ns)
        changed = self.times.get(known)
        if changed is None:
            changed = found.st_ctime_ns
            if self.stamped:
                changed = self.times[known] = self._truncated(int(self.clock() * 1e9))
        inode = self.inodes.get(found.st_ino, found.st_ino)
        if path == self.session and not self.nature.births:
            inode = 1  # the number is free, so the next directory of that name gets it
        volume = self.volume(path.removeprefix(self.session).lstrip("/")) if self.mounted else ""
        device = found.st_dev + (1 + zlib.crc32(os.fsencode(volume)) % 1000 if volume else 0)
        written = self._truncated(found.st_mtime_ns)
        return _Stat(found, st_ino=inode, st_ctime_ns=changed, st_mtime_ns=written, st_dev=device)

    def _truncated(self, stamp: int) -> int:
        tick = int(self.nature.tick * 1e9)
        return stamp - stamp % tick if tick else stamp

    def witness(self) -> None:
        """Give what has just changed its time stamps."""
        if self.stamped:
            for above, folders, names in os.walk(self.session):
                for place in (above, *(os.path.join(above, name) for name in (*folders, *names))):
                    with contextlib.suppress(OSError):
                        self.seen(os.lstat(place), place)

    def disguise(self, place: Path, inode: int, changed: int) -> None:
        """Let a file look as one did before: nothing but its bytes tells that it is another."""
        found = place.lstat()
        if found.st_ino != inode:
            self.inodes[found.st_ino] = self.inodes.get(inode, inode)
            self.births[found.st_ino] = changed
        self.times[found.st_ino, found.st_ctime_ns] = self.times.get((inode, changed), changed)


class Kernel:
    """Stands in for the module ``os`` in cachesync.root."""

    def __init__(self) -> None:
        self._disks: list[Disk] = []

    def add(self, disk: Disk) -> None:
        self._disks.append(disk)

    def __getattr__(self, name: str) -> Any:
        value = getattr(os, name)
        setattr(self, name, value)
        return value

    def stat(self, path: Any, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> Any:
        found = os.stat(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
        if not self._odd:
            return found
        return self._seen(found, os.path.join("" if dir_fd is None else _path(dir_fd), os.fsdecode(path)))

    def fstat(self, descriptor: int) -> Any:
        found = os.fstat(descriptor)
        return self._seen(found, _path(descriptor)) if self._odd else found

    @contextlib.contextmanager
    def scandir(self, descriptor: int) -> Iterator[Iterator[Any]]:
        with os.scandir(descriptor) as entries:
            if not self._odd:
                yield entries
                return
            above = _path(descriptor)
            yield (_Entry(entry, lambda entry=entry: self._entry(entry, above)) for entry in entries)  # type: ignore[misc]

    def _entry(self, entry: os.DirEntry[str], above: str) -> Any:
        return self._seen(entry.stat(follow_symlinks=False), os.path.join(above, entry.name))

    def writer_of(self, descriptor: int) -> Writer:
        """Stands in for the product's question for a lease."""
        disk = self._disk(_path(descriptor))
        leases = "honest" if disk is None else disk.nature.leases
        if leases == "refused":
            return Writer.UNKNOWN
        return Writer.CLOSED if leases == "lying" else _writer_of(descriptor)

    def stamp_of(self, directory: int) -> tuple[int, int, os.stat_result]:
        """A directory's stamp, and the time of the clock that it is from. Two changes at one moment of the simulation
        take place in one tick of the real clock."""
        disk = self._disk(_path(directory))
        changes = 0 if disk is None or disk.nature.tick else disk.changes[os.fstat(directory).st_ino]
        stamp, at, held = _stamp_of(directory)
        if disk is not None and disk.stamped:
            at = int(disk.clock() * 1e9)
        return stamp + changes, at, held

    def birth_ns(self, directory: int, name: str) -> int | None:
        disk = self._disk(_path(directory))
        if disk is not None and not disk.nature.births:
            return None
        birth = _birth_ns(directory, name)
        if birth is None or disk is None or not disk.births:
            return birth
        return disk.births.get(os.stat(name, dir_fd=directory, follow_symlinks=False).st_ino, birth)

    def device_of(self, directory: int) -> Device:
        """The file system of a host's disk."""
        disk = self._disk(_path(directory))
        kind = "plain" if disk is None else next(name for name, nature in NATURES.items() if nature == disk.nature)
        return Device(kind, os.fstat(directory).st_dev, kind)

    def measure(self, _: int, device: Device) -> Capabilities:
        """What is found out of a disk."""
        nature = NATURES[device.kind]
        return Capabilities(device, nature.tick, nature.births, Leases(nature.leases))

    @property
    def _odd(self) -> bool:
        return any(disk.odd for disk in self._disks)

    def _disk(self, path: str) -> Disk | None:
        return next((disk for disk in self._disks if path == disk.root or path.startswith(f"{disk.root}/")), None)

    def _seen(self, found: os.stat_result, path: str) -> Any:
        disk = self._disk(path)
        return found if disk is None or not disk.odd else disk.seen(found, path)

    @contextlib.contextmanager
    def installed(self, time: Any) -> Iterator[None]:
        """The product asks this kernel while this lasts; where a disk's time stamps are of the simulation's time, that
        is what they are compared with."""
        with contextlib.ExitStack() as stack:
            for name in _MODULES:
                stack.enter_context(mock.patch.object(getattr(cachesync.root, name), "os", self))
            stack.enter_context(mock.patch.object(cachesync.root.open_file, "writer_of", self.writer_of))
            stack.enter_context(mock.patch.object(cachesync.root.tree, "birth_ns", self.birth_ns))
            stack.enter_context(mock.patch.object(cachesync.root.tree, "stamp_of", self.stamp_of))
            if any(disk.stamped for disk in self._disks):
                stack.enter_context(mock.patch.object(cachesync.root.listing, "time", time))
                stack.enter_context(mock.patch.object(cachesync.root.session_dir, "time", time))
            yield


def _path(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")


_writer_of = cachesync.root.openat2.writer_of
_stamp_of = cachesync.root.listing.stamp_of
_birth_ns = cachesync.root.openat2.birth_ns
