"""What an engine does, counted: requests on the wire, SQL and commits of the journal, Python calls, threads.

None of it depends on how fast the machine is, so a budget is an exact number. Where one does not hold, ``Done`` as the
assertion's message shows all that was done.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from unittest import mock

from cachesync.daemon.engine import Engine
from tests.faults.proxy import Proxy

_ENDS = ("BEGIN", "COMMIT", "ROLLBACK", "PRAGMA")
_WRITES = ("INSERT", "UPDATE", "DELETE", "REPLACE")
_REPOSITORY = f"{Path(__file__).parents[2]}{os.sep}"
_TESTS = f"{Path(__file__).parents[1]}{os.sep}"


@dataclass
class Done:
    """What was done in a block, in order. ``commits`` has the statements of each transaction, ``durable`` says how many
    of them had to be on the disk; ``python`` has the Python functions that the block's own thread called, but for those
    of the tests."""

    wire: list[str] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)
    commits: list[list[str]] = field(default_factory=list)
    durable: int = 0
    python: Counter[str] = field(default_factory=Counter)
    threads: list[str] = field(default_factory=list)

    @property
    def requests(self) -> dict[str, int]:
        """Requests by S3's name for the operation, as they came over the wire."""
        return dict(Counter(line.split(" ", 1)[0] for line in self.wire))

    @property
    def writes(self) -> list[str]:
        """The statements that change the journal."""
        return [sql for sql in self.statements if sql.startswith(_WRITES)]

    @property
    def reads(self) -> list[str]:
        """The statements that ask the journal."""
        return [sql for sql in self.statements if not sql.startswith((*_WRITES, *_ENDS))]

    def __str__(self) -> str:
        lines = [f"{len(self.wire)} requests:", *(f"    {line}" for line in self.wire)]
        lines += [f"{len(self.commits)} commits, {self.durable} of them durable:"]
        lines += ["    " + " | ".join(_short(sql) for sql in commit) for commit in self.commits]
        reads = Counter(_short(sql) for sql in self.reads)
        lines += [f"{len(self.reads)} reads of the journal:", *(f"    {n} x {sql}" for sql, n in reads.most_common())]
        lines += [f"{self.python.total()} calls of Python functions", f"{len(self.threads)} threads: {self.threads}"]
        return "\n".join(lines)


def _short(sql: str) -> str:
    return re.sub(r"\s+", " ", sql)[:110]


@contextlib.contextmanager
def counted(engine: Engine, proxy: Proxy, *, calls: bool = False) -> Iterator[Done]:
    """What ``engine`` and its store, behind ``proxy``, do in the block. ``calls`` counts those of Python functions too:
    that makes the block some times slower."""
    done = Done()
    before = len(proxy.records)
    with _sql(engine, done), _threads(done), _calls(done) if calls else contextlib.nullcontext():
        yield done
    done.wire = [f"{r.operation} {r.key} {r.sent}" for r in proxy.records[before:]]


@contextlib.contextmanager
def _sql(engine: Engine, done: Done) -> Iterator[None]:
    database = engine.journal._ledger.db
    connect = database._connect

    def note(connection: sqlite3.Connection) -> sqlite3.Connection:
        within = list[str]()

        def trace(statement: str) -> None:
            sql = statement.strip()
            if sql.startswith("--"):  # a trigger's own
                return
            done.statements.append(sql)
            if sql == "COMMIT":
                done.commits.append(list(within))
            if sql.startswith("PRAGMA synchronous=FULL"):
                done.durable += 1
            if sql.startswith(_ENDS):
                within.clear()
            else:
                within.append(sql)

        connection.set_trace_callback(trace)
        return connection

    kept = (database._writer, *database._readers)
    for connection in kept:
        note(connection)
    try:
        with mock.patch.object(database, "_connect", side_effect=lambda: note(connect())):
            yield
    finally:
        for connection in kept:
            connection.set_trace_callback(None)


@contextlib.contextmanager
def _threads(done: Done) -> Iterator[None]:
    start = threading.Thread.start

    def noted(thread: threading.Thread) -> None:
        done.threads.append(thread.name)
        start(thread)

    with mock.patch.object(threading.Thread, "start", noted):
        yield


@contextlib.contextmanager
def _calls(done: Done) -> Iterator[None]:
    def profile(frame: FrameType, event: str, _called: object) -> None:
        code = frame.f_code
        if event == "call" and not code.co_filename.startswith(_TESTS):
            done.python[f"{code.co_filename.removeprefix(_REPOSITORY)}: {code.co_qualname}"] += 1

    gc.disable()  # what it calls comes when it likes
    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)
        gc.enable()
