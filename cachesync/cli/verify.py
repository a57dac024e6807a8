"""``cachesync verify``: reads every object of a session again, and compares."""

from __future__ import annotations

import argparse
import json
import sys

from cachesync.cli.bar import on_terminal
from cachesync.cli.connect import Connect
from cachesync.cli.formatting import count, duration, failures, listed, one_line, reasons, size
from cachesync.model.keys import check_session
from cachesync.model.outcomes import no_progress


def run(options: argparse.Namespace, connect: Connect) -> int:
    """Verify it; each difference goes to stderr."""
    session = check_session(options.session)
    with connect() as verbs, on_terminal(session) as bar:
        report = verbs.lifecycle.verify(session, repair=options.repair, progress=bar or no_progress)
    if options.json:
        print(json.dumps(report.json()))
        return report.exit_code
    read = f"{count(report.files, 'file')}, {size(report.bytes)}, {duration(report.seconds)}"
    if report.verified:
        print(f"{session}: verified, {read}")
    else:
        differences = count(len(report.differences), "difference")
        print(f"{session}: NOT verified, {differences}, {len(report.pending):,} pending ({read})")
    repaired = listed((f"repaired {one_line(path)}" for path in report.repaired), len(report.repaired))
    for line in (*repaired, *failures(report.differences), *reasons("pending", report.pending)):
        print(line, file=sys.stderr)
    if report.differences:
        print(f"  {_next_step(session, repair=options.repair)}", file=sys.stderr)
    return report.exit_code


def _next_step(session: str, *, repair: bool) -> str:
    if repair:
        return (
            "no file on this host has the stored bytes; restore an old version with"
            f" cachesync restore {session}/PATH, or delete the file with cachesync rm {session}/PATH"
        )
    return f"to store local files again: cachesync verify --repair {session}"
