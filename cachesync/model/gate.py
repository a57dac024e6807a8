"""Lets threads of many sessions work a few at a time, each session for its share."""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict, deque
from collections.abc import Iterator

from cachesync.model.shares import Limit, Pool, Turns


class Gate:
    """Something of which threads take an amount and give it back. A thread waits until it is its session's turn."""

    def __init__(self, limit: Limit) -> None:
        self._lock = threading.Lock()
        self._pool = Pool(limit)
        self._turns = Turns()
        self._queues: defaultdict[str, deque[tuple[int, threading.Event]]] = defaultdict(deque)

    def enter(self, session: str, amount: int = 1) -> None:
        """Take ``amount``. Waits."""
        with self._lock:
            if not self._turns and self._pool.may(session, amount):
                self._pool.take(session, amount)
                self._turns.pay(session, amount)
                return
            mine = threading.Event()
            self._queues[session].append((amount, mine))
            self._turns.wait(session)
            self._admit()
        mine.wait()

    def leave(self, session: str, amount: int = 1) -> None:
        """Give it back."""
        with self._lock:
            self._pool.give(session, amount)
            self._admit()

    @contextlib.contextmanager
    def entered(self, session: str, amount: int = 1) -> Iterator[None]:
        """Hold ``amount`` while this lasts."""
        self.enter(session, amount)
        try:
            yield
        finally:
            self.leave(session, amount)

    def _admit(self) -> None:
        while (session := self._turns.next(lambda name: self._pool.may(name, self._queues[name][0][0]))) is not None:
            queue = self._queues[session]
            amount, event = queue.popleft()
            self._pool.take(session, amount)
            self._turns.pay(session, amount)
            event.set()
            if queue:
                self._turns.wait(session)
            else:
                del self._queues[session]
