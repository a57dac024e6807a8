"""Where a command finds the verbs: the daemon if one serves the socket, else a service in this process."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cachesync.api.socket_address import is_served, owners, serving_user
from cachesync.cli.arguments import SETTING
from cachesync.cli.waiting import told_of_silence
from cachesync.model.errors import ConfigError, DaemonUnavailable, RootLocked, UsageError
from cachesync.model.verbs import Verbs

if TYPE_CHECKING:
    from cachesync.api.client import ControlClient
    from cachesync.config import Config

PATIENCE = 5.0
"""Seconds to wait for a root whose owner does not answer: a daemon that starts, or another command."""

READING = frozenset({"ls", "cat", "get", "url", "history", "verify"})
"""Commands about what the store has: where there is no root yet, they ask the store alone."""

LOOKING = READING | {"status", "explain"}
"""Commands that change nothing: without a daemon, the root's files are looked at and not worked on."""

UNBOTHERED = frozenset({"status", "explain", "retry", "mcp"})
"""Commands that do not wait for the store, or wait for ever: nobody is told that it does not answer."""

STORING = frozenset({"flush", "close"})
"""Commands that report that everything is stored."""

BEGINNING = frozenset({"new", "open"})
"""Commands that a host may begin with: they make the root if there is none."""

DEV_STORE = "s3://cachesync"
"""Where ``run --dev-server`` stores unless a store is configured."""

_PASSING_CACHE = 64 * 2**20
"""Bytes: enough for the blocks that a reader fetches ahead, and little for a folder of temporary files."""

Connect = Callable[[], AbstractContextManager[Verbs]]


def load_config(options: argparse.Namespace) -> Config:
    """The configuration under this command's flags. Raises ConfigError."""
    from cachesync.config import load

    given = vars(options).items()
    flags = {name.removeprefix(SETTING): value for name, value in given if name.startswith(SETTING)}
    config = load(flags, os.environ, Path.cwd())
    if getattr(options, "dev_server", None) is not None and config.embedded:
        config = load({**flags, "store": DEV_STORE}, os.environ, Path.cwd())
    if config.embedded:
        from cachesync.daemon.store_factory import settled

        config = settled(config)
    return config


def check_daemons_store(client: ControlClient, config: Config) -> None:
    """Raise ConfigError if the daemon stores elsewhere than somebody asks for."""
    store = client.status().store
    if store != config.store.shown:
        hint = "leave --store out to work with that one, or name another root"
        raise ConfigError("use the store", config.store.shown, f"the daemon of this root stores in {store}", hint)


def _check_remote(client: ControlClient, config: Config, command: str | None) -> None:
    """Raise ConfigError if the daemon stores on this machine although ``require_remote`` is set, for a command that
    reports that everything is stored."""
    store = client.status().store if config.require_remote and command in STORING else ""
    if store.partition("://")[0] in ("file", "local", "memory"):
        from cachesync.config.kinds import parse_store
        from cachesync.daemon.store_factory import check_remote

        check_remote(replace(config, store=parse_store(store)))


@contextmanager
def connect(options: argparse.Namespace) -> Iterator[Verbs]:
    """The verbs, for the time of the block. Raises DaemonUnavailable if the root is owned and its owner is silent."""
    config = load_config(options)
    until = time.monotonic() + PATIENCE
    command = getattr(options, "command", None)
    with ExitStack() as stack:
        apart = _writes_apart(config, getattr(options, "into", None))
        verbs: Verbs | None = None
        while verbs is None:
            if not apart and is_served(config.socket, owners(config)):
                client = _client(config)
                if hasattr(options, f"{SETTING}store"):
                    check_daemons_store(client, config)
                _check_remote(client, config, command)
                verbs = client
                break
            from cachesync.daemon.process import open_service

            repairs = getattr(options, "repair", False)
            rootless = apart or (command in READING and not _has_root(config))
            if rootless:
                config = stack.enter_context(_passing_root(config))
            try:
                work = command not in LOOKING or repairs
                own = open_service(config, work=work, create_root=rootless or command in BEGINNING)
                verbs = stack.enter_context(own)
            except RootLocked as locked:
                if time.monotonic() > until:
                    raise DaemonUnavailable("ask the daemon at", str(config.socket), locked.reason) from None
                time.sleep(0.1)
        if command not in UNBOTHERED:
            stack.enter_context(told_of_silence(verbs))
        yield verbs


@contextmanager
def connect_to_daemon(options: argparse.Namespace) -> Iterator[Verbs]:
    """The verbs of the daemon alone, for the time of the block. Raises DaemonUnavailable if none serves the root."""
    config = load_config(options)
    if not is_served(config.socket, owners(config)):
        raise DaemonUnavailable("ask the daemon at", str(config.socket), "it is not there")
    yield _client(config)


def _client(config: Config) -> ControlClient:
    from cachesync.api.client import ControlClient  # not before a daemon is there: HTTP is a tenth of a flush

    return ControlClient.of(config)


def _writes_apart(config: Config, into: str | None) -> bool:
    """Whether ``open --into`` asks the store in this process, because the root's daemon runs as another user: what is
    written is the caller's, with the caller's rights. Raises ConfigError, UsageError."""
    if into is None or not is_served(config.socket, owners(config)):
        return False
    if serving_user(config.socket) == os.geteuid():
        return False
    if Path(into).resolve().is_relative_to(config.root.resolve()):
        raise UsageError("open into", into, "it is inside the root")
    store = _client(config).status().store
    if store != config.store.shown:
        cause = (
            f"the daemon runs as another user, so you need access to its store {store}; yours is {config.store.shown}"
        )
        raise ConfigError("open into", into, cause, "give this command the daemon's store and credentials")
    return True


def _has_root(config: Config) -> bool:
    """Whether there is a root, or was: a journal elsewhere means that it is missing, which is another matter."""
    return os.path.lexists(config.root) or (config.state / "journal.db").exists()


@contextmanager
def _passing_root(config: Config) -> Iterator[Config]:
    """The same with an empty root and state that are gone after the command: it is answered by the store."""
    with tempfile.TemporaryDirectory(prefix="cachesync-") as folder:
        own = Path(folder)
        yield replace(config, root=own / "root", state=own / "state", cache_size=min(config.cache_size, _PASSING_CACHE))
