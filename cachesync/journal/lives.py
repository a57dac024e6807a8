"""Which objects this journal tried to store: each carries the name of its try in its metadata (``attemptid``).

A try is named before its request, and nothing is written for it: ``LIFE.GENERATION.NUMBER.KEY``, the token of the life
that sent it, the entry's generation, which put of its path it is, and a digest of the object's key. So what was copied
from another key, or was stored from a clone of this journal, is not ours, and what was restored is an older put.
"""

from __future__ import annotations

import hashlib
import re

from cachesync.journal.ledger import Ledger
from cachesync.model import Entry

_NAME = re.compile(r"([0-9a-f]{16,64})\.([0-9]{1,18})\.([0-9]{1,18})\.([0-9a-f]{16})", re.ASCII)


class Lives:
    """Names tries, and knows those of this life and of the lives before it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def attempt(self, entry: Entry, key: str) -> str:
        """The name of a try to store an entry at ``key``."""
        return f"{self._ledger.life}.{entry.generation}.{entry.puts + 1}.{_short(key)}"

    def number(self, entry: Entry, key: str, attempt: str) -> int | None:
        """Which put of the entry's path an object at ``key`` with this ``attempt`` is; None if this journal did not try
        it, or for an earlier row of the path. One above ``entry.puts`` was never confirmed.

        A life before this one tried no generation that was given out after it: those are of a clone that lives on.
        """
        if (match := _NAME.fullmatch(attempt)) is None or match[4] != _short(key):
            return None
        generation, last = int(match[2]), self._ledger.lives.get(match[1], -1)
        if not entry.born <= generation <= min(entry.generation, entry.generation if last is None else last):
            return None
        return int(match[3])


def _short(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:16]
