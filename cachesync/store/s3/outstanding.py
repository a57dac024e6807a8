"""Something that a store is asked: kept note of while it has no answer, and what goes wrong told as our error."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from cachesync.model.errors import StoreSilent, StoreTransient, StoreUnreachable
from cachesync.store.outage import Silence
from cachesync.store.s3.errors import ForeignAnswer, classify, has_answer, is_silence


class Question:
    """A context in which a store is to answer, for who reads ``silence``; who asks keeps to a limit.

    ``sends`` says whether bytes go along; ``allowance`` is how many seconds the store may take longer before it counts
    as silent. On TimeoutError raises StoreSilent for a question without bytes, StoreTransient for one with them; other
    errors as ``classify`` has them.
    """

    __slots__ = ("_allowance", "_asked_at", "_operation", "_path", "_sends", "_silence")

    def __init__(self, silence: Silence, operation: str, path: str, *, sends: bool, allowance: float = 0.0) -> None:
        self._silence = silence
        self._operation = operation
        self._path = path
        self._asked_at = 0.0
        self._sends = sends
        self._allowance = allowance

    def __enter__(self) -> Self:
        self._asked_at = time.monotonic()
        self._silence.asked(self, self._asked_at, self._allowance)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if error is None:
            self._silence.answered(self, time.monotonic())
            return
        if isinstance(error, TimeoutError):
            self._silence.unanswered(self)
            kind = StoreTransient if self._sends else StoreSilent
            waited = time.monotonic() - self._asked_at
            raise kind(self._operation, self._path, f"no answer within {waited:.0f} s") from error
        if not isinstance(error, Exception):
            self._silence.withdrawn(self)
            return
        ours = classify(error, self._operation, self._path)
        if has_answer(error) and not isinstance(ours, ForeignAnswer):
            self._silence.answered(self, time.monotonic())
        elif is_silence(error) or isinstance(ours, StoreUnreachable):
            self._silence.unanswered(self)
        else:
            self._silence.withdrawn(self)
        if ours is not error:
            raise ours from error
