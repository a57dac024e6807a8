"""``cachesync rebind``: moves a root to another store."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing

from cachesync.api.socket_address import is_served, owners
from cachesync.cli.connect import Connect, load_config
from cachesync.cli.formatting import count, listed, one_line
from cachesync.model.errors import RootLocked


def run(options: argparse.Namespace, _connect: Connect) -> int:
    """Bind the journal to the configured store. Raises CacheSyncError."""
    config = load_config(options)
    if is_served(config.socket, owners(config)):
        raise RootLocked("rebind", str(config.root), "its daemon uses the old store", "stop the daemon first")
    from cachesync.daemon.store_factory import open_store
    from cachesync.ops.rebind import rebind

    with closing(open_store(config)) as store:
        report = rebind(config, store, confirmed=options.yes)
    if options.json:
        print(json.dumps(report.json()))
        return report.exit_code
    for line in listed((f"missing {one_line(f'{r.path}: {r.error}')}" for r in report.missing), len(report.missing)):
        print(line, file=sys.stderr)
    if report.was is None:
        print(one_line(f"{report.root} was not stored yet; it will be stored in {report.store}"))
    elif report.rebound:
        print(one_line(f"{report.root} moved from {report.was} to {report.store}"))
        print(f"  run cachesync flush --all or start the daemon to store {count(report.files, 'local file')}")
        print(one_line(f"  a copy of the old journal is in {report.kept}"))
    else:
        print(one_line(f"{report.root} is NOT rebound: only {report.was} has {count(len(report.missing), 'file')}"))
        print("  copy them to the new store (aws s3 sync, rclone), or run cachesync rebind --yes to forget them")
    return report.exit_code
