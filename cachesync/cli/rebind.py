"""``cachesync rebind``: a root goes on in another store."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing

from cachesync.cli.phrases import count, listed, one_line
from cachesync.cli.reach import Connect, load_config
from cachesync.control.address import is_served
from cachesync.errors import RootLocked


def run(options: argparse.Namespace, _connect: Connect) -> int:
    """Bind the journal to the store that is configured now. Raises CacheSyncError."""
    config = load_config(options)
    if is_served(config.socket):
        raise RootLocked("rebind", str(config.root), "its daemon works with the store it has", "stop the daemon first")
    from cachesync.rebind import rebind
    from cachesync.stores import open_store

    with closing(open_store(config)) as store:
        report = rebind(config, store, confirmed=options.yes)
    if options.json:
        print(json.dumps(report.json()))
        return report.exit_code
    for line in listed((f"missing {one_line(f'{r.path}: {r.error}')}" for r in report.missing), len(report.missing)):
        print(line, file=sys.stderr)
    if report.was is None:
        print(one_line(f"{report.root} was stored nowhere yet; it will be in {report.store}"))
    elif report.rebound:
        print(one_line(f"{report.root} was stored in {report.was}; from now on it is in {report.store}"))
        print(f"  to store {count(report.files, 'file')} that stand here: cachesync flush --all, or start the daemon")
        print(one_line(f"  what was known of the old store is kept in {report.kept}"))
    else:
        print(one_line(f"{report.root} is NOT rebound: only {report.was} has {count(len(report.missing), 'file')}"))
        print("  copy them to the new store first (aws s3 sync, rclone), or give them up: cachesync rebind --yes")
    return report.exit_code
