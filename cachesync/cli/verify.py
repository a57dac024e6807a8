"""``cachesync verify``: reads every object of a session again, and compares."""

from __future__ import annotations

import argparse
import json
import sys

from cachesync.cli.bar import on_terminal
from cachesync.cli.phrases import count, duration, failures, reasons, size
from cachesync.cli.reach import Connect
from cachesync.keys import check_session
from cachesync.outcomes import no_progress


def run(options: argparse.Namespace, connect: Connect) -> int:
    """Verify it; each difference goes to stderr."""
    session = check_session(options.session)
    with connect() as verbs, on_terminal(session) as bar:
        report = verbs.lifecycle.verify(session, progress=bar or no_progress)
    if options.json:
        print(json.dumps(report.json()))
        return report.exit_code
    read = f"{count(report.files, 'file')}, {size(report.bytes)}, {duration(report.seconds)}"
    if report.verified:
        print(f"{session}: verified, {read}")
    else:
        differences = count(len(report.differences), "difference")
        print(f"{session}: NOT verified, {differences}, {len(report.pending):,} pending ({read})")
    for line in (*failures(report.differences), *reasons("pending", report.pending)):
        print(line, file=sys.stderr)
    return report.exit_code
