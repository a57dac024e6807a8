"""The watcher's life: start, stop, health and healing. What it reports are hints; scans are the truth."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Collection

from cachesync.model.keys import RESERVED, is_within
from cachesync.watch.arrivals import Arrivals
from cachesync.watch.hints import RESTART, ROOT_REPLACED, Hints, Pending
from cachesync.watch.identity import identify

if sys.platform == "linux":
    from cachesync.watch.inotify import Tree
else:
    from cachesync.watch.portable import Tree

logger = logging.getLogger(__name__)

MAX_PENDING = 200_000
"""Distinct paths that wait to be taken; about 40 MB. Beyond that a scan is cheaper than the list."""

PATIENCE = 10.0
"""Seconds that the canary may stay unheard: more than a reader needs that walks a large new tree."""

CLOSE_TIMEOUT = 2.0


class Watcher:
    """Watches ``root``, an absolute path, and collects hints about it.

    ``on_hints`` is called from the watcher's thread, once per ``take``, when something waits to be taken; it must be
    cheap. ``canary`` is the absolute path of a directory of ours (``<state>/canary``), outside the root or excluded.
    Relative paths in ``exclude`` are not watched, nor what is below them. ``clock`` gives monotonic seconds.

    Scan once after ``start`` has returned: from then on every change has a hint, or is below a path in ``uncovered``,
    or ``rescan`` in the next ``Hints`` says that some were missed. Nothing here raises because of the file system.
    """

    def __init__(
        self,
        root: str,
        *,
        canary: str,
        on_hints: Callable[[], None],
        exclude: Collection[str] = (RESERVED,),
        clock: Callable[[], float] = time.monotonic,
        max_pending: int = MAX_PENDING,
        patience: float = PATIENCE,
    ) -> None:
        self._root = root
        self._canary = canary
        self._exclude = frozenset(exclude)
        self._clock = clock
        self._patience = patience
        self._pending = Pending(on_hints, max_pending)
        self._lock = threading.RLock()
        self._running = False
        self._tree: Tree | None = None
        self._trouble = ""
        self.restarts = 0

    @property
    def events(self) -> int:
        """Events seen so far, before coalescing."""
        return self._pending.events

    @property
    def overflows(self) -> int:
        """How often the kernel dropped events."""
        return self._pending.overflows

    @property
    def root_ok(self) -> bool:
        """Whether a directory stands at the root's path, and is the one that is watched, if one is."""
        tree = self._tree
        try:
            identity = identify(self._root)
        except OSError:
            return False
        return tree is None or (tree.identity == identity and tree.root_watched)

    def start(self) -> None:
        """Watch; returns when everything below the root is watched. Does nothing if it runs already."""
        with self._lock:
            if not self._running:
                self._running = True
                self._open()

    def stop(self) -> None:
        """Stop within a few seconds. What was not taken can still be taken; ``start`` may follow."""
        with self._lock:
            self._running = False
            self._close()

    def take(self, besides: Collection[str] = ()) -> Hints:
        """Everything since the last call, coalesced. The hints of the sessions ``besides`` stay here."""
        return self._pending.take(besides)

    def uncovered(self) -> frozenset[str]:
        """Directories, relative to the root, that are not watched with all that is below them; "." is the root.

        No watch was left, no right to read, or no inotify instance. Scan these at a short interval.
        """
        tree = self._tree
        return tree.uncovered() if tree is not None else frozenset((".",))

    def healthy(self) -> bool:
        """Whether the right root is watched, by a living thread that hears its canary."""
        tree = self._tree
        return tree is not None and self._ailment(tree) is None

    def listen(self, below: str) -> Arrivals | None:
        """Start to collect names that appear below a directory, given relative to the root ("" or ending in "/").

        Returns None if events may be missing. The caller ends it with ``end_listening``.
        """
        arrivals = Arrivals(below)
        with self._lock:
            self._pending.listeners = (*self._pending.listeners, arrivals)
        uncovered = self.uncovered()
        hidden = "." in uncovered or any(f"{path}/".startswith(below) for path in uncovered)
        if hidden or (below and is_within(below.rstrip("/"), uncovered)) or not self.healthy():
            self.end_listening(arrivals)
            return None
        return arrivals

    def end_listening(self, arrivals: Arrivals) -> None:
        """Stop collecting."""
        with self._lock:
            self._pending.listeners = tuple(other for other in self._pending.listeners if other is not arrivals)

    def hear(self, timeout: float) -> bool:
        """Wait until every event before this call has been handled. Returns False on timeout (in seconds)."""
        tree = self._tree
        return tree is not None and tree.hear(timeout) and tree is self._tree

    def tend(self) -> None:
        """Check and heal; to be called every few seconds. What a healing may have missed is asked for as a rescan."""
        with self._lock:
            if not self._running:
                return
            tree = self._tree
            if tree is None:
                reason = ROOT_REPLACED if self._trouble == ROOT_REPLACED else RESTART
                if self._open():
                    self._heal(reason)
            elif (ailment := self._ailment(tree)) is None:
                tree.mend()
            else:
                logger.warning("watching again: %s", ailment)
                self._close()
                if self._open():
                    self._heal(ailment)

    def _ailment(self, tree: Tree) -> str | None:
        if not self.root_ok:
            return ROOT_REPLACED
        if not tree.alive or tree.silent_for() > self._patience:
            return RESTART
        return None

    def _heal(self, reason: str) -> None:
        self.restarts += 1
        self._pending.rescan(reason)

    def _open(self) -> bool:
        try:
            self._tree = Tree(
                self._root, canary=self._canary, exclude=self._exclude, pending=self._pending, clock=self._clock
            )
        except (OSError, RuntimeError) as error:
            trouble = RESTART if self.root_ok else ROOT_REPLACED
            if trouble != self._trouble:
                logger.warning("the root cannot be watched, it is scanned instead: %s", error)
            self._trouble = trouble
            return False
        self._trouble = ""
        return True

    def _close(self) -> None:
        tree, self._tree = self._tree, None
        if tree is not None and not tree.close(CLOSE_TIMEOUT):
            logger.warning("a watcher thread hangs in a file system and is left behind")
