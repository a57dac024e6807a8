"""``cachesync history``: every version there is of an artifact, newest first."""

from __future__ import annotations

import argparse
import json

from cachesync.address import parse
from cachesync.cli.phrases import one_line, size, stamp
from cachesync.cli.reach import Connect
from cachesync.errors import ExitCode
from cachesync.outcomes import PastVersion


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
