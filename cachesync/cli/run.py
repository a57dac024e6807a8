"""``cachesync run``: the daemon, in the foreground."""

from __future__ import annotations

import argparse
import sys

from cachesync.cli.connect import Connect, load_config


def run(options: argparse.Namespace, _connect: Connect) -> int:
    """Serve until a signal; the daemon's exit code (0 drained, 4 not all of it)."""
    config = load_config(options)
    from cachesync.daemon.process import run as serve

    code: int = serve(config, options.dev_server, _announce)
    return code


def _announce(lines: list[str]) -> None:
    print("\n".join(lines), file=sys.stderr, flush=True)
