"""``cachesync url``: a link by which anybody can read an artifact for a while."""

from __future__ import annotations

import argparse
import json

from cachesync.cli.connect import Connect
from cachesync.model.address import parse
from cachesync.model.errors import ExitCode


def run(options: argparse.Namespace, connect: Connect) -> int:
    """Print it."""
    with connect() as verbs:
        link = verbs.artifacts.url(parse(options.address), expires=options.expires)
    print(json.dumps({"url": link}) if options.json else link)
    return ExitCode.DONE
