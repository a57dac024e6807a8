"""``cachesync mount``: two processes kept alive, the daemon of ``cachesync run`` and the mount's server.

When the server dies its mount answers every program with ENOTCONN, never with zeros, until a new one is mounted over
it. When the daemon dies the mount goes on: what stands in the root is read and written as before, and what would have
to be fetched is an error until the daemon is back.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from cachesync import fuse
from cachesync.api.client import ControlClient
from cachesync.config.undumpable import hide_memory
from cachesync.model.errors import CacheSyncError, DaemonUnavailable, ExitCode, UsageError
from cachesync.mount.serve import Plan
from cachesync.telemetry.notify import Notifier

logger = logging.getLogger(__name__)

_LOOK = 0.1
_START = 60.0
"""Seconds that each of the two gets to begin."""

_PAUSES = (0.2, 1.0, 5.0, 15.0)
"""Seconds before one that died is started again; the last one stays. Who has lived longer than that begins anew."""

_GRACE = 10.0
"""Seconds beyond ``drain_timeout`` until a daemon that was told to stop counts as hanging."""


@dataclass(slots=True)
class Child:
    """One of the two processes, and how often it has died of late."""

    name: str
    start: Callable[[], subprocess.Popen[str]]
    process: subprocess.Popen[str] | None = None
    deaths: int = 0
    began: float = 0.0
    again_at: float = field(default=float("-inf"))

    def begin(self) -> None:
        """Start it."""
        self.process = self.start()
        self.began = time.monotonic()

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None

    def buried(self) -> str | None:
        """How it ended, if it did since it was last asked; and then when it is to be started again."""
        if self.process is None or (code := self.process.poll()) is None:
            return None
        self.process = None
        if time.monotonic() - self.began > _PAUSES[-1]:
            self.deaths = 0
        self.put_off()
        return f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"

    def put_off(self) -> None:
        """Try again later, each time a little more so."""
        self.again_at = time.monotonic() + _PAUSES[min(self.deaths, len(_PAUSES) - 1)]
        self.deaths += 1


class Supervisor:
    """Serves one mount until a signal, or until it is unmounted. ``daemon`` is the command of the daemon, ``server``
    what the server is told; a daemon that serves the socket already is used as it is."""

    def __init__(
        self,
        plan: Plan,
        client: ControlClient,
        daemon: Sequence[str],
        server: dict[str, object],
        *,
        drain_timeout: float,
        announce: Callable[[], None],
    ) -> None:
        self._plan = plan
        self._client = client
        self._drain_timeout = drain_timeout
        self._announce = announce
        self._notifier = Notifier(os.environ)
        self._stop = threading.Event()
        self._daemon = Child("daemon", lambda: _start_daemon(daemon))
        self._server = Child("server", lambda: _start_server(server))
        self._foreign = False
        self._number: int | None = None
        """Of the mount that the server serves."""

    def run(self) -> int:
        """0 if everything was stored at the end, 4 if not. Raises UsageError, DaemonUnavailable."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        hide_memory()
        free(self._plan.directory)
        try:
            self._foreign = self._client.is_serving()
            if not self._foreign:
                self._daemon.begin()
            self._await_daemon()
            self._server.begin()
            self._await_server()
            self._announce()
            self._notifier.send("READY=1", f"STATUS={self._plan.directory} shows {self._plan.root}")
            self._watch()
        finally:
            code = self._end()
        return code

    # -- beginning -----------------------------------------------------------------------------------------------------

    def _await_daemon(self) -> None:
        deadline = time.monotonic() + _START
        while not self._client.is_serving():
            if not self._daemon.alive and self._daemon.process is not None:
                raise DaemonUnavailable(
                    "start", "the daemon", f"it ended: {self._daemon.buried()}", "its error is above"
                )
            if self._stop.wait(_LOOK) or time.monotonic() > deadline:
                raise DaemonUnavailable("start", "the daemon", "it does not answer", "see its log")

    def _await_server(self) -> None:
        """Wait until the server reports that the mount is ready. Raises UsageError if the server reports an error;
        DaemonUnavailable if it ends or does not get ready."""
        process = self._server.process
        assert process is not None, "it was begun"  # noqa: S101
        line = _first_line(process, self._stop)
        if line != "ready":
            process.kill()
            if not line:
                stopping = "the server was told to stop" if self._stop.is_set() else "the server did not get ready"
                cause = stopping if line is None else "the server ended at once; its error is above"
                raise DaemonUnavailable("mount", self._plan.directory, cause)
            raise UsageError("mount", self._plan.directory, line)
        found = fuse.mounted(self._plan.directory)
        self._number = None if found is None else found.number

    def _taken_away(self) -> bool:
        """Whether the mount of a server that has ended is gone: who kills a server leaves it, who unmounts it does not.
        What an earlier server left below it does not matter."""
        number, self._number = self._number, None
        return number is not None and all(
            found.number != number for found in fuse.mounts() if found.path == self._plan.directory
        )

    # -- while it runs -------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._stop.wait(_LOOK):
            if (ended := self._server.buried()) is not None:
                if self._taken_away():
                    logger.info("%s was unmounted", self._plan.directory)
                    return
                logger.error("the mount's server ended: %s; programs get ENOTCONN until it is back", ended)
            if (ended := self._daemon.buried()) is not None:
                logger.error("the daemon ended: %s; nothing is stored or fetched until it is back", ended)
            self._revive()
            if self._notifier.watchdog is not None and self._server.alive and self._daemon_alive():
                self._notifier.send("WATCHDOG=1")

    def _revive(self) -> None:
        now = time.monotonic()
        if self._daemon.process is None and now >= self._daemon.again_at and not self._daemon_alive():
            self._foreign = False
            self._daemon.begin()
        if self._server.process is None and now >= self._server.again_at:
            try:
                free(self._plan.directory)
                self._server.begin()
                self._await_server()
            except (CacheSyncError, OSError) as error:
                logger.error("%s", error)
                self._server.put_off()
            else:
                logger.warning("%s is mounted again", self._plan.directory)

    def _daemon_alive(self) -> bool:
        if not self._foreign:
            return self._daemon.alive
        try:
            return self._client.is_serving()
        except DaemonUnavailable:
            return True  # it is there, and busy

    # -- ending --------------------------------------------------------------------------------------------------------

    def _end(self) -> int:
        """Unmount, then let the daemon drain: what is written until then is stored too."""
        self._notifier.send("STOPPING=1", "STATUS=draining")
        self._notifier.extend(self._drain_timeout + _GRACE)
        try:
            fuse.unmount_all(self._plan.directory)
        except OSError as error:
            logger.warning("%s is in use (%s): no new program gets in", self._plan.directory, error.strerror)
            fuse.unmount_all(self._plan.directory, lazy=True)
        code = self._end_daemon()
        server = self._server.process
        if server is not None and server.poll() is None:
            server.terminate()
            _await_end(server, 2.0)
        return code

    def _end_daemon(self) -> int:
        process = self._daemon.process
        if process is None:
            return ExitCode.DONE  # somebody else's goes on, and stores what is left
        for patience in (self._drain_timeout + _GRACE, 2.0):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)  # the second one ends it at once
                self._stop.clear()
                deadline = time.monotonic() + patience
                while process.poll() is None and time.monotonic() < deadline and not self._stop.wait(_LOOK):
                    pass
        return ExitCode.DONE if process.poll() == 0 else ExitCode.UNFINISHED


def free(directory: str) -> None:
    """Let ``directory`` be ready to be mounted at. What a server that died has left stays below the new mount, as root:
    were it taken away first, programs would write into the directory itself meanwhile, and be told that all is well.

    Raises UsageError if something alive is there, or something that is not ours, or files.
    """
    while (found := fuse.mounted(directory)) is not None and found.kind == fuse.KIND:
        if (alive := _answers(directory)) is not False:
            cause = f"{found.source} is mounted there" if alive else "a mount is there that does not answer"
            raise UsageError("mount", directory, cause, f"cachesync umount {directory}")
        logger.warning("taking over the mount of a server that died: %s", directory)
        if os.geteuid() == 0:
            return
        fuse.unmount(directory, lazy=True)  # fusermount3 mounts at nothing that does not answer
    try:
        entries = os.listdir(directory)
    except OSError as error:
        raise UsageError("mount", directory, error.strerror, "name an empty directory") from error
    if entries:
        raise UsageError("mount", directory, "it is not empty, and what is in it would be hidden", "name an empty one")


def _answers(directory: str) -> bool | None:
    """Whether a mount's server lives; None if it says nothing in time."""
    answer: list[bool] = []

    def ask() -> None:
        try:
            os.statvfs(directory)  # which the kernel has no answer of its own to, as it may have to stat
            answer.append(True)
        except OSError as error:
            answer.append(error.errno not in (errno.ENOTCONN, errno.ECONNABORTED))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(2.0)
    return answer[0] if answer else None


def _start_daemon(command: Sequence[str]) -> subprocess.Popen[str]:
    environ = {name: value for name, value in os.environ.items() if name not in ("NOTIFY_SOCKET", "WATCHDOG_USEC")}
    return subprocess.Popen(
        command,
        env=environ,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # of its own: Ctrl-C is ours to tell
        preexec_fn=partial(fuse.die_with_parent, os.getpid()),  # noqa: PLW1509 -- it only calls prctl
    )


def _first_line(process: subprocess.Popen[str], stop: threading.Event) -> str | None:
    """What the server says first, "" if it ended instead; None if it says nothing in time, or we are to stop."""
    assert process.stdout is not None, "it is a pipe"  # noqa: S101
    descriptor, said, deadline = process.stdout.fileno(), b"", time.monotonic() + _START
    while time.monotonic() < deadline and not stop.is_set():
        if not select.select([descriptor], [], [], _LOOK)[0]:
            continue
        part = os.read(descriptor, 4096)
        said += part
        if not part or b"\n" in said:
            return said.partition(b"\n")[0].decode(errors="replace").strip()
    return None


def _start_server(told: dict[str, object]) -> subprocess.Popen[str]:
    # It speaks to the kernel and the daemon, and is told all else: no key to the store is its business.
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "S3_", "CACHESYNC_"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "cachesync.mount"],
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None, "it is a pipe"  # noqa: S101
    with contextlib.suppress(BrokenPipeError), process.stdin:  # it has ended before it listened, as will be seen
        process.stdin.write(json.dumps(told | {"parent": os.getpid()}) + "\n")
    return process


def _await_end(process: subprocess.Popen[str], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
