"""``cachesync retry``: try failed entries now."""

from __future__ import annotations

import argparse
import json
import sys

from cachesync.cli.connect import Connect
from cachesync.cli.formatting import count
from cachesync.model.errors import ExitCode
from cachesync.model.keys import check_session


def run(options: argparse.Namespace, connect: Connect) -> int:
    """Make them due, and say how many there were. Without a daemon nobody tries them before the next flush."""
    session = None if options.session is None else check_session(options.session)
    with connect() as verbs:
        retried = verbs.retry(session)
        daemon = verbs.status().daemon is not None
    if options.json:
        print(json.dumps({"retried": retried}))
        return ExitCode.DONE
    entries = count(retried, "entry", "entries")
    print(f"{entries} tried again now" if daemon or not retried else f"{entries} due now")
    if retried and not daemon:
        print(f"no daemon runs that would try: cachesync flush {session or '--all'} does, and waits", file=sys.stderr)
    return ExitCode.DONE
