"""``cachesync close``: flush, mark the manifest closed, drop the local bytes."""

from __future__ import annotations

import argparse
import json
import sys

from cachesync.cli import evict, flush
from cachesync.cli.connect import Connect
from cachesync.cli.progress import Progress
from cachesync.model.keys import check_session


def run(options: argparse.Namespace, connect: Connect) -> int:
    """Close it; what keeps it from being closed, or from being dropped here, goes to stderr."""
    session = check_session(options.session)
    with connect() as verbs, Progress.shown(verbs, [session]):
        report = verbs.lifecycle.close(
            session,
            keep=options.keep,
            timeout=options.timeout,
            confirm_deletes=options.confirm_deletes,
            force=options.force,
        )
    flush.tell_where([report.flush])
    if options.json:
        print(json.dumps(report.json()))
        return report.exit_code
    first, *rest = flush.lines(session, report.flush, options.timeout)
    print(first)
    for line in rest:
        print(line, file=sys.stderr)
    print(f"{session}: {'closed' if report.closed else 'NOT closed'}")
    if report.evicted is not None:
        evict.show(report.evicted)
    return report.exit_code
