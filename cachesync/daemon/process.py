"""The daemon: keeps an engine running, feeds it with hints and scans, serves the socket, and ends in order."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cachesync.config.undumpable import hide_memory
from cachesync.model.errors import CacheSyncError, ExitCode, RootLocked
from cachesync.model.events import Events
from cachesync.model.verbs import Verbs
from cachesync.telemetry.activity import Activity

if TYPE_CHECKING:
    from cachesync.api.agents import AgentDoor
    from cachesync.api.tcp import Door
    from cachesync.config import Config
    from cachesync.daemon.engine import Engine
    from cachesync.daemon.reconciler import Attendant
    from cachesync.journal.journal import Journal
    from cachesync.store.base import ObjectStore
    from cachesync.store.devserver import DevServer

logger = logging.getLogger(__name__)

Announce = Callable[[list[str]], None]

_TEND = 1.0
_REPLACED = 2
"""How many looks in a row, a second apart, must find another root or state folder before it is taken for the new one:
what is being remounted is back by then."""

_LOCKED = 0.05
"""Seconds between two attempts to lock the root while a command holds the lock."""

_TELL_LOCKED = 1.0
"""Seconds of waiting after which the daemon logs it; also the interval of messages to systemd."""

_EXTENSION = 10.0
"""Seconds by which each message extends systemd's start timeout."""

_LAST_METRICS = 3.0
"""Seconds for the last metrics after the drain."""

_GRACE = 5.0
"""Seconds after the drain until the process ends itself. A thread that waits for a file system that does not answer
cannot be joined."""

_NICE = 10
"""A tenth of the weight of a program on a busy processor, and all of an idle one."""


@contextlib.contextmanager
def open_service(config: Config, *, work: bool = True, create_root: bool = False) -> Iterator[Verbs]:
    """The verbs in this process, for a command that finds no daemon; without ``work`` it only looks.

    Raises RootLocked, UsageError.
    """
    from cachesync.daemon.engine import Engine
    from cachesync.daemon.store_factory import open_store

    store = open_store(config)
    with contextlib.ExitStack() as stack:
        stack.callback(store.close)
        engine = Engine(config, store, create_root=create_root, bind=work, watched=False)
        stack.callback(engine.close, 0.2)
        if work:
            engine.start()
        yield engine.service


def run(config: Config, dev_server: Path | None = None, announce: Announce = lambda _lines: None) -> int:
    """Serve the root until a signal; ``announce`` gets what to tell a person once it watches.

    0 if everything was stored at the end, 4 if something is left.
    """
    from cachesync.daemon.store_factory import check_remote, open_store
    from cachesync.root.lock import check_free
    from cachesync.store.devserver import DevServer
    from cachesync.telemetry.logs import configure

    check_remote(config, dev_server=dev_server is not None)
    configure(config.log_format, config.log_level)
    with contextlib.ExitStack() as stack:
        listener = None
        if config.http is not None:
            from cachesync.api.tcp import listen
            from cachesync.api.token import check_token

            check_token(config.http_token)
            check_free(config.state, config.root)
            listener = stack.enter_context(listen(config.http))
        server = None
        if dev_server is not None:
            check_free(config.state, config.root)
            server = DevServer(dev_server)
            server.start()
            stack.callback(server.stop)
            if config.store.bucket is not None:
                server.make_bucket(config.store.bucket, versioned=True)
        _step_back()
        sys.setswitchinterval(0.001)  # beside threads that compute, one that moves a file waits for each of its turns
        hide_memory()
        store = open_store(config, server)
        stack.callback(store.close)
        code = Daemon(config, store, server, announce, listener).run()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _end(cause: bytes) -> None:
    """End the process at once, whatever its threads wait for."""
    os.write(2, b"cachesync: " + cause + b"; the next start stores the rest\n")
    os._exit(ExitCode.UNFINISHED)


def _step_back() -> None:
    """Let those whose files these are go first, in this thread and all that it starts: one that writes is not
    interrupted for what it wrote, which then comes by the dozen (sched(7), SCHED_BATCH). How nice an operator made this
    process stays as it is."""
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError):  # a sandbox may forbid the one and not the other
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    with contextlib.suppress(OSError):
        if os.getpriority(os.PRIO_PROCESS, 0) == 0:
            os.nice(_NICE)
            if os.getsid(0) == os.getpid():
                # Where each session is a group of its own, niceness counts only inside one (sched(7), autogroup): as
                # nobody else is in ours, the group itself steps back.
                Path("/proc/self/autogroup").write_text(str(_NICE))


class Daemon:
    """One run of ``cachesync run``. When the root or the state folder is replaced under it, it builds itself anew."""

    def __init__(
        self,
        config: Config,
        store: ObjectStore,
        dev_server: DevServer | None = None,
        announce: Announce = lambda _lines: None,
        listener: socket.socket | None = None,
    ) -> None:
        from cachesync.daemon.expiry import Expiry
        from cachesync.daemon.store_factory import credentials_of
        from cachesync.telemetry.notify import Notifier

        self._config = config
        self._store = store
        self._dev_server = dev_server
        self._announce = announce
        self._listener = listener
        self._notifier = Notifier(os.environ)
        self._begun = time.time()
        self._events = Events()
        self._activity = Activity(time.time)
        self._events.join(self._activity.hear)
        self._expiry = Expiry(credentials_of(config, store), time.time)
        self._signals = 0
        self._signalled = threading.Event()

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        with self._watched():
            return self._serve_until_signalled()

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Tell those who watch from outside, as far as that is asked for."""
        self._expiry.start()
        cloudwatch = None
        if self._config.cloudwatch:
            from cachesync.telemetry.cloudwatch import CloudWatch

            cloudwatch = CloudWatch(self._config.region)
            self._events.join(cloudwatch.hear)
            cloudwatch.start()
        try:
            yield
        finally:
            self._expiry.stop()
            if cloudwatch is not None:
                cloudwatch.stop(_LAST_METRICS)

    def _serve_until_signalled(self) -> int:
        code, first = None, True
        while code is None:
            try:
                code = self._serve(first=first)
            except RootLocked:
                if not self._signalled.is_set():
                    raise  # another daemon has the root
                code = ExitCode.UNFINISHED  # a command holds the lock, so it is unknown what is not stored
            except CacheSyncError as error:
                if first:
                    raise
                logger.error("%s", error)
                if self._signalled.wait(_TEND):
                    code = ExitCode.UNFINISHED
            first = False
        self._notifier.send("STOPPING=1")
        return code

    def _on_signal(self, _number: int, _frame: object) -> None:
        self._signals += 1
        self._signalled.set()
        if self._signals > 1:
            _end(b"stopped at once")
        cause = b"not stopped in time, perhaps a file system does not answer"
        timer = threading.Timer(self._config.drain_timeout + _GRACE, _end, (cause,))
        timer.daemon = True
        timer.start()

    def _serve(self, *, first: bool) -> int | None:
        """One engine's life; None to begin again."""
        from cachesync.api.server import ControlServer
        from cachesync.daemon.engine import Engine
        from cachesync.daemon.metrics_collector import Measuring
        from cachesync.daemon.reconciler import Attendant

        engine = Engine(
            self._config,
            self._store,
            create_root=first,
            since=self._begun,
            wait=self._waiting(),
            events=self._events,
            activity=self._activity,
            endpoint=None if self._dev_server is None else f"dev-server {self._dev_server.folder}",
        )
        attendant = Attendant(engine, self._notifier)
        engine.service.notes = lambda: [*attendant.notes(), *self._expiry.notes()]
        engine.service.measure = Measuring(engine, attendant.watcher, self._begun, self._expiry)
        door: Door | None = None
        agents = self._agents(engine.journal)

        def serve(path: Path) -> ControlServer:
            of_agents = agents is not None and path == agents.path
            server = ControlServer(
                engine.service,
                path,
                self._config.agent_group if of_agents else self._config.socket_group,
                ready=lambda: not self._signalled.is_set() and attendant.root_ok,
                live=lambda: attendant.alive,
                door=None if of_agents else door,
                agents=agents if of_agents else None,
            )
            server.start()
            return server

        controls: dict[Path, ControlServer] = {}
        code: int | None = None
        try:
            door = self._door()
            for path in (self._config.socket, *([] if agents is None else [agents.path])):
                controls[path] = serve(path)
            if not first:
                engine.journal.sessions.unlearn_all()
            engine.start()
            attendant.start()
            if first:
                self._announce(self._lines(door))
            self._notifier.send("READY=1", f"STATUS=watching {self._config.root}")
            replaced_for = 0
            while not self._signalled.wait(_TEND):
                attendant.tend()
                self._tend_server()
                in_place = attendant.root_ok and engine.in_place()
                for path in [path for path in controls if in_place and not path.exists()]:
                    logger.warning("the control socket %s was removed: making it again", path)
                    controls[path].stop(grace=0.1)
                    controls[path] = serve(path)
                replaced = not in_place and self._config.root.is_dir()
                replaced_for = replaced_for + 1 if replaced else 0
                if replaced_for > _REPLACED:
                    logger.error("the root or the state folder is another one now: beginning anew, nothing is deleted")
                    break
            else:
                code = self._drain(engine, attendant)
        finally:
            attendant.stop()
            for path, control in controls.items():
                control.stop(1.0 if path == self._config.socket else 0.2)
            if not engine.close():
                logger.warning("a transfer was still hanging; it is tried again by the next start")
        return code

    def _waiting(self) -> Callable[[RootLocked], None]:
        """Return the callback that waits while a command holds the lock, and raises on a signal."""
        begun = told_at = time.monotonic()

        def wait(locked: RootLocked) -> None:
            nonlocal told_at
            if self._signalled.wait(_LOCKED):
                raise locked
            if (now := time.monotonic()) - told_at >= _TELL_LOCKED:
                if told_at == begun:
                    logger.warning("waiting for the root %s: %s", self._config.root, locked.reason)
                told_at = now
                self._notifier.send(f"STATUS=waiting: {locked.reason}")
                self._notifier.extend(_EXTENSION)

        return wait

    def _tend_server(self) -> None:
        """The embedded S3 server is our child: when it ends, nobody else starts it again."""
        server = self._dev_server
        if server is None or server.running:
            return
        logger.error("the embedded S3 server ended (see %s); starting it again", server.log)
        try:
            server.start()
        except CacheSyncError as error:
            logger.error("%s", error)

    def _agents(self, journal: Journal) -> AgentDoor | None:
        """The agents' socket, if there is to be one."""
        from cachesync.api.agents import AgentDoor

        if (config := self._config).agent_socket is None:
            return None

        def owner(session: str) -> int | None:
            row = journal.sessions.get(session)
            return None if row is None or row.rights is None else row.rights.uid

        return AgentDoor(config.agent_socket, config.root, config.agent_read or (), owner)

    def _door(self) -> Door | None:
        """The listening socket, and the token that opens it: the configured one, or the state folder's."""
        from cachesync.api.tcp import Door
        from cachesync.api.token import kept_token

        config, listener = self._config, self._listener
        if config.http is None or listener is None:
            return None
        token = config.http_token or kept_token(config.state)
        door = Door(listener, config.http.host, config.http_names or (), token)
        if door.beyond:
            logger.warning("http is served beyond this machine, in the clear: put TLS in front of it (docs/page.md)")
        return door

    def _page_line(self, door: Door) -> str:
        """Where the page is. Its token is shown where nothing writes it down: on a terminal, and only our own."""
        from cachesync.api.token import NAME

        if self._config.http_token is not None:
            return f"page      {door.address}, with the token of the setting http_token"
        if sys.stderr.isatty():
            return f"page      {door.address}#token={door.token}"
        return f"page      {door.address}, with the token in {self._config.state / NAME}"

    def _lines(self, door: Door | None) -> list[str]:
        """Three lines: what is watched, where it goes, what to type next; before the last, where the page is."""
        config = self._config
        where = config.store.shown
        if self._dev_server is not None:
            where += f" on the embedded S3 server at {self._dev_server.endpoint}"
        elif config.embedded:
            where += " (nothing is configured, so a folder of this machine; see cachesync config)"
        demo = f"{config.root}/demo"
        command = "cachesync" if shutil.which("cachesync") else sys.argv[0]
        if command.endswith("__main__.py"):
            command = f"{sys.executable} -m cachesync"
        flags = "" if config.root == Path.cwd() / "sessions" else f" --root {config.root}"
        return [
            f"watching  {config.root}/SESSION/...",
            f"storing   in {where}",
            *([] if door is None else [self._page_line(door)]),
            f"try       mkdir -p {demo} && date > {demo}/hello.txt && {command} flush demo{flags}",
        ]

    def _drain(self, engine: Engine, attendant: Attendant) -> int:
        """Store the remaining files, for up to ``drain_timeout`` seconds. Returns the exit code."""
        from cachesync.daemon.drain import Drain

        timeout = self._config.drain_timeout
        logger.info("stopping: storing what is left, for at most %g s; a second signal stops at once", timeout)
        self._notifier.send("STOPPING=1", "STATUS=draining")
        self._notifier.extend(timeout + _GRACE + 1)
        deadline = time.monotonic() + timeout
        attendant.stop()
        return Drain(engine, deadline).run()
