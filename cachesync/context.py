"""What the parts of the engine share: one root, its journal, its store, and the settings that steer the work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cachesync.events import Events
from cachesync.files import Tree
from cachesync.identity import StoreIdentity
from cachesync.journal import Journal
from cachesync.keys import to_key
from cachesync.policy import Pace
from cachesync.pulse import Pulse
from cachesync.record import record
from cachesync.store.base import ObjectStore


@record(frozen=True, slots=True)
class Context:
    """What the parts of an engine share.

    ``prefix`` is the store's own, without slashes at its ends. ``url`` is the displayed URL before a key. ``scratch``
    is a folder of ours. ``clock`` returns seconds since the epoch. ``urgent`` returns whether a flush waits for a
    session, ``believing`` whether its deletions are executed at once, ``ending`` whether the process stops. ``watched``
    says whether a watcher delivers hints. ``events`` receives what happens. ``pulse`` detects that the root or the
    journal was rolled back. ``identity`` checks that the store is the journal's. ``on_this_machine`` says that no store
    is configured, so that the store is a folder of this machine.
    """

    tree: Tree
    journal: Journal
    store: ObjectStore
    prefix: str
    url: str
    scratch: Path
    pace: Pace
    clock: Callable[[], float]
    urgent: Callable[[str], bool]
    believing: Callable[[str], bool]
    ending: Callable[[], bool]
    watched: bool
    events: Events
    pulse: Pulse
    identity: StoreIdentity
    on_this_machine: bool = False

    def key(self, session: str, path: str) -> str:
        """The object key of a path. Raises Unstorable."""
        return to_key(self.prefix, session, path)
