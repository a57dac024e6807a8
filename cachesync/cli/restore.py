"""``cachesync restore``: makes a past version the newest again."""

from __future__ import annotations

import argparse
import json

from cachesync.cli.connect import Connect
from cachesync.cli.formatting import one_line, size
from cachesync.model.address import parse
from cachesync.model.errors import ExitCode


def run(options: argparse.Namespace, connect: Connect) -> int:
    """Restore it, and say what it is now."""
    with connect() as verbs:
        artifact = verbs.artifacts.restore(parse(options.address), version_id=options.version_id)
    if options.json:
        print(json.dumps(artifact.json()))
    else:
        print(f"{one_line(artifact.address)}: restored, {size(artifact.size)}")
    return ExitCode.DONE
