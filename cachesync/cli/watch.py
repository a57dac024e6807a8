"""``cachesync status --watch``: the status again and again, until ``q`` or Ctrl-C.

On a terminal it is a live screen, if rich is installed; else the plain status, or with ``--json`` a document a line. It
asks beside what it draws, so that a daemon that hangs holds up neither the screen nor the end. A daemon that goes away
is waited for: while it is away nothing else may own the root, or it could not come back.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import select
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from cachesync.cli import connect as reach
from cachesync.cli.connect import Connect
from cachesync.cli.formatting import one_line
from cachesync.model.errors import CacheSyncError, ExitCode, NoSuchSession
from cachesync.model.reports import StatusReport

if TYPE_CHECKING:
    from cachesync.cli.screen import Screen

INTERVAL = 1.0
IDLE = 5.0
"""Seconds between two looks, with a daemon and without: then each look owns the root for a moment."""

LATE = 2.0
"""Seconds after which a look that is due counts as unanswered."""

_TICK = 0.2
_CLEAR = "\x1b[H\x1b[J"
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)

Show = Callable[[StatusReport], None]
Code = Callable[[StatusReport], ExitCode]


class Looks:
    """Asks for the status: of whoever has the root, and once a daemon had it, of a daemon alone."""

    def __init__(self, connect: Connect, daemon: Connect, session: str | None) -> None:
        self._connect = connect
        self._daemon = daemon
        self._session = session
        self._met = False

    @property
    def interval(self) -> float:
        """Seconds until the next look."""
        return INTERVAL if self._met else IDLE

    def ask(self) -> StatusReport:
        """The status now. Raises NoSuchSession, and CacheSyncError of exit code 4 for what may be over soon."""
        with (self._daemon if self._met else self._connect)() as verbs:
            report = verbs.status(self._session)
        self._met = self._met or report.daemon is not None
        if self._session is not None and all(status.session != self._session for status in report.sessions):
            raise NoSuchSession("status of", self._session, "there is no such session")
        return report


def run(options: argparse.Namespace, connect: Connect, session: str | None, show: Show, code_of: Code) -> int:
    """Watch, and return the exit code of the last report. ``show`` prints a report plainly, ``code_of`` is its code."""
    looks = Looks(connect, lambda: reach.connect_to_daemon(options), session)
    code = ExitCode.DONE if session is None else ExitCode.UNFINISHED
    terminal = sys.stdout.isatty() and not options.json
    if terminal and importlib.util.find_spec("rich") is not None:
        from cachesync.cli.screen import Screen

        if (screen := Screen()).able:
            return _Live(looks, code, code_of).run(screen)
    try:
        while True:
            before = _CLEAR if terminal else ""
            try:
                report = looks.ask()
            except CacheSyncError as error:
                _raise_unless_passing(error)
                _say_plainly(error, before, as_json=options.json)
            else:
                print(before, end="")
                show(report)
                code = code_of(report)
            sys.stdout.flush()
            time.sleep(looks.interval)
    except KeyboardInterrupt:
        return code


def _raise_unless_passing(error: CacheSyncError) -> None:
    """Only what may be over soon is waited for."""
    if error.exit_code != ExitCode.UNFINISHED:
        raise error


def _say_plainly(error: CacheSyncError, before: str, *, as_json: bool) -> None:
    if as_json:
        from cachesync.api.wire import error_json

        print(json.dumps(error_json(error)))
    print(f"{before}cachesync: {one_line(str(error))}", file=sys.stderr if as_json else sys.stdout)


class _Live:
    """The loop of the live screen: one thread asks, this one draws and hears the keyboard."""

    def __init__(self, looks: Looks, code: ExitCode, code_of: Code) -> None:
        self._looks = looks
        self._code = code
        self._code_of = code_of
        self._report: StatusReport | None = None
        self._at = time.monotonic()
        self._trouble: CacheSyncError | None = None
        self._fatal: BaseException | None = None
        self._news = threading.Event()
        self._ended = threading.Event()

    def run(self, screen: Screen) -> int:
        """Until ``q`` or Ctrl-C, or an error that will not pass."""
        threading.Thread(target=self._look, name="status", daemon=True).start()
        try:
            self._news.wait(2 * _TICK)  # what is wrong from the beginning is said on the screen that there was
            self._check()
            with _ended_by_signals(), _keys() as typed, screen:
                self._draw(screen, typed)
        except KeyboardInterrupt:
            pass
        finally:
            self._ended.set()
        return self._code

    def _draw(self, screen: Screen, typed: Callable[[float], str]) -> None:
        from cachesync.cli.screen import View

        drawn: tuple[object, ...] = ()
        while True:
            self._check()
            # While nothing new comes, its age is what changes.
            trouble = self._said()
            now = (self._report, trouble, trouble and int(self._age()), screen.size)
            if now != drawn:
                screen.show(View(self._report, self._age(), trouble))
                drawn = now
            if "q" in typed(_TICK).lower():
                return

    def _check(self) -> None:
        if self._fatal is not None:
            raise self._fatal

    def _age(self) -> float:
        return time.monotonic() - self._at

    def _said(self) -> str:
        """Why there is nothing newer; empty if that is as it should be."""
        if self._trouble is not None:
            return one_line(self._trouble.reason)
        late = self._report is not None and self._age() > self._looks.interval + LATE
        return "it was asked, and has not answered yet" if late else ""

    def _look(self) -> None:
        while not self._ended.is_set():
            try:
                report = self._looks.ask()
                self._code = self._code_of(report)
                self._report, self._at, self._trouble = report, time.monotonic(), None
            except CacheSyncError as error:
                if error.exit_code != ExitCode.UNFINISHED:
                    self._fatal = error
                self._trouble = error
            except Exception as error:  # noqa: BLE001  # raised again by the thread that draws
                self._fatal = error
            self._news.set()
            if self._fatal is not None:
                return
            self._ended.wait(self._looks.interval)


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """What is typed within some seconds, without an Enter; the terminal is as it was after the block."""
    source = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
    if source is None:
        yield _no_keys
        return
    before = termios.tcgetattr(source)
    heard = True

    def typed(seconds: float) -> str:
        nonlocal heard
        if not heard:
            return _no_keys(seconds)
        if not select.select([source], [], [], seconds)[0]:
            return ""
        text = os.read(source, 64).decode("ascii", "ignore")
        heard = bool(text)  # the terminal is gone: do not ask it again and again
        return text

    try:
        tty.setcbreak(source)
        yield typed
    finally:
        termios.tcsetattr(source, termios.TCSADRAIN, before)


def _no_keys(seconds: float) -> str:
    time.sleep(seconds)
    return ""


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """A signal that ends the process lets it put the terminal back first."""

    def end(number: int, _frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
