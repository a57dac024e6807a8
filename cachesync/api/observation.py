"""What the process that owns the root shows of its work, besides what its verbs answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from cachesync.model.events import Events
from cachesync.model.reports import Story
from cachesync.telemetry.activity import Activity
from cachesync.telemetry.metrics import Measures


@runtime_checkable
class Seeing(Protocol):
    """What the process that owns the root shows of its work, besides what its verbs answer. Only ``pending`` blocks."""

    @property
    def events(self) -> Events:
        """What happens, as it does."""
        ...

    @property
    def activity(self) -> Activity:
        """What happened, counted."""
        ...

    @property
    def measure(self) -> Callable[[], Measures] | None:
        """Takes the measures of the daemon, in a second at most; None where none runs."""
        ...

    def pending(self, session: str, *, failed: bool | None, after: str, limit: int) -> Sequence[Story]:
        """The paths of a session that are not stored, in the journal's order from the one after ``after`` on.

        ``failed`` picks those that failed, or those that did not. Raises NoSuchSession.
        """
        ...
