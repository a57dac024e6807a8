"""Who keeps the journal in step with the disk while the daemon runs: hints as they come, scans now and then."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from cachesync.model.errors import CacheSyncError, ConfigError, FileUnreadable, RootHalted
from cachesync.model.events import What
from cachesync.model.ignore import FILE_NAME as IGNORE_FILE
from cachesync.model.keys import RESERVED, is_within
from cachesync.model.policy import until_next_scan
from cachesync.model.verbs import Noticed
from cachesync.sync.scanner.batch import ScanResult
from cachesync.watch.hinting import HintTurns
from cachesync.watch.hints import Hint, Hints
from cachesync.watch.watch import Watcher

if TYPE_CHECKING:
    from cachesync.daemon.engine import Engine
    from cachesync.telemetry.notify import Notifier

logger = logging.getLogger(__name__)

_ROUTINE = {"interval", "poll"}
"""Why there is a scan though no hint is known to be missing."""

_POLL = 2.0
_ASK = 2.0
_SLOWEST = 60.0
"""Seconds that one step of the hints may take before the daemon counts as hanging; scans have no bound."""

_OWN_TURN = 1.0
_STEP = 0.01
"""Seconds that hints of a session wait for what we do there ourselves, and that others wait for that at once."""

_AFTER_ERROR = 0.1


class Attendant:
    """Three threads' worth of care: the watcher's own, one for hints, one (at low priority) for scans."""

    def __init__(self, engine: Engine, notifier: Notifier) -> None:
        self._engine = engine
        self._notifier = notifier
        self._hinted = threading.Event()
        self._scan_asked = threading.Event()
        self._stopping = threading.Event()
        self._halted = False
        self._hinting_since: float | None = None
        self._polled_at = 0.0
        self._scanned_at = 0.0
        self._scan_cost = 0.0
        self._reasons: set[str] = set()
        self._reported: set[str] = set()
        self._store_notes: list[str] = []
        self._condition_notes: list[str] = []
        self.repaired = 0
        state = engine.config.state
        exclude = {RESERVED}
        with contextlib.suppress(ValueError):
            exclude.add(str(state.relative_to(engine.config.root)))
        self.watcher = Watcher(
            str(engine.config.root), canary=str(state / "canary"), on_hints=self._hinted.set, exclude=exclude
        )
        self._hints = HintTurns(self._take, self._notice)
        self._threads = [
            threading.Thread(target=self._take_hints, name="hints", daemon=True),
            threading.Thread(target=self._scan_now_and_then, name="scan", daemon=True),
        ]
        self._asking = self._ask_thread()
        engine.service.notes = self.notes
        engine.ondemand.unseen = self._unseen

    # -- for the daemon ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Watch first, then scan: so nothing falls between."""
        self.watcher.start()
        for thread in (*self._threads, self._asking):
            thread.start()
        self._engine.hearing.attach(self.watcher, self.catch_up)
        self._ask_scan("start")

    def stop(self) -> None:
        """Process the pending hints, then end the threads, within a few seconds."""
        self._engine.hearing.detach()
        self.watcher.stop()
        self._stopping.set()
        self._hinted.set()
        self._scan_asked.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=2)

    @property
    def root_ok(self) -> bool:
        """The root that was opened is in its place."""
        return not self._halted

    @property
    def alive(self) -> bool:
        """No round of hints hangs, and both threads live."""
        since = self._hinting_since
        hanging = since is not None and time.monotonic() - since > _SLOWEST
        return not hanging and all(thread.is_alive() for thread in self._threads)

    def tend(self) -> None:
        """Once a second: the root, the watcher's health, scans that are due, the rate, systemd's watchdog."""
        self._check_root()
        self._engine.service.tend()
        self.watcher.tend()
        if self._engine.identity.changed.is_set() and not self._asking.is_alive():
            self._asking = self._ask_thread()
            self._asking.start()
        now, config, uncovered = time.monotonic(), self._engine.config, self.watcher.uncovered()
        pause = until_next_scan(
            config.scan_interval, self._scan_cost, chosen=config.scan_interval_chosen, watched=not uncovered
        )
        if now - self._scanned_at >= pause:
            self._ask_scan("interval")
        if uncovered and now - self._polled_at >= _POLL:
            self._ask_scan("poll")
        if self._notifier.watchdog is not None and self.alive:
            self._notifier.send("WATCHDOG=1")

    def notes(self) -> list[str]:
        """What an operator should see."""
        notes = []
        if self._halted:
            notes.append(f"the root {self._engine.config.root} is gone or replaced: halted, nothing is deleted")
        notes.extend([*self._store_notes, *self._condition_notes])
        uncovered = self.watcher.uncovered()
        if uncovered and not self._halted and not self._stopping.is_set():
            notes.append(f"{len(uncovered)} directories cannot be watched and are scanned instead (inotify limits?)")
        return notes

    # -- hints ---------------------------------------------------------------------------------------------------------

    def _unseen(self, hints: Noticed) -> Noticed:
        """What a mount tells of, and the watcher does not: to look twice at each change is half of the work."""
        if not self.watcher.healthy():
            return hints
        if not (uncovered := self.watcher.uncovered()):
            return {}
        return {
            session: {path: hint for path, hint in paths.items() if is_within(f"{session}/{path}", uncovered)}
            for session, paths in hints.items()
        }

    def catch_up(self, session: str, timeout: float) -> bool:
        """Wait until every change in a session before this call has been processed. Returns False on timeout (in
        seconds)."""
        until = time.monotonic() + timeout
        if threading.current_thread() is self._threads[0] or not self.watcher.hear(timeout):
            return False
        return self._hints.wait(session, self._hinted.set, max(0.0, until - time.monotonic()))

    def _take_hints(self) -> None:
        stopping = False
        while not (stopping and self._hints.is_idle):
            if self._hints.is_idle:
                self._hinted.wait()
            stopping = self._stopping.is_set()  # before the hints are taken, so that none is left
            self._hinted.clear()
            self._hinting_since = time.monotonic()
            try:
                self._notice_some()
            except RootHalted:
                self._check_root()
                self._ask_scan("root back")  # replaces the hints that were lost
            except Exception:
                logger.exception("hints were not taken; a scan follows")
                self._ask_scan("error")
                self._stopping.wait(_AFTER_ERROR)
            finally:
                self._hinting_since = None

    def _take(self, besides: Collection[str]) -> Hints:
        return self.watcher.take(besides)

    def _notice_some(self) -> None:
        """Take the hints that there are, and look at some of one session's."""
        for reason in self._hints.refill():
            self._ask_scan(reason)
        self._hints.step()

    def _notice(self, session: str, hints: Mapping[str, Hint]) -> Iterator[None]:
        if session == IGNORE_FILE and "" in hints:
            self._engine.scanner.forget_rules(None)
            return
        until = time.monotonic() + _OWN_TURN
        # What we bring and drop is no change once it is written down.
        while not self._engine.journal.turns.let_end(session, _STEP) and time.monotonic() < until:
            yield
        try:
            yield from self._engine.scanner.notice_in_steps(session, hints)
        except FileUnreadable as error:  # affects this session only
            logger.warning("%s", error, extra={"session": session})

    # -- scans ---------------------------------------------------------------------------------------------------------

    def _ask_scan(self, reason: str) -> None:
        self._reasons.add(reason)
        self._scan_asked.set()

    def _scan_now_and_then(self) -> None:
        if sys.platform.startswith("linux"):
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 15)
        while True:
            self._scan_asked.wait()
            self._scan_asked.clear()
            if self._stopping.is_set():
                return
            reasons, self._reasons = self._reasons, set()
            try:
                self._polled_at = time.monotonic()
                if reasons == {"poll"}:
                    self._poll()
                else:
                    self._scan_all(reasons)
            except RootHalted:
                self._check_root()
            except CacheSyncError as error:
                logger.warning("scan: %s", error)
            except Exception:
                logger.exception("the scan ended early; the next one comes by itself")

    def _poll(self) -> None:
        """Scan what cannot be watched."""
        for directory in self.watcher.uncovered():
            session, _, rest = directory.partition("/")
            if directory == ".":
                self._scan_all({"poll"})
            else:
                self._engine.scanner.scan(session, rest and rest + "/")

    def _scan_all(self, reasons: set[str]) -> None:
        self._scanned_at, spent = time.monotonic(), time.thread_time()
        names, others = self._engine.tree.sessions()
        for other in others:
            if other.path not in self._reported:
                self._reported.add(other.path)
                logger.warning("left alone: %s", other.reason, extra={"path": other.path})
        repaired = 0
        for name, result in self._scan_in_turn({*names, *self._engine.journal.sessions.names()}):
            repaired += result.marked
            found = result.untold if reasons <= _ROUTINE else result.changed
            if found and "start" not in reasons:
                self._engine.events.tell(What.REPAIRED, name, changes=found)
            self._list_links(name)
        if self._stopping.is_set():
            return
        self._give_up_uploads()
        self._engine.pulse.beat()
        self._scan_cost = time.thread_time() - spent
        if "start" not in reasons:
            self.repaired += repaired
        level = logging.DEBUG if reasons in ({"interval"}, {"poll"}) else logging.INFO
        logger.log(level, "scanned (%s): %d changes", ", ".join(sorted(reasons)), repaired)

    def _scan_in_turn(self, names: Iterable[str]) -> Iterator[tuple[str, ScanResult]]:
        """Scan sessions, each a step in turn, so that none waits for a large one."""
        scan, stopping = self._engine.scanner.scan_in_steps, self._stopping.is_set
        waiting = deque((name, scan(name, recheck=True, expired=stopping)) for name in names)
        while waiting and not stopping():
            name, steps = waiting.popleft()
            try:
                next(steps)
            except StopIteration as end:
                yield name, end.value
            else:
                waiting.append((name, steps))

    def _give_up_uploads(self) -> None:
        """Free the parts of uploads that nobody will go on with: of files that went with their session."""
        uploads = self._engine.journal.uploads
        for session, path, upload in uploads.orphans():
            try:
                self._engine.store.discard(upload)
                uploads.drop(session, path)
            except CacheSyncError as error:
                logger.info("an upload is not given up yet: %s", error, extra={"session": session, "path": path})
                return

    def _list_links(self, session: str) -> None:
        """Links have no object: where nothing else is left to store, a manifest makes them durable."""
        journal = self._engine.journal
        if session not in journal.sessions.names() or journal.work.remaining(session):
            return
        if journal.waiting.any_dirty_link(session):
            try:
                self._engine.committer.commit(session)
            except CacheSyncError as error:
                logger.info("the manifest waits: %s", error, extra={"session": session})

    def _ask_thread(self) -> threading.Thread:
        return threading.Thread(target=self._ask_store, name="ask", daemon=True)

    def _ask_store(self) -> None:
        """Check that the store is the journal's (P17), then find out what it does not support. ``tend`` starts this
        again when the store's identity becomes uncertain."""
        self._know_store()
        self._ask_traits()

    def _know_store(self) -> None:
        """Check the store's identity and compare every doubted session with the store."""
        identity = self._engine.identity
        while not self._stopping.is_set():
            identity.changed.clear()
            try:
                identity.admit()
                for session in sorted(identity.doubted):
                    self._engine.learner.ensure(session, wait=True)
            except ConfigError as error:
                self._say_once(str(error))
                self._store_notes = [*self._store_notes, str(error)]
                return
            except CacheSyncError as error:
                logger.debug("the store's identity is not known yet: %s", error)
                self._stopping.wait(_ASK)
            else:
                return

    def _ask_traits(self) -> None:
        """Find out, once, what the store cannot do, and say so (P8, SPEC section 13)."""
        while not self._stopping.is_set():
            traits = self._engine.store.traits
            if traits.versioned is False:
                self._say_once("the store keeps no old versions: what is overwritten or deleted cannot be brought back")
            note = ""
            if traits.conditional is False:
                note = "the store has no conditional writes: versions are compared before each write instead"
            elif traits.conditional is None and traits.denied:
                note = "cannot determine whether the store has conditional writes, so versions are compared before each"
                note += f" write: {traits.denied}"
            if note:
                self._say_once(note)
            self._condition_notes = [note] if note else []
            if None not in (traits.versioned, traits.conditional) or self._stopping.wait(_ASK):
                return

    def _say_once(self, note: str) -> None:
        if note not in self._reported:
            self._reported.add(note)
            logger.warning("%s", note)

    def _check_root(self) -> None:
        try:
            self._engine.tree.check()
        except RootHalted as error:
            if not self._halted:
                logger.error("%s", error)
            self._halted = True
            return
        if self._halted:
            self._halted = False
            logger.warning("the root is back")
            self._ask_scan("root back")
