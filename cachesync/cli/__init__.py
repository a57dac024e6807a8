"""The command line: a thin client of the verbs. ``main`` is the entry point.

Nothing heavy is imported before a command needs it, so ``cachesync --help`` and a flush through the daemon start fast.
"""

from cachesync.cli.entry import main

__all__ = ["main"]
