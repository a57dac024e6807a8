"""A progress bar for a flush: one line on stderr, redrawn while the verbs work. Never without a terminal."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Self, TextIO

from cachesync.cli.phrases import size
from cachesync.errors import CacheSyncError
from cachesync.reports import StatusReport
from cachesync.verbs import Verbs

INTERVAL = 0.5
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
    def on_terminal(cls, verbs: Verbs, sessions: Collection[str]) -> AbstractContextManager[object]:
        """A bar if stderr is a terminal, else nothing."""
        if not sys.stderr.isatty():
            return nullcontext()
        try:
            columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80  # 0: a terminal that does not know
        except OSError:
            columns = 80
        return cls(verbs, sessions, sys.stderr, columns)

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
        name = next(iter(self._sessions)) if len(self._sessions) == 1 else f"{len(self._sessions)} sessions"
        done = f"{self._most_files - files:,}/{self._most_files:,} files"
        text = f"{name} [{bar}] {share:4.0%}  {done}  {size(self._most_bytes - left)}/{size(self._most_bytes)}{rate}"
        return text[: self._columns - 1]

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
