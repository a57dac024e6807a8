"""``cachesync evict``: drops the local bytes that the store has."""

from __future__ import annotations

import argparse
import json
import sys

from cachesync.cli.connect import Connect
from cachesync.cli.formatting import count, reasons, size
from cachesync.model.keys import check_session
from cachesync.model.outcomes import EvictReport


def run(options: argparse.Namespace, connect: Connect) -> int:
    """Drop them; what had to stay goes to stderr."""
    session = check_session(options.session)
    with connect() as verbs:
        report = verbs.lifecycle.evict(session, force=options.force)
    if options.json:
        print(json.dumps(report.json()))
    else:
        show(report)
    return report.exit_code


def show(report: EvictReport) -> None:
    """Print what went and what stayed."""
    kept = f", {len(report.kept):,} kept" if report.kept else ""
    print(f"{report.session}: {count(report.evicted, 'file')} evicted, {size(report.bytes)}{kept}")
    for line in reasons("kept", report.kept):
        print(line, file=sys.stderr)
