"""``cachesync rm``: deletes artifacts, here and in the store."""

from __future__ import annotations

import argparse
import json
import sys

from cachesync.cli.connect import Connect
from cachesync.cli.flush import worst
from cachesync.cli.formatting import failures, one_line
from cachesync.model.address import parse
from cachesync.model.errors import CacheSyncError
from cachesync.model.reports import Failure

INTERRUPTED = (
    "may be removed, or be removed later by the daemon or the next flush; cachesync restore brings it back where the"
    " store keeps versions"
)


def run(options: argparse.Namespace, connect: Connect) -> int:
    """Delete each; what could not be goes to stderr. Raises what a single one raises."""
    addresses = [parse(text) for text in dict.fromkeys(options.addresses)]
    removed: list[str] = []
    failed: list[tuple[str, CacheSyncError]] = []
    with connect() as verbs:
        for address in addresses:
            try:
                verbs.artifacts.remove(address)
            except KeyboardInterrupt:
                print(f"cachesync: interrupted: {one_line(str(address))} {INTERRUPTED}", file=sys.stderr)
                raise
            except CacheSyncError as error:
                if len(addresses) == 1:
                    raise
                failed.append((str(address), error))
            else:
                removed.append(str(address))
    rows = [Failure(name, error.reason) for name, error in failed]
    if options.json:
        told = [{"path": one_line(row.path), "error": row.error} for row in rows]
        print(json.dumps({"removed": [one_line(name) for name in removed], "failed": told}))
    else:
        for name in removed:
            print(f"removed {one_line(name)}")
        for line in failures(rows):
            print(line, file=sys.stderr)
    return worst(error.exit_code for _, error in failed)
