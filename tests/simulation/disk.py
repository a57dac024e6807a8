"""Changes of a host's disk that no program makes: power cuts lose recent writes, volumes are mounted and unmounted."""

from __future__ import annotations

import contextlib
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.simulation.host import Seen, SimulatedHost, Snapshot
from tests.simulation.kernel import is_below

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


def lose(host: SimulatedHost, platter: Platter, now: float, what: str, salt: int) -> Iterator[str]:
    """Undo recent writes on the disk; yields the paths that lost their bytes. A ``salt`` other than 0 picks some of the
    writes."""
    here = host.snapshot()
    for path, last, sure in list(platter.uncertain(now, here)):
        if salt and zlib.crc32(os.fsencode(f"{salt}{path}")) & 1:
            continue
        place = host.session / path
        with contextlib.suppress(OSError):
            if what == "names":
                _turn_back(place, sure, host.session)
                if sure is not None:
                    host.disk.disguise(place, sure.file, sure.ctime_ns)
            elif last is not None:
                _fill(place, _left(what, last, sure), last.mtime_ns)
                host.disk.disguise(place, last.file, last.ctime_ns)
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


class Backup:
    """A session's directory as it was at one moment, with what the root has of its own (the journal is not part of it:
    the state folder may lie on another volume)."""

    def __init__(self, host: SimulatedHost) -> None:
        self._host = host
        self._own = host.pulse()
        self._found: list[tuple[str, os.stat_result, bytes | str | None]] = []
        for above, folders, names in os.walk(host.session):
            for name in (*folders, *names):
                place = Path(above, name)
                held: bytes | str | None = None
                if place.is_symlink():
                    held = os.readlink(place)
                elif place.is_file():
                    held = place.read_bytes()
                self._found.append((str(place.relative_to(host.session)), place.lstat(), held))

    def restore(self) -> None:
        """Everything is as it was then, down to inodes and time stamps."""
        session = self._host.session
        for entry in list(session.iterdir()):
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        for path, _, held in self._found:
            place = session / path
            if isinstance(held, bytes):
                place.write_bytes(held)
            elif held is None:
                place.mkdir()
            else:
                place.symlink_to(held)
        for path, was, held in reversed(self._found):
            place = session / path
            if not isinstance(held, str):
                place.chmod(was.st_mode & 0o7777)
            os.utime(place, ns=(was.st_atime_ns, was.st_mtime_ns), follow_symlinks=False)
            self._host.disk.disguise(place, was.st_ino, was.st_ctime_ns)
        self._host.set_pulse(self._own)


class Volumes:
    """Volumes that can be mounted below a session: directories that change places, without a word to anybody."""

    def __init__(self, host: SimulatedHost) -> None:
        self._session = host.session
        self._folder = host.volumes
        self._disk = host.disk
        self.mounted = host.disk.mounted

    def mount(self, path: str) -> bool:
        """Cover a directory by a volume; whether that was possible."""
        if not (self._session / path).is_dir() or self._disk.volume(path):
            return False
        volume, under = self._places(path)
        volume.mkdir(parents=True, exist_ok=True)
        self._quietly(path, lambda place: (place.rename(under), volume.rename(place)))
        self.mounted.append(path)
        return True

    def unmount(self, path: str) -> bool:
        """Take the volume away again; what it covered stands there as it was. Whether one was mounted there."""
        if path not in self.mounted or any(other != path and is_below(other, path) for other in self.mounted):
            return False
        volume, under = self._places(path)
        self._quietly(path, lambda place: (place.rename(volume), under.rename(place)))
        self.mounted.remove(path)
        return True

    def refuse(self, verb: str, paths: Sequence[str]) -> bool:
        """Whether the kernel refuses what a program does: a mount point is neither moved nor removed (EBUSY), and
        nothing is renamed from one volume to another (EXDEV)."""
        if verb in ("rmtree", "rename_folder") and any(is_below(at, path) for at in self.mounted for path in paths):
            return True
        renames = verb in ("rename", "rename_folder", "hardlink")
        return renames and len({self._disk.volume(path) for path in paths}) > 1

    def _places(self, path: str) -> tuple[Path, Path]:
        name = path.replace("/", "%")
        return self._folder / name, self._folder / f"under {name}"

    def _quietly(self, path: str, change: Callable[[Path], object]) -> None:
        """A mount leaves no trace in the directory above it."""
        place = self._session / path
        place.mkdir(parents=True, exist_ok=True)
        before = place.parent.stat()
        change(place)
        os.utime(place.parent, ns=(before.st_atime_ns, before.st_mtime_ns))
