"""A session's life: made, brought here, closed, dropped here (verbs.Lifecycle).

One verb at a time works on one session. Every verb begins with a scan: what changed here is marked before anything is
compared with the store, or goes.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Protocol

from cachesync.address import Space, parse
from cachesync.commit import Committer
from cachesync.context import Context
from cachesync.errors import NoSuchSession, ObjectNotFound, PreconditionFailed, StoreTransient, UsageError
from cachesync.events import What
from cachesync.evict import IN_USE, Evictor
from cachesync.files import Ground, Staging, Tree, make_session, make_whole_session
from cachesync.flush import Flusher
from cachesync.hydrate import Brought, Hydrator, JournalMarks, NoMarks
from cachesync.keys import check_path, check_session
from cachesync.learn import Astray, Learner
from cachesync.outcomes import CloseReport, EvictReport, OnProgress, OpenReport, Progress, VerifyReport, no_progress
from cachesync.patience import StillRunning, within
from cachesync.reports import FlushReport, Pending
from cachesync.scanner import Scanner, ScanResult

PLACEHOLDERS = ("artifacts/.gitkeep", "artifacts/terraform/.gitkeep", "logs/.gitkeep")
"""What the design note's SessionService makes, so that the folders are there for every S3 tool."""

_ROUNDS = 4
_PAUSE = 0.05
_RELEASE = 0.2
"""Seconds after which the kernel has told of a file that was closed in a mount."""

_GRACE = 0.5
"""Seconds that an open whose time is up gets to end in order, and to say what is missing path by path."""


class Verifier(Protocol):
    """See verify.Verifier."""

    def verify(self, session: str, *, progress: OnProgress = no_progress) -> VerifyReport: ...  # noqa: D102


class SessionLife:
    """Implements verbs.Lifecycle. Safe to call from many threads."""

    def __init__(
        self,
        context: Context,
        scanner: Scanner,
        learner: Learner,
        committer: Committer,
        flusher: Flusher,
        verifier: Verifier,
        *,
        threads: int = 32,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._c = context
        self._scanner = scanner
        self._learner = learner
        self._committer = committer
        self._flusher = flusher
        self._verifier = verifier
        self._hydrator = Hydrator(context, learner.standing, threads=threads, sleep=sleep)
        self._evictor = Evictor(context, scanner)
        self._sleep = sleep
        self._staging: Staging | None = None
        self._lock = threading.Lock()
        self._turns: dict[str, threading.Lock] = {}

    def recover(self) -> None:
        """Finish or take back what a process that died had begun; the first verb does it as well."""
        if Staging.is_left_in(self._c.tree):
            self.staging()

    def stop(self) -> None:
        """Let the staging folder go."""
        with self._lock:
            if self._staging is not None:
                self._staging.close()
                self._staging = None

    # -- new -----------------------------------------------------------------------------------------------------------

    def new(
        self,
        session: str | None = None,
        *,
        project: str | None = None,
        workspace: str | None = None,
        templates: Sequence[str] = (),
    ) -> str:
        """See verbs.Lifecycle. ``templates`` are names under ``templates/``, of files or folders;
        ``foundation-template.md`` becomes ``artifacts/foundation.md``.

        Without templates and with a name of its own making it asks the store nothing.
        """
        now = datetime.fromtimestamp(self._c.clock(), UTC)
        name = check_session(session) if session else f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        taken = session is not None and (
            session in self._c.journal.sessions.names() or self._learner.is_stored(session)
        )
        created = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        about = {"sessionId": name, "workspaceId": workspace, "projectId": project, "createdAt": created}
        files = {"metadata.json": (json.dumps(about, indent=2) + "\n").encode()} | dict.fromkeys(PLACEHOLDERS, b"")
        for template in templates:
            for path, data in self._template(template):
                if path in files:
                    raise UsageError("use the template", template, "another one becomes the same file")
                files[path] = data
        if taken or not make_whole_session(self._c.tree, self.staging(), name, files):
            raise UsageError("make the session", name, "there is one of this name", "open it, or take another name")
        self._scanner.scan(name)
        return name

    def _template(self, name: str) -> Iterator[tuple[str, bytes]]:
        """A template's files as they are to stand in the session: one, or all of a folder without the folder's name.

        Raises ObjectNotFound if there is no such template, UsageError and StoreError.
        """
        key = parse(f"{Space.TEMPLATES}/{name.removesuffix('/')}").key(self._c.prefix)
        try:
            yield f"artifacts/{template_target(name)}", b"".join(self._c.store.get(key).chunks)
        except ObjectNotFound:
            found = False
            for info in self._c.store.list(f"{key}/"):
                found = True
                path = check_path(info.key.removeprefix(f"{key}/"))
                yield f"artifacts/{template_target(path)}", b"".join(self._c.store.get(info.key).chunks)
            if not found:
                hint = "cachesync ls templates lists them"
                raise ObjectNotFound("use the template", name, "there is none of this name", hint) from None

    # -- open ----------------------------------------------------------------------------------------------------------

    def open(
        self,
        session: str,
        *,
        lazy: bool = False,
        into: str | None = None,
        timeout: float | None = None,
        progress: OnProgress = no_progress,
    ) -> OpenReport:
        """See verbs.Lifecycle."""
        check_session(session)
        watch = _Watch(progress, timeout)
        work = partial(self._open, session, None if into is None else Path(into), watch, lazy=lazy)
        try:
            return within(None if timeout is None else timeout + _GRACE, work)
        except StillRunning:
            return watch.report(session, str(into or self._c.tree.root / session))

    def _open(self, session: str, into: Path | None, watch: _Watch, *, lazy: bool) -> OpenReport:
        if into is not None:
            if lazy:
                raise UsageError("open", session, "--lazy and --into exclude each other")
            return self._open_into(session, into, watch)
        with self._turn(session):
            staging = self.staging()
            astray = self._learn(session)
            if not lazy:
                make_session(self._c.tree, session)
                self._scanner.scan(session)  # it learns which directory it is
                brought = self._bring(session, staging, astray, watch)
                self._scanner.scan(session)  # of directories that no manifest names the journal has to know, too
            counts = self._c.journal.sessions.counts(session)
            if lazy:
                here = counts.files - counts.evicted
                brought = Brought(present=here)
            directory = str(self._c.tree.root / session)
            evicted = counts.evicted if lazy else 0
            self._c.events.tell(What.OPENED, session, files=brought.fetched, bytes=brought.fetched_bytes)
            return _report(session, directory, brought, watch.begun, evicted=evicted, flaws=astray.flaws)

    def _learn(self, session: str) -> Astray:
        """What the store has, after what is here. Raises NoSuchSession if neither has the session."""
        stands = self._c.tree.session_directory(session) is not None
        self._scanner.scan(session)
        if not stands and not self._learner.is_stored(session):
            raise NoSuchSession("open", session, "neither the root nor the store has it")
        self._c.journal.sessions.add(session, self._c.clock())
        return self._learner.again(session)

    def _bring(self, session: str, staging: Staging, astray: Astray, watch: _Watch) -> Brought:
        residence = self._c.journal.residence
        with Ground(self._c.tree, session, staging) as ground:
            marks = JournalMarks(self._c.journal, ground, astray, resumed=residence.opening(session))
            brought = self._hydrator.bring(session, marks, ground, staging, watch.tell, watch.expired)
        if brought.complete:
            residence.opened(session)
        return brought

    def _open_into(self, session: str, into: Path, watch: _Watch) -> OpenReport:
        """A copy of what the store has, in a directory that nobody watches."""
        if into.resolve().is_relative_to(self._c.tree.root.resolve()):
            raise UsageError("open into", str(into), "it is inside the root")
        if into.exists() and (not into.is_dir() or any(into.iterdir())):
            raise UsageError("open into", str(into), "it is not an empty directory")
        marks = NoMarks(self._learner, session)
        if marks.empty:
            raise NoSuchSession("open", session, "the store does not have it")
        tree = Tree(into, create=True)
        try:
            staging = Staging(tree)
            try:
                with Ground(tree, ".", staging) as ground:
                    brought = self._hydrator.bring(session, marks, ground, staging, watch.tell, watch.expired)
            finally:
                staging.close(leave_nothing=True)
        finally:
            tree.close()
        return _report(session, str(into), brought, watch.begun, flaws=marks.flaws)

    # -- close and evict -----------------------------------------------------------------------------------------------

    def close(self, session: str, *, keep: bool = False, timeout: float, confirm_deletes: bool = False) -> CloseReport:
        """See verbs.Lifecycle. What changes while it is closed is flushed too, a few times; if it does not hold still,
        it is not closed."""
        check_session(session)
        deadline = time.monotonic() + timeout
        with self._turn(session):
            self._check_here("close", session)
            for _ in range(_ROUNDS):
                left = max(0.0, deadline - time.monotonic())
                flush = self._flusher.flush(session, timeout=left, confirm_deletes=confirm_deletes)
                if not flush.stored:
                    break
                if (reason := self._seal(session, deadline)) is not None:
                    return CloseReport(_unfinished(flush, reason), closed=False)
                scan = self._scanner.scan(session, recheck=True)
                if not self._c.journal.work.remaining(session):
                    evicted = None if keep else self._evict(session, scan)
                    return CloseReport(flush, closed=True, evicted=evicted)
                flush = _unfinished(flush, "it changed while it was being closed")
            return CloseReport(flush, closed=False)

    def _seal(self, session: str, deadline: float) -> str | None:
        """Write the manifest that says closed; why that could not be done in time, or None. Raises StoreError."""
        while True:
            left = max(0.0, deadline - time.monotonic())
            try:
                summary = within(left, partial(self._committer.commit, session, state="closed", patience=left))
            except StillRunning:
                return "the store has not answered in time"
            except (StoreTransient, PreconditionFailed) as error:
                if left <= _PAUSE:
                    return error.reason
                self._sleep(_PAUSE)
            else:
                return "a name in it cannot be listed" if summary.failures else None

    def evict(self, session: str) -> EvictReport:
        """See verbs.Lifecycle. The store is asked whether it still has what goes: raises StoreError too."""
        check_session(session)
        with self._turn(session):
            self._check_here("evict", session)
            return self._evict(session, self._scanner.scan(session, recheck=True))

    def _check_here(self, verb: str, session: str) -> None:
        """Raise NoSuchSession for one that neither the root nor the journal has."""
        if self._c.tree.session_directory(session) is None and session not in self._c.journal.sessions.names():
            raise NoSuchSession(verb, session, "there is no such directory under the root")

    def _evict(self, session: str, scan: ScanResult) -> EvictReport:
        if self._c.tree.session_directory(session) is None:
            return EvictReport(session)
        staging, astray = self.staging(), self._learner.compare(session)
        first = self._evictor.evict(session, staging, scan, astray)
        if not any(kept.reason == IN_USE for kept in first.kept):
            return first
        self._sleep(_RELEASE)
        again = self._evictor.evict(session, staging, self._scanner.scan(session, recheck=True), astray)
        return EvictReport(session, first.evicted + again.evicted, first.bytes + again.bytes, again.kept)

    def verify(self, session: str, *, progress: OnProgress = no_progress) -> VerifyReport:
        """See verbs.Lifecycle."""
        return self._verifier.verify(check_session(session), progress=progress)

    # -- small things --------------------------------------------------------------------------------------------------

    @contextmanager
    def _turn(self, session: str) -> Iterator[None]:
        with self._lock:
            lock = self._turns.setdefault(session, threading.Lock())
        with lock:
            yield

    def staging(self) -> Staging:
        """Our folder in the root, made when it is first needed, and cleaned of what other lives left."""
        with self._lock:
            if self._staging is None:
                staging = Staging(self._c.tree)
                try:
                    self._evictor.recover(staging)
                except BaseException:
                    staging.close()
                    raise
                self._staging = staging
            return self._staging


def template_target(name: str) -> str:
    """The file that a template becomes: ``dashboard-template.yaml`` is ``dashboard.yaml``."""
    above, slash, base = name.rpartition("/")
    stem, dot, suffix = base.partition(".")
    return above + slash + (stem.removesuffix("-template") or stem) + dot + suffix


def _unfinished(flush: FlushReport, reason: str) -> FlushReport:
    return replace(flush, stored=False, pending=[*flush.pending, Pending(".", reason)])


class _Watch:
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

    def report(self, session: str, directory: str) -> OpenReport:
        """What is known of an open that hangs."""
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
