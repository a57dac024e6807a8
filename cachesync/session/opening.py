"""open: a session is brought here from the store, or a copy of it into another directory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cachesync.model.errors import NoSuchSession, UsageError
from cachesync.model.events import What
from cachesync.model.outcomes import OnProgress, OpenReport, Progress
from cachesync.model.reports import Pending
from cachesync.read.hydrate.hydrator import Hydrator
from cachesync.read.hydrate.plan import JournalMarks, NoMarks
from cachesync.read.hydrate.progress import Brought
from cachesync.root.session_dir import Ground
from cachesync.root.staging import Staging
from cachesync.root.tree import Tree
from cachesync.session.evict import Evictor
from cachesync.sync.context import Context
from cachesync.sync.remote_listing import Astray, Learner
from cachesync.sync.run_with_timeout import StillRunning, within
from cachesync.sync.scanner.scan import Scanner

_GRACE = 0.5
"""Seconds that an open whose time is up gets to end in order, and to say what is missing path by path."""


class Watch:
    """How far an open is, and whether its time is up."""

    def __init__(self, progress: OnProgress, timeout: float | None) -> None:
        self._progress = progress
        self._timeout = timeout
        self._first: Progress | None = None
        self._latest = Progress()
        self.begun = time.monotonic()

    def tell(self, progress: Progress) -> None:
        """See outcomes.OnProgress."""
        self._first = self._first or progress
        self._latest = progress
        self._progress(progress)

    def expired(self) -> bool:
        """Whether nothing more is to be begun."""
        return self._timeout is not None and time.monotonic() - self.begun >= self._timeout

    def over(self, work: Callable[[], OpenReport], session: str, directory: str) -> OpenReport:
        """What ``work`` reports; if it hangs, what is known of it when its time is up. It goes on, in a thread."""
        try:
            return within(None if self._timeout is None else self._timeout + _GRACE, work)
        except StillRunning:
            return self._unfinished(session, directory)

    def _unfinished(self, session: str, directory: str) -> OpenReport:
        first, latest = self._first or self._latest, self._latest
        return OpenReport(
            session=session,
            directory=directory,
            files=latest.files,
            bytes=latest.bytes,
            fetched=latest.files - first.files,
            fetched_bytes=latest.bytes - first.bytes,
            present=first.files,
            pending=[Pending(".", "the store has not answered in time")],
            seconds=time.monotonic() - self.begun,
        )


class Opener:
    """Brings sessions here, or copies of them elsewhere. Both verbs raise NoSuchSession and StoreError."""

    def __init__(
        self,
        context: Context,
        scanner: Scanner,
        learner: Learner,
        evictor: Evictor,
        *,
        threads: int,
        sleep: Callable[[float], None],
    ) -> None:
        self._c = context
        self._scanner = scanner
        self._learner = learner
        self._evictor = evictor
        self._hydrator = Hydrator(context, learner.standing, threads=threads, sleep=sleep)

    def open(self, session: str, staging: Staging, watch: Watch, *, lazy: bool) -> OpenReport:
        """Bring a session under the root, or, ``lazy``, only learn what the store has of it and drop older versions; in
        the session's turn.

        Raises RootHalted too.
        """
        astray = self._learn(session)
        if not lazy:
            self._c.make_session(session, staging)
            self._scanner.scan(session)  # it learns which directory it is
            brought = self._bring(session, staging, astray, watch)
            self._scanner.scan(session)  # of directories that no manifest names the journal has to know, too
        elif astray.replaced and self._c.tree.session_directory(session) is not None:
            self._evictor.drop_superseded(session, staging, astray)
        counts = self._c.journal.waiting.counts(session)
        if lazy:
            brought = Brought(present=counts.files - counts.evicted)
        directory = str(self._c.tree.root / session)
        evicted = counts.evicted if lazy else 0
        self._c.events.tell(What.OPENED, session, files=brought.fetched, bytes=brought.fetched_bytes)
        return _report(session, directory, brought, watch.begun, evicted=evicted, flaws=astray.flaws)

    def _learn(self, session: str) -> Astray:
        """What the store has, after what is here. Raises NoSuchSession if neither has the session, SessionTaken."""
        stands = self._scanner.presence.meet(session) is not None
        self._scanner.scan(session)
        if not stands and not self._learner.is_stored(session):
            raise NoSuchSession("open", session, "neither the root nor the store has it")
        self._c.journal.sessions.add(session, self._c.clock())
        return self._learner.again(session)

    def _bring(self, session: str, staging: Staging, astray: Astray, watch: Watch) -> Brought:
        residence = self._c.journal.residence
        with Ground(self._c.tree, session, staging) as ground:
            self._c.pulse.beat()
            marks = JournalMarks(self._c.journal, ground, astray, resumed=residence.opening(session))
            brought = self._hydrator.bring(session, marks, ground, staging, watch.tell, watch.expired)
        if brought.complete:
            residence.opened(session)
        return brought

    def copy(self, session: str, into: Path, watch: Watch) -> OpenReport:
        """A copy of what the store has, in a directory that nobody watches. A new one is as private as the session's.
        Raises UsageError too."""
        if into.resolve().is_relative_to(self._c.tree.root.resolve()):
            raise UsageError("open into", str(into), "it is inside the root")
        if into.exists() and (not into.is_dir() or any(into.iterdir())):
            raise UsageError("open into", str(into), "it is not an empty directory")
        marks = NoMarks(self._learner, session)
        if marks.empty:
            raise NoSuchSession("open", session, "the store does not have it")
        is_new = not into.exists()
        if is_new:
            into.mkdir(0o700, parents=True)
        tree = Tree(into)
        try:
            staging = Staging(tree)
            try:
                with Ground(tree, ".", staging) as ground:
                    brought = self._hydrator.bring(session, marks, ground, staging, watch.tell, watch.expired)
            finally:
                staging.close(leave_nothing=True)
            if is_new:
                os.fchmod(tree.descriptor, self._c.private if marks.mode is None else marks.mode)
        finally:
            tree.close()
        return _report(session, str(into), brought, watch.begun, flaws=marks.flaws)


def _report(
    session: str, directory: str, brought: Brought, begun: float, *, evicted: int = 0, flaws: Sequence[str] = ()
) -> OpenReport:
    return OpenReport(
        session=session,
        directory=directory,
        files=brought.present + brought.fetched,
        bytes=brought.present_bytes + brought.fetched_bytes,
        fetched=brought.fetched,
        fetched_bytes=brought.fetched_bytes,
        present=brought.present,
        evicted=evicted,
        failed=brought.failed,
        pending=brought.pending,
        skipped=brought.skipped,
        flaws=flaws,
        seconds=time.monotonic() - begun,
    )
