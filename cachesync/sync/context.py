"""What the parts of the engine share: one root, its journal, its store, and the settings that steer the work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cachesync.journal.journal import Journal
from cachesync.model.events import Events
from cachesync.model.keys import to_key
from cachesync.model.policy import Pace
from cachesync.model.record import record
from cachesync.root.making import make_session
from cachesync.root.staging import Staging
from cachesync.root.tree import Tree
from cachesync.store.base import ObjectStore
from cachesync.sync.identity import StoreIdentity
from cachesync.sync.pulse import Pulse


@record(frozen=True, slots=True)
class Context:
    """What the parts of an engine share.

    ``prefix`` is the store's own, without slashes at its ends. ``url`` is the displayed URL before a key. ``scratch``
    is a folder of ours. ``clock`` returns seconds since the epoch. ``urgent`` returns whether a flush waits for a
    session, ``believing`` whether its deletions are executed at once, ``ending`` whether the process stops. ``watched``
    says whether a watcher delivers hints. ``events`` receives what happens. ``pulse`` detects that the root or the
    journal was rolled back. ``identity`` checks that the store is the journal's. ``on_this_machine`` says that no store
    is configured, so that the store is a folder of this machine. ``private`` are the permission bits that the setting
    ``umask`` leaves a new session's directory.
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
    private: int = 0o700
    on_this_machine: bool = False

    @property
    def new_mode(self) -> int:
        """The permission bits of a session's directory of which none are known: the root hands down its set-group-ID
        bit."""
        return self.private | self.tree.handed_down

    def make_session(self, session: str, staging: Staging) -> None:
        """Make the session's directory, unless it stands: with the rights that it had when it was last here, or at
        least the mode that its manifest says. Raises UsageError, FileUnwritable."""
        row = self.journal.sessions.get(session)
        mode = self.new_mode if row is None or row.mode is None else row.mode
        make_session(self.tree, staging, session, mode, None if row is None else row.rights)

    def key(self, session: str, path: str) -> str:
        """The object key of a path. Raises Unstorable."""
        return to_key(self.prefix, session, path)
