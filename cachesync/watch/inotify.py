"""Linux: the table of watched directories, and what each inotify event means.

The table maps watch descriptors to paths, and the kernel's answer is the only truth in it: to watch a path that is
watched already gives the descriptor of the directory that stands there *now*. So a renamed directory is followed by
watching its new place again, no moves are paired, and stale events cannot twist the table: whatever is put in a
watched directory has its own event behind them. Directories are watched first and listed second, and hinted as TREE
last, so what is made in between is found by the listing or by the walk that the hint asks for.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import threading
from collections.abc import Callable

from watchdog.observers.inotify_c import CallbackId, InotifyEvent, Mask, WatchDescriptor
from watchdog.observers.inotify_c import InotifyConstants as In

from cachesync.watch.hints import OVERFLOW, RESTART, WATCH_LIMIT, Hint, Pending
from cachesync.watch.identity import identify
from cachesync.watch.reader import Reader
from cachesync.watch.table import Table

logger = logging.getLogger(__name__)

LEAVING = 1.0
"""Seconds that a directory which was moved away stays watched, in case it is on its way to another place in here."""

_KINDS: dict[int, tuple[int, int]] = {
    In.IN_CREATE: (Hint.CHANGED.value, Hint.CLOSED.value),
    In.IN_MODIFY: (Hint.CHANGED.value, Hint.CLOSED.value),
    In.IN_CLOSE_WRITE: ((Hint.CHANGED | Hint.CLOSED).value, 0),
    In.IN_MOVED_TO: ((Hint.CHANGED | Hint.CLOSED).value, 0),
    In.IN_ATTRIB: (Hint.ATTRIBUTES.value, 0),
    In.IN_DELETE: (Hint.GONE.value, (Hint.CHANGED | Hint.CLOSED | Hint.ATTRIBUTES).value),
    In.IN_MOVED_FROM: (Hint.GONE.value, (Hint.CHANGED | Hint.CLOSED | Hint.ATTRIBUTES).value),
}
"""Event of a file: the flags to set, the flags to clear."""

_EVENTS = sum(_KINDS)
"""No IN_OPEN, IN_ACCESS or IN_CLOSE_NOWRITE: reading files, as we do to store them, must not wake us."""

_ROOT_MASK = Mask(_EVENTS | In.IN_ONLYDIR)
_MASK = Mask(_ROOT_MASK | In.IN_DONT_FOLLOW)
_CANARY_MASK = Mask(In.IN_CLOSE_WRITE | In.IN_ONLYDIR)


class Tree:
    """Watches a root and everything below it, except the relative paths in ``exclude`` and what is under them.

    ``canary`` is the absolute path of a directory of ours, outside the root or excluded; it is made if its parent is
    there. ``mend`` closes a file in it to hear whether the way from the kernel to here is open. ``clock`` gives
    monotonic seconds.

    Raises OSError if the root is no directory or no inotify instance is to be had, RuntimeError if no thread is.
    A directory that cannot be watched, the root included, is no error: it is in ``uncovered``.
    """

    def __init__(
        self, root: str, *, canary: str, exclude: frozenset[str], pending: Pending, clock: Callable[[], float]
    ) -> None:
        self._root = root
        self._canary = canary
        self._exclude = exclude
        self._pending = pending
        self._clock = clock
        self._lock = threading.Lock()
        self._id = CallbackId(id(self))
        self._table = Table()
        self._leaving: dict[WatchDescriptor, float] = {}
        self._uncovered: dict[str, int] = {}
        self._full = False
        self._root_wd: WatchDescriptor | None = None
        self._canary_wd: WatchDescriptor | None = None
        self._poked_at: float | None = None
        self._asked: dict[bytes, threading.Event] = {}
        self._asks = itertools.count(1)
        # Taken before the watch is: a root that is replaced in between is found out by comparison, not trusted.
        self.identity = identify(root)
        self._reader = Reader()
        self._reader.start()
        with self._lock:
            self._watch_canary()
            self._cover("")

    @property
    def alive(self) -> bool:
        """Whether the reader thread runs."""
        return self._reader.is_alive()

    @property
    def root_watched(self) -> bool:
        """Whether the kernel still has the root's watch, or never gave one."""
        return self._root_wd is not None or "" in self._uncovered

    def silent_for(self) -> float:
        """Seconds that the canary has waited to be heard; 0 if nothing is outstanding."""
        poked_at = self._poked_at
        return 0.0 if poked_at is None else self._clock() - poked_at

    def uncovered(self) -> frozenset[str]:
        """The topmost directories that could not be watched; each stands for everything below it."""
        # dict.copy is one step for other threads, and a walk that holds the lock must not make a caller wait.
        return frozenset(path or "." for path in self._uncovered.copy())

    def close(self, timeout: float) -> bool:
        """Stop reading, within about twice ``timeout`` seconds; returns whether the thread has ended."""
        return self._reader.shut(timeout)

    def mend(self) -> None:
        """Let go of what was moved out, try again what could not be watched, and wake the canary."""
        # Not at any price: a reader that hangs in a file system holds the lock, and is found out by the canary.
        if self._lock.acquire(timeout=0.5):
            try:
                self._let_go()
                self._retry()
                if self._canary_wd is None:
                    self._watch_canary()
            finally:
                self._lock.release()
        if self._canary_wd is not None and self._poked_at is None:
            self._poked_at = self._clock()
            try:
                # Closing a file opened for writing is an event; it costs the disk nothing and works on a full one.
                os.close(os.open(os.path.join(self._canary, "song"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            except OSError:
                self._poked_at = None

    def on_event(self, event: InotifyEvent) -> None:
        """One event of one watched directory. Called by the reader, and by nothing else."""
        with self._lock:
            prefix = self._table.prefix(event.wd)
            if prefix is None:
                if event.wd == self._canary_wd:
                    self._on_canary(event.name)
                return
            if not event.name:
                return  # of the directory itself: its parent's watch tells that too
            path = prefix + os.fsdecode(event.name)
            if path in self._exclude:
                return
            for listener in self._pending.listeners:
                if event.mask & (In.IN_CREATE | In.IN_MOVED_TO):
                    listener.came(path, moved=bool(event.mask & In.IN_MOVED_TO))
                elif event.mask & In.IN_DELETE:
                    listener.deleted(path)
            if event.mask & In.IN_ISDIR:
                self._on_directory(path, event.mask)
            elif (kind := _KINDS.get(event.mask & _EVENTS)) is not None:
                self._pending.add(path, *kind)

    def hear(self, timeout: float) -> bool:
        """Wait until every event before this call has been handled. Returns False on timeout (in seconds).

        The method closes a file of its own: its event follows the earlier ones, since the kernel keeps their order.
        """
        if self._canary_wd is None:
            return False
        name = f"ask-{next(self._asks)}"
        heard = self._asked[os.fsencode(name)] = threading.Event()
        place = os.path.join(self._canary, name)
        try:
            os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            os.unlink(place)
            return heard.wait(timeout) and self.alive
        except OSError:
            return False
        finally:
            del self._asked[os.fsencode(name)]

    def _on_canary(self, name: bytes) -> None:
        if (heard := self._asked.get(name)) is not None:
            heard.set()
        else:
            self._poked_at = None

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        """The kernel dropped a watch: its directory was deleted or unmounted."""
        with self._lock:
            self._table.drop(wd)
            self._leaving.pop(wd, None)
            if wd == self._root_wd:
                self._root_wd = None
            if wd == self._canary_wd:
                self._canary_wd = None
                self._poked_at = None

    def on_queue_overflow(self) -> None:
        """Events were lost: what was made, moved or deleted meanwhile is unknown, so the table is built anew."""
        with self._lock:
            self._detach("")
            self._cover("")
        # After the table: a scan that began earlier could miss a directory that is watched only now.
        self._pending.rescan(OVERFLOW)

    def _on_directory(self, path: str, mask: int) -> None:
        if mask & (In.IN_CREATE | In.IN_MOVED_TO):
            self._cover(path)
            self._pending.add(path, Hint.TREE.value)
        elif mask & (In.IN_DELETE | In.IN_MOVED_FROM):
            self._uncovered.pop(path, None)
            if mask & In.IN_MOVED_FROM:
                self._detach(path)
                self._cover(path)  # if two directories changed places, the other one is here already
            self._pending.add(path, (Hint.GONE | Hint.TREE).value, _KINDS[In.IN_DELETE][1])
        else:
            self._pending.add(path, Hint.ATTRIBUTES.value)

    def _cover(self, top: str) -> None:
        """Watch a directory and all below it."""
        todo = [top]
        while todo and self._reader.should_keep_running():
            relative = todo.pop()
            if relative in self._exclude:
                continue
            absolute = os.path.join(self._root, relative) if relative else self._root
            mask = _MASK if relative else _ROOT_MASK
            prefix = relative + "/" if relative else ""
            try:
                wd = self._reader.add_callback(os.fsencode(absolute), mask, self, self._id)
                self._table.put(wd, prefix)
                self._leaving.pop(wd, None)
                if not relative:
                    self._root_wd = wd
                with os.scandir(absolute) as listing:
                    todo.extend(prefix + entry.name for entry in listing if entry.is_dir(follow_symlinks=False))
                self._uncovered.pop(relative, None)
            except (FileNotFoundError, NotADirectoryError):
                self._uncovered.pop(relative, None)  # moved on meanwhile: its next place has an event of its own
            except OSError as error:
                self._miss(relative, error)

    def _miss(self, relative: str, error: OSError) -> None:
        self._uncovered[relative] = error.errno or 0
        for listener in self._pending.listeners:
            listener.lost = True
        if error.errno == errno.ENOSPC and not self._full:
            self._full = True
            logger.warning("no more inotify watches: raise fs.inotify.max_user_watches; scanning instead")
            self._pending.rescan(WATCH_LIMIT)

    def _detach(self, top: str) -> None:
        """Forget where the directories at and below ``top`` are, and their watches too if they are not seen soon."""
        prefix = top + "/" if top else ""
        until = self._clock() + LEAVING
        for wd in self._table.take(prefix):
            self._leaving[wd] = until
        for path in [path for path in self._uncovered if path.startswith(prefix)]:
            del self._uncovered[path]

    def _let_go(self) -> None:
        now = self._clock()
        gone = [wd for wd, until in self._leaving.items() if until <= now]
        for wd in gone:
            del self._leaving[wd]
        self._reader.remove_callbacks([(wd, self._id) for wd in gone])

    def _retry(self) -> None:
        full = False
        for relative, cause in list(self._uncovered.items()):
            if full and cause == errno.ENOSPC:
                continue  # the first one asked for all
            self._cover(relative)
            if relative in self._uncovered:
                full = full or self._uncovered[relative] == errno.ENOSPC
            elif relative:
                self._pending.add(relative, Hint.TREE.value)
            else:
                self._pending.rescan(RESTART)
        self._full = errno.ENOSPC in self._uncovered.values()

    def _watch_canary(self) -> None:
        # Without one (no watch left, a read-only state folder) the thread's life has to do as a sign of health.
        with contextlib.suppress(OSError):
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._canary, 0o700)
            self._canary_wd = self._reader.add_callback(os.fsencode(self._canary), _CANARY_MASK, self, self._id)
