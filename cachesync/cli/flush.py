"""``cachesync flush``: is all of it stored, yes or no.

Several sessions are flushed side by side under one deadline. The exit code is the worst one, in the order of ``WORST``:
what the caller got wrong comes before what the store refused, and that before what only needs more time.
"""

from __future__ import annotations

import argparse
import json
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from cachesync.api.wire import error_json
from cachesync.cli.connect import Connect
from cachesync.cli.formatting import count, duration, failures, listed, one_line, reasons, size
from cachesync.cli.progress import Progress
from cachesync.model.errors import CacheSyncError, ExitCode, UsageError
from cachesync.model.keys import check_session, printable
from cachesync.model.reports import NOT_CONFIGURED, Failure, FlushReport, Json, gone_here
from cachesync.model.values import Skipped

AT_ONCE = 32
"""Sessions that are flushed side by side."""

WORST = (ExitCode.USAGE, ExitCode.NOT_FOUND, ExitCode.FAILED, ExitCode.UNFINISHED, ExitCode.DONE)

Outcome = FlushReport | CacheSyncError


def run(options: argparse.Namespace, connect: Connect) -> int:
    """Flush, print, and return the exit code. Raises CacheSyncError when a single session was asked for and failed."""
    deadline = time.monotonic() + options.timeout
    named = [check_session(name) for name in dict.fromkeys(options.sessions)]
    if options.all and named:
        raise UsageError("flush", cause="takes session names or --all, not both")

    with connect() as verbs:
        strays = list[FlushReport]()
        if not named:
            known = verbs.sessions()
            if not options.all:
                there = f"the sessions there are: {', '.join(known[:50])}" if known else "there are no sessions yet"
                raise UsageError("flush", cause="which session? name it or give --all", hint=there)
            named = known
            strays = [_not_stored(stray) for stray in verbs.strays()]

        def one(session: str) -> FlushReport:
            left = max(0.0, deadline - time.monotonic())
            return verbs.flush(session, timeout=left, confirm_deletes=options.confirm_deletes, receipt=options.receipt)

        single = len(named) == 1 and not options.all
        with Progress.shown(verbs, named):
            outcomes: Sequence[Outcome] = [one(named[0])] if single else side_by_side(named, one)

    tell_where(outcomes)
    if options.json:
        rows = [told(session, outcome) for session, outcome in zip(named, outcomes, strict=True)]
        print(json.dumps(rows[0] if single else rows + [stray.json() for stray in strays]))
    else:
        for session, outcome in zip(named, outcomes, strict=True):
            for line in lines(session, outcome, options.timeout):
                print(line)
        for stray in strays:
            print(f"{one_line(stray.session)}: NOT stored: {stray.failed[0].error}")
        if not outcomes and not strays:
            print("there are no sessions yet")
    return worst(outcome.exit_code for outcome in (*outcomes, *strays))


def _not_stored(stray: Skipped) -> FlushReport:
    """Return the report for a directory that is not a session."""
    reason = f"{stray.reason}, so nothing in it is stored (rename it, or list it in the root's .cachesyncignore)"
    return FlushReport(printable(stray.path), stored=False, failed=[Failure(".", reason)])


def tell_where(outcomes: Iterable[Outcome]) -> None:
    """Warn on stderr if no store is configured, so that the store is a folder on this machine."""
    if any(isinstance(outcome, FlushReport) and outcome.on_this_machine for outcome in outcomes):
        print(f"cachesync: {NOT_CONFIGURED}", file=sys.stderr)


def worst(codes: Iterable[ExitCode]) -> ExitCode:
    """The exit code of several outcomes."""
    found = {*codes, ExitCode.DONE}
    return next(code for code in WORST if code in found)


def side_by_side(sessions: Sequence[str], one: Callable[[str], FlushReport]) -> list[Outcome]:
    """Flush several sessions, AT_ONCE at a time."""
    # Daemon threads: Ctrl-C must not wait for a flush that may take minutes.
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, FlushReport | BaseException]] = queue.SimpleQueue()
    for number in range(len(sessions)):
        todo.put(number)

    def work() -> None:
        while True:
            try:
                number = todo.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((number, one(sessions[number])))
            except BaseException as error:  # noqa: BLE001  # raised again by whoever waits
                done.put((number, error))

    for _ in range(min(AT_ONCE, len(sessions))):
        threading.Thread(target=work, daemon=True).start()
    outcomes: dict[int, Outcome] = {}
    while len(outcomes) < len(sessions):
        number, outcome = done.get()
        if not isinstance(outcome, FlushReport | CacheSyncError):
            raise outcome
        outcomes[number] = outcome
    return [outcomes[number] for number in range(len(sessions))]


def told(session: str, outcome: Outcome) -> Json:
    """An outcome as JSON."""
    return outcome.json() if isinstance(outcome, FlushReport) else {"session": session, **error_json(outcome)}


def lines(session: str, outcome: Outcome, timeout: float) -> Iterator[str]:
    """What a person is told of it: one line, and what is left below."""
    if isinstance(outcome, CacheSyncError):
        yield f"{session}: NOT stored: {one_line(str(outcome))}"
        return
    report = outcome
    if report.stored:
        yield f"{session}: stored, {count(report.files, 'file')}, {size(report.bytes)}, {duration(report.seconds)}"
    else:  # how many files the session has is known only once all of them are stored
        whole = report.counts or {"failed": len(report.failed), "pending": len(report.pending)}
        failed, pending = whole["failed"], whole["pending"]
        done = f"{report.uploaded:,} uploaded, {duration(report.seconds)}"
        yield f"{session}: NOT stored, {count(failed, 'failure')}, {pending:,} pending ({done})"
    if report.vanished:
        yield f"  note     {gone_here(report.vanished)}"
    if report.expired:
        yield f"  expired {count(report.expired, 'log')}: evicted here, and removed from the store by a lifecycle rule"
    yield from failures(report.failed)
    yield from reasons("pending", report.pending)
    yield from listed(
        (f"conflict {one_line(f'{c.path}: the other version is kept as {c.kept_as}')}" for c in report.conflicts),
        len(report.conflicts),
    )
    yield from reasons("skipped", report.skipped)
    for name, number in (report.counts or {}).items():
        yield f"  {name}: {number:,} in all"
    for line in report.entries or ():
        version = one_line(line.version_id or line.version)
        yield f"  receipt  {line.sha256 or '-'}  {line.size}  {version}  {one_line(line.path)}"
    if report.failed and not any("--confirm-deletes" in failure.error for failure in report.failed):
        yield f"  mend the cause, then: cachesync retry {session} && cachesync flush {session}"
    elif not report.stored and not report.failed:
        longer = max(2 * timeout, 10)
        yield f"  under a daemon it goes on by itself; ask again: cachesync flush {session} --timeout {longer:g}"
        yield f"  the story of one file: cachesync explain {session}/PATH"
