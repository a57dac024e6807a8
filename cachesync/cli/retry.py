"""``cachesync retry``: try failed entries now."""

from __future__ import annotations

import argparse
import json

from cachesync.cli.phrases import count
from cachesync.cli.reach import Connect
from cachesync.errors import ExitCode
from cachesync.keys import check_session


def run(options: argparse.Namespace, connect: Connect) -> int:
    """Make them due, and say how many there were."""
    session = None if options.session is None else check_session(options.session)
    with connect() as verbs:
        retried = verbs.retry(session)
    print(json.dumps({"retried": retried}) if options.json else f"{count(retried, 'entry', 'entries')} tried again now")
    return ExitCode.DONE
