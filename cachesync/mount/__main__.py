"""The server's process: ``python -m cachesync.mount``, started by supervise.py with its plan on stdin."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import fields
from pathlib import Path

from cachesync.api.client import ControlClient
from cachesync.fuse import die_with_parent
from cachesync.journal.evicted_reader import AbsentNames
from cachesync.model.errors import CacheSyncError, ExitCode
from cachesync.mount.daemon_client import Keeper
from cachesync.mount.data_io import WriteThrough
from cachesync.mount.serve import Plan, serve
from cachesync.telemetry.logs import configure

_KEPT = 8
"""Connections to the daemon that are kept for the next file to be brought."""


def main() -> int:
    """Mount and serve; "ready" on stdout says that programs may come, one line of anything else why not."""
    told = json.loads(sys.stdin.readline())
    die_with_parent(told["parent"])
    configure(told["log_format"], told["log_level"])
    client = ControlClient(Path(told["socket"]), kept=_KEPT, owners=told["owners"])
    keeper = Keeper(client, told["patience"])
    told["through"] = WriteThrough(told["through"])
    plan = Plan(**{field.name: told[field.name] for field in fields(Plan)})
    try:
        serve(plan, keeper, AbsentNames(Path(told["state"]) / "journal.db"), lambda: _say("ready"))
    except CacheSyncError as error:
        _say(str(error))
        return ExitCode.USAGE
    return ExitCode.DONE


def _say(line: str) -> None:
    os.write(1, line.replace("\n", " ").encode() + b"\n")


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # threads that wait for the daemon wait no longer
