"""A progress bar for a long verb that tells how far it is: one line on stderr. Never without a terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from cachesync.cli.formatting import duration, one_line, size
from cachesync.model.outcomes import OnProgress, Progress

INTERVAL = 0.2
WIDTH = 24
TELLING = 3.0
"""Seconds before the rate so far says anything of the time left."""

_FILE = 4096
"""Bytes that a file counts besides its own: a thousand empty files are work too."""


class Bar:
    """Draws what it is told, at most five times a second, with the rate since the beginning and the time left."""

    def __init__(self, title: str, out: TextIO, columns: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._title = one_line(title)
        self._out = out
        self._columns = columns
        self._clock = clock
        self._begun = clock()
        self._drawn_at = float("-inf")

    def tell(self, progress: Progress) -> None:
        """Show how far it is (outcomes.OnProgress)."""
        now = self._clock()
        if now - self._drawn_at >= INTERVAL:
            self._drawn_at = now
            self._out.write(f"\r\x1b[K{self.line(progress)}")
            self._out.flush()

    def line(self, progress: Progress) -> str:
        """What is shown."""
        seconds = max(1e-3, self._clock() - self._begun)
        whole = progress.bytes_total + _FILE * progress.files_total
        done = progress.bytes + _FILE * progress.files
        share = min(1.0, done / whole) if whole else 0.0
        bar = ("#" * int(share * WIDTH)).ljust(WIDTH, ".")
        left = f"  {duration(seconds * (1 - share) / share)} left" if 0 < share < 1 and seconds >= TELLING else ""
        files = f"{progress.files:,}/{progress.files_total:,} files"
        amount = f"{size(progress.bytes)}/{size(progress.bytes_total)}  {size(progress.bytes / seconds)}/s"
        return f"{self._title} [{bar}] {share:4.0%}  {files}  {amount}{left}"[: self._columns - 1]


@contextmanager
def on_terminal(title: str) -> Iterator[OnProgress | None]:
    """Where to tell the progress to, if stderr is a terminal; else None."""
    if not sys.stderr.isatty():
        yield None
        return
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80  # 0: a terminal that does not know
    except OSError:
        columns = 80
    try:
        yield Bar(title, sys.stderr, columns).tell
    finally:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
