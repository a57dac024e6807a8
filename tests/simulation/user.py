"""What a program does to its files, and which hints the kernel gives of it."""

from __future__ import annotations

import mmap
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from cachesync.watch.hints import Hint

_NEW = Hint.CHANGED | Hint.CLOSED
_SPOILT = "\udcff"
"""A byte that is no UTF-8, as Python shows it."""

_WRITTEN_BACK = 30_000_000_000
"""Nanoseconds after which the kernel has written a page to the disk."""


@dataclass(slots=True)
class _Mapped:
    """A file whose pages are mapped for writing, and when a store to them was last ``noted`` in its times."""

    path: str
    file: BinaryIO
    pages: mmap.mmap
    noted: int | None = None

    def close(self) -> None:
        self.pages.close()
        self.file.close()


class Program:
    """A program that works in one session's directory. Each verb returns the hints that a watcher would get, or raises
    OSError if it is not possible. ``stamp`` gives the time of a write in nanoseconds."""

    def __init__(self, session: Path, stamp: Callable[[], int]) -> None:
        self._session = session
        self._stamp = stamp
        self._held: list[tuple[str, BinaryIO]] = []
        self._maps: list[_Mapped] = []

    def release_all(self) -> None:
        """The program ends."""
        while self._held:
            self._held.pop()[1].close()
        while self._maps:
            self._maps.pop().close()

    def held(self) -> list[tuple[str, int, bool]]:
        """What it has open for writing: path, inode, and whether that still has a name."""
        files = [*self._held, *((mapped.path, mapped.file) for mapped in self._maps)]
        stats = [(path, os.fstat(file.fileno())) for path, file in files]
        return [(path, stat.st_ino, stat.st_nlink > 0) for path, stat in stats]

    def act(self, verb: str, args: tuple[Any, ...]) -> dict[str, Hint]:
        """Do it."""
        found: dict[str, Hint] = getattr(self, verb)(*args)
        return found

    def write(self, path: str, data: str) -> dict[str, Hint]:
        place = self._place(path)
        if place.is_symlink():
            place.unlink()
        return self._fill(place, "wb", data.encode(), path)

    def append(self, path: str, data: str) -> dict[str, Hint]:
        place = self._regular(path)
        return self._fill(place, "ab", data.encode(), path)

    def flip(self, path: str, keep: bool) -> dict[str, Hint]:  # noqa: FBT001
        """Rewrite in place with the same size; ``keep`` sets the old mtime again, so that only ctime tells."""
        place = self._regular(path)
        before = place.lstat()
        data = place.read_bytes()
        place.write_bytes(data.swapcase()[::-1])
        mtime = before.st_mtime_ns if keep else self._stamp()
        while True:
            os.utime(place, ns=(mtime, mtime))
            if place.lstat().st_ctime_ns != before.st_ctime_ns:
                return {path: _NEW}

    def replace(self, path: str, data: str) -> dict[str, Hint]:
        """As editors do: a new file beside it, then a rename."""
        place = self._place(path)
        fresh = place.with_name("fresh.tmp")
        hints = self._fill(fresh, "wb", data.encode(), path)
        try:
            os.rename(fresh, place)
        except OSError:
            fresh.unlink()
            raise
        return hints | {str(fresh.relative_to(self._session)): Hint.GONE}

    def rename(self, old: str, new: str) -> dict[str, Hint]:
        source, target = self._session / old, self._place(new)
        os.rename(source, target)
        return {old: Hint.GONE, new: _NEW}

    def rename_folder(self, old: str, new: str) -> dict[str, Hint]:
        os.rename(self._session / old, self._session / new)
        return {old: Hint.GONE | Hint.TREE, new: Hint.TREE}

    def spoil(self, path: str) -> dict[str, Hint]:
        """Give a file or a directory a name that is no UTF-8: nothing of it can be stored."""
        old = self._session / path
        kind = Hint.TREE if old.is_dir() else Hint(0)
        os.rename(old, f"{old}{_SPOILT}")
        return {path: Hint.GONE | kind, f"{path}{_SPOILT}": kind or _NEW}

    def mend(self) -> None:
        """Give what cannot be stored a name again that can be."""
        for above, folders, names in os.walk(self._session, topdown=False):
            for name in (*folders, *names):
                if _SPOILT in name:
                    old, new = Path(above, name), Path(above, name.replace(_SPOILT, ""))
                    while os.path.lexists(new):
                        new = new.with_name(f"{new.name}2")
                    os.rename(old, new)

    def unlink(self, path: str) -> dict[str, Hint]:
        (self._session / path).unlink()
        return {path: Hint.GONE}

    def rmtree(self, path: str) -> dict[str, Hint]:
        shutil.rmtree(self._session / path)
        return {path: Hint.GONE | Hint.TREE}

    def hold(self, path: str) -> dict[str, Hint]:
        """Open a file for writing, and keep it open."""
        self._held.append((path, open(self._regular(path), "ab", buffering=0)))  # noqa: SIM115
        return {}

    def hold_write(self, data: str) -> dict[str, Hint]:
        """Write to the file that was opened last, wherever it is now."""
        if not self._held:
            return {}
        path, file = self._held[-1]
        file.write(data.encode())
        stamp = self._stamp()
        os.utime(file.fileno(), ns=(stamp, stamp))
        return {path: Hint.CHANGED}

    def release(self) -> dict[str, Hint]:
        if not self._held:
            return {}
        path, file = self._held.pop()
        file.close()
        return {path: _NEW}

    def map(self, path: str) -> dict[str, Hint]:
        """Map a file's pages for writing, and close its descriptor."""
        place = self._regular(path)
        if not place.stat().st_size:
            raise FileNotFoundError(path)  # it has no pages
        with open(place, "r+b", buffering=0) as file:
            pages = mmap.mmap(file.fileno(), 0)
        self._maps.append(_Mapped(path, open(place, "rb", buffering=0), pages))  # noqa: SIM115
        return {}

    def map_write(self, data: str) -> dict[str, Hint]:
        """Write to the pages that were mapped last. The kernel notes the first store to a page; and the next one only
        after it has written the page to the disk."""
        if not self._maps:
            return {}
        mapped, new = self._maps[-1], data.encode()
        size = min(len(new), len(mapped.pages), os.fstat(mapped.file.fileno()).st_size)  # beyond its end is SIGBUS
        mapped.pages[:size] = new[:size]
        now = self._stamp()
        if mapped.noted is None or now - mapped.noted >= _WRITTEN_BACK:
            mapped.noted = now
            os.utime(mapped.file.fileno(), ns=(now, now))
        return {}

    def unmap(self) -> dict[str, Hint]:
        if not self._maps:
            return {}
        mapped = self._maps.pop()
        mapped.close()
        return {mapped.path: Hint.CLOSED}

    def mkdir(self, path: str) -> dict[str, Hint]:
        if self._session.is_dir():
            (self._session / path).mkdir(parents=True)
        return {path: Hint.TREE}

    def symlink(self, path: str, target: str) -> dict[str, Hint]:
        place = self._place(path)
        place.unlink(missing_ok=True)
        place.symlink_to(target)
        return {path: Hint.CHANGED | Hint.GONE}

    def hardlink(self, old: str, new: str) -> dict[str, Hint]:
        os.link(self._session / old, self._place(new), follow_symlinks=False)
        return {new: Hint.CHANGED}

    def touch(self, path: str, seconds: float) -> dict[str, Hint]:
        mtime = self._stamp() + int(seconds * 1e9)
        os.utime(self._session / path, ns=(mtime, mtime), follow_symlinks=False)
        return {path: Hint.ATTRIBUTES}

    def chmod(self, path: str, mode: int) -> dict[str, Hint]:
        self._regular(path).chmod(mode)
        return {path: Hint.ATTRIBUTES}

    def ignore(self, rules: str) -> dict[str, Hint]:
        return self.write(".cachesyncignore", rules)

    def _place(self, path: str) -> Path:
        place = self._session / path
        if self._session.is_dir():
            place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def _regular(self, path: str) -> Path:
        place = self._session / path
        if place.is_symlink() or not place.is_file():
            raise FileNotFoundError(path)
        return place

    def _fill(self, place: Path, mode: str, data: bytes, path: str) -> dict[str, Hint]:
        with open(place, mode) as file:
            file.write(data)
        stamp = self._stamp()
        os.utime(place, ns=(stamp, stamp))
        hints = {path: _NEW}
        above = path.rpartition("/")[0]
        while above:
            hints[above] = Hint.TREE
            above = above.rpartition("/")[0]
        return hints
