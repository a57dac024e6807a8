"""Hands the watcher's hints to the scanner, a slice of each session in turn: no session's hints wait for another's.

A session is taken up when its hints are taken, and let go when they have been looked at. Until then its later hints
stay with the watcher, which coalesces them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping

from cachesync.watch.hints import Hint, Hints

Notice = Callable[[str, Mapping[str, Hint]], Iterator[None]]


class HintTurns:
    """``take`` returns the hints of all sessions except those named. ``notice`` looks at some of a session's hints at
    each step. One thread calls ``refill`` and ``step``; any thread may wait."""

    def __init__(self, take: Callable[[Collection[str]], Hints], notice: Notice) -> None:
        self._take = take
        self._notice = notice
        self._turns: deque[tuple[str, Iterator[None]]] = deque()
        self._changed = threading.Condition()
        self._takes = 0
        self._begun: dict[str, int] = {}  # at which take each session was taken up
        self._left: set[str] = set()  # sessions that were not free at the last take: the watcher may have more

    @property
    def is_idle(self) -> bool:
        """Whether nothing is to be done until the watcher has new hints."""
        return not self._turns and not self._left

    def refill(self) -> frozenset[str]:
        """Take up every session that has hints and is free. Returns the reasons for a scan of the whole root."""
        with self._changed:
            self._takes += 1
            self._left = set(self._begun)
        hints = self._take(self._left)
        by_session: dict[str, dict[str, Hint]] = {}
        for path, hint in hints.paths.items():
            session, _, rest = path.partition("/")
            by_session.setdefault(session, {})[rest] = hint
        with self._changed:
            for session, paths in by_session.items():
                self._begun[session] = self._takes
                self._turns.append((session, self._notice(session, paths)))
            self._changed.notify_all()
        return hints.rescan

    def step(self) -> None:
        """Look at some hints of the session whose turn it is, if there are any. Raises what the scanner raises; the
        session's other hints are dropped then."""
        if not self._turns:
            return
        session, steps = self._turns.popleft()
        try:
            next(steps)
        except StopIteration:
            self._end(session)
        except BaseException:
            self._end(session)
            raise
        else:
            self._turns.append((session, steps))

    def wait(self, session: str, ask: Callable[[], None], timeout: float) -> bool:
        """Wait until the session's hints that the watcher has now have been looked at. Returns False on timeout, in
        seconds. ``ask`` makes the thread call ``refill``."""
        with self._changed:
            wanted = self._takes + 1  # the last take may have been before
            ask()
            return self._changed.wait_for(
                lambda: self._takes >= wanted and session not in self._begun and session not in self._left, timeout
            )

    def _end(self, session: str) -> None:
        with self._changed:
            del self._begun[session]
            self._changed.notify_all()
