"""``cachesync history``: every version there is of an artifact, newest first."""

from __future__ import annotations

import argparse
import json

from cachesync.cli.connect import Connect
from cachesync.cli.formatting import one_line, size, stamp
from cachesync.model.address import parse
from cachesync.model.errors import ExitCode
from cachesync.model.outcomes import PastVersion


def run(options: argparse.Namespace, connect: Connect) -> int:
    """Print a line for each."""
    with connect() as verbs:
        versions = verbs.artifacts.history(parse(options.address))
    if options.json:
        print(json.dumps([version.json() for version in versions]))
    else:
        for version in versions:
            print(_line(version))
    return ExitCode.DONE


def _line(version: PastVersion) -> str:
    amount = "deleted" if version.deleted else size(version.size)
    name = one_line(version.version_id or version.version or "-")
    return f"{stamp(version.modified)}  {amount:>9}  {name}" + ("  latest" if version.latest else "")
