"""An engine without threads: the real parts, with the caller as the pool of transfers and a clock to push on.

``Uploader`` decides what is due and judges what failed as always; only who runs a transfer is another, so a test is
deterministic, makes no pauses, and a ``Crash`` in the middle of a request reaches the test.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import cachesync.root.listing
import cachesync.sync.flush
import cachesync.sync.following
from cachesync.config import load
from cachesync.daemon.engine import Engine
from cachesync.model.reports import FlushReport
from cachesync.store.base import ObjectStore
from tests.flat_store import Crash


class Clock:
    """The real time and what it was pushed on."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead

    def push(self, seconds: float) -> None:
        self.ahead += seconds

    # What cachesync.sync.flush and cachesync.sync.following ask of the module ``time``.
    monotonic = __call__
    sleep = push
    time_ns = staticmethod(time.time_ns)


class _Aging:
    """The module ``time`` for files.listing: directories grow older by the engine's time, too."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began = clock()

    def time_ns(self) -> int:
        return time.time_ns() + int((self._clock() - self._began) * 1e9)


class Driven:
    """One life of an engine over ``root``. ``crash`` ends it as SIGKILL does, ``close`` in an orderly way."""

    def __init__(
        self,
        root: Path,
        store: ObjectStore,
        clock: Clock | None = None,
        *,
        watched: bool = True,
        url: str | None = "memory://driven",
        **flags: str,
    ) -> None:
        self.clock = clock or Clock()
        self.store = store
        chosen = {"root": str(root), **flags} | ({} if url is None else {"store": url})
        config = load(chosen, {}, Path("/"), system_file=Path("/none"))
        self.engine = Engine(config, store, clock=self.clock, watched=watched)
        self.uploader = self.engine.uploader
        self._queue: list[tuple[str, str]] = []
        self.uploader.transfer = self.engine.transfer
        self.uploader._submit = self._queue.append  # type: ignore[assignment,method-assign]
        self.uploader.wait_for_progress = self._progress  # type: ignore[method-assign]
        self._writes_left: int | None = None
        self._hook_journal()

    def scan(self, session: str, **options: Any) -> Any:
        return self.engine.scanner.scan(session, **options)

    def pump(self, rounds: int = 10_000) -> int:
        """Run what is due until nothing is; returns how many transfers that were."""
        count = 0
        for _ in range(rounds):
            self.uploader._round()
            if not self._queue:
                return count
            places = list(self._queue)
            self._queue.clear()  # the same list: the uploader appends to it
            for place in places:
                following: tuple[str, str] | None = place
                while following is not None:
                    count += 1
                    self.uploader._run(*following)
                    following = self.uploader._end(following)
        raise AssertionError(f"the queue never runs dry: {places}")

    def one(self) -> bool:
        """Run one transfer; returns whether one was due."""
        if not self._queue:
            self.uploader._round()
        if not self._queue:
            return False
        place = self._queue.pop(0)
        self.uploader._run(*place)
        if (following := self.uploader._end(place)) is not None:
            self._queue.insert(0, following)
        return True

    def flush(self, session: str, timeout: float = 300.0, **options: Any) -> FlushReport:
        """``flush`` in the engine's time: a timeout of five minutes takes none of ours."""
        with (
            mock.patch.object(cachesync.sync.flush, "time", self.clock),
            mock.patch.object(cachesync.sync.following, "time", self.clock),
            mock.patch.object(cachesync.root.listing, "time", _Aging(self.clock)),
            mock.patch.object(cachesync.sync.flush, "within", lambda _, call: call()),
        ):
            return self.engine.service.flush(session, timeout=timeout, **options)

    def close(self) -> None:
        self._writes_left = None
        self.engine.close()

    def crash(self) -> None:
        """What the kernel does for a killed process: its descriptors are closed."""
        self._writes_left = None
        self.engine.journal._ledger.db.close()  # without what an orderly end writes
        self.engine.lock.release()
        self.engine.tree.close()

    def crash_at_journal_write(self, number: int) -> None:
        """Raise Crash at a transaction from now: just before the commit for an odd number, after it for an even one.
        Zero takes it back."""
        self._writes_left = number or None

    def _hook_journal(self) -> None:
        database = self.engine.journal._ledger.db
        write = database.write

        @contextlib.contextmanager
        def counted(**options: Any) -> Iterator[Any]:
            number = self._writes_left
            if number is not None:
                self._writes_left = number - 2
            with write(**options) as db:
                yield db
                if number == 1:
                    raise Crash
            if number == 2:
                raise Crash

        database.write = counted  # type: ignore[method-assign]

    def _progress(self, timeout: float) -> None:
        if self.pump():
            return
        now = self.clock()
        due = self.engine.journal.work.next_due(now)
        later = max(timeout, self.uploader._pace.paused_until - now)
        self.clock.push(later if due is None else max(0.0, min(later, due - now)) + 0.000_1)


def tree_of(folder: Path) -> dict[str, bytes | str | None]:
    """What is under a folder: bytes of a file, target of a link, None of a directory (its path ends in "/")."""
    found: dict[str, bytes | str | None] = {}
    for above, folders, names in os.walk(folder):
        for name in (*folders, *names):
            place = Path(above, name)
            path = str(place.relative_to(folder))
            if place.is_symlink():
                found[path] = os.readlink(place)
            elif place.is_dir():
                found[path + "/"] = None
            elif place.is_file():
                found[path] = place.read_bytes()
    return found
