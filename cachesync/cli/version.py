"""``cachesync version``."""

from __future__ import annotations

import argparse
import json

from cachesync import __version__
from cachesync.cli.connect import Connect
from cachesync.model.errors import ExitCode


def run(options: argparse.Namespace, _connect: Connect) -> int:
    """Print it."""
    print(json.dumps({"version": __version__}) if options.json else f"cachesync {__version__}")
    return ExitCode.DONE
