"""A program that runs the real daemon, again and again, and can have it killed at a named point.

``python -m tests.faults.crashing`` imports everything once and then forks a daemon for each line of JSON that it reads:
``{"environ": {...}, "log": PATH, "point": NAME or null, "nth": N, "fail_every": N}``. It answers with the child's pid,
and with how it ended. A point is "VERB.before" or "VERB.after"; at its ``nth`` hit the process kills itself. Nothing of
the product is edited: its verbs are wrapped from outside.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.warm import warm

STORE = ("put", "copy", "delete", "list")
"""Verbs of the store; "before" is before the request, "after" when the store has done it and nobody was told."""

MULTIPART = ("create", "part", "complete")

JOURNAL = {
    "mark": ("entries", "mark"),
    "mark_tree_gone": ("entries", "mark_tree_gone"),
    "confirm": ("work", "confirm"),
    "confirm_delete": ("work", "confirm_delete"),
    "fail": ("work", "fail"),
    "manifest_written": ("sessions", "manifest_written"),
    "learn": ("sessions", "learn"),
    "set_learned": ("sessions", "set_learned"),
    "upload_save": ("uploads", "save"),
    "upload_part": ("uploads", "add_part"),
    "upload_drop": ("uploads", "drop"),
}
"""Verbs of the journal; "before" is inside the transaction, all done but COMMIT, "after" is just after that."""

POINTS = tuple(
    f"{verb}.{when}"
    for verb in (
        *(f"store.{verb}" for verb in STORE),
        *(f"multipart.{verb}" for verb in MULTIPART),
        *(f"journal.{verb}" for verb in JOURNAL),
    )
    for when in ("before", "after")
)

_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None, use_errno=True).prctl


class Crash:
    """Counts the hits of one point, over all threads, and kills the process at the ``nth``."""

    def __init__(self, point: str | None, nth: int) -> None:
        assert point is None or point in POINTS
        self._point = point
        self._left = nth
        self._lock = threading.Lock()

    def hit(self, point: str) -> None:
        if point != self._point:
            return
        with self._lock:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


class CrashingStore:
    """A store whose verbs hit points; each ``fail_every``-th put fails as an overloaded store would."""

    def __init__(self, store: Any, crash: Crash, fail_every: int) -> None:
        self._store = store
        self._crash = crash
        self._fail_every = fail_every
        self._puts = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put(self, key: str, *args: Any, **kwargs: Any) -> Any:
        from cachesync.model.errors import StoreTransient

        self._puts += 1
        if self._fail_every and self._puts % self._fail_every == 0:
            raise StoreTransient("store", key, "made to fail by the test")
        return self._around("put", lambda: self._store.put(key, *args, **kwargs))

    def copy(self, *args: Any, **kwargs: Any) -> Any:
        return self._around("copy", lambda: self._store.copy(*args, **kwargs))

    def delete(self, *args: Any, **kwargs: Any) -> Any:
        return self._around("delete", lambda: self._store.delete(*args, **kwargs))

    def list(self, prefix: str, *, shallow: bool = False) -> Iterator[Any]:
        self._crash.hit("store.list.before")
        for info in self._store.list(prefix, shallow=shallow):
            yield info
            self._crash.hit("store.list.after")

    def _around(self, verb: str, act: Callable[[], Any]) -> Any:
        self._crash.hit(f"store.{verb}.before")
        done = act()
        self._crash.hit(f"store.{verb}.after")
        return done


def arm_journal(crash: Crash) -> None:
    """Put the journal's points in place, for every journal that is opened from now on."""
    from cachesync.journal.database import Database
    from cachesync.journal.entries import Entries
    from cachesync.journal.sessions import Sessions
    from cachesync.journal.uploads import Uploads
    from cachesync.journal.work import Work

    parts: dict[str, type] = {"entries": Entries, "work": Work, "sessions": Sessions, "uploads": Uploads}
    current = threading.local()
    plain_write = Database.write

    @contextlib.contextmanager
    def write(self: Database, *, durable: bool = False) -> Iterator[Any]:
        name = getattr(current, "verb", None)
        with plain_write(self, durable=durable) as db:
            yield db
            crash.hit(f"journal.{name}.before")
        crash.hit(f"journal.{name}.after")

    def arm(name: str, part: type, method: str) -> None:
        plain = getattr(part, method)

        def named(self: Any, *args: Any, **kwargs: Any) -> Any:
            current.verb = name
            try:
                return plain(self, *args, **kwargs)
            finally:
                current.verb = None

        setattr(part, method, named)

    Database.write = write  # type: ignore[method-assign]
    for name, (part, method) in JOURNAL.items():
        arm(name, parts[part], method)


def arm_multipart(crash: Crash) -> None:
    """Put the points of multipart uploads in place."""
    from cachesync.store.s3.multipart import Uploads

    plain_part, plain_create, plain_complete = Uploads._send_part, Uploads._create, Uploads._complete

    def send_part(self: Uploads, *args: Any) -> str:
        crash.hit("multipart.part.before")
        etag = plain_part(self, *args)
        crash.hit("multipart.part.after")
        return etag

    def create(self: Uploads, *args: Any, **kwargs: Any) -> Any:
        crash.hit("multipart.create.before")
        upload = plain_create(self, *args, **kwargs)
        crash.hit("multipart.create.after")
        return upload

    def complete(self: Uploads, *args: Any) -> Any:
        crash.hit("multipart.complete.before")
        version = plain_complete(self, *args)
        crash.hit("multipart.complete.after")
        return version

    for name, wrapped in (("_send_part", send_part), ("_create", create), ("_complete", complete)):
        setattr(Uploads, name, wrapped)


def daemon(order: dict[str, Any]) -> int:
    """Be the daemon that ``order`` asks for; returns its exit code."""
    from cachesync.config import load
    from cachesync.daemon.process import Daemon
    from cachesync.daemon.store_factory import open_store
    from cachesync.journal import counters
    from cachesync.telemetry.logs import configure

    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(order["environ"])
    if order["boot"] is not None:
        counters.BOOT = boot = Path(order["boot"])
        counters.booted_at = lambda: boot.stat().st_mtime
    config = load({}, os.environ, Path("/"))
    configure("json", "info")
    crash = Crash(order.get("point"), order.get("nth", 1))
    arm_journal(crash)
    arm_multipart(crash)
    break_watcher_on_signals()
    store = open_store(config)
    return Daemon(config, CrashingStore(store, crash, order.get("fail_every", 0))).run()


def break_watcher_on_signals() -> None:
    """SIGUSR1 ends the watcher's thread, SIGUSR2 leaves it alive and deaf."""
    from cachesync.watch.reader import Reader

    def readers() -> list[Reader]:
        return [thread for thread in threading.enumerate() if isinstance(thread, Reader)]

    def end(_number: int, _frame: object) -> None:
        for reader in readers():
            assert reader.ident is not None
            raised = ctypes.py_object(SystemExit)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(reader.ident), raised)

    def deafen(_number: int, _frame: object) -> None:
        for reader in readers():
            ears, _ = os.pipe()  # nobody ever writes there
            os.dup2(ears, reader._inotify_fd)

    signal.signal(signal.SIGUSR1, end)
    signal.signal(signal.SIGUSR2, deafen)


def say(line: str) -> None:
    """Tell whoever gave the orders."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Fork a daemon for each order, one at a time."""
    warm()
    say(json.dumps({"ready": True}))
    parent = os.getpid()
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
                if os.getppid() == parent:
                    code = daemon(order)
            except BaseException:  # noqa: BLE001 -- the child must not go back into the loop
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(code)
        say(json.dumps({"pid": pid}))
        _, status = os.waitpid(pid, 0)
        say(json.dumps({"ended": os.waitstatus_to_exitcode(status)}))


if __name__ == "__main__":
    main()
