"""``cachesync status``: one screen, and for one session the "safe to kill" answer as exit code."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from cachesync.cli.connect import Connect
from cachesync.cli.formatting import duration, listed, one_line, short_duration, short_size, size
from cachesync.model.errors import ExitCode, NoSuchSession
from cachesync.model.keys import check_session
from cachesync.model.reports import SessionStatus, StatusReport

_WIDTH = 80
WORDS = 2  # the columns at the left; the others are numbers
COLUMNS: tuple[tuple[str, Callable[[SessionStatus], str]], ...] = (
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
ONLY_IF_ANY = {"UNSENT": "0B", "FLIGHT": "0", "FAILED": "0", "EVICTED": "0", "AGE": "-"}
"""Columns that are left out while every session has this there, so that a row fits on a terminal."""


def run(options: argparse.Namespace, connect: Connect) -> int:
    """Print the status once, or watch it until Ctrl-C, and return the exit code."""
    session = None if options.session is None else check_session(options.session)
    most_rows = _rows_that_fit if sys.stdout.isatty() else lambda: None

    def show(report: StatusReport) -> None:
        _show(report, as_json=options.json, most_rows=most_rows())

    def code_of(report: StatusReport) -> ExitCode:
        return _code(report, session)

    if options.watch:
        from cachesync.cli import watch

        return watch.run(options, connect, session, show, code_of)
    report = _ask(connect, session)
    show(report)
    return code_of(report)


def table(report: StatusReport, most_rows: int | None = None) -> Iterator[str]:
    """The lines of the screen; sessions that are not safe come first, ``most_rows`` of them at most."""
    yield f"root   {one_line(report.root)}"
    yield f"store  {one_line(report.store)}"
    daemon = report.daemon
    yield "daemon " + (f"pid {daemon.pid}, {daemon.version}, up {duration(daemon.uptime)}" if daemon else "none")
    for note in report.notes:
        yield f"note   {one_line(note)}"
    yield ""
    ordered = unsafe_first(report.sessions)
    shown = ordered[:most_rows]
    if not ordered:
        yield "no sessions yet"
        return
    yield from _table(shown, here=report.on_this_machine)
    if len(shown) < len(ordered):
        unsafe = sum(not status.safe_to_kill for status in ordered[len(shown) :])
        yield f"and {len(ordered) - len(shown):,} more, {unsafe:,} of them not safe"
    yield from _left(report)
    failed = list(failure_lines(report, shown))
    yield from listed(iter(failed), max(sum(status.failed for status in shown), len(failed)), indent="")


def unsafe_first(sessions: Sequence[SessionStatus]) -> list[SessionStatus]:
    """In the order of a screen: what is not safe before what is, and of those what failed first."""
    return sorted(sessions, key=lambda status: (status.safe_to_kill, not status.failed, status.session))


def failure_lines(report: StatusReport, shown: Sequence[SessionStatus], longest: int | None = None) -> Iterator[str]:
    """What failed in the sessions that are ``shown``, with its cause, a path a line. The middle is left out of a
    path of more than ``longest`` characters."""
    for status in shown:
        place = "" if len(report.sessions) == 1 else f"{status.session}/"
        for failure in status.failures:
            path = one_line(f"{place}{failure.path}")
            if longest is not None and len(path) > longest:
                half = longest // 2 - 2
                path = f"{path[:half]}...{path[-half:]}"
            yield f"failed {path}: {one_line(failure.error)}"


def _left(report: StatusReport) -> Iterator[str]:
    left = sum(status.dirty_bytes for status in report.sessions)
    if report.rate and report.store_silent_for is None:
        to_go = f", {size(left)} to send, about {duration(left / report.rate)}" if left else ""
        yield f"{size(report.rate)}/s{to_go}"


def cells_of(shown: Sequence[SessionStatus], *, here: bool) -> list[tuple[str, ...]]:
    """Return the columns that are not empty, each with its heading. ``here`` says that the store is on this machine, so
    that a session is safe on this machine only."""
    columns = [(head, *(cell(status) for status in shown)) for head, cell in COLUMNS]
    columns = [column for column in columns if {*column[1:]} != {ONLY_IF_ANY.get(column[0])}]
    if here:
        columns[-1] = tuple("here" if cell == "yes" else cell for cell in columns[-1])
    return columns


def _table(shown: Sequence[SessionStatus], *, here: bool) -> Iterator[str]:
    columns = cells_of(shown, here=here)
    widths = [max(map(len, column)) for column in columns]
    gap = "  " if sum(widths) + 2 * len(widths) - 2 <= _WIDTH else " "
    for row in zip(*columns, strict=True):
        cells = (
            cell.ljust(width) if number < WORDS else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield gap.join(cells).rstrip()


def _ask(connect: Connect, session: str | None) -> StatusReport:
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
