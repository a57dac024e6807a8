"""``cachesync migrate``: stores a sessions directory that exists already, and says what that came to."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from contextlib import closing

from cachesync.api.client import ControlClient
from cachesync.cli.arguments import SETTING
from cachesync.cli.bar import on_terminal
from cachesync.cli.connect import Connect, check_daemons_store, load_config
from cachesync.cli.formatting import count, duration, listed, one_line, size
from cachesync.model.outcomes import MigrateReport, no_progress

PRICES = "S3 Standard: $0.005 per 1,000 PUT requests, $0.023 per GB and month"
"""What migrate.tally counts with."""


def run(options: argparse.Namespace, _connect: Connect) -> int:
    """Migrate, print, and return the exit code. Raises CacheSyncError."""
    here = load_config(options)
    if here.embedded and (client := ControlClient.of(here)).is_serving():
        check_daemons_store(client, here)  # nothing is configured: whoever runs a daemon here means its store
    setattr(options, f"{SETTING}root", str(options.source))
    config = load_config(options)
    from cachesync.daemon.store_factory import open_store
    from cachesync.ops.migrate.place import elsewhere
    from cachesync.ops.migrate.rehearsal import rehearse
    from cachesync.ops.migrate.run import migrate

    if not options.dry_run:
        config = elsewhere(config, os.environ)
    with closing(open_store(config)) as store, on_terminal(options.source.name or "/") as bar:
        if options.dry_run:
            report = rehearse(config, store, progress=bar or no_progress)
        else:
            report = migrate(config, store, progress=bar)
    if options.json:
        print(json.dumps(report.json()))
    else:
        for line in lines(report, config.store.shown):
            print(line)
    return int(report.exit_code)


def lines(report: MigrateReport, store: str) -> Iterator[str]:
    """The report for a person."""
    whole = f"{count(report.files, 'file')}, {size(report.bytes)} in {count(report.sessions, 'session')}"
    left = len(report.failed) + len(report.pending)
    if report.dry_run:
        yield one_line(f"{report.source}: {whole}, to be stored in {store}; nothing was sent")
    else:
        state = (
            "stored" if not left else f"NOT all stored, {len(report.failed):,} failed, {len(report.pending):,} pending"
        )
        yield one_line(f"{report.source}: {state} in {store}: {whole}, {duration(report.seconds)}")
    sent = "to send" if report.dry_run else "sent"
    yield f"  {sent}: {count(report.sent, 'file')}, {size(report.sent_bytes)}"
    yield f"  there already, with the same checksum: {count(report.present, 'file')}, {size(report.present_bytes)}"
    if left or report.skipped:
        skipped = f"{count(len(report.skipped), 'name')} skipped, a directory with all that is in it"
        yield f"  not stored: {len(report.failed):,} failed, {len(report.pending):,} pending; {skipped}"
    cost = f"${report.dollars:.2f} once, and ${report.dollars_a_month:.2f} a month to keep what is sent"
    yield f"  {count(report.requests, 'PUT request')}: {cost} ({PRICES})"
    for word, rows in (
        ("failed  ", [f"{row.path}: {row.error}" for row in report.failed]),
        ("pending ", [f"{row.path}: {row.reason}" for row in report.pending]),
        ("conflict", [f"{row.path}: the other version is kept as {row.kept_as}" for row in report.conflicts]),
        ("skipped ", [f"{row.path}: {row.reason}" for row in report.skipped]),
    ):
        yield from listed((f"{word} {one_line(row)}" for row in rows), len(rows))
    if left and not report.dry_run:
        yield "  mend the cause and run it again: what is stored is not sent again"
