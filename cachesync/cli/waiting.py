"""A line on stderr while a command waits for a store that does not answer: once, whatever the command is."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from cachesync.cli.formatting import duration
from cachesync.model.errors import CacheSyncError
from cachesync.model.verbs import Verbs

PATIENCE = 2.0
INTERVAL = 0.5
"""Seconds before the first look at whether the store answers, and between two looks."""


@contextmanager
def told_of_silence(verbs: Verbs) -> Iterator[None]:
    """Look at it beside the block, and say so."""
    ended = threading.Event()
    thread = threading.Thread(target=_look, args=(verbs, ended, sys.stderr), name="waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


def _look(verbs: Verbs, ended: threading.Event, out: TextIO) -> None:
    pause = PATIENCE
    while not ended.wait(pause):
        pause = INTERVAL
        try:
            silent = verbs.status().store_silent_for  # of all: to ask for one would scan it once more
        except CacheSyncError:
            continue  # the command itself says what is wrong
        if silent is not None and not ended.is_set():
            clear = "\r\x1b[K" if out.isatty() else ""
            told = f"waiting for the store, which has not answered for {duration(silent)}"
            print(f"{clear}cachesync: {told}", file=out, flush=True)
            return
