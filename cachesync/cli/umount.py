"""``cachesync umount``: everything stored, then the mount gone."""

from __future__ import annotations

import argparse
import errno
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from cachesync.cli.arguments import SETTING
from cachesync.cli.connect import Connect, connect, load_config
from cachesync.cli.flush import Outcome, lines, side_by_side, told, worst
from cachesync.cli.formatting import one_line
from cachesync.model.errors import CacheSyncError, DaemonUnavailable, ExitCode, UsageError
from cachesync.model.reports import FlushReport

_AGAIN = 0.2
_SHOWN = 5


def run(options: argparse.Namespace, _connect: Connect) -> int:
    """Flush every session, unmount, and flush what was written meanwhile; 4 if something is left, which is listed."""
    from cachesync import fuse

    deadline = time.monotonic() + options.timeout
    directory = os.path.abspath(options.directory)
    directory = os.path.join(os.path.realpath(os.path.dirname(directory)), os.path.basename(directory))
    found = fuse.mounted(directory)
    if found is None or found.kind != fuse.KIND:
        raise UsageError("unmount", directory, "no root of sessions is mounted there", "see: findmnt -t fuse.cachesync")
    if os.path.realpath(load_config(options).root) != found.source:
        setattr(options, f"{SETTING}root", found.source)
    _flush_all(options, deadline)
    try:
        fuse.unmount_all(directory, lazy=options.lazy)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        users = ", ".join(_users(directory)) or "a program that cannot be seen"
        hint = "end it, or --lazy to let it finish while nobody new gets in"
        raise CacheSyncError("unmount", directory, f"it is in use by {users}", hint) from error
    outcomes = _flush_all(options, deadline)
    left = {session: outcome for session, outcome in outcomes.items() if outcome.exit_code != ExitCode.DONE}
    if options.json:
        print(json.dumps({"unmounted": directory, "left": [told(name, outcome) for name, outcome in left.items()]}))
    else:
        for session, outcome in left.items():
            for line in lines(session, outcome, options.timeout):
                print(line)
        print(one_line(f"{directory}: unmounted, {'not ' if left else ''}everything is stored"))
    return worst(outcome.exit_code for outcome in outcomes.values())


def _flush_all(options: argparse.Namespace, deadline: float) -> dict[str, Outcome]:
    """Flush every session, by the daemon, or without one once it has ended."""
    while True:
        try:
            with connect(options) as verbs:
                names: Sequence[str] = verbs.sessions()

                def one(session: str) -> FlushReport:
                    return verbs.flush(session, timeout=max(0.0, deadline - time.monotonic()))

                outcomes = dict(zip(names, side_by_side(names, one), strict=True))
        except DaemonUnavailable:
            if time.monotonic() > deadline:
                raise
        else:
            if not any(isinstance(outcome, DaemonUnavailable) for outcome in outcomes.values()):
                return outcomes
            if time.monotonic() > deadline:
                return outcomes
        time.sleep(_AGAIN)


def _users(directory: str) -> Iterator[str]:
    """Programs that have something under the mount open, or stand in it."""
    shown = 0
    for process in Path("/proc").glob("[0-9]*"):
        for link in (process / "cwd", *_listed(process / "fd")):
            try:
                target = os.readlink(link)
            except OSError:
                continue
            if target == directory or target.startswith(f"{directory}/"):
                name = (process / "comm").read_text(errors="replace").strip()
                yield f"{name} ({process.name})"
                shown += 1
                break
        if shown == _SHOWN:
            return


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
