"""``cachesync cat``: an artifact's bytes to stdout, as they are."""

from __future__ import annotations

import argparse
import json
import sys

from cachesync.cli.connect import Connect
from cachesync.cli.formatting import one_line
from cachesync.model.address import parse
from cachesync.model.errors import ExitCode
from cachesync.model.verbs import Reading


def run(options: argparse.Namespace, connect: Connect) -> int:
    """Write them. JSON says what they are instead."""
    address = parse(options.address)
    with connect() as verbs, verbs.artifacts.read(address, version_id=options.version_id) as reading:
        if options.json:
            told = {"source": reading.source, "unverified": reading.unverified}
            print(json.dumps(reading.artifact.json() | told))
            return ExitCode.DONE
        warn(reading)
        sys.stdout.flush()
        for piece in reading.chunks():
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
    return ExitCode.DONE


def warn(reading: Reading) -> None:
    """Say so on stderr if nobody knows whether this is the newest version."""
    if reading.unverified:
        name = one_line(reading.artifact.address)
        print(f"cachesync: {name}: the store cannot be asked whether this is the newest version", file=sys.stderr)
