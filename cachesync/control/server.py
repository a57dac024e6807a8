"""The daemon's end of the control API: one thread, one event loop, one AF_UNIX socket for its owner alone, and TCP if
that is wanted.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.http import HttpProcessingError

from cachesync.control.address import connect, short_address
from cachesync.control.exchange import as_json, take_expectations
from cachesync.control.routes import MAX_BODY, Routes
from cachesync.control.tcp import Door, TcpSite
from cachesync.errors import CacheSyncError, ConfigError, DaemonUnavailable, is_passing
from cachesync.verbs import Verbs

BACKLOG = 512
START_TIMEOUT = 10.0
MAX_REQUEST_LINE = 16 * 1024
"""Bytes: a path of 4,096 bytes, each percent-encoded, and some room."""

_log = logging.getLogger(__name__)
_http_log = logging.getLogger(f"{__name__}.http")


def _is_about_us(record: logging.LogRecord) -> bool:
    """Not what a client said that is no HTTP: it is told so, and its bytes may be a secret."""
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError | web.RequestPayloadError)


_http_log.addFilter(_is_about_us)


class ControlServer:
    """Serves ``verbs`` on the socket at ``path``: mode 0600, or 0660 for ``group`` (a name or a number).

    ``ready`` and ``live`` are asked by /readyz and /healthz and must not block. A socket that nobody serves is
    replaced; anything else that stands at ``path`` is left alone and is an error. The same is served on TCP at
    ``door``, which stays open.
    """

    def __init__(
        self,
        verbs: Verbs,
        path: Path,
        group: str | None,
        *,
        ready: Callable[[], bool],
        live: Callable[[], bool],
        door: Door | None = None,
    ) -> None:
        self._verbs = verbs
        self._path = path
        self._group = group
        self._ready = ready
        self._live = live
        self._door = door
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._grace = 0.0
        self._inode = (0, 0)

    def start(self) -> None:
        """Open the socket and serve it. Raises ConfigError if the socket cannot be created, DaemonUnavailable if the
        error is temporary.

        The umask is the process's, and is narrowed for the moment of the bind: start this before threads that create
        files.
        """
        group = None if self._group is None else _group_id(self._group)
        try:
            listener = self._bound(group)
        except OSError as error:
            if is_passing(error):
                hint = "start the daemon again later, or run cachesync doctor"
                raise DaemonUnavailable("open the control socket", str(self._path), error.strerror, hint) from error
            raise ConfigError("open the control socket", str(self._path), error.strerror or error) from error
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(listener, started), name="control", daemon=True)
        self._thread.start()
        if not started.wait(START_TIMEOUT) or self._stop is None:
            raise CacheSyncError("serve", str(self._path), "the control socket's thread did not start", "see the log")

    def stop(self, grace: float = 1.0) -> None:
        """Take no more requests, let those under way end for ``grace`` seconds, answer the rest, remove the socket.

        Returns within ``grace`` and about two seconds more, whatever the verbs do. May be called twice.
        """
        thread, self._thread = self._thread, None
        stop, loop = self._stop, self._loop
        if thread is None:
            return
        self._grace = grace
        self._remove_if_ours()
        if stop is None or loop is None:  # the thread has ended by itself
            return
        with suppress(RuntimeError):  # or does so right now
            loop.call_soon_threadsafe(stop.set)
        thread.join(grace + 2.0)

    def _run(self, listener: socket.socket, started: threading.Event) -> None:
        try:
            asyncio.run(self._serve(listener, started))
        except Exception:  # noqa: BLE001  # nobody waits for this thread: the log is where it can be said
            _log.exception("the control socket %s is not served any more", self._path)
        finally:
            self._stop = None
            started.set()

    async def _serve(self, listener: socket.socket, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        routes = Routes(self._verbs, self._ready, self._live)
        app = web.Application(middlewares=[as_json], client_max_size=MAX_BODY)
        app.add_routes(routes.table())
        # A client that goes away does not cancel its handler: that is aiohttp's default, and what a flush needs.
        settings: dict[str, Any] = {
            "access_log": None,
            "logger": _http_log,
            "max_line_size": MAX_REQUEST_LINE,
            "lingering_time": 1.0,
            "auto_decompress": False,  # nobody reads what is compressed, and to unpack it may take any memory
        }
        runner = web.AppRunner(app, shutdown_timeout=0.5, **settings)
        await runner.setup()
        take_expectations(runner)
        site = web.SockSite(runner, listener, backlog=BACKLOG)
        await site.start()
        tcp = None if self._door is None else TcpSite(self._door, routes.table(), MAX_BODY, settings)
        if tcp is not None:
            await tcp.start()
        self._stop = stop
        started.set()
        await stop.wait()
        await site.stop()
        if tcp is not None:
            tcp.shut()
        if waiting := set().union(*(lane.waiting() for lane in routes.lanes)):
            await asyncio.wait(waiting, timeout=self._grace)
        for lane in routes.lanes:
            lane.give_up()
        await asyncio.gather(runner.cleanup(), *([] if tcp is None else [tcp.cleanup()]))

    def _bound(self, group: int | None) -> socket.socket:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with short_address(self._path) as address:
                self._clear(address)
                before = os.umask(0o177)  # the socket is born 0600: there is no moment when others can connect
                try:
                    listener.bind(address)
                finally:
                    os.umask(before)
                if group is not None:
                    os.chown(address, -1, group)
                    os.chmod(address, 0o660)
                made = os.lstat(address)
                self._inode = (made.st_dev, made.st_ino)
        except BaseException:
            listener.close()
            raise
        return listener

    def _clear(self, address: str) -> None:
        """Remove the socket of a daemon that is gone. Raises ConfigError for anything else that is in the way."""
        try:
            found = os.lstat(address)
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(found.st_mode):
            raise ConfigError("open the control socket", str(self._path), "something that is not a socket is there")
        try:
            connect(self._path, timeout=1.0).close()
        except OSError as error:
            if error.errno != errno.ECONNREFUSED:
                raise
            os.unlink(address)
            return
        cause = "another process serves it"
        raise ConfigError("open the control socket", str(self._path), cause, "give each daemon a socket of its own")

    def _remove_if_ours(self) -> None:
        try:
            with short_address(self._path) as address:
                found = os.lstat(address)
                if (found.st_dev, found.st_ino) == self._inode:
                    os.unlink(address)
        except OSError as error:
            _log.debug("socket %s is gone already: %s", self._path, error)


def _group_id(name: str) -> int:
    import grp  # not on every system, and needed for a group only

    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError("socket group", name, "there is no such group") from None
