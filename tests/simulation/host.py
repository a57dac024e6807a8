"""One host of the simulation: a root, and one life of an engine after the other, all in virtual time."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import cachesync.artifacts.local
import cachesync.artifacts.remote
import cachesync.config
import cachesync.daemon.engine
import cachesync.journal.counters
import cachesync.journal.database
import cachesync.journal.integrity
import cachesync.journal.reserve
import cachesync.root.listing
import cachesync.session.life
import cachesync.session.opening
import cachesync.session.verify
import cachesync.sync.flush
import cachesync.sync.following
import cachesync.sync.remote_listing
import cachesync.sync.wait_stored
import tests.driving
from cachesync.journal.journal import Journal
from cachesync.model.address import parse
from cachesync.model.verbs import Reading
from cachesync.read.hydrate.hydrator import Hydrator
from cachesync.watch.hints import Hint
from tests.driving import Driven
from tests.flat_store import Crash
from tests.life import kill
from tests.simulation.kernel import NATURES, Disk, Kernel
from tests.simulation.store import SimulatedStore
from tests.simulation.watching import SimulatedWatcher

SESSION = "s"
PREFIX = f"sessions/{SESSION}/"
MANIFEST = f"{PREFIX}.cachesync/manifest.json"
EPOCH = 1_900_000_000.0
"""Far from the real time, so that nothing waits for a real clock's tick."""


class VirtualTime:
    """The one time of a world; stands in for the module ``time`` where the product waits."""

    def __init__(self) -> None:
        self.now = EPOCH

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def monotonic(self) -> float:
        """Moves on by itself a little, so that nobody turns around for ever at one instant."""
        self.now += 1e-6
        return self.now

    time = monotonic

    def push(self, seconds: float) -> None:
        self.now += max(0.0, seconds)

    sleep = push

    def time_ns(self) -> int:
        return int(self.monotonic() * 1e9)


class HostClock:
    """What a host believes the time to be: ``skew`` seconds off the ``true`` one, which is that of time stamps."""

    def __init__(self, time: VirtualTime) -> None:
        self._time = time
        self.skew = 0.0

    @property
    def true(self) -> float:
        return self._time.now

    def __call__(self) -> float:
        return self._time.monotonic() + self.skew

    def push(self, seconds: float) -> None:
        self._time.push(seconds)

    monotonic = __call__
    sleep = push


_STATE = ("journal.db", "journal.db-wal")
"""The files of a journal."""


class OldDirectories:
    """The module ``time`` for files.listing: every directory is old enough for its time stamp to tell."""

    @staticmethod
    def time_ns() -> int:
        return time.time_ns() + 10**10


class _Ids:
    """The module ``secrets`` for journals: the same ids in each replay."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def token_hex(self, size: int) -> str:
        return f"{next(self._numbers):0{2 * size}x}"


def _in_turn(items: Iterator[Any], do: Callable[[Any, Any], None], threads: int) -> None:
    for item in items:
        do(item, None)


@contextlib.contextmanager
def virtual(time: VirtualTime, kernel: Kernel) -> Iterator[None]:
    """The product waits in virtual time and in the caller's thread while this lasts."""
    with contextlib.ExitStack() as stack:
        for module in (
            cachesync.sync.flush,
            cachesync.sync.following,
            cachesync.session.life,
            cachesync.session.opening,
            cachesync.sync.wait_stored,
            cachesync.sync.remote_listing,
            cachesync.artifacts.remote,
            cachesync.artifacts.local,
        ):
            stack.enter_context(mock.patch.object(module, "time", time))
        stack.enter_context(mock.patch.object(cachesync.root.listing, "time", OldDirectories))
        for waiting in (cachesync.sync.flush, cachesync.session.life, cachesync.session.opening):
            stack.enter_context(mock.patch.object(waiting, "within", lambda _, call: call()))
        for parallel in (cachesync.sync.remote_listing, cachesync.artifacts.remote, cachesync.session.verify):
            stack.enter_context(mock.patch.object(parallel, "in_parallel", _in_turn))
        stack.enter_context(mock.patch.object(cachesync.journal.reserve, "SIZE", 4096))
        stack.enter_context(mock.patch.object(cachesync.journal.counters, "secrets", _Ids()))
        stack.enter_context(mock.patch.object(cachesync.journal.database.Database, "stream", _stream))
        stack.enter_context(mock.patch.object(tests.driving, "load", _load))
        stack.enter_context(mock.patch.object(cachesync.daemon.engine, "measure", kernel.measure))
        stack.enter_context(mock.patch.object(cachesync.daemon.engine, "device_of", kernel.device_of))
        stack.enter_context(mock.patch.object(cachesync.journal.integrity, "_expected", _expected))
        stack.enter_context(kernel.installed(time))
        yield


def _stream(database: Any, sql: str, values: tuple[Any, ...] = ()) -> Iterator[Any]:
    """One snapshot, as ever, but on a connection that is there: opening one would cost a third of the simulation."""
    yield from database.all(sql, values)


_expected = cache(cachesync.journal.integrity._expected)
"""Which tables a journal of a version has: asked of SQLite at each start of a process, and always the same."""

_configs: dict[Any, Any] = {}


def _load(flags: dict[str, str], *args: Any, **options: Any) -> Any:
    """The configuration of a root, made once."""
    key = tuple(sorted(flags.items()))
    if key not in _configs:
        _configs.clear() if len(_configs) > 100 else None
        _configs[key] = cachesync.config.load(flags, *args, **options)
    return _configs[key]


@cache
def _blank_journal(folder: str) -> bytes:
    """An empty journal's file: making one costs more than all else that a host's start does."""
    path = Path(folder, "blank.db")
    Journal(path).close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = path.read_bytes()
    for left in Path(folder).glob("blank.db*"):
        left.unlink()
    return data


class SimulatedHost:
    """``hints`` are what the watcher saw and nobody took yet. ``look`` and ``write`` are called before each look at the
    disk and each transaction; what they raise is raised there."""

    def __init__(
        self,
        name: str,
        folder: Path,
        store: SimulatedStore,
        time: VirtualTime,
        *,
        guard: int,
        watched: bool,
        disk: str = "plain",
        ears: bool = False,
        timed: bool = False,
    ) -> None:
        self.name = name
        self.folder = folder
        self.root = folder / name
        self.session = self.root / SESSION
        self.away = folder / f"{name}-away"
        self.volumes = folder / f"{name}-volumes"
        self.clock = HostClock(time)
        self.watcher = SimulatedWatcher(self.session) if ears else None
        self.disk = Disk(str(self.root), str(self.session), NATURES[disk], self.clock, timed)
        self.driven: Driven | None = None
        self.lives = 0
        self._boots = 0
        self._booted_at = time.now
        self.hints: dict[str, Hint] = {}
        self.look: Callable[[str, tuple[Any, ...]], None] = lambda *_: None
        self.write: Callable[[], None] = lambda: None
        self.committed: Callable[[], None] = lambda: None
        self.guard = guard
        self._store = store
        self._flags: dict[str, Any] = {"watched": watched, "delete_guard": str(guard)}
        self._remembered: dict[str, bytes] | None = None
        self._kept: dict[str, bytes] = {}
        self.root.mkdir(parents=True)

    # -- its lives -----------------------------------------------------------------------------------------------------

    def start(self) -> Driven:
        """Another process, as the daemon begins."""
        self.lives += 1
        state = self.root / ".cachesync"
        if not state.exists():
            self._new_journal(state)
        with mock.patch.object(cachesync.journal.counters, "_boot", return_value=f"boot {self._boots}"):
            driven = Driven(self.root, self._store, self.clock, **self._flags)  # type: ignore[arg-type]
        driven.engine.journal.booted_at = lambda: self._booted_at  # type: ignore[method-assign]
        life = driven.engine.lifecycle
        life._sleep = self.clock.push
        context = driven.engine.transfer._c
        life._opener._hydrator = Hydrator(context, driven.engine.learner.standing, threads=1, sleep=self.clock.push)
        self._hook(driven)
        driven.engine.hearing._private = None  # a watcher of its own would be a thread
        if self.watcher is not None:
            driven.engine.hearing.attach(self.watcher, self.watcher.catch_up)
        self.driven = driven
        self.hints.clear()
        life.recover()
        return driven

    def _new_journal(self, state: Path) -> None:
        state.mkdir(mode=0o700)
        path = state / "journal.db"
        path.touch(0o600)
        path.write_bytes(_blank_journal(str(self.folder.parent)))  # another inode: it gets an id of its own

    def _hook(self, driven: Driven) -> None:
        tree, database = driven.engine.tree, driven.engine.journal._ledger.db
        for verb in ("lstat", "open", "listing", "session_directory"):
            setattr(tree, verb, self._looking(verb, getattr(tree, verb)))
        write = database.write

        @contextlib.contextmanager
        def hooked(*, durable: bool = False) -> Iterator[Any]:
            self.write()
            with write(durable=durable) as db:
                yield db
            if durable:
                self._remembered = None
            self.committed()

        database.write = hooked  # type: ignore[method-assign]

    def _looking(self, verb: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def hooked(*args: Any, **options: Any) -> Any:
            self.look(verb, args)
            return call(*args, **options)

        return hooked

    def die(self) -> None:
        """SIGKILL."""
        if self.driven is not None:
            driven, self.driven = self.driven, None
            kill(driven.engine.lifecycle)
            driven.engine.cache.close()
            driven.crash()
        self.hints.clear()

    def stop(self) -> None:
        """An orderly end."""
        if self.driven is not None:
            try:
                self.driven.close()
            except Crash:  # killed on its way out
                self.die()
                raise
            self.driven = None
        self.hints.clear()

    def remember(self) -> None:
        """Up to here the journal is on the disk's platter; what is committed from now on may be lost with the power."""
        if self.driven is not None:
            self._remembered = self._state()

    def keep_state(self) -> None:
        """A backup of the state folder is taken."""
        self._kept = self._state()

    def roll_back_state(self) -> bool:
        """The state folder is as in the backup again; whether there is one. The root stays as it is."""
        if not self._kept:
            return False
        self.die()
        self._restore_state(self._kept)
        self._remembered = None
        return True

    def _state(self) -> dict[str, bytes]:
        state = self.root / ".cachesync"
        return {name: (state / name).read_bytes() for name in _STATE if (state / name).exists()}

    def _restore_state(self, kept: dict[str, bytes]) -> None:
        state = self.root / ".cachesync"
        for name in ("journal.db-wal", "journal.db-shm"):
            (state / name).unlink(missing_ok=True)
        for name, data in kept.items():
            (state / name).write_bytes(data)
            (state / name).chmod(0o600)

    def pulse(self) -> bytes | None:
        """What the product keeps in the root to tell whether that was rolled back."""
        place = self.root / ".cachesync" / "pulse"
        return place.read_bytes() if place.exists() else None

    def set_pulse(self, data: bytes | None) -> None:
        """The root has that of another time."""
        place = self.root / ".cachesync" / "pulse"
        place.unlink(missing_ok=True)
        if data is not None and place.parent.is_dir():
            place.write_bytes(data)
            place.chmod(0o600)

    def boot(self) -> None:
        """The machine starts anew."""
        self.die()
        self._boots += 1
        self._booted_at = self.clock.true

    def lose_power(self, *, commits: bool = True) -> None:
        """The last ``commits`` that were not durable are gone."""
        self.boot()
        if not commits:
            self._remembered = None
        if self._remembered is not None:
            self._restore_state(self._remembered)

    def lose_journal(self) -> None:
        """The state folder is removed while nobody runs."""
        self.die()
        self._remembered, self._kept = None, {}
        shutil.rmtree(self.root / ".cachesync", ignore_errors=True)

    # -- what it has ---------------------------------------------------------------------------------------------------

    def files(self) -> dict[str, bytes]:
        """The session's files as they stand."""
        return files_of(self.session)

    def snapshot(self) -> Snapshot:
        """The session's files as they stand, with which file each name is."""
        found: Snapshot = {}
        _collect(str(self.session), "", found)
        return found

    def look_around(self) -> tuple[Snapshot, Folders]:
        """The session's files, and its directories."""
        found: Snapshot = {}
        folders: Folders = {}
        with contextlib.suppress(FileNotFoundError):
            folders[""] = Folder(os.stat(self.session).st_ino)
        _collect(str(self.session), "", found, folders)
        return found, folders

    def files_away(self) -> dict[str, bytes]:
        """Those of the session's directory that was moved away."""
        return files_of(self.away)

    def everything(self) -> set[bytes]:
        """The bytes of every file that the host has anywhere: in the session, moved away, on a volume, on its way in or
        out."""
        staging = self.root / ".cachesync" / "staging"
        folders = (self.session, self.away, self.volumes, staging)
        return {data for folder in folders for data in files_of(folder).values()}

    def entry(self, path: str) -> Any:
        """The journal's row, if a process is there to ask."""
        if self.driven is None or SESSION not in self.driven.engine.journal.sessions.names():
            return None
        return self.driven.engine.journal.entries.entry(SESSION, path)

    def put(self, path: str, data: bytes) -> None:
        assert self.driven is not None
        self.driven.engine.service.artifacts.put(parse(f"{SESSION}/{path}"), io.BytesIO(data))

    def read(self, path: str) -> Reading:
        assert self.driven is not None
        return self.driven.engine.service.artifacts.read(parse(f"{SESSION}/{path}"))

    def restore(self, path: str) -> None:
        assert self.driven is not None
        self.driven.engine.service.artifacts.restore(parse(f"{SESSION}/{path}"))

    def rm(self, path: str) -> None:
        assert self.driven is not None
        self.driven.engine.service.artifacts.remove(parse(f"{SESSION}/{path}"))


@dataclass(frozen=True, slots=True)
class Seen:
    """A file at one instant. ``file`` is its inode: which file it is, whatever its name."""

    file: int
    data: bytes
    mtime_ns: int
    mode: int
    ctime_ns: int = field(compare=False)


Snapshot = dict[str, Seen]


@dataclass(slots=True)
class Folder:
    """A directory at one instant: which one it is, and which files and directories its names are."""

    inode: int
    names: dict[str, int] = field(default_factory=dict)


Folders = dict[str, Folder]
"""By path; "" is the session's own. Others end in "/"."""


def files_of(folder: Path) -> dict[str, bytes]:
    """Files below a folder, by path; links are none."""
    found: Snapshot = {}
    _collect(str(folder), "", found)
    return {path: seen.data for path, seen in found.items()}


def _collect(folder: str, prefix: str, found: Snapshot, folders: Folders | None = None) -> None:
    try:
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    if folders is not None and prefix in folders:
        folders[prefix].names = {entry.name: entry.inode() for entry in entries}
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if folders is not None:
                folders[f"{prefix}{entry.name}/"] = Folder(entry.inode())
            _collect(entry.path, f"{prefix}{entry.name}/", found, folders)
        elif entry.is_file(follow_symlinks=False):
            with open(entry.path, "rb") as file:
                data = file.read()
            s = entry.stat(follow_symlinks=False)
            found[prefix + entry.name] = Seen(s.st_ino, data, s.st_mtime_ns, s.st_mode & 0o7777, s.st_ctime_ns)
