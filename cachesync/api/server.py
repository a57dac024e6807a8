"""The daemon's end of the control API: one thread, one event loop, one AF_UNIX socket, and TCP if that is wanted."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.http import HttpProcessingError

from cachesync.api.agents import AgentDoor, AgentRoutes, agents_site
from cachesync.api.http_io import Connection, as_json, take_expectations
from cachesync.api.routes import MAX_BODY, Routes
from cachesync.api.tcp import Door, Site, tcp_site
from cachesync.api.unix_socket import UnixSocket
from cachesync.model.errors import CacheSyncError
from cachesync.model.verbs import Verbs

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
    """Serves ``verbs`` on the socket at ``path``, for its owner or for ``group``: see UnixSocket.

    ``ready`` and ``live`` are asked by /readyz and /healthz and must not block. The same is served on TCP at ``door``,
    which stays open. With ``agents`` it is the agents' socket, which has a thread of its own so that nothing that they
    ask holds up the operator's.
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
        agents: AgentDoor | None = None,
    ) -> None:
        self._verbs = verbs
        self._path = path
        self._socket = UnixSocket(path, group, for_others=agents is not None)
        self._ready = ready
        self._live = live
        self._door = door
        self._agents = agents
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._grace = 0.0

    def start(self) -> None:
        """Open the socket and serve it; see UnixSocket.listen for what it raises and when to call it."""
        listener = self._socket.listen()
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
        self._socket.remove()
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
        # A client that goes away does not cancel its handler: that is aiohttp's default, and what a flush needs.
        settings: dict[str, Any] = {
            "access_log": None,
            "logger": _http_log,
            "max_line_size": MAX_REQUEST_LINE,
            "lingering_time": 1.0,
            "auto_decompress": False,  # nobody reads what is compressed, and to unpack it may take any memory
        }
        routes, sites = self._sites(listener, settings)
        for site in sites:
            await site.start()
        self._stop = stop
        started.set()
        await stop.wait()
        for site in sites:
            await site.shut()
        if waiting := set().union(*(lane.waiting() for lane in routes.lanes)):
            await asyncio.wait(waiting, timeout=self._grace)
        for lane in routes.lanes:
            lane.give_up()
        await asyncio.gather(*(site.cleanup() for site in sites))

    def _sites(
        self, listener: socket.socket, settings: Mapping[str, Any]
    ) -> tuple[Routes | AgentRoutes, list[_OwnSite | Site]]:
        if self._agents is not None:
            for_agents = AgentRoutes(self._verbs, self._ready, self._live, self._agents)
            return for_agents, [agents_site(for_agents, listener, settings)]
        routes = Routes(self._verbs, self._ready, self._live)
        sites: list[_OwnSite | Site] = [_OwnSite(routes, listener, settings)]
        if self._door is not None:
            sites.append(tcp_site(self._door, routes.table(), MAX_BODY, settings))
        return routes, sites


class _OwnSite:
    """The operator's socket: every route, for as many connections as there are."""

    def __init__(self, routes: Routes, listener: socket.socket, settings: Mapping[str, Any]) -> None:
        app = web.Application(middlewares=[as_json], client_max_size=MAX_BODY)
        app.add_routes(routes.table())
        self._runner = web.AppRunner(app, shutdown_timeout=0.5, **settings)
        self._listener = listener
        self._settings = settings
        self._listening: asyncio.Server | None = None

    async def start(self) -> None:
        """Take connections."""
        await self._runner.setup()
        take_expectations(self._runner)
        server = self._runner.server
        assert server is not None  # noqa: S101  # it is set up
        connection = partial(Connection, server, self._settings)
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(connection, sock=self._listener, backlog=BACKLOG)

    async def shut(self) -> None:
        """Take no more connections; those that there are go on."""
        if self._listening is not None:
            self._listening.close()

    async def cleanup(self) -> None:
        """End all connections."""
        await self._runner.cleanup()
