"""Storing a sessions directory that exists already, without touching it.

The engine does the work, with its state elsewhere; ``rehearse`` only counts what it would do.
"""

from cachesync.migrate.place import elsewhere
from cachesync.migrate.rehearsal import rehearse
from cachesync.migrate.run import migrate

__all__ = ["elsewhere", "migrate", "rehearse"]
