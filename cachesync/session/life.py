"""The verbs on one session, one at a time."""

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

from cachesync.model.address import Space, parse
from cachesync.model.errors import NoSuchSession, ObjectNotFound, PreconditionFailed, StoreTransient, UsageError
from cachesync.model.keys import check_path, check_session
from cachesync.model.limits import DEFAULT_FLUSH_TIMEOUT
from cachesync.model.outcomes import CloseReport, EvictReport, OnProgress, OpenReport, VerifyReport, no_progress
from cachesync.model.reports import FlushReport, Pending
from cachesync.root.making import make_whole_session
from cachesync.root.staging import Staging
from cachesync.session.evict import IN_USE, Evictor
from cachesync.session.opening import Opener, Watch
from cachesync.session.verify import local_digest
from cachesync.sync.commit import Committer
from cachesync.sync.context import Context
from cachesync.sync.flush import Flusher
from cachesync.sync.remote_listing import Learner
from cachesync.sync.run_with_timeout import StillRunning, within
from cachesync.sync.scanner.batch import ScanResult
from cachesync.sync.scanner.scan import Scanner

PLACEHOLDERS = ("artifacts/.gitkeep", "artifacts/terraform/.gitkeep", "logs/.gitkeep")
"""What the design note's SessionService makes, so that the folders are there for every S3 tool."""

_ROUNDS = 4
_PAUSE = 0.05
_RELEASE = 0.2
"""Seconds after which the kernel has told of a file that was closed in a mount."""


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
        self._evictor = Evictor(context, scanner)
        self._opener = Opener(context, scanner, learner, self._evictor, threads=threads, sleep=sleep)
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
        if taken or not make_whole_session(self._c.tree, self.staging(), name, files, self._c.new_mode):
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
        watch = Watch(progress, timeout)
        if into is None:
            work = partial(self._open, session, watch, lazy=lazy)
        elif lazy:
            raise UsageError("open", session, "--lazy and --into exclude each other")
        else:
            work = partial(self._opener.copy, session, Path(into), watch)
        return watch.over(work, session, str(into or self._c.tree.root / session))

    def _open(self, session: str, watch: Watch, *, lazy: bool) -> OpenReport:
        with self._turn(session):
            return self._opener.open(session, self.staging(), watch, lazy=lazy)

    # -- close and evict -----------------------------------------------------------------------------------------------

    def close(
        self, session: str, *, keep: bool = False, timeout: float, confirm_deletes: bool = False, force: bool = False
    ) -> CloseReport:
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
                scan = self._scanner.scan(session, recheck=True, unwritten=force)
                if not self._c.journal.work.remaining(session):
                    evicted = None if keep else self._evict(session, scan, force=force, closing=True)
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
                if summary is None:
                    return "the store lost files of the session"
                return "a name in it cannot be listed" if summary.failures else None

    def evict(self, session: str, *, force: bool = False) -> EvictReport:
        """See verbs.Lifecycle. The store is asked whether it still has what goes: raises StoreError too."""
        check_session(session)
        with self._turn(session):
            self._check_here("evict", session)
            return self._evict(session, self._scanner.scan(session, recheck=True, unwritten=force), force=force)

    def _check_here(self, verb: str, session: str) -> None:
        """Raise NoSuchSession for one that neither the root nor the journal has."""
        if session not in self._c.journal.sessions.names() and self._c.tree.session_directory(session) is None:
            raise NoSuchSession(verb, session, "there is no such directory under the root")

    def _evict(self, session: str, scan: ScanResult, *, force: bool, closing: bool = False) -> EvictReport:
        if self._c.tree.session_directory(session) is None:
            return EvictReport(session)
        staging, astray = self.staging(), self._learner.compare(session)
        if astray.deleted or astray.replaced:
            astray = self._learner.again(session)  # another host changed it, or the store lost it
        first = self._evictor.evict(session, staging, scan, astray, force=force, closing=closing)
        if not any(kept.reason == IN_USE for kept in first.kept):
            return first
        self._sleep(_RELEASE)
        scan = self._scanner.scan(session, recheck=True, unwritten=force)
        again = self._evictor.evict(session, staging, scan, astray, force=force, closing=closing)
        return EvictReport(session, first.evicted + again.evicted, first.bytes + again.bytes, again.kept)

    def verify(self, session: str, *, repair: bool = False, progress: OnProgress = no_progress) -> VerifyReport:
        """See verbs.Lifecycle."""
        report = self._verifier.verify(check_session(session), progress=progress)
        if report.verified or not repair or session not in self._c.journal.sessions.names():
            return report
        self._repair(session, report)
        again = self._verifier.verify(session, progress=progress)
        left = {row.path for row in again.differences}
        repaired = {row.path for row in report.differences} - left
        return replace(again, repaired=sorted(repaired), seconds=report.seconds + again.seconds)

    def _repair(self, session: str, report: VerifyReport) -> None:
        """Store differing files again if their local bytes are the stored ones. Raises StoreError."""
        self._learner.again(session)
        for difference in report.differences:
            entry = self._c.journal.entries.entry(session, difference.path)
            if entry is None or not entry.resident or entry.dirty or entry.stored is None:
                continue
            digest = local_digest(self._c.tree, entry)
            if digest is not None and digest == entry.stored.sha256:  # else the object may be the intact one
                self._c.journal.residence.damaged(session, entry, self._c.clock())
        self._c.journal.sessions.relist(session)
        while True:
            flush = self._flusher.flush(session, timeout=DEFAULT_FLUSH_TIMEOUT)
            if flush.stored or flush.failed or not flush.uploaded:
                return

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
