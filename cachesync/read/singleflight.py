"""Doing once what many ask for at the same time."""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from cachesync.model.errors import CacheSyncError

T = TypeVar("T")


class Flight(Generic[T]):
    """A piece of work that any number of threads may wait for."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.got: T | None = None
        self.error: BaseException | None = None


class Flights(Generic[T]):
    """What is under way, by name. Who asks for what is under way already waits for it, and gets its answer or error."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[Hashable, Flight[T]] = {}

    def take(self, name: Hashable, work: Callable[[], T], flight: Flight[T] | None = None) -> T:
        """The answer: of ``flight``, which was begun before, of what is under way, or of ``work``. Raises what that
        does."""
        while True:
            if flight is None:
                flight, mine = self._join(name)
                if mine:
                    return self._fly(flight, name, work)
            flight.ended.wait()
            if flight.got is not None:
                return flight.got
            if isinstance(flight.error, CacheSyncError):
                raise copy.copy(flight.error) from flight.error
            flight = None  # whoever flew it was interrupted: that is no answer

    def begin(self, name: Hashable, work: Callable[[], T]) -> Flight[T]:
        """Have it done by a thread of its own."""
        flight, mine = self._join(name)
        if mine:
            # A daemon thread: one that hangs does not hold up the end of the process.
            thread = threading.Thread(
                target=self._fly_ahead, args=(flight, name, work), name="cachesync-read-ahead", daemon=True
            )
            thread.start()
        return flight

    def _join(self, name: Hashable) -> tuple[Flight[T], bool]:
        """What is under way, or a new flight, which is the caller's to fly."""
        with self._lock:
            flight = self._under_way.get(name)
            if flight is not None:
                return flight, False
            flight = self._under_way[name] = Flight()
            return flight, True

    def _fly(self, flight: Flight[T], name: Hashable, work: Callable[[], T]) -> T:
        try:
            flight.got = got = work()
            return got
        except BaseException as error:
            flight.error = error
            raise
        finally:
            with self._lock:
                del self._under_way[name]
            flight.ended.set()

    def _fly_ahead(self, flight: Flight[T], name: Hashable, work: Callable[[], T]) -> None:
        with contextlib.suppress(BaseException):  # raised again in those who wait for it
            self._fly(flight, name, work)
