"""A session's life for tests: hosts that share one store, each with a root, an engine without threads and a life."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import cachesync.session.life
from cachesync.model.outcomes import OnProgress, VerifyReport, no_progress
from cachesync.session.life import SessionLife
from cachesync.store.base import ObjectStore
from tests.driving import Clock, Driven

S = "s"


class NoVerifier:
    """Nobody verifies here."""

    def verify(self, session: str, *, progress: OnProgress = no_progress) -> VerifyReport:
        return VerifyReport(session)


def life_of(driven: Driven, *, threads: int = 1) -> SessionLife:
    """The verbs of a session's life over the parts of an engine; its pauses push the engine's clock."""
    e = driven.engine
    return SessionLife(
        e.transfer._c,
        e.scanner,
        e.learner,
        e.committer,
        e.service._flusher,
        NoVerifier(),
        threads=threads,
        sleep=driven.clock.push,
    )


@contextlib.contextmanager
def driven_time(driven: Driven) -> Iterator[None]:
    """A session is closed in the engine's time and in the caller's thread."""
    with (
        mock.patch.object(cachesync.sync.flush, "time", driven.clock),
        mock.patch.object(cachesync.sync.following, "time", driven.clock),
        mock.patch.object(cachesync.session.life, "time", driven.clock),
        mock.patch.object(cachesync.sync.flush, "within", lambda _, call: call()),
        mock.patch.object(cachesync.session.life, "within", lambda _, call: call()),
    ):
        yield


def kill(life: SessionLife) -> None:
    """What the kernel does with a killed process' descriptors; its staging folder stays as it is."""
    if life._staging is not None:
        life._staging._let_go()


class Host:
    """One root on a store. ``crash`` is SIGKILL, ``start`` another process on the same root."""

    def __init__(self, root: Path, store: ObjectStore, *, threads: int = 1, **flags: Any) -> None:
        self.root = root
        self.store = store
        self.session = root / S
        self._threads = threads
        self._flags = flags
        self.before: dict[str, Any] = {}
        root.mkdir(parents=True, exist_ok=True)
        self.start()

    def start(self) -> None:
        self.driven = Driven(self.root, self.store, Clock(), **self._flags)
        self.life = life_of(self.driven, threads=self._threads)
        self.journal = self.driven.engine.journal

    def crash(self) -> None:
        """The process is killed, and another starts."""
        kill(self.life)
        self.driven.crash()
        self.start()

    def write(self, path: str, data: bytes | str = b"text", *, mode: int = 0o644, mtime_ns: int | None = None) -> Path:
        place = self.session / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data if isinstance(data, bytes) else data.encode())
        place.chmod(mode)
        if mtime_ns is not None:
            os.utime(place, ns=(mtime_ns, mtime_ns))
        return place

    def flush(self) -> None:
        report = self.driven.flush(S)
        assert report.stored, report

    def close_session(self, **options: Any) -> Any:
        with driven_time(self.driven):
            return self.life.close(S, **{"timeout": 300.0} | options)

    def entry(self, path: str) -> Any:
        return self.journal.entries.entry(S, path)

    def dirty(self) -> set[str]:
        return {entry.path for entry in self.journal.entries.walk(S) if entry.dirty}

    def stop(self) -> None:
        self.life.stop()
        self.driven.close()


def look(folder: Path) -> dict[str, tuple[Any, ...]]:
    """What is under a folder, as P15 means "the same": kind, bytes or target, permission bits, mtime."""
    found: dict[str, tuple[Any, ...]] = {}
    for above, folders, names in os.walk(folder):
        for name in (*folders, *names):
            place = Path(above, name)
            path, s = str(place.relative_to(folder)), place.lstat()
            if place.is_symlink():
                found[path] = ("link", os.readlink(place), s.st_mtime_ns)
            elif place.is_dir():
                found[path] = ("dir", s.st_mode & 0o7777, s.st_mtime_ns)
            else:
                found[path] = ("file", place.read_bytes(), s.st_mode & 0o7777, s.st_mtime_ns)
    return found
