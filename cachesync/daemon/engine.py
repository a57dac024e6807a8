"""The composition root: builds all parts for one root, in order, and takes them down again."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from cachesync.api.service import Place, Service
from cachesync.artifacts.by_address import Artifacts
from cachesync.artifacts.local import LocalRoot
from cachesync.journal.binding import Bound
from cachesync.journal.database import set_aside
from cachesync.journal.journal import Journal
from cachesync.model.errors import JournalDamaged, JournalUnavailable, RootLocked, StoreError, UsageError, is_passing
from cachesync.model.events import Events
from cachesync.model.policy import Pace
from cachesync.model.values import UNMEASURED, Capabilities
from cachesync.read.cache.blocks import BlockCache
from cachesync.read.local import Local
from cachesync.read.reader import Reader
from cachesync.root.capabilities import device_of, measure
from cachesync.root.lock import LOCK, SERVING, RootLock
from cachesync.root.tree import Tree
from cachesync.session.life import SessionLife
from cachesync.session.on_demand import OnDemand
from cachesync.session.verify import Verifier
from cachesync.sync.commit import Committer
from cachesync.sync.context import Context
from cachesync.sync.flush import Flusher
from cachesync.sync.identity import StoreIdentity
from cachesync.sync.pulse import Pulse
from cachesync.sync.remote_listing import Learner
from cachesync.sync.run_with_timeout import StillRunning, within
from cachesync.sync.scanner.scan import Scanner
from cachesync.sync.transfer import Transfer
from cachesync.sync.uploader import Uploader
from cachesync.telemetry.activity import Activity
from cachesync.watch.hearing import Hearing

if TYPE_CHECKING:
    from pathlib import Path

    from cachesync.config import Config
    from cachesync.store.base import ObjectStore
    from cachesync.watch.watch import Watcher

logger = logging.getLogger(__name__)

_NOT_OURS = "remove it if it is not cachesync's, or change the state setting"
_IDENTITY = 5.0
"""Timeout in seconds for the identity of a store at a new endpoint. After it, work begins without the identity."""


class Engine:
    """All parts that work on one root, except the watcher and the socket. Holds the root's lock while it is open.

    Without ``bind``, a new journal is not bound to its store; commands that only read use that. ``watched`` says
    whether a watcher delivers hints. A ``read_only`` root is never written to. With ``wait`` the engine is a daemon's,
    and waits while a command holds the lock (see RootLock). ``events`` receives what happens, and ``activity`` counts
    it. ``endpoint`` is the store's address if it differs from the configured one. ``rebinds`` accepts a journal of any
    store.

    Raises RootLocked, UsageError (the root, the state folder), RootHalted, JournalUnavailable.
    """

    def __init__(
        self,
        config: Config,
        store: ObjectStore,
        *,
        create_root: bool = False,
        since: float | None = None,
        bind: bool = True,
        watched: bool = True,
        read_only: bool = False,
        wait: Callable[[RootLocked], None] | None = None,
        clock: Callable[[], float] = time.time,
        events: Events | None = None,
        activity: Activity | None = None,
        endpoint: str | None = None,
        rebinds: bool = False,
    ) -> None:
        self.events = events or Events(clock)
        self.activity = activity or Activity(clock)
        self.config = config
        self.store = store
        self._read_only = read_only
        self.hearing = Hearing(None if watched else partial(watching, config))
        with contextlib.ExitStack() as undo:
            self.tree = Tree(config.root, create=create_root, writable=not read_only)
            undo.callback(self.tree.close)
            _prepare_state(config)
            self.lock = RootLock(config.state, config.root, wait=wait, writable=not read_only)
            undo.callback(self.lock.release)
            _sweep(config.state / "tmp")
            self.journal = _open_journal(config, stores=bind and not read_only)
            undo.callback(self.journal.close)
            self._belong(endpoint, bind=bind, rebinds=rebinds)
            self.pulse = Pulse(config.root, self.journal, self.tree.stands, writable=not read_only)
            if self.pulse.is_foreign():
                logger.error("the root or the journal was restored or replaced; missing files are not deleted")
                self.journal.sessions.doubt_all()
            self.tree.capabilities = _capabilities(config, self.tree, self.journal, read_only=read_only)
            self._build(since, clock, watched=watched)
            undo.pop_all()
        if bind and not read_only:
            self.pulse.beat()
        _ignore_lease_breaks()

    def _belong(self, endpoint: str | None, *, bind: bool, rebinds: bool) -> None:
        """Check that the journal belongs to this store, as far as it is known now. Raises ConfigError if not."""
        config = self.config
        if endpoint is None:
            endpoint = config.endpoint.lower() if config.endpoint and config.store.bucket else ""
        reached = Bound(config.store.shown, endpoint, None)
        self.identity = StoreIdentity(self.journal, self.store, config.prefix, reached)
        if rebinds:
            return
        self.identity.open(bind=bind, unchosen=config.unchosen)
        if bind and self.identity.moved:
            with contextlib.suppress(StoreError, StillRunning):  # then the first write checks it
                within(_IDENTITY, self.identity.admit)

    def _build(self, since: float | None, clock: Callable[[], float], *, watched: bool) -> None:
        config = self.config
        self.uploader = Uploader(self.journal, transfers=config.transfers, clock=clock, events=self.events)
        context = Context(
            tree=self.tree,
            journal=self.journal,
            store=self.store,
            prefix=config.prefix,
            url=f"s3://{config.store.bucket}" if config.store.bucket else config.store.shown.rstrip("/"),
            scratch=config.state / "tmp",
            pace=Pace(config.settle, config.max_dirty_age, config.delete_settle, config.delete_guard),
            clock=clock,
            urgent=self.uploader.is_urgent,
            believing=self.uploader.is_believing,
            ending=self.uploader.is_stopping,
            watched=watched,
            events=self.events,
            pulse=self.pulse,
            identity=self.identity,
            private=config.session_mode,
            on_this_machine=config.embedded,
        )
        self.scanner = Scanner(
            self.tree,
            self.journal,
            context.pace,
            clock,
            self.uploader.wake,
            self.events,
            self.hearing,
            self.tree.capabilities.tick,
        )
        self.learner = Learner(
            self.journal,
            self.store,
            config.prefix,
            self.scanner.scan,
            identity=self.identity,
            clock=clock,
            wake=self.uploader.wake,
        )
        self.transfer = Transfer(context, self.scanner, self.learner)
        self.committer = Committer(context, self.learner)
        self.flusher = Flusher(context, self.scanner, self.uploader, self.transfer, self.committer, self.hearing)
        self.lifecycle = SessionLife(
            context,
            self.scanner,
            self.learner,
            self.committer,
            self.flusher,
            Verifier(context, self.learner, self.scanner),
        )
        self.cache = BlockCache(config.state / "cache", config.cache_size)
        self.reader = Reader(
            self.store,
            prefix=config.prefix,
            cache=self.cache,
            local=Local(self.tree, self.journal),
            revalidate=config.revalidate,
            clock=clock,
            url=context.url,
        )
        removal, staging = self.transfer.removal, self.lifecycle.staging
        artifacts = Artifacts(
            self.store,
            self.reader,
            prefix=config.prefix,
            url=context.url,
            writer=f"{self.journal.id}-direct",  # what is put past the journal is no older write of its own
            local=LocalRoot(context, self.scanner, self.learner, self.uploader, removal, staging),
            clock=clock,
            scratch=context.scratch,
        )
        self.ondemand = OnDemand(context, self.scanner, self.learner, self.uploader, staging)
        place = Place(str(config.root), config.store.shown, config.prefix, config.embedded)
        self.service = Service(
            place,
            self.tree,
            self.journal,
            self.scanner,
            self.uploader,
            self.transfer,
            self.flusher,
            artifacts=artifacts,
            lifecycle=self.lifecycle,
            ondemand=self.ondemand,
            silent_for=lambda: self.store.silent_for,
            clock=clock,
            since=since,
            events=self.events,
            activity=self.activity,
            identity=self.identity,
        )

    def start(self) -> None:
        """Finish what a life before this one had begun, and upload what is due."""
        if not self._read_only:
            self.lifecycle.recover()
        self.uploader.start(self.transfer, self.learner.busy)

    def in_place(self) -> bool:
        """Whether the journal and the root are still the ones that were opened."""
        return self.journal.in_place()

    def close(self, patience: float = 1.0) -> bool:
        """Take everything down; returns whether no transfer was still hanging after ``patience`` seconds."""
        ended = self.uploader.stop(patience)
        self.lifecycle.stop()
        if not self._read_only:
            self.pulse.beat()
        self.cache.close()
        self.journal.close()
        self.lock.release()
        self.tree.close()
        return ended


@contextlib.contextmanager
def watching(config: Config, session: str) -> Iterator[Watcher]:
    """Run a watcher on one session, for a flush without a daemon."""
    from cachesync.watch.watch import Watcher  # imported only if needed: watchdog is slow to import

    watcher = Watcher(str(config.root / session), canary=str(config.state / "canary"), on_hints=lambda: None)
    watcher.start()
    try:
        yield watcher
    finally:
        watcher.stop()


def _prepare_state(config: Config) -> None:
    """Create the state folder, private to this user. Raises UsageError if something there may not be ours.

    Agents can write to the folder around it. A link in place of the folder or of a file in it would redirect our writes
    to another place.
    """
    try:
        for folder in (config.state, config.state / "tmp", config.state / "canary"):
            folder.mkdir(mode=0o700, parents=folder == config.state, exist_ok=True)
            with _ours(folder) as held:
                os.fchmod(held, 0o700)
        journal = [f"journal.db{suffix}" for suffix in ("", "-wal", "-shm", ".reserve", ".turns")]
        for name in (*journal, LOCK, SERVING):
            with contextlib.suppress(FileNotFoundError):
                found = os.lstat(config.state / name)
                if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink != 1:
                    raise UsageError("open", str(config.state / name), "it is not a file of this user", _NOT_OURS)
    except OSError as error:
        raise _unprepared(config.state, error) from error


def _sweep(folder: Path) -> None:
    """Remove files that a crashed process left in a folder of ours. Only the process that holds the lock calls this."""
    try:
        with _ours(folder) as held:
            for leftover in os.listdir(held):
                os.unlink(leftover, dir_fd=held)
    except OSError as error:
        raise _unprepared(folder, error) from error


def _unprepared(folder: Path, error: OSError) -> JournalUnavailable | UsageError:
    if is_passing(error):
        return JournalUnavailable("prepare the state folder", str(folder), error.strerror)
    return UsageError("prepare the state folder", str(folder), error.strerror, _NOT_OURS)


@contextlib.contextmanager
def _ours(folder: Path) -> Iterator[int]:
    """Open a folder. Raises UsageError unless it belongs to this user."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(held).st_uid != os.geteuid():
            raise UsageError("prepare the state folder", str(folder), "it belongs to another user", _NOT_OURS)
        yield held
    finally:
        os.close(held)


def _open_journal(config: Config, *, stores: bool) -> Journal:
    """Open the journal; set a damaged one aside and begin a new one, which scan and listing fill (SPEC section 13)."""
    path = config.state / "journal.db"
    try:
        return Journal(path, stores=stores)
    except JournalDamaged as error:
        kept = set_aside(path, datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"))
        logger.error("%s is damaged: %s; kept as %s, rebuilt from root and store", path, error.reason, kept.name)
        return Journal(path, stores=stores)


def _capabilities(config: Config, tree: Tree, journal: Journal, *, read_only: bool) -> Capabilities:
    """Return the capabilities of the root's file system: from the journal, or measured now if there is a folder to
    write to."""
    try:
        device = device_of(tree.descriptor)
        if (known := journal.devices.get(device)) is not None:
            return known
        beside = config.state.stat().st_dev == tree.identity[0]
        if read_only and not beside:
            return UNMEASURED
        folder = os.open(config.state / "tmp", os.O_RDONLY | os.O_DIRECTORY) if beside else tree.open_ours()
        try:
            found = measure(folder, device)
        finally:
            os.close(folder)
        journal.devices.put(found)
    except OSError as error:
        logger.warning("cannot measure the root's file system: %s; assuming it supports nothing", error.strerror)
        return UNMEASURED
    logger.info("measured the root's file system: %s", found)
    return found


def _ignore_lease_breaks() -> None:
    """See root.openat2.writer_of: the kernel tells a lease's holder by SIGIO, which would end the process."""
    if hasattr(signal, "SIGIO") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGIO, signal.SIG_IGN)
