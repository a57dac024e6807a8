"""Keeps the memory of a process, and the keys in its environment, from other processes of its user.

A module of its own, because three processes need it that share nothing else: the daemon, the parent of a mount, and
process 1 of a container.
"""

from __future__ import annotations

import ctypes
import sys

_PR_SET_DUMPABLE = 4


def hide_memory() -> None:
    """Let only root trace this process, read its memory and environment, or get a core dump of it (prctl(2)).

    From here on ``/proc/self`` belongs to root: what this process writes there, it writes before. A program that it
    executes begins without this.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
