"""The command line over made-up verbs: what it prints, and its exit codes."""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cachesync import __version__
from cachesync.cli import connect as reach
from cachesync.cli import explain, formatting, main, progress, status
from cachesync.model.errors import (
    CacheSyncError,
    DaemonUnavailable,
    NoSuchSession,
    RootLocked,
    StoreDenied,
    StoreUnreachable,
    UsageError,
)
from cachesync.model.reports import (
    DaemonStatus,
    Failure,
    FlushReport,
    Pending,
    ReceiptLine,
    SessionStatus,
    StatusReport,
    Story,
)
from cachesync.model.values import Conflict, Skipped
from cachesync.model.verbs import Verbs
from tests.memory_artifacts import MemoryArtifacts, MemoryLifecycle, MemoryOnDemand

STORED = FlushReport(
    "demo", stored=True, files=12, bytes=3_400_000, uploaded=2, manifest="sessions/demo/.cachesync/m", seconds=0.2149
)
SAFE = SessionStatus("demo", "open", 12, 3_400_000, 0, 0, 0, 0, 0, 0, None)
UNSAFE = SessionStatus("busy", "open", 1_234, 5_000, 3, 2_000, 1, 1, 4, 0, 1.5, [Failure("a\nb", "denied")])
STORY = Story(
    "demo", "a\nb", "file", "dirty", 3, 2, 5, 990.0, 1004.0, 1, 995.0, "denied", 900.0, "k", '"e"', "v1", "ab" * 32
)


class FakeVerbs:
    """Answers from ``reports`` (a report or an error for each session)."""

    def __init__(self) -> None:
        self.reports: dict[str, FlushReport | Exception] = {"demo": STORED}
        self.statuses: list[SessionStatus] = [SAFE, UNSAFE]
        self.daemon: DaemonStatus | None = DaemonStatus(7, "0.1.0", 75.0)
        self.left_alone: list[Skipped] = []
        self.calls: list[tuple[Any, ...]] = []
        self.wait: Callable[[], object] = lambda: None
        self.error: Exception | None = None
        self.artifacts = MemoryArtifacts()
        self.lifecycle = MemoryLifecycle()
        self.ondemand = MemoryOnDemand()

    def flush(
        self, session: str, *, timeout: float, confirm_deletes: bool = False, receipt: bool = False
    ) -> FlushReport:
        self.calls.append(("flush", session, timeout, confirm_deletes, receipt))
        self.wait()
        report = self.reports.get(session, NoSuchSession("flush", session, "there is none"))
        if isinstance(report, Exception):
            raise report
        return report

    def status(self, session: str | None = None) -> StatusReport:
        self._fail()
        chosen = [row for row in self.statuses if session in (None, row.session)]
        return StatusReport("/r", "s3://b", self.daemon, chosen, ["no versioning"], 1000.0)

    def explain(self, session: str, path: str) -> Story:
        self._fail()
        self.calls.append(("explain", session, path))
        return STORY

    def retry(self, session: str | None = None) -> int:
        self.calls.append(("retry", session))
        return 1

    def sessions(self) -> list[str]:
        return sorted(self.reports)

    def strays(self) -> list[Skipped]:
        return self.left_alone

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error


class Done(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def verbs() -> FakeVerbs:
    return FakeVerbs()


@pytest.fixture
def run(verbs: FakeVerbs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    @contextmanager
    def connect(options: argparse.Namespace) -> Iterator[Verbs]:
        yield verbs

    monkeypatch.setattr(reach, "connect", connect)
    monkeypatch.setattr(reach, "connect_to_daemon", connect)
    monkeypatch.chdir(tmp_path)

    def command(*words: str) -> Done:
        capsys.readouterr()
        code = main(words)
        return Done(code, *capsys.readouterr())

    return command


# flush


def test_flush_stored_is_one_line(run: Run, verbs: FakeVerbs):
    assert run("flush", "demo") == (0, "demo: stored, 12 files, 3.4 MB, 0.21 s\n", "")
    assert verbs.calls[0][1] == "demo"
    assert 299 < verbs.calls[0][2] <= 300


def test_flush_hands_its_options_on(run: Run, verbs: FakeVerbs):
    run("flush", "demo", "--timeout", "7", "--confirm-deletes", "--receipt")
    assert verbs.calls[0][3:] == (True, True)
    assert 6 < verbs.calls[0][2] <= 7


GOLDEN = {
    "session": "demo",
    "stored": False,
    "files": 3,
    "bytes": 9,
    "uploaded": 1,
    "deleted": 0,
    "expired": 0,
    "failed": [{"path": "bad\\xff", "error": "not UTF-8"}],
    "pending": [{"path": "p", "reason": "in flight"}],
    "conflicts": [{"path": "c", "kept_as": "c.conflict-x"}],
    "skipped": [{"path": "s", "reason": "a socket"}],
    "manifest": None,
    "seconds": 1.235,
    "vanished": 0,
    "on_this_machine": False,
    "entries": [
        {"path": "a", "key": "sessions/demo/a", "size": 9, "sha256": "ab", "version": '"e"', "version_id": None}
    ],
}


def test_flush_json_is_the_report_and_nothing_else(run: Run, verbs: FakeVerbs):
    verbs.reports["demo"] = FlushReport(
        "demo",
        stored=False,
        files=3,
        bytes=9,
        uploaded=1,
        failed=[Failure(os.fsdecode(b"bad\xff"), "not UTF-8")],
        pending=[Pending("p", "in flight")],
        conflicts=[Conflict("c", "c.conflict-x")],
        skipped=[Skipped("s", "a socket")],
        seconds=1.23456,
        entries=[ReceiptLine("a", "sessions/demo/a", 9, "ab", '"e"', None)],
    )
    done = run("flush", "demo", "--json")
    assert (done.code, done.err) == (1, "")
    assert json.loads(done.out) == GOLDEN
    human = run("flush", "demo")
    assert human.out.splitlines() == [
        "demo: NOT stored, 1 failure, 1 pending (1 uploaded, 1.23 s)",
        r"  failed   bad\xff: not UTF-8",
        "  pending  p: in flight",
        "  conflict c: the other version is kept as c.conflict-x",
        "  skipped  s: a socket",
        '  receipt  ab  9  "e"  a',
        "  mend the cause, then: cachesync retry demo && cachesync flush demo",
    ]


def test_flush_shows_the_first_twenty_and_what_to_do(run: Run, verbs: FakeVerbs):
    pending = [Pending(f"f{number}", "waits") for number in range(1020)]
    verbs.reports["demo"] = FlushReport("demo", stored=False, pending=pending)
    done = run("flush", "demo", "--timeout", "30")
    lines = done.out.splitlines()
    assert done.code == 4
    assert lines[0] == "demo: NOT stored, 0 failures, 1,020 pending (0 uploaded, 0.00 s)"
    assert lines[20:] == [
        "  pending  f19: waits",
        "  and 1,000 more",
        "  under a daemon it goes on by itself; ask again: cachesync flush demo --timeout 60",
        "  the story of one file: cachesync explain demo/PATH",
    ]


def test_flush_of_several_is_parallel_and_lists_in_order(run: Run, verbs: FakeVerbs):
    names = [f"s{number}" for number in range(8)]
    verbs.reports = {name: FlushReport(name, stored=True) for name in names}
    together = threading.Barrier(len(names), timeout=10)
    verbs.wait = together.wait
    done = run("flush", *names, "--json")
    assert done.code == 0
    assert [row["session"] for row in json.loads(done.out)] == names


def test_flush_of_several_has_one_deadline(run: Run, verbs: FakeVerbs, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cachesync.cli.flush.AT_ONCE", 1)
    verbs.reports = {name: FlushReport(name, stored=True) for name in ("a", "b", "c")}
    verbs.wait = lambda: time.sleep(0.15)
    run("flush", "a", "b", "c", "--timeout", "0.2")
    timeouts = [call[2] for call in verbs.calls]
    assert 0.1 < timeouts[0] <= 0.2
    assert 0 < timeouts[1] < 0.1
    assert timeouts[2] == 0


FAILED = FlushReport("failed", stored=False, failed=[Failure("x", "denied")])
LATE = FlushReport("late", stored=False)


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (["demo", "ok"], 0),
        (["demo", "late"], 4),
        (["late", "failed"], 1),
        (["failed", "late", "ghost"], 3),
        (["late", "ghost", "failed", "locked"], 2),
        (["demo", "down"], 4),
    ],
)
def test_flush_of_several_exits_with_the_worst(run: Run, verbs: FakeVerbs, names: list[str], code: int):
    verbs.reports |= {
        "ok": FlushReport("ok", stored=True),
        "late": LATE,
        "failed": FAILED,
        "locked": UsageError("flush", "locked", "no"),
        "down": StoreUnreachable("put", "k", "refused"),
    }
    done = run("flush", *names)
    assert done.code == code
    assert [line.split(":")[0] for line in done.out.splitlines() if line[0] != " "] == names


def test_flush_of_several_says_an_error_in_its_place(run: Run, verbs: FakeVerbs):
    told = json.loads(run("flush", "demo", "ghost", "--json").out)
    assert told[0] == STORED.json()
    assert told[1]["session"] == "ghost"
    assert told[1]["error"]["kind"] == "NoSuchSession"


def test_flush_all_names_the_directories_that_are_no_sessions(run: Run, verbs: FakeVerbs):
    verbs.left_alone = [Skipped("my\nses\udcffsion", "not a session name")]
    done = run("flush", "--all")
    assert (done.code, done.out.splitlines()[0].startswith("demo: stored")) == (1, True)
    assert done.out.splitlines()[1].startswith("my\\nses\\xffsion: NOT stored: not a session name")
    demo, stray = json.loads(run("flush", "--all", "--json").out)
    assert demo == STORED.json()
    assert stray.keys() == demo.keys()
    assert (stray["stored"], [row["path"] for row in stray["failed"]]) == (False, ["."])
    assert run("flush", "demo").code == 0, "it is asked for one session"
    verbs.reports = {}
    assert (run("flush", "--all").code, run("flush", "--all").out.count("\n")) == (1, 1)


def test_flush_all(run: Run, verbs: FakeVerbs):
    assert json.loads(run("flush", "--all", "--json").out) == [STORED.json()]
    assert run("flush", "--all").out.startswith("demo: stored")
    verbs.reports = {}
    assert run("flush", "--all") == (0, "there are no sessions yet\n", "")
    assert run("flush", "--all", "--json") == (0, "[]\n", "")
    assert run("flush", "--all", "demo").code == 2


def test_flush_of_nothing_names_what_there_is(run: Run, verbs: FakeVerbs):
    done = run("flush")
    assert (done.code, done.out) == (2, "")
    assert "which session?" in done.err
    assert "demo" in done.err


def test_flush_twice_the_same_is_once(run: Run, verbs: FakeVerbs):
    assert run("flush", "demo", "demo", "--json").out.startswith('{"session": "demo"')
    assert len(verbs.calls) == 1


@pytest.mark.parametrize("timeout", ["-1", "nan", "inf", "5m", "86401", ""])
def test_flush_with_an_odd_timeout(run: Run, verbs: FakeVerbs, timeout: str):
    assert run("flush", "demo", f"--timeout={timeout}").code == 2
    assert verbs.calls == []


# Errors


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("flush", "../etc"), 2),
        (("flush", ".hidden"), 2),
        (("flush", os.fsdecode(b"\xff")), 2),
        (("flush", "ghost"), 3),
        (("status", "no/pe"), 2),
        (("status", "ghost"), 3),
        (("retry", "../x"), 2),
        (("explain", "demo"), 2),
        (("explain", "demo/"), 2),
        (("explain", "demo/../x"), 2),
        (("explain", "demo//x"), 2),
        (("explain", "/etc/passwd"), 2),
        (("bogus",), 2),
        (("flush", "demo", "--bogus"), 2),
        (("flush", "demo", "--time", "3"), 2),
        ((), 2),
    ],
)
def test_wrong_words_are_one_line_and_an_exit_code(run: Run, verbs: FakeVerbs, words: tuple[str, ...], code: int):
    done = run(*words)
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith("cachesync: ")
    assert done.err.count("\n") == 1
    told = json.loads(run(*words, "--json").out)
    assert told["error"]["exit_code"] == code


def test_an_error_of_the_store_keeps_its_code_and_its_one_line(run: Run, verbs: FakeVerbs):
    verbs.reports["demo"] = StoreDenied("put", "a\x1b[2Jb", "line one\nline two")
    done = run("flush", "demo")
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert "\x1b" not in done.err


def test_an_error_of_the_machine_and_a_defect_have_no_traceback(run: Run, verbs: FakeVerbs):
    verbs.reports["demo"] = OSError(28, "No space left on device", "/r")
    assert run("flush", "demo") == (1, "", "cachesync: run '/r': No space left on device\n")
    verbs.reports["demo"] = RuntimeError("odd")
    done = run("flush", "demo")
    assert done.code == 1
    assert "internal error: RuntimeError: odd" in done.err
    assert "Traceback" not in done.err


def test_ctrl_c_is_quiet(run: Run, verbs: FakeVerbs):
    def interrupt() -> None:
        raise KeyboardInterrupt

    verbs.wait = interrupt
    assert run("flush", "demo") == (130, "", "")


def test_a_closed_pipe_is_quiet():
    reader, writer = os.pipe()
    os.close(reader)
    closed = subprocess.run([sys.executable, "-m", "cachesync", "config"], stdout=writer, stderr=-1, check=False)
    os.close(writer)
    assert (closed.returncode, closed.stderr) == (141, b"")


# status


STATUS_GOLDEN = {
    "root": "/r",
    "store": "s3://b",
    "daemon": {"pid": 7, "version": "0.1.0", "uptime": 75.0},
    "sessions": [
        {
            "session": "demo",
            "state": "open",
            "files": 12,
            "bytes": 3400000,
            "dirty": 0,
            "dirty_bytes": 0,
            "in_flight": 0,
            "failed": 0,
            "evicted": 0,
            "conflicts": 0,
            "oldest_dirty_age": None,
            "safe_to_kill": True,
            "failures": [],
            "vanished": 0,
        }
    ],
    "notes": ["no versioning"],
    "rate": 1000.0,
    "store_silent_for": None,
    "on_this_machine": False,
}


def test_status_of_one_session_answers_safe_to_kill(run: Run):
    assert run("status", "demo").code == 0
    assert run("status", "busy").code == 4
    assert run("status").code == 0
    done = run("status", "demo", "--json")
    assert (done.code, json.loads(done.out)) == (0, STATUS_GOLDEN)


def test_status_is_a_table(run: Run):
    assert run("status").out.splitlines() == [
        "root   /r",
        "store  s3://b",
        "daemon pid 7, 0.1.0, up 1 min 15 s",
        "note   no versioning",
        "",
        "SESSION  STATE  FILES   SIZE  DIRTY  UNSENT  FLIGHT  FAILED  EVICTED  AGE  SAFE",
        "busy     open   1,234  5.0kB      3   2.0kB       1       1        4   2s    NO",
        "demo     open      12  3.4MB      0      0B       0       0        0    -   yes",
        "1.0 kB/s, 2.0 kB to send, about 2.00 s",
        r"failed busy/a\nb: denied",
    ]
    assert run("status", "busy").out.splitlines()[-1] == r"failed a\nb: denied"


def test_a_row_fits_on_a_terminal_and_shows_what_there_is():
    name = "0f8fad5b-d9cb-469f-a165-70867728950e"
    calm = SessionStatus(name, "closed", 123_456, 999_900_000, 0, 0, 0, 0, 0, 0, None)
    assert list(status.table(StatusReport("/r", "s3://b", None, [calm])))[4:] == [
        "SESSION                               STATE     FILES     SIZE  DIRTY  SAFE",
        f"{name}  closed  123,456  999.9MB      0   yes",
    ]
    name = "20261124-132416-0f8fad"
    busy = SessionStatus(name, "open", 9_999, 999_900_000, 999, 99_900_000, 32, 12, 0, 0, 7_200)
    lines = list(status.table(StatusReport("/r", "s3://b", None, [busy])))[4:6]
    assert lines[0].split() == [name for name, _ in status.COLUMNS if name != "EVICTED"]
    assert lines[1].split() == [name, "open", "9,999", "999.9MB", "999", "99.9MB", "32", "12", "2h", "NO"]
    assert max(map(len, lines)) <= 80


def test_a_screen_shows_the_unsafe_first():
    rows = [
        SessionStatus(f"s{number:03}", "open", 0, 0, int(number > 90), 0, 0, 0, 0, 0, None) for number in range(100)
    ]
    lines = list(status.table(StatusReport("/r", "s3://b", None, rows), most_rows=5))
    assert lines[2] == "daemon none"
    assert [line.split()[0] for line in lines[-6:-1]] == ["s091", "s092", "s093", "s094", "s095"]
    assert lines[-1] == "and 95 more, 4 of them not safe"


def test_watch_goes_on_until_ctrl_c(run: Run, verbs: FakeVerbs, monkeypatch: pytest.MonkeyPatch):
    ticks = iter([None, None])

    def sleep(seconds: float) -> None:
        verbs.error = DaemonUnavailable("ask", "sock", "gone")
        if next(ticks, 1):
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", sleep)
    done = run("status", "busy", "--watch")
    assert done.code == 4
    assert done.out.count("busy") == 1
    assert done.out.count("cachesync: ask 'sock': gone") == 2
    assert "\x1b" not in done.out


def test_watch_json_is_one_document_a_line(run: Run, monkeypatch: pytest.MonkeyPatch):
    ticks = iter([None, None])

    def sleep(seconds: float) -> None:
        if next(ticks, 1):
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", sleep)
    done = run("status", "demo", "--watch", "--json")
    assert done.code == 0
    assert [json.loads(line) for line in done.out.splitlines()] == [STATUS_GOLDEN] * 3


def test_watch_json_tells_of_an_error_as_a_document(run: Run, verbs: FakeVerbs, monkeypatch: pytest.MonkeyPatch):
    def sleep(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", sleep)
    verbs.error = DaemonUnavailable("ask", "sock", "gone")
    done = run("status", "--watch", "--json")
    assert json.loads(done.out)["error"]["kind"] == "DaemonUnavailable"
    assert "gone" in done.err


def test_watch_ends_with_what_will_not_pass(run: Run, verbs: FakeVerbs):
    assert run("status", "elsewhere", "--watch").code == 3
    verbs.error = UsageError("read", "x", "wrong")
    assert run("status", "--watch").code == 2


@pytest.mark.parametrize(("daemon", "pause"), [(DaemonStatus(7, "0.1.0", 75.0), 1.0), (None, 5.0)])
def test_watch_owns_a_root_without_a_daemon_less_often(
    daemon: DaemonStatus | None, pause: float, run: Run, verbs: FakeVerbs, monkeypatch: pytest.MonkeyPatch
):
    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", sleep)
    verbs.daemon = daemon
    run("status", "--watch")
    assert slept == [pause]


def test_watch_never_takes_the_root_where_a_daemon_was(run: Run, verbs: FakeVerbs, monkeypatch: pytest.MonkeyPatch):
    asked = []

    @contextmanager
    def daemon(options: argparse.Namespace) -> Iterator[Verbs]:
        asked.append(options.command)
        if asked:
            raise DaemonUnavailable("ask the daemon at", "sock", "it is not there")
        yield verbs

    def sleep(seconds: float) -> None:
        if asked:
            raise KeyboardInterrupt

    monkeypatch.setattr(reach, "connect_to_daemon", daemon)
    monkeypatch.setattr("time.sleep", sleep)
    done = run("status", "--watch")
    assert asked == ["status"]
    assert "it is not there" in done.out


# The others


def test_explain_tells_the_story(run: Run, verbs: FakeVerbs):
    assert list(explain.sentences(STORY, now=1000.0)) == [
        r"demo/a\nb is dirty.",
        "It holds 5 B.",
        "It is dirty since 1970-01-01T00:16:30Z (10 s ago): change 3 was seen, 2 is the latest that is stored.",
        "It was tried 1 time without success, last at 1970-01-01T00:16:35Z (5.00 s ago).",
        "The last error: denied.",
        "The next try is due at 1970-01-01T00:16:44Z (in 4.00 s).",
        "The store has it since 1970-01-01T00:15:00Z (1 min 40 s ago) as k.",
        'Its version is "e", version id v1.',
        f"Its SHA-256 is {'ab' * 32}.",
    ]
    done = run("explain", "demo/a/b c", "--json")
    assert json.loads(done.out) == STORY.json()
    assert verbs.calls == [("explain", "demo", "a/b c")]
    assert run("explain", "demo/dir/").code == 0


def test_explain_of_what_is_not_stored():
    story = Story("demo", "a", "file", "dirty", 1, 0, None, None, 5.0, 0, None, None, None, None, None, None, None)
    assert list(explain.sentences(story, now=6.0)) == [
        "demo/a is dirty.",
        "It is dirty: change 1 was seen, none is the latest that is stored.",
        "It is due now.",
        "Nothing of it is stored yet.",
    ]


def test_retry(run: Run, verbs: FakeVerbs):
    assert run("retry", "demo") == (0, "1 entry tried again now\n", "")
    assert run("retry", "--json") == (0, '{"retried": 1}\n', "")
    assert verbs.calls == [("retry", "demo"), ("retry", None)]


def test_retry_without_a_daemon_says_what_is_needed(run: Run, verbs: FakeVerbs):
    verbs.daemon = None
    hint = "no daemon runs that would try: cachesync flush {} does, and waits\n"
    assert run("retry", "demo") == (0, "1 entry due now\n", hint.format("demo"))
    assert run("retry") == (0, "1 entry due now\n", hint.format("--all"))
    assert run("retry", "--json") == (0, '{"retried": 1}\n', "")


def test_version(run: Run):
    assert run("version") == (0, f"cachesync {__version__}\n", "")
    assert run("--version").out == f"cachesync {__version__}\n"
    assert json.loads(run("version", "--json").out) == {"version": __version__}


def test_config_names_values_and_sources(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("CACHESYNC_SETTLE", "20ms")
    done = run("--root", "before", "config", "--transfers=4", "--json")
    rows = {row["name"]: row for row in json.loads(done.out)}
    assert rows["root"] == {"name": "root", "value": str(tmp_path / "before"), "source": "flag --root"}
    assert rows["transfers"]["source"] == "flag --transfers"
    assert rows["settle"]["source"] == "environment CACHESYNC_SETTLE"
    assert "hunter2" not in done.out
    human = run("config", "--root", "after")
    assert human.code == 0
    assert "hunter2" not in human.out
    assert str(tmp_path / "after") in human.out
    assert run("config", "--transfers", "many").code == 2


def test_a_misspelt_variable_is_told_of(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CACHESYNC_SETLE", "20ms")
    monkeypatch.setenv("CACHESYNC_XYZZY", "1")
    monkeypatch.setenv("CACHESYNC_DEBUG", "")
    monkeypatch.setenv("CACHESYNC_MODEL_EXAMPLES", "1")
    done = run("version", "--json")
    assert (done.code, json.loads(done.out)) == (0, {"version": __version__})
    assert done.err.splitlines() == [
        "cachesync: the environment variable CACHESYNC_SETLE is no setting (did you mean CACHESYNC_SETTLE?)",
        "cachesync: the environment variable CACHESYNC_XYZZY is no setting (cachesync config shows every setting)",
    ]


def test_help_names_every_command_and_setting_but_no_secret(run: Run):
    done = run("--help")
    assert done.code == 0
    for word in ("run", "flush", "status", "explain", "retry", "config", "version", "--root", "--store", "--socket"):
        assert word in done.out
    assert "--http-token" not in done.out
    assert run("flush", "--help").code == 0


def test_help_waits_for_nothing_that_it_does_not_show():
    code = "import sys; from cachesync.cli import main; main(['--help']); print('\\n', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=30)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not loaded & {"argcomplete", "asyncio", "concurrent.futures", "fsspec", "logging", "rich", "sqlite3"}
    ours = {name for name in loaded if name.startswith("cachesync.") and not name.startswith("cachesync.c")}
    assert ours == {"cachesync.model"} | {f"cachesync.model.{name}" for name in ("errors", "keys", "limits", "record")}


def test_help_takes_less_than_150_ms():
    command = [sys.executable, "-m", "cachesync", "--help"]
    took = []
    for _ in range(5):
        before = os.times()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=30)
        after = os.times()
        # Its own time: what others do on this machine in the meantime is not of interest.
        took.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(took) < 0.150, took


def test_run_hands_over_to_the_daemon(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    seen = []

    def serve(config: Any, dev_server: Path | None, _announce: object) -> int:
        seen.append((config.root, dev_server))
        return 4

    monkeypatch.setitem(sys.modules, "cachesync.daemon.process", types.SimpleNamespace(run=serve))
    assert run("run", "--root", "r", "--dev-server", "d").code == 4
    assert seen == [(tmp_path / "r", Path("d"))]


# Who answers


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reach, "PATIENCE", 0.3)
    return argparse.Namespace(setting_root=str(tmp_path / "root"))


def opens(monkeypatch: pytest.MonkeyPatch, open_service: Callable[..., Any]) -> None:
    monkeypatch.setitem(sys.modules, "cachesync.daemon.process", types.SimpleNamespace(open_service=open_service))


def test_without_a_daemon_a_service_is_opened(
    options: argparse.Namespace, verbs: FakeVerbs, monkeypatch: pytest.MonkeyPatch
):
    closed = []

    @contextmanager
    def open_service(config: Any, *, work: bool, create_root: bool) -> Iterator[Verbs]:
        yield verbs
        closed.append(config.root)

    opens(monkeypatch, open_service)
    with reach.connect(options) as found:
        assert found is verbs
        assert closed == []
    assert closed == [Path(options.setting_root)]


def test_an_error_of_the_verbs_is_not_taken_for_a_locked_root(
    options: argparse.Namespace, verbs: FakeVerbs, monkeypatch: pytest.MonkeyPatch
):
    opened = []

    @contextmanager
    def open_service(config: Any, *, work: bool, create_root: bool) -> Iterator[Verbs]:
        opened.append(config)
        yield verbs

    opens(monkeypatch, open_service)
    with pytest.raises(RootLocked), reach.connect(options):
        raise RootLocked("x")
    assert len(opened) == 1


def test_a_locked_root_with_a_silent_owner_is_unavailable(options: argparse.Namespace, monkeypatch: pytest.MonkeyPatch):
    def open_service(config: Any, *, work: bool, create_root: bool) -> Any:
        raise RootLocked("open", str(config.root), "pid 7 owns it")

    opens(monkeypatch, open_service)
    with pytest.raises(DaemonUnavailable, match="pid 7 owns it"), reach.connect(options):
        pass


def test_a_root_that_is_let_go_in_time_is_opened(
    options: argparse.Namespace, verbs: FakeVerbs, monkeypatch: pytest.MonkeyPatch
):
    tries = []

    @contextmanager
    def open_service(config: Any, *, work: bool, create_root: bool) -> Iterator[Verbs]:
        tries.append(1)
        if len(tries) == 1:
            raise RootLocked("open", "", "another flush")
        yield verbs

    opens(monkeypatch, open_service)
    with reach.connect(options) as found:
        assert found is verbs


# Words


def test_sizes_and_times():
    assert [formatting.size(n) for n in (0, 999, 1000, 3_400_000, 999_960, 5e15)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "3.4 MB",
        "1.0 MB",
        "5000.0 TB",
    ]
    assert [formatting.duration(n) for n in (0.214, 42.4, 59.6, 185, 7260, 86400 * 3 + 4 * 3600)] == [
        "0.21 s",
        "42 s",
        "1 min",
        "3 min 5 s",
        "2 h 1 min",
        "3 d 4 h",
    ]
    assert formatting.one_line("a\nb\x1b[0m" + os.fsdecode(b"\xff")) == r"a\nb\x1b[0m\xff"
    assert formatting.one_line("\ud800") == r"\ud800"


def test_the_bar_counts_down_from_the_most_there_was(verbs: FakeVerbs):
    bar = progress.Progress(verbs, ["busy"], sys.stderr, columns=100)
    verbs.statuses = [SessionStatus("busy", "open", 9, 9, 8, 8_000_000, 0, 0, 0, 0, 1.0)]
    assert bar.line(verbs.status()).startswith("busy [........................]   0%  0/8 files  0 B/8.0 MB")
    verbs.statuses = [SessionStatus("busy", "open", 9, 9, 4, 4_000_000, 0, 0, 0, 0, 1.0)]
    assert bar.line(verbs.status()) == ("busy [############............]  50%  4/8 files  4.0 MB/8.0 MB  1.0 kB/s")
    assert len(progress.Progress(verbs, ["busy"], sys.stderr, columns=20).line(verbs.status())) == 19


def test_the_bar_draws_and_cleans_up(verbs: FakeVerbs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(progress, "INTERVAL", 0.01)
    with (tmp_path / "terminal").open("w+", newline="") as out:
        with progress.Progress(verbs, ["busy"], out, columns=80):
            time.sleep(0.1)
            verbs.error = CacheSyncError("x")
            time.sleep(0.05)
        out.seek(0)
        drawn = out.read()
    assert "busy [" in drawn
    assert drawn.endswith("\r\x1b[K")


def test_no_bar_without_a_terminal(run: Run):
    assert run("flush", "demo").err == ""


def test_a_flush_that_takes_long_says_once_what_it_waits_for(
    run: Run, verbs: FakeVerbs, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(progress, "PATIENCE", 0.01)
    verbs.reports["busy"] = FlushReport("busy", stored=True)
    verbs.wait = lambda: time.sleep(0.3)
    assert run("flush", "busy", "--json").err == "waiting for busy: 3 files, 2.0 kB to store\n"
    assert run("flush", "--all").err == "waiting for 2 sessions: 3 files, 2.0 kB to store\n"
    verbs.error = CacheSyncError("x")
    assert run("flush", "busy").err == ""
