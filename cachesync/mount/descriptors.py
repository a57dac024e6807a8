"""Shares the server's file descriptors between the programs that open files: each open file costs one."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections import Counter

_MOST = 1 << 20
_RESERVE = 1024


def raise_limit() -> None:
    """Allow this process as many open files as it may have, and as root at least ``_MOST``."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if 0 <= hard < _MOST:
        with contextlib.suppress(OSError, ValueError):  # no CAP_SYS_RESOURCE
            with open("/proc/sys/fs/nr_open") as file:
                most = min(_MOST, int(file.read()))
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Descriptors:
    """Counts the open files of each program. A program may have as many as are left for others: so one that opens more
    and more has half of them at most, and a second one a third, while some are left for a program that has none. Part
    of the limit is a reserve for the server itself."""

    def __init__(self) -> None:
        self._held = Counter[int | bytes]()
        self._total = 0

    def check(self, program: int | bytes) -> None:
        """Raise OSError (EMFILE) if a program may not open one more."""
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        left = limit - min(limit // 4, _RESERVE) - self._total
        if self._held[program] >= left:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def take(self, program: int | bytes) -> None:
        """A program has one more."""
        self._held[program] += 1
        self._total += 1

    def give_back(self, program: int | bytes) -> None:
        """What a program opened is closed."""
        self._total -= 1
        self._held[program] -= 1
        if self._held[program] <= 0:
            del self._held[program]
