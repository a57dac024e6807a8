"""Which names this process changes in the tree by itself: told to those who remember what is there (a mount)."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping

_MOST = 10_000
_BEAT = 5.0
_GATHER = 0.02
"""Seconds in which changes are told together: a file that somebody waits for is not held up by telling of it. A mount's
kernel believes what it knows for fifty times as long."""

EVERYTHING: Mapping[str, list[str]] = {"": []}
"""What is told where too much changed to name it."""


class Changes:
    """Names by session, as they change. Safe to use from many threads; nobody waits for a listener."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._listeners: list[_Listener] = []

    def note(self, session: str, path: str) -> None:
        """Something was put to, or taken from, a path of a session ("" is its directory)."""
        if not self._listeners:
            return
        with self._changed:
            for listener in self._listeners:
                listener.add(session, path)
            self._changed.notify_all()

    def listen(self) -> Iterator[Mapping[str, list[str]]]:
        """What changes from the first ``next`` on, as it changes; every few seconds nothing, so that whoever listens
        can look around."""
        listener = _Listener()
        with self._changed:
            self._listeners.append(listener)
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: listener.count, _BEAT)
                if listener.count:
                    time.sleep(_GATHER)
                with self._changed:
                    told = listener.take()
                yield told
        finally:
            with self._changed:
                self._listeners.remove(listener)


class _Listener:
    """What one listener has not taken yet."""

    def __init__(self) -> None:
        self._names: defaultdict[str, list[str]] = defaultdict(list)
        self.count = 0

    def add(self, session: str, path: str) -> None:
        if self.count < _MOST:
            self._names[session].append(path)
        self.count += 1

    def take(self) -> Mapping[str, list[str]]:
        told = EVERYTHING if self.count > _MOST else dict(self._names)
        self._names.clear()
        self.count = 0
        return told
