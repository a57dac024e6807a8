"""Threads for work that takes long, shared fairly between parties."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Places(Generic[T]):
    """Runs ``work(item)`` in one of ``most`` threads. A party has at most ``each`` of them at once; what it submits
    beyond that waits in its own queue, and the queues are served in rotation. Safe to call from many threads."""

    def __init__(self, name: str, work: Callable[[T], None], *, most: int, each: int) -> None:
        self._work = work
        self._each = each
        self._free = most
        self._pool = ThreadPoolExecutor(most, thread_name_prefix=name)
        self._busy = Counter[bytes]()
        self._queues: OrderedDict[bytes, deque[T]] = OrderedDict()
        self._lock = threading.Lock()

    def submit(self, party: bytes, item: T) -> None:
        """Queue an item, and start it as soon as its party's turn comes."""
        with self._lock:
            self._queues.setdefault(party, deque()).append(item)
            self._start()

    def take_queued(self) -> list[T]:
        """Remove and return all items that are not started yet, of all parties."""
        with self._lock:
            queued = [item for queue in self._queues.values() for item in queue]
            self._queues.clear()
        return queued

    def close(self) -> None:
        """Start nothing more."""
        self.take_queued()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start(self) -> None:
        """Start what may be started. The caller holds the lock."""
        while self._free:
            party = next((party for party in self._queues if self._busy[party] < self._each), None)
            if party is None:
                return
            queue = self._queues[party]
            item = queue.popleft()
            if queue:
                self._queues.move_to_end(party)
            else:
                del self._queues[party]
            self._free -= 1
            self._busy[party] += 1
            self._pool.submit(self._run, party, item)

    def _run(self, party: bytes, item: T) -> None:
        try:
            self._work(item)
        finally:
            with self._lock:
                self._free += 1
                self._busy[party] -= 1
                if not self._busy[party]:
                    del self._busy[party]
                self._start()
