"""``cachesync open``: brings a session here from the store."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator

from cachesync.cli.bar import on_terminal
from cachesync.cli.phrases import count, duration, failures, one_line, reasons, size
from cachesync.cli.reach import Connect
from cachesync.errors import ExitCode
from cachesync.keys import check_session
from cachesync.outcomes import OpenReport, no_progress


def run(options: argparse.Namespace, connect: Connect) -> int:
    """Open it, and say what is here now; what is missing goes to stderr."""
    session = check_session(options.session)
    into = None if options.into is None else os.path.abspath(options.into)
    with connect() as verbs, on_terminal(session) as bar:
        report = verbs.lifecycle.open(session, lazy=options.lazy, into=into, progress=bar or no_progress)
    if options.json:
        print(json.dumps(report.json()))
        return report.exit_code
    print(_summary(report))
    for line in _missing(report):
        print(line, file=sys.stderr)
    return report.exit_code


def _summary(report: OpenReport) -> str:
    state = "open" if report.exit_code == ExitCode.DONE else "NOT complete"
    parts = [f"{count(report.files, 'file')}, {size(report.bytes)}"]
    parts.append(f"{report.fetched:,} fetched ({size(report.fetched_bytes)}), {report.present:,} here before")
    if report.evicted:
        parts.append(f"{report.evicted:,} only in the store")
    return one_line(f"{report.session}: {state} in {report.directory}: {', '.join(parts)}, {duration(report.seconds)}")


def _missing(report: OpenReport) -> Iterator[str]:
    yield from failures(report.failed)
    yield from reasons("pending", report.pending)
    yield from reasons("skipped", report.skipped)
