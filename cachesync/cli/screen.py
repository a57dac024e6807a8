"""What ``cachesync status --watch`` shows on a terminal: a report as one screen, whatever its size. Owns rich.

Every name goes through ``one_line``, so none of them can act on the terminal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cachesync.cli.formatting import count, duration, one_line, size
from cachesync.cli.status import WORDS, cells_of, failure_lines, unsafe_first
from cachesync.model.record import record
from cachesync.model.reports import SessionStatus, StatusReport

_LEAST_NAME = 12
_GAP = 2
_FAILURES = 0.35  # of the lines that are left, where there are failures
_NOTES = 3  # of an operator's notes, and one on a terminal of less than _TALL lines
_TALL = 20
_DROPPED = ("EVICTED", "STATE", "SIZE", "FILES", "UNSENT", "FLIGHT")
"""Columns that a narrow terminal goes without, the first one first."""

_GOOD, _BUSY, _BAD, _QUIET = "bold green", "bold yellow", "bold red", "dim"


@record(frozen=True, slots=True)
class View:
    """What is known: the last report, how old it is in seconds, and why there is no newer one (empty if there is)."""

    report: StatusReport | None
    age: float = 0.0
    trouble: str = ""


class Screen(AbstractContextManager["Screen"]):
    """The whole terminal, for the time of the block. ``show`` draws."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=False)
        self._live = Live(console=self._console, screen=True, auto_refresh=False, redirect_stdout=False)

    @property
    def able(self) -> bool:
        """Whether this terminal can be drawn on."""
        return self._console.is_terminal and not self._console.is_dumb_terminal

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines, now."""
        return self._console.width, self._console.height

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, view: View) -> None:
        """Draw it."""
        options = self._console.options
        self._live.update(Group(*lines(view, self._console.width, self._console.height, options)), refresh=True)


def lines(view: View, width: int, height: int, options: ConsoleOptions) -> Iterator[RenderableType]:
    """The screen's parts, from the top; together never more than ``height`` lines."""
    report = view.report
    if report is None:
        yield _line(view.trouble or "asking...", _BAD if view.trouble else _QUIET)
        return
    head = list(_head(view, report, options))
    notes = [_line(f"note    {one_line(note)}", "yellow") for note in report.notes]
    shown_notes = notes[: _NOTES if height >= _TALL else 1]
    ordered = unsafe_first(report.sessions)
    failed = list(failure_lines(report, ordered, width // 2))  # so that the cause is in sight
    left = max(2, height - len(head) - len(shown_notes) - 4)  # empty, heads, one line for "more", foot
    most_failures = min(len(failed), max(1, int(left * _FAILURES)))
    rows = max(1, left - most_failures)
    most_failures = max(most_failures, min(len(failed), left - min(rows, len(ordered))))
    yield from head
    yield from shown_notes
    yield Text()
    if not ordered:
        yield _line("no sessions yet", _QUIET)
    else:
        shown = ordered[:rows]
        yield _table(shown, width, here=report.on_this_machine)
        if len(shown) < len(ordered):
            unsafe = sum(not status.safe_to_kill for status in ordered[len(shown) :])
            yield _line(f"and {len(ordered) - len(shown):,} more, {unsafe:,} of them not safe", _QUIET)
    for line in failed[:most_failures]:
        yield _line(line, "red")
    yield _line("q ends it", _QUIET)


def _head(view: View, report: StatusReport, options: ConsoleOptions) -> Iterator[Text]:
    yield _verdict(view, report, "*" if options.ascii_only else "\u25cf")
    yield _line(f"root    {one_line(report.root)}")
    silent = report.store_silent_for
    health = "answers" if silent is None else f"has not answered for {duration(silent)}"
    yield _fact("store   ", one_line(report.store), "  ", (health, _GOOD if silent is None else _BAD))
    daemon = report.daemon
    if view.trouble:
        yield _line(f"daemon  no answer for {duration(view.age)}, what is shown was so then: {view.trouble}", _BAD)
    elif daemon is None:
        yield _line("daemon  none", "yellow")
    else:
        yield _line(f"daemon  pid {daemon.pid}, {one_line(daemon.version)}, up {duration(daemon.uptime)}")
    yield _line(f"sends   {_pace(report)}")


def _verdict(view: View, report: StatusReport, mark: str) -> Text:
    dirty = sum(status.dirty for status in report.sessions)
    failed = sum(status.failed for status in report.sessions)
    flight = sum(status.in_flight for status in report.sessions)
    if view.trouble:
        return _line(f"{mark} not known now", _BAD)
    if failed:
        return _line(f"{mark} {count(failed, 'failure')}, {count(dirty, 'file')} not stored", _BAD)
    if dirty or flight:
        unsent = size(sum(status.dirty_bytes for status in report.sessions))
        return _line(f"{mark} {count(dirty, 'file')} not stored yet, {unsent}, {flight:,} in flight", _BUSY)
    if report.daemon is None:
        return _line(f"{mark} everything that was seen is stored; no daemon looks for more", _BUSY)
    if report.on_this_machine:
        return _line(f"{mark} everything is stored, on this machine only", _BUSY)
    return _line(f"{mark} everything is stored", _GOOD)


def _pace(report: StatusReport) -> str:
    left = sum(status.dirty_bytes for status in report.sessions)
    if report.store_silent_for is not None:
        return f"{size(left)} wait for the store" if left else "-"
    if not report.rate:
        return f"{size(left)} to send" if left else "-"
    return f"{size(report.rate)}/s" + (f", {size(left)} to send, about {duration(left / report.rate)}" if left else "")


def _table(shown: Sequence[SessionStatus], width: int, *, here: bool) -> Table:
    columns = [(head, list(map(one_line, cells))) for head, *cells in cells_of(shown, here=here)]
    widths = {head: max(map(len, [head, *cells])) for head, cells in columns}
    least = min(widths["SESSION"], _LEAST_NAME)
    for dropped in ("", *_DROPPED):
        columns = [(head, cells) for head, cells in columns if head != dropped]
        others = sum(widths[head] + _GAP for head, _ in columns if head != "SESSION")
        if least + others <= width:
            break
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style=_QUIET)
    for number, (head, _) in enumerate(columns):
        name = head == "SESSION"
        room = min(widths[head], max(least, width - others)) if name else widths[head]
        words = number < WORDS and head in ("SESSION", "STATE")
        table.add_column(
            head,
            justify="left" if words else "right",
            width=room,
            no_wrap=True,
            overflow="ellipsis" if name else "crop",
        )
    for status, *cells in zip(shown, *(cells for _, cells in columns), strict=True):
        style = "red" if status.failed else "" if status.safe_to_kill else "yellow"
        table.add_row(*(Text(cell) for cell in cells), style=style)
    return table


def _fact(*parts: str | tuple[str, str]) -> Text:
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def _line(text: str, style: str = "") -> Text:
    return Text(text, style, no_wrap=True, overflow="ellipsis")
