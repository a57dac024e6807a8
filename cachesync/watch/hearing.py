"""Lets the engine wait for the watcher's events. Does not import watchdog."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from cachesync.watch.arrivals import Arrival, Arrivals

_TIMEOUT = 2.0
"""Timeout in seconds for the watcher."""


class Listener(Protocol):
    """The interface of a watcher (watch.Watcher)."""

    def listen(self, below: str) -> Arrivals | None:
        """Start to collect arrivals below a directory; None if events may be missing."""
        ...

    def end_listening(self, arrivals: Arrivals) -> None:
        """Stop collecting."""
        ...

    def hear(self, timeout: float) -> bool:
        """Wait until every event before this call has been handled. Returns False on timeout."""
        ...


class Ears:
    """The names that appeared in a session since one listener began to listen."""

    def __init__(self, watcher: Listener, arrivals: Arrivals) -> None:
        self._watcher = watcher
        self._arrivals = arrivals

    def names(self) -> dict[str, Arrival] | None:
        """Return all names that appeared before this call and were not taken yet, each with its latest arrival; None
        if some may be missing."""
        if not self._watcher.hear(_TIMEOUT) or self._arrivals.lost:
            return None
        return self._arrivals.names()

    def take(self, name: str, arrival: Arrival) -> None:
        """Remove a name that the caller has checked, unless something arrived there since."""
        self._arrivals.take(name, arrival)


class Hearing:
    """Creates Ears. A daemon attaches its watcher; without a daemon, ``private`` opens a watcher on one session."""

    def __init__(self, private: Callable[[str], AbstractContextManager[Listener]] | None = None) -> None:
        self._private = private
        self._attached: tuple[Listener, Callable[[str, float], bool]] | None = None

    def attach(self, watcher: Listener, catch_up: Callable[[str, float], bool]) -> None:
        """Use ``watcher`` from now on. ``catch_up`` waits until its hints of a session have been processed."""
        self._attached = watcher, catch_up

    def detach(self) -> None:
        """Stop using the attached watcher."""
        self._attached = None

    def catch_up(self, session: str) -> bool:
        """Wait until every change in a session that the watcher saw before this call has been processed. Returns False
        without an attached watcher, or on timeout."""
        attached = self._attached
        return attached is not None and attached[1](session, _TIMEOUT)

    @contextlib.contextmanager
    def listen(self, session: str) -> Iterator[Ears | None]:
        """Start to listen to a session; None if no watcher sees all of its events."""
        with contextlib.ExitStack() as stack:
            watcher: Listener | None = None
            below = f"{session}/"
            if self._attached is not None:
                watcher = self._attached[0]
            elif self._private is not None:
                watcher, below = stack.enter_context(self._private(session)), ""
            arrivals = None if watcher is None else watcher.listen(below)
            if watcher is None or arrivals is None:
                yield None
                return
            stack.callback(watcher.end_listening, arrivals)
            yield Ears(watcher, arrivals)
