"""Bringing a session's files, links and directories here from the store."""

from cachesync.hydrate.bring import Hydrator
from cachesync.hydrate.marks import JournalMarks, NoMarks
from cachesync.hydrate.tally import Brought

__all__ = ["Brought", "Hydrator", "JournalMarks", "NoMarks"]
