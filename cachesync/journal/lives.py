"""Which objects this journal tried to store: each carries the name of its try in its metadata (``attemptid``).

A try is named before its request, and nothing is written for it: ``LIFE.GENERATION.NUMBER.KEY``, the token of the life
that sent it, the entry's generation, which put of its path it is, and a digest of the object's key. So what was copied
from another key, or was stored from a clone of this journal, is not ours, and what was restored is an older put.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

from cachesync.journal.ledger import Ledger
from cachesync.model import Entry

_NAME = re.compile(r"([0-9a-f]{16,64})\.([0-9]{1,18})\.([0-9]{1,18})\.([0-9a-f]{16})", re.ASCII)


class Try(NamedTuple):
    """The entry's generation that was sent, and which put of its path it is."""

    generation: int
    number: int


class Lives:
    """Names tries, and knows those of this life and of the lives before it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def attempt(self, entry: Entry, key: str) -> str:
        """The name of a try to store an entry at ``key``."""
        return f"{self._ledger.life}.{entry.generation}.{entry.puts + 1}.{_short(key)}"

    def tried(self, entry: Entry, key: str, attempt: str) -> Try | None:
        """Which try an object at ``key`` with this ``attempt`` is of; None if this journal did not make it, or made it
        for an earlier row of the path. One whose number is above ``entry.puts`` was never confirmed.

        A life before this one tried no generation that was given out after it: those are of a clone that lives on.
        """
        if (match := _NAME.fullmatch(attempt)) is None or match[4] != _short(key):
            return None
        found, last = Try(int(match[2]), int(match[3])), self._ledger.lives.get(match[1], -1)
        latest = entry.generation if last is None else min(entry.generation, last)
        return found if entry.born <= found.generation <= latest else None


def _short(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:16]
