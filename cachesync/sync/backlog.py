"""What the uploader has at hand, and which of it is transferred next. Pure: the uploader owns it and holds its lock.

Sessions share four things (``shares``): transfers, those of them that are not small, bytes in memory, and places for
large files. Small, medium and large files have a queue each, and these take turns. So a small file waits for no larger
one, and no session's file for another session's queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Sequence
from typing import NamedTuple

from cachesync.model.policy import MIB, Weight
from cachesync.model.shares import Limit, Pool, Turns

_REQUEST = MIB // 4
"""What a transfer costs besides its bytes, in bytes: a place that it keeps for the time of a request."""

_MEMORY = Limit(64 * MIB, 32 * MIB)
"""Bytes of medium files, which are in memory whole. The store bounds the parts of large ones."""


class Work(NamedTuple):
    """One path to transfer, how many bytes that may take, and the weight of that."""

    session: str
    path: str
    size: int
    weight: Weight


class _Lane:
    """The work of one weight: a queue for each session, and what a transfer takes. ``memory`` is taken by the byte."""

    def __init__(self, pools: Sequence[Pool], memory: Pool | None = None) -> None:
        self.turns = Turns()
        self.queues: dict[str, deque[Work]] = {}
        self.more: set[str] = set()
        self.pools = pools
        self.memory = memory

    def may(self, session: str) -> bool:
        """Whether the first work of the session may begin."""
        for pool in self.pools:
            if not pool.may(session):
                return False
        return self.memory is None or self.memory.may(session, self.queues[session][0].size)

    def take(self, work: Work) -> None:
        """Take what a transfer needs."""
        for pool in self.pools:
            pool.take(work.session)
        if self.memory is not None:
            self.memory.take(work.session, work.size)
        self.turns.pay(work.session, work.size + _REQUEST)

    def give(self, work: Work) -> None:
        """Give it back."""
        for pool in self.pools:
            pool.give(work.session)
        if self.memory is not None:
            self.memory.give(work.session, work.size)


class Backlog:
    """Due work of all sessions. ``transfers`` is the setting.

    ``hungry`` says that since it was last set to False a session's work ran out of which the journal has more.
    """

    def __init__(self, transfers: int) -> None:
        places = max(1, transfers // 8)
        self._allowed = transfers
        self._transfers = Pool(_transfers(transfers))
        self._heavy = Pool(_heavy(transfers))
        large = Pool(Limit(places, max(1, places // 2)))
        self._lanes = {
            Weight.SMALL: _Lane([self._transfers]),
            Weight.MEDIUM: _Lane([self._transfers, self._heavy], Pool(_MEMORY)),
            Weight.LARGE: _Lane([self._transfers, self._heavy, large]),
        }
        lanes = tuple(self._lanes.values())
        self._orders = (lanes, lanes[1:] + lanes[:1], lanes[2:] + lanes[:2])
        self._order = 0
        self.hungry = False

    @property
    def in_flight(self) -> int:
        """How many transfers were begun and have not ended."""
        return self._transfers.used

    def has(self, session: str, weight: Weight) -> bool:
        """Whether there is work of a session at hand. If so, the journal may have more than that."""
        lane = self._lanes[weight]
        if session not in lane.queues:
            return False
        lane.more.add(session)
        return True

    def offer(self, session: str, weight: Weight, found: Iterable[tuple[str, int]], *, more: bool) -> None:
        """Add due work of a session, as (path, size), the first first. ``more`` says that the journal has more."""
        if queue := deque([Work(session, path, size, weight) for path, size in found]):
            lane = self._lanes[weight]
            lane.queues.setdefault(session, deque()).extend(queue)
            lane.turns.wait(session)
            if more:
                lane.more.add(session)

    def begin(self, busy: Container[tuple[str, str]], *, allowed: int, small_first: bool = False) -> Work | None:
        """Return what is transferred next, but for ``busy`` paths; None if nothing may begin now.

        One session may have ``allowed`` transfers. The lanes take turns, or with ``small_first`` the lightest is first.
        """
        if allowed != self._allowed:
            self._allowed = allowed
            self._transfers.limit, self._heavy.limit = _transfers(allowed), _heavy(allowed)
        for lane in self._orders[0 if small_first else self._order]:
            if lane.queues and (work := self._begin(lane, busy)) is not None:
                self._order = (work.weight + 1) % len(self._orders)
                return work
        return None

    def end(self, work: Work) -> None:
        """A transfer has ended."""
        self._lanes[work.weight].give(work)

    def _begin(self, lane: _Lane, busy: Container[tuple[str, str]]) -> Work | None:
        for pool in lane.pools:
            if pool.is_full:
                return None
        while (session := lane.turns.next(lane.may)) is not None:
            queue = lane.queues[session]
            work = queue.popleft()
            if queue:
                lane.turns.wait(session)
            else:
                del lane.queues[session]
                self.hungry |= session in lane.more
                lane.more.discard(session)
            if (session, work.path) not in busy:
                lane.take(work)
                return work
        return None


def _transfers(most: int) -> Limit:
    """A quarter more, for the others: none where there are few, so that one at a time stays one at a time."""
    return Limit(most, most // 4)


def _heavy(most: int) -> Limit:
    """Medium and large files leave an eighth of the transfers to small ones."""
    return Limit(most - (most + 4) // 8, most // 4)
