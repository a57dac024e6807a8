"""Recognizes objects that this journal stored. Each object names its put attempt in its metadata (``attemptid``).

The name is ``LIFE.GENERATION.NUMBER.KEY``: the token of the life (a process that stores from this journal), the entry's
generation, the number of the put at its path, and a digest of the object's key. It is built before the request and not
recorded in the journal. An object that was copied from another key, or stored from a clone of this journal, is not
ours. A restored object is recognized as an older put.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

from cachesync.journal.counters import Ledger
from cachesync.model.values import Entry

_NAME = re.compile(r"([0-9a-f]{16,64})\.([0-9]{1,18})\.([0-9]{1,18})\.([0-9a-f]{16})", re.ASCII)


class Try(NamedTuple):
    """A put attempt: the entry's generation, and the number of the put at its path."""

    generation: int
    number: int


class Lives:
    """Names put attempts, and recognizes those of this life and of earlier lives."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def attempt(self, entry: Entry, key: str) -> str:
        """Return the name of the next attempt to store an entry at ``key``."""
        return f"{self._ledger.life}.{entry.generation}.{entry.puts + 1}.{_short(key)}"

    def tried(self, entry: Entry, key: str, attempt: str) -> Try | None:
        """Parse the ``attempt`` of an object at ``key``.

        Returns None if this journal did not make the attempt, or made it for an earlier row of the path. An attempt
        whose number is above ``entry.puts`` was never confirmed. An earlier life cannot have sent a generation that is
        newer than its end; such an attempt comes from a clone of the journal.
        """
        if (match := _NAME.fullmatch(attempt)) is None or match[4] != _short(key):
            return None
        found, last = Try(int(match[2]), int(match[3])), self._ledger.lives.get(match[1], -1)
        latest = entry.generation if last is None else min(entry.generation, last)
        return found if entry.born <= found.generation <= latest else None


def _short(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:16]
