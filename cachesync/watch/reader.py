"""watchdog's inotify descriptor and its reader thread, hardened. Private API of watchdog 7.1.0, so that is pinned.

We stop at watchdog's InotifyFD and leave its emitters, observer and events out: they keep a table of paths that one
sequence of renames breaks for good (the thread dies of a KeyError while ``is_alive()`` stays true), hold every event
behind an unmatched move back for 500 ms, and cost two more threads and several objects per event.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import time

from watchdog.observers.inotify_c import (
    DEFAULT_EVENT_BUFFER_SIZE,
    CallbackId,
    InotifyEvent,
    InotifyFD,
    Mask,
    Watch,
    WatchCallback,
    WatchDescriptor,
    inotify_add_watch,
)
from watchdog.observers.inotify_c import InotifyConstants as In

logger = logging.getLogger(__name__)

_BUSY = 0.005
_GATHER = 0.002
_GATHER_AT_MOST = 0.016
"""Seconds. Where events come this close together, some are gathered before they are read, and more the longer that goes
on: to be woken for each takes a processor from whoever makes them, several times over."""

_REPEATED = In.IN_MODIFY | In.IN_ATTRIB | In.IN_CLOSE_WRITE
"""What programs may do to one file by the thousand, and what says no more the second time."""


class Reader(InotifyFD):
    """One inotify instance and the thread that reads it.

    No callback can end the thread, every refused watch is an OSError (watchdog takes EACCES for success), the
    descriptor stays out of child processes, and however the thread ends, the descriptors are closed exactly once.

    Raises OSError when no instance is to be had (EMFILE: fs.inotify.max_user_instances).
    """

    def __init__(self) -> None:
        try:
            super().__init__()
        except OSError:
            if (descriptor := getattr(self, "_inotify_fd", -1)) >= 0:
                os.close(descriptor)  # the pipe was one descriptor too many
            raise

    @classmethod
    def _create_inotify_fd(cls) -> int:
        descriptor = super()._create_inotify_fd()
        os.set_inheritable(descriptor, False)
        return descriptor

    def start(self) -> None:
        """Start to read. Raises RuntimeError when the system gives no thread."""
        try:
            super().start()
        except RuntimeError:
            self._release()
            raise

    def run(self) -> None:
        """Read until told to stop."""
        before, gather = 0.0, _GATHER
        try:
            while self.should_keep_running():
                events = self.read_events()
                now = time.monotonic()
                for event in events:
                    try:
                        self.handle_event(event)
                    except Exception:
                        logger.exception("an inotify event could not be handled: %r", event)
                if now - before < _BUSY + gather:
                    self.stopped_event.wait(gather)
                    gather = min(gather * 1.5, _GATHER_AT_MOST)
                else:
                    gather = _GATHER
                before = now
        except Exception:
            logger.exception("the inotify reader ends; it is started again")
        finally:
            self._release()

    def read_events(self, *, event_buffer_size: int = DEFAULT_EVENT_BUFFER_SIZE) -> list[InotifyEvent]:
        """Wait for events and return them. One that says what the last one of its name said is left out."""
        latest: dict[tuple[WatchDescriptor, bytes], Mask] = {}
        events = []
        for wd, mask, cookie, name in self._parse_event_buffer(self._read_event_buffer(event_buffer_size)):
            if mask & _REPEATED and latest.get((wd, name)) == mask:
                continue
            latest[wd, name] = mask
            if wd != -1 or mask & In.IN_Q_OVERFLOW:
                events.append(InotifyEvent(wd, mask, cookie, name))
        return events

    def shut(self, timeout: float) -> bool:
        """Tell the thread to end and wait at most twice ``timeout`` seconds; returns whether it ended.

        A thread that hangs in a file system cleans up behind itself when that lets it go.
        """
        self.stopped_event.set()
        if self._lock.acquire(timeout=timeout):
            try:
                if not self._closed:
                    os.write(self._kill_w, b"!")
            finally:
                self._lock.release()
        self.join(timeout)
        return not self.is_alive()

    def _release(self) -> None:
        with self._lock:
            if not self._closed:
                self._closed = True
                self._watch_for_wd.clear()  # the kernel drops the watches with the descriptor
                self._close_resources()

    def _add_callback(self, path: bytes, mask: Mask, callback: WatchCallback, id_: CallbackId) -> WatchDescriptor:
        # Without watchdog's warning: to watch a directory again under its new name is how a rename is followed.
        watch = self._get_or_create_watch(path, mask)
        watch.callbacks[id_] = callback
        return watch.wd

    def _get_or_create_watch(self, path: bytes, mask: Mask) -> Watch:
        if self._closed:  # the number of the descriptor may be somebody else's by now
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        wd = inotify_add_watch(self._inotify_fd, path, mask)
        if wd == -1:
            cause = ctypes.get_errno()
            raise OSError(cause, os.strerror(cause))
        watch = self._watch_for_wd.get(wd)
        if watch is None:
            watch = self._watch_for_wd[wd] = Watch(wd, mask, path)
        return watch

    def _remove_callback(self, wd: WatchDescriptor, id_: CallbackId) -> None:
        if not self._closed:
            super()._remove_callback(wd, id_)
