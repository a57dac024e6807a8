"""``cachesync new``: makes a session and prints its name, and nothing else."""

from __future__ import annotations

import argparse
import json

from cachesync.cli.connect import Connect
from cachesync.model.errors import ExitCode
from cachesync.model.keys import check_session


def run(options: argparse.Namespace, connect: Connect) -> int:
    """Make it."""
    session = None if options.session is None else check_session(options.session)
    with connect() as verbs:
        made = verbs.lifecycle.new(
            session, project=options.project, workspace=options.workspace, templates=options.template
        )
    print(json.dumps({"session": made}) if options.json else made)
    return ExitCode.DONE
