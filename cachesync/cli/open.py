"""``cachesync open``: brings a session here from the store."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator

from cachesync.cli.bar import on_terminal
from cachesync.cli.connect import Connect
from cachesync.cli.formatting import count, duration, failures, listed, one_line, reasons, size
from cachesync.model.errors import ExitCode
from cachesync.model.keys import check_session
from cachesync.model.outcomes import OpenReport, Progress, no_progress


def run(options: argparse.Namespace, connect: Connect) -> int:
    """Open it, and say what is here now; what is missing goes to stderr. Ctrl-C says how far it was."""
    session = check_session(options.session)
    into = None if options.into is None else os.path.abspath(options.into)
    latest: Progress | None = None
    try:
        with connect() as verbs, on_terminal(session) as bar:
            draw = bar or no_progress

            def tell(progress: Progress) -> None:
                nonlocal latest
                latest = progress
                draw(progress)

            report = verbs.lifecycle.open(session, lazy=options.lazy, into=into, timeout=options.timeout, progress=tell)
    except KeyboardInterrupt:
        print(_interrupted(session, latest, again=into is None), file=sys.stderr)
        raise
    if options.json:
        print(json.dumps(report.json()))
        return report.exit_code
    print(_summary(report))
    for line in _missing(report, again=into is None):
        print(line, file=sys.stderr)
    return report.exit_code


def _interrupted(session: str, latest: Progress | None, *, again: bool) -> str:
    brought = "nothing was brought yet"
    if latest is not None and latest.files_total:
        brought = f"{latest.files:,} of {count(latest.files_total, 'file')} here, {size(latest.bytes)}"
    goes_on = f"; cachesync open {session} goes on from there" if again else ""
    return f"{session}: interrupted, {brought}{goes_on}"


def _summary(report: OpenReport) -> str:
    state = "open" if report.exit_code == ExitCode.DONE else "NOT complete"
    parts = [f"{count(report.files, 'file')}, {size(report.bytes)}"]
    parts.append(f"{report.fetched:,} fetched ({size(report.fetched_bytes)}), {report.present:,} here before")
    if report.evicted:
        parts.append(f"{report.evicted:,} only in the store")
    return one_line(f"{report.session}: {state} in {report.directory}: {', '.join(parts)}, {duration(report.seconds)}")


def _missing(report: OpenReport, *, again: bool) -> Iterator[str]:
    yield from failures(report.failed)
    yield from reasons("pending", report.pending)
    yield from reasons("skipped", report.skipped)
    if report.pending and again:
        yield f"  go on from there: cachesync open {report.session}"
    if report.flaws:
        yield "  the manifest in the store is damaged: what it does not tell is as the store lists it"
    yield from listed((f"damaged  {one_line(flaw)}" for flaw in report.flaws), len(report.flaws))
