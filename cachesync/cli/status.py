"""``cachesync status``: one screen, and for one session the "safe to kill" answer as exit code."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence

from cachesync.cli.phrases import duration, listed, one_line, short_duration, short_size, size
from cachesync.cli.reach import Connect
from cachesync.errors import DaemonUnavailable, ExitCode, NoSuchSession
from cachesync.keys import check_session
from cachesync.reports import SessionStatus, StatusReport

INTERVAL = 1.0

_WIDTH = 80
_WORDS = 2  # the columns at the left; the others are numbers
_COLUMNS: tuple[tuple[str, Callable[[SessionStatus], str]], ...] = (
    ("SESSION", lambda status: status.session),
    ("STATE", lambda status: status.state),
    ("FILES", lambda status: f"{status.files:,}"),
    ("SIZE", lambda status: short_size(status.bytes)),
    ("DIRTY", lambda status: f"{status.dirty:,}"),
    ("UNSENT", lambda status: short_size(status.dirty_bytes)),
    ("FLIGHT", lambda status: f"{status.in_flight:,}"),
    ("FAILED", lambda status: f"{status.failed:,}"),
    ("EVICTED", lambda status: f"{status.evicted:,}"),
    ("AGE", lambda status: "-" if status.oldest_dirty_age is None else short_duration(status.oldest_dirty_age)),
    ("SAFE", lambda status: "yes" if status.safe_to_kill else "NO"),
)
_ONLY_IF_ANY = {"UNSENT": "0B", "FLIGHT": "0", "FAILED": "0", "EVICTED": "0", "AGE": "-"}
"""Columns that are left out while every session has this there, so that a row fits on a terminal."""

_CLEAR = "\x1b[H\x1b[J"


def run(options: argparse.Namespace, connect: Connect) -> int:
    """Print the status once, or every second until Ctrl-C, and return the exit code."""
    session = None if options.session is None else check_session(options.session)
    terminal = sys.stdout.isatty()
    if not options.watch:
        report = _ask(connect, session)
        _show(report, as_json=options.json, most_rows=_rows_that_fit() if terminal else None)
        return _code(report, session)
    code = ExitCode.DONE if session is None else ExitCode.UNFINISHED
    try:
        while True:
            before = _CLEAR if terminal and not options.json else ""
            try:
                report = _ask(connect, session)
            except DaemonUnavailable as error:  # it may be restarting: keep watching
                print(f"{before}cachesync: {one_line(str(error))}", file=sys.stderr if options.json else sys.stdout)
            else:
                print(before, end="")
                _show(report, as_json=options.json, most_rows=_rows_that_fit() if terminal else None)
                code = _code(report, session)
            sys.stdout.flush()
            time.sleep(INTERVAL)
    except KeyboardInterrupt:
        return code


def table(report: StatusReport, most_rows: int | None = None) -> Iterator[str]:
    """The lines of the screen; sessions that are not safe come first, ``most_rows`` of them at most."""
    yield f"root   {one_line(report.root)}"
    yield f"store  {one_line(report.store)}"
    daemon = report.daemon
    yield "daemon " + (f"pid {daemon.pid}, {daemon.version}, up {duration(daemon.uptime)}" if daemon else "none")
    for note in report.notes:
        yield f"note   {one_line(note)}"
    yield ""
    ordered = sorted(report.sessions, key=lambda status: (status.safe_to_kill, not status.failed, status.session))
    shown = ordered[:most_rows]
    if not ordered:
        yield "no sessions yet"
        return
    yield from _table(shown)
    if len(shown) < len(ordered):
        unsafe = sum(not status.safe_to_kill for status in ordered[len(shown) :])
        yield f"and {len(ordered) - len(shown):,} more, {unsafe:,} of them not safe"
    yield from _left(report)
    failures = [
        f"failed {one_line(f'{place}{failure.path}: {failure.error}')}"
        for status in shown
        for place in ("" if len(report.sessions) == 1 else f"{status.session}/",)
        for failure in status.failures
    ]
    yield from listed(iter(failures), max(sum(status.failed for status in shown), len(failures)), indent="")


def _left(report: StatusReport) -> Iterator[str]:
    left = sum(status.dirty_bytes for status in report.sessions)
    if report.rate and report.store_silent_for is None:
        to_go = f", {size(left)} to send, about {duration(left / report.rate)}" if left else ""
        yield f"{size(report.rate)}/s{to_go}"


def _table(shown: Sequence[SessionStatus]) -> Iterator[str]:
    columns = [(head, *(cell(status) for status in shown)) for head, cell in _COLUMNS]
    columns = [column for column in columns if {*column[1:]} != {_ONLY_IF_ANY.get(column[0])}]
    widths = [max(map(len, column)) for column in columns]
    gap = "  " if sum(widths) + 2 * len(widths) - 2 <= _WIDTH else " "
    for row in zip(*columns, strict=True):
        cells = (
            cell.ljust(width) if number < _WORDS else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield gap.join(cells).rstrip()


def _ask(connect: Connect, session: str | None) -> StatusReport:
    # Anew each time: without a daemon this process owns the root, and must not keep it while it only watches.
    with connect() as verbs:
        report = verbs.status(session)
    if session is not None and not any(status.session == session for status in report.sessions):
        raise NoSuchSession("status of", session, "there is no such session")
    return report


def _show(report: StatusReport, *, as_json: bool, most_rows: int | None) -> None:
    if as_json:
        print(json.dumps(report.json()))
        return
    for line in table(report, most_rows):
        print(line)


def _code(report: StatusReport, session: str | None) -> ExitCode:
    if session is None or all(status.safe_to_kill for status in report.sessions):
        return ExitCode.DONE
    return ExitCode.UNFINISHED


def _rows_that_fit() -> int:
    try:
        return max(5, (os.get_terminal_size(sys.stdout.fileno()).lines or 24) - 12)
    except OSError:
        return 20
