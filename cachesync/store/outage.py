"""Whether a store answers, judged by what is asked of it anyway. Pure: the time, in seconds, comes with each call."""

from __future__ import annotations

import threading

PATIENCE = 2.0
"""Seconds that a store may take for an answer before it counts as silent."""


class Silence:
    """The questions that are open, and since when nothing was heard. Safe to use from many threads."""

    def __init__(self) -> None:
        self._open: dict[object, tuple[float, float]] = {}
        self._heard_at = float("-inf")
        self._refused: float | None = None
        self._lock = threading.Lock()

    def asked(self, question: object, now: float, allowance: float = 0.0) -> None:
        """A question was sent; the store may take ``allowance`` longer for it than PATIENCE."""
        self._open[question] = now, allowance

    def answered(self, question: object, now: float) -> None:
        """The store said something, if only no."""
        with self._lock:
            self._open.pop(question, None)
            self._heard_at = now
            self._refused = None

    def unanswered(self, question: object) -> None:
        """Nobody was there, or the time was up."""
        with self._lock:
            asked_at, _ = self._open.pop(question)
            since = max(asked_at, self._heard_at)
            self._refused = since if self._refused is None else min(self._refused, since)

    def withdrawn(self, question: object) -> None:
        """Nobody wants to know any more; that says nothing of the store."""
        self._open.pop(question, None)

    def since(self, now: float) -> float | None:
        """Since when the store does not answer: the time of the first question after its last answer that waits too
        long or waited in vain. None if it answers, or nothing was asked."""
        waiting = [(max(asked_at, self._heard_at), allowance) for asked_at, allowance in list(self._open.values())]
        late = [since for since, allowance in waiting if now - since >= PATIENCE + allowance]
        if self._refused is not None:
            late.append(self._refused)
        return min(late, default=None)
