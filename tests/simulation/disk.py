"""Changes of a host's disk that no program makes: power cuts lose recent writes, volumes are mounted and unmounted."""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.simulation.host import Seen, Snapshot

WRITTEN_BACK = 30.0
"""Seconds after which the kernel has written to the disk what a program wrote (dirty_expire_centisecs)."""


class Platter:
    """What programs wrote to a session's directory, and when: what is on the disk if the power goes now."""

    def __init__(self) -> None:
        self._past: dict[str, list[tuple[float, Seen | None]]] = {}

    def changed(self, now: float, before: Snapshot, after: Snapshot) -> None:
        """A program changed these files."""
        for path in before.keys() | after.keys():
            if (was := before.get(path)) != (seen := after.get(path)):
                self._past.setdefault(path, [(0.0, was)]).append((now, seen))

    def forget(self) -> None:
        """All of it is on the disk."""
        self._past.clear()

    def uncertain(self, now: float, here: Snapshot) -> Iterator[tuple[str, Seen | None, Seen | None]]:
        """Paths that are as a program left them and may not be on the disk: how they are, and how they surely were."""
        for path, past in sorted(self._past.items()):
            sure = [seen for at, seen in past if at <= now - WRITTEN_BACK or not at][-1]
            last = past[-1][1]
            if last != sure and here.get(path) == last:
                yield path, last, sure


def lose(folder: Path, platter: Platter, now: float, here: Snapshot, what: str, salt: int) -> Iterator[str]:
    """Undo recent writes on the disk; yields the paths that lost their bytes. A ``salt`` other than 0 picks some of the
    writes."""
    for path, last, sure in list(platter.uncertain(now, here)):
        if salt and zlib.crc32(f"{salt}{path}".encode()) & 1:
            continue
        place = folder / path
        with contextlib.suppress(OSError):
            if what == "names":
                _turn_back(place, sure, folder)
            elif last is not None:
                _fill(place, _left(what, last, sure), last.mtime_ns)
            if last is not None:
                yield path
    platter.forget()


def _left(what: str, last: Seen, sure: Seen | None) -> bytes:
    """What a file holds whose name and size got to the disk, or its name alone."""
    if what == "old" and sure is not None:
        return sure.data
    return b"\0" * len(last.data) if what == "zeros" else b""


def _turn_back(place: Path, sure: Seen | None, top: Path) -> None:
    if sure is None:
        place.unlink()
        above = place.parent
        while above != top and not any(above.iterdir()):
            above.rmdir()
            above = above.parent
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    _fill(place, sure.data, sure.mtime_ns)
    place.chmod(sure.mode)


def _fill(place: Path, data: bytes, mtime_ns: int) -> None:
    with open(place, "r+b" if place.exists() else "wb") as file:
        file.truncate()
        file.write(data)
    os.utime(place, ns=(mtime_ns, mtime_ns))


class Volumes:
    """Volumes that can be mounted below a session: directories that change places, without a word to anybody."""

    def __init__(self, session: Path, folder: Path) -> None:
        self._session = session
        self._folder = folder
        self.mounted: list[str] = []

    def mount(self, path: str) -> bool:
        """Cover a directory by a volume; whether that was possible."""
        if not (self._session / path).is_dir() or any(self.is_below(path, other) for other in self.mounted):
            return False
        volume, under = self._places(path)
        volume.mkdir(parents=True, exist_ok=True)
        self._quietly(path, lambda place: (place.rename(under), volume.rename(place)))
        self.mounted.append(path)
        return True

    def unmount(self, path: str) -> bool:
        """Take the volume away again; what it covered stands there as it was. Whether one was mounted there."""
        if path not in self.mounted or any(other != path and self.is_below(other, path) for other in self.mounted):
            return False
        volume, under = self._places(path)
        self._quietly(path, lambda place: (place.rename(volume), under.rename(place)))
        self.mounted.remove(path)
        return True

    def holds(self, path: str) -> str:
        """The volume that a path lies on; "" for the session's own."""
        return max((other for other in self.mounted if self.is_below(path, other)), key=len, default="")

    def covers(self, path: str) -> bool:
        """Whether a volume is mounted at a path or below."""
        return any(self.is_below(other, path) for other in self.mounted)

    @staticmethod
    def is_below(path: str, other: str) -> bool:
        return path == other or path.startswith(f"{other}/")

    def _places(self, path: str) -> tuple[Path, Path]:
        name = path.replace("/", "%")
        return self._folder / name, self._folder / f"under {name}"

    def _quietly(self, path: str, change: Callable[[Path], object]) -> None:
        """A mount leaves no trace in the directory above it."""
        place = self._session / path
        before = place.parent.stat()
        place.mkdir(exist_ok=True)
        change(place)
        os.utime(place.parent, ns=(before.st_atime_ns, before.st_mtime_ns))
