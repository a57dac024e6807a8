"""How sessions share what there is too little of: transfers, large files, bytes in memory, processors. Pure.

Who may take something is ``may_take``. Whose turn it is, is start-time fair queueing (Goyal, Vin, Cheng, 1996), which
is deficit round robin without rounds: a session pays for what it takes, and the session that has paid least is next.
A session that has just begun waits behind no other's queue, and an idle one saves up nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from cachesync.model.record import record

_LOOKS = 64
"""Sessions that are looked at for a turn. More may wait only where each of these holds something."""


@record(frozen=True, slots=True)
class Limit:
    """``most`` is for whoever comes, so a session that is alone has all of it. ``spare`` is for the others then."""

    most: int
    spare: int = 0


def may_take(limit: Limit, *, used: int, held: int, amount: int = 1) -> bool:
    """Whether a session that holds ``held`` may take ``amount`` more, if all together hold ``used``.

    Beyond ``most`` a session may hold only as much as is free. So each greedy session leaves half of the rest to the
    next one.
    """
    return used + amount <= limit.most or held + amount <= limit.most + limit.spare - used


class Pool:
    """What sessions hold of one thing. An amount larger than all of it counts as all of it."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.used = 0
        self._held: dict[str, int] = {}

    @property
    def is_full(self) -> bool:
        """Whether no session may take anything."""
        return self.used >= self.limit.most + self.limit.spare

    def may(self, session: str, amount: int = 1) -> bool:
        """Whether the session may take so much more."""
        held = self._held.get(session, 0)
        return may_take(self.limit, used=self.used, held=held, amount=min(amount, self.limit.most))

    def take(self, session: str, amount: int = 1) -> None:
        """Take it."""
        amount = min(amount, self.limit.most)
        self.used += amount
        self._held[session] = self._held.get(session, 0) + amount

    def give(self, session: str, amount: int = 1) -> None:
        """Give back what was taken."""
        amount = min(amount, self.limit.most)
        self.used -= amount
        left = self._held.pop(session) - amount
        if left:
            self._held[session] = left


class Turns:
    """Whose turn it is. ``wait`` is called for a session that wants something, ``pay`` with the cost of what it got."""

    def __init__(self) -> None:
        self._now = 0
        self._paid: dict[str, int] = {}
        self._waiting: list[tuple[int, int, str]] = []
        self._waits: set[str] = set()
        self._count = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def wait(self, session: str) -> None:
        """The session waits from now on, if it does not yet. Among equals the first one is first."""
        if session not in self._waits:
            self._waits.add(session)
            self._count += 1
            heapq.heappush(self._waiting, (max(self._now, self._paid.get(session, 0)), self._count, session))

    def next(self, may: Callable[[str], bool]) -> str | None:
        """Return the session whose turn it is among those that ``may``; it waits no more. None if there is none."""
        passed_over: list[tuple[int, int, str]] = []
        found = None
        while self._waiting and len(passed_over) < _LOOKS:
            at, _, session = each = heapq.heappop(self._waiting)
            if may(session):
                self._waits.discard(session)
                self._now = max(self._now, at)
                found = session
                break
            passed_over.append(each)
        for each in passed_over:
            heapq.heappush(self._waiting, each)
        return found

    def pay(self, session: str, cost: int) -> None:
        """Note what the session got."""
        self._paid[session] = max(self._now, self._paid.get(session, 0)) + cost
        if len(self._paid) > 2 * len(self._waiting) + _LOOKS:  # only debts count
            self._paid = {name: paid for name, paid in self._paid.items() if paid > self._now}
