"""``cachesync mount``: the daemon, with every session as ordinary files at a directory."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path

from cachesync.api.socket_address import owners
from cachesync.cli.arguments import SETTING
from cachesync.cli.connect import Connect, load_config
from cachesync.model.errors import UsageError


def run(options: argparse.Namespace, _connect: Connect) -> int:
    """Serve until a signal or until it is unmounted; the daemon's exit code (0 drained, 4 not all of it)."""
    config = load_config(options)
    from cachesync.api.client import ControlClient
    from cachesync.mount.data_io import WriteThrough
    from cachesync.mount.serve import Plan
    from cachesync.mount.supervise import Supervisor
    from cachesync.telemetry.logs import configure

    configure(config.log_format, config.log_level)
    root, directory = Path(os.path.abspath(config.root)), Path(os.path.abspath(options.directory))
    directory = directory.parent.resolve() / directory.name
    real = root.resolve()
    if directory.is_relative_to(real) or real.is_relative_to(directory):
        cause = f"it and the root {root} lie in each other"
        raise UsageError("mount", str(directory), cause, "name a directory beside the root")
    through = WriteThrough(options.write_through)
    state = os.path.abspath(config.state)
    plan = Plan(
        root=str(real),
        state=state,
        directory=str(directory),
        through=through,
        read_only=options.read_only,
        others=options.allow_other,
        revalidate=config.revalidate,
        private=config.session_mode,
    )
    server = asdict(plan) | {
        "socket": os.path.abspath(config.socket),
        "owners": sorted(owners(config)),
        "patience": options.timeout,
        "log_format": config.log_format,
        "log_level": config.log_level,
    }

    def announce() -> None:
        print(f"mounted   {directory}/SESSION/... shows {root}", file=sys.stderr, flush=True)

    supervisor = Supervisor(
        plan,
        ControlClient.of(config),
        [sys.executable, "-m", "cachesync", "run", *_flags(options)],
        server,
        drain_timeout=config.drain_timeout,
        announce=announce,
    )
    return supervisor.run()


def _flags(options: argparse.Namespace) -> list[str]:
    """The flags of this command that the daemon is to have too."""
    from cachesync.config import SETTINGS

    given = vars(options)
    flags = [f"{s.flag}={given[SETTING + s.name]}" for s in SETTINGS.values() if SETTING + s.name in given]
    return flags if options.dev_server is None else [*flags, f"--dev-server={options.dev_server}"]
