"""How the parts of the engine wait for what the watcher hears. Imports no watchdog."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from cachesync.watcher.arrivals import Arrivals

_TIMEOUT = 2.0
"""Seconds until a watcher that hears nothing is not waited for any longer."""


class Listener(Protocol):
    """A watcher (watch.Watcher)."""

    def listen(self, below: str) -> Arrivals | None:
        """Collect arrivals below a directory; None where events may be missing."""
        ...

    def end_listening(self, arrivals: Arrivals) -> None:
        """Stop collecting."""
        ...

    def hear(self, timeout: float) -> bool:
        """Wait until every event before this call has been handled."""
        ...


class Ears:
    """One listener's view of a watcher: which names came to a session since it began to listen."""

    def __init__(self, watcher: Listener, arrivals: Arrivals) -> None:
        self._watcher = watcher
        self._arrivals = arrivals

    def names(self) -> list[str] | None:
        """All names that came until this call and were not taken yet; None if some may have been missed."""
        if not self._watcher.hear(_TIMEOUT) or self._arrivals.lost:
            return None
        return self._arrivals.names()

    def take(self, name: str) -> None:
        """Forget a name: it was looked at."""
        self._arrivals.take(name)


class Hearing:
    """Gives out ears. A daemon attaches its watcher; without one, ``private`` opens a watcher on one session."""

    def __init__(self, private: Callable[[str], AbstractContextManager[Listener]] | None = None) -> None:
        self._private = private
        self._attached: tuple[Listener, Callable[[float], bool]] | None = None

    def attach(self, watcher: Listener, catch_up: Callable[[float], bool]) -> None:
        """From now on ``watcher`` hears; ``catch_up`` waits until its hints have been looked at."""
        self._attached = watcher, catch_up

    def detach(self) -> None:
        """The watcher stops."""
        self._attached = None

    def catch_up(self) -> bool:
        """Wait until all that programs did before this call has been looked at, as far as a watcher heard of it."""
        attached = self._attached
        return attached is not None and attached[1](_TIMEOUT)

    @contextlib.contextmanager
    def listen(self, session: str) -> Iterator[Ears | None]:
        """Ears for a session, from now on; None where no watcher hears all of it."""
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
