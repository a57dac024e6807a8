"""Where a command finds the verbs: the daemon if one serves the socket, else a service in this process."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cachesync.cli.arguments import SETTING
from cachesync.control.client import ControlClient
from cachesync.errors import ConfigError, DaemonUnavailable, RootLocked
from cachesync.verbs import Verbs

if TYPE_CHECKING:
    from cachesync.config import Config

PATIENCE = 5.0
"""Seconds to wait for a root whose owner does not answer: a daemon that starts, or another command."""

LOOKING = frozenset({"status", "explain", "ls", "cat", "get", "url", "history", "verify"})
"""Commands that change nothing: without a daemon, the root's files are looked at and not worked on."""

BEGINNING = frozenset({"new", "open"})
"""Commands that a host may begin with: they make the root if there is none."""

DEV_STORE = "s3://cachesync"
"""Where ``run --dev-server`` stores unless a store is configured."""

Connect = Callable[[], AbstractContextManager[Verbs]]


def load_config(options: argparse.Namespace) -> Config:
    """The configuration under this command's flags. Raises ConfigError."""
    from cachesync.config import load

    given = vars(options).items()
    flags = {name.removeprefix(SETTING): value for name, value in given if name.startswith(SETTING)}
    config = load(flags, os.environ, Path.cwd())
    if getattr(options, "dev_server", None) is not None and config.embedded:
        config = load({**flags, "store": DEV_STORE}, os.environ, Path.cwd())
    return config


def check_daemons_store(client: ControlClient, config: Config) -> None:
    """Raise ConfigError if the daemon stores elsewhere than somebody asks for."""
    store = client.status().store
    if store != config.store.shown:
        hint = "leave --store out to work with that one, or name another root"
        raise ConfigError("use the store", config.store.shown, f"the daemon of this root stores in {store}", hint)


@contextmanager
def connect(options: argparse.Namespace) -> Iterator[Verbs]:
    """The verbs, for the time of the block. Raises DaemonUnavailable if the root is owned and its owner is silent."""
    config = load_config(options)
    client = ControlClient(config.socket)
    until = time.monotonic() + PATIENCE
    with ExitStack() as stack:
        verbs: Verbs | None = None
        while verbs is None:
            if client.is_serving():
                if hasattr(options, f"{SETTING}store"):
                    check_daemons_store(client, config)
                verbs = client
                break
            from cachesync.daemon import open_service

            try:
                command = getattr(options, "command", None)
                own = open_service(config, work=command not in LOOKING, create_root=command in BEGINNING)
                verbs = stack.enter_context(own)
            except RootLocked as locked:
                if time.monotonic() > until:
                    raise DaemonUnavailable("ask the daemon at", str(config.socket), locked.reason) from None
                time.sleep(0.1)
        yield verbs
