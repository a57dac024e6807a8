"""The progress of a flush on stderr: a line that is redrawn while the verbs work, on a terminal only.

Without a terminal a flush that takes long says once what it waits for.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Collection
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self, TextIO

from cachesync.cli.formatting import count, size
from cachesync.model.errors import CacheSyncError
from cachesync.model.reports import StatusReport
from cachesync.model.verbs import Verbs

INTERVAL = 0.5
PATIENCE = 2.0
"""Seconds between two looks, and before a word without a terminal."""

WIDTH = 24


class Progress(AbstractContextManager["Progress"]):
    """Asks for the status of ``sessions`` twice a second and draws what is left of the most that was ever dirty."""

    def __init__(self, verbs: Verbs, sessions: Collection[str], out: TextIO, columns: int) -> None:
        self._verbs = verbs
        self._sessions = frozenset(sessions)
        self._out = out
        self._columns = columns
        self._most_files = 0
        self._most_bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._draw, name="progress", daemon=True)

    @classmethod
    def shown(cls, verbs: Verbs, sessions: Collection[str]) -> AbstractContextManager[object]:
        """A bar if stderr is a terminal, else a line when it takes long."""
        if not sys.stderr.isatty():
            return _Notice(verbs, sessions, sys.stderr)
        return cls(verbs, sessions, sys.stderr, _columns())

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        # A status that hangs must not hold up the answer; the thread draws nothing once it sees the end.
        self._thread.join(1.0)
        self._out.write("\r\x1b[K")
        self._out.flush()

    def line(self, report: StatusReport) -> str:
        """What the bar shows for ``report``; remembers the most that was dirty."""
        chosen = [status for status in report.sessions if status.session in self._sessions]
        files = sum(status.dirty for status in chosen)
        left = sum(status.dirty_bytes for status in chosen)
        self._most_files = max(self._most_files, files)
        self._most_bytes = max(self._most_bytes, left)
        # By bytes and files together: a thousand empty files are work too.
        whole = self._most_bytes + 4096 * self._most_files
        share = 1.0 if whole == 0 else 1 - (left + 4096 * files) / whole
        bar = ("#" * int(share * WIDTH)).ljust(WIDTH, ".")
        rate = "" if report.rate is None else f"  {size(report.rate)}/s"
        done = f"{self._most_files - files:,}/{self._most_files:,} files"
        amount = f"{size(self._most_bytes - left)}/{size(self._most_bytes)}"
        return f"{_name(self._sessions)} [{bar}] {share:4.0%}  {done}  {amount}{rate}"[: self._columns - 1]

    def _draw(self) -> None:
        only = next(iter(self._sessions)) if len(self._sessions) == 1 else None
        while not self._ended.wait(INTERVAL):
            try:
                line = self.line(self._verbs.status(only))
            except CacheSyncError:
                continue  # the flush itself says what is wrong
            if not self._ended.is_set():
                self._out.write(f"\r\x1b[K{line}")
                self._out.flush()


class _Notice(AbstractContextManager["_Notice"]):
    """One line, if the block takes longer than PATIENCE."""

    def __init__(self, verbs: Verbs, sessions: Collection[str], out: TextIO) -> None:
        self._verbs = verbs
        self._sessions = frozenset(sessions)
        self._out = out
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._say, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join(1.0)

    def _say(self) -> None:
        if self._ended.wait(PATIENCE):
            return
        try:
            report = self._verbs.status()  # of all: to ask for one would scan it once more
        except CacheSyncError:
            return
        chosen = [status for status in report.sessions if status.session in self._sessions]
        files, left = sum(status.dirty for status in chosen), sum(status.dirty_bytes for status in chosen)
        if not self._ended.is_set():
            waits = f"waiting for {_name(self._sessions)}: {count(files, 'file')}, {size(left)} to store"
            print(waits, file=self._out, flush=True)


def _name(sessions: Collection[str]) -> str:
    return next(iter(sessions)) if len(sessions) == 1 else f"{len(sessions)} sessions"


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80  # 0: a terminal that does not know
    except OSError:
        return 80
