"""When the daemon scans of its own accord."""

import errno
import os
import threading

import pytest

from cachesync import attendant
from cachesync.errors import RootHalted
from cachesync.keys import identity_key
from cachesync.notify import Notifier
from cachesync.watcher import Hint
from cachesync.watcher.hints import Hints
from tests.driving import Driven
from tests.flat_store import FlatStore


@pytest.mark.parametrize(("flags", "chosen"), [({}, False), ({"scan_interval": "60s"}, True)])
def test_what_a_scan_cost_says_when_the_next_one_is_due(tmp_path, monkeypatch, flags, chosen):
    (tmp_path / "root/s").mkdir(parents=True)
    driven = Driven(tmp_path / "root", FlatStore(), **flags)
    scanned, asked, pause = threading.Semaphore(0), [], [900.0]
    give_up = attendant.Attendant._give_up_uploads  # the last thing that a scan does

    def scan_ends(self):
        give_up(self)
        scanned.release()

    def until_next_scan(interval, cost, *, chosen, watched):
        asked.append((interval, chosen, watched, cost))
        return pause[0]

    monkeypatch.setattr(attendant.Attendant, "_give_up_uploads", scan_ends)
    monkeypatch.setattr(attendant, "until_next_scan", until_next_scan)
    daemon = attendant.Attendant(driven.engine, Notifier({}))
    daemon.start()
    try:
        assert scanned.acquire(timeout=20), "the scan at the start"
        daemon.tend()
        assert not scanned.acquire(timeout=0.3), "the next one is not due"
        daemon.tend()
        pause[0] = 0.0
        daemon.tend()
        assert scanned.acquire(timeout=20), "it is due"
    finally:
        daemon.stop()
        driven.close()
    assert {told[:3] for told in asked} == {(60.0, chosen, True)}
    assert asked[1][3] > 0


def test_what_the_watcher_tells_of_is_not_looked_at_again_for_a_mount(tmp_path, monkeypatch):
    (tmp_path / "root/s").mkdir(parents=True)
    driven = Driven(tmp_path / "root", FlatStore())
    looked = []
    monkeypatch.setattr(driven.engine.scanner, "notice", lambda session, hints: looked.append((session, set(hints))))
    daemon = attendant.Attendant(driven.engine, Notifier({}))
    told = {"s": {"a": 1, "d/b": 1}, "t": {"c": 1}}
    driven.engine.ondemand.notice(told)
    assert looked == [("s", {"a", "d/b"}), ("t", {"c"})], "nobody watches yet"
    looked.clear()
    daemon.watcher.start()
    try:
        driven.engine.ondemand.notice(told)
        assert looked == []
        monkeypatch.setattr(daemon.watcher, "uncovered", lambda: frozenset({"s/d"}))
        driven.engine.ondemand.notice(told)
        assert ("s", {"d/b"}) in looked
        assert all(not hints for session, hints in looked if session != "s")
    finally:
        daemon.watcher.stop()
        driven.close()


def dead(monkeypatch, name):
    """The directory of a session is a mount whose server died."""
    stat = os.stat

    def answer(path, **more):
        if path == name and "dir_fd" in more:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return stat(path, **more)

    monkeypatch.setattr(os, "stat", answer)


def test_p13_a_session_that_gives_no_answer_keeps_no_other_from_its_turn(tmp_path, monkeypatch, caplog):
    root = tmp_path / "root"
    names = [f"s{number}" for number in range(9)]
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "scanned").write_text("1")
    store = FlatStore()
    driven = Driven(root, store)
    daemon = attendant.Attendant(driven.engine, Notifier({}))
    dead(monkeypatch, "s4")
    daemon._scan_all({"start"})
    for name in names:
        (root / name / "hinted").write_text("2")
    hints = Hints({f"{name}/hinted": Hint.CHANGED | Hint.CLOSED for name in names}, frozenset())
    monkeypatch.setattr(daemon.watcher, "take", lambda: hints)
    daemon._notice_all()
    assert "not connected" in caplog.text
    driven.clock.push(10)
    driven.pump()
    stored = {f"sessions/{name}/{file}" for name in names if name != "s4" for file in ("scanned", "hinted")}
    assert set(store.objects) - {identity_key("")} == stored
    told = {row.session: row for row in driven.engine.service.status().sessions}
    assert {name for name, row in told.items() if not row.safe_to_kill} == {"s4"}
    assert [(failure.path, failure.error) for failure in told["s4"].failures] == [
        (".", "Transport endpoint is not connected")
    ]
    report = driven.flush("s4")
    assert (report.exit_code, [failure.path for failure in report.failed]) == (1, ["."])
    monkeypatch.undo()
    assert driven.flush("s4").stored
    assert driven.engine.service.status("s4").sessions[0].safe_to_kill
    driven.close()


def test_p07_a_session_that_gives_no_answer_is_not_gone(tmp_path, monkeypatch):
    root = tmp_path / "root"
    (root / "s").mkdir(parents=True)
    (root / "s/a").write_text("1")
    store = FlatStore()
    driven = Driven(root, store)
    assert driven.flush("s").stored
    dead(monkeypatch, "s")
    for _ in range(3):
        driven.engine.scanner.scan("s", recheck=True)
        driven.clock.push(60)
        driven.pump()
    assert not driven.engine.service.status("s").sessions[0].safe_to_kill
    monkeypatch.undo()
    (entry,) = [entry for entry in driven.engine.journal.entries.walk("s") if entry.path == "a"]
    assert entry.resident
    assert not entry.dirty
    assert "sessions/s/a" in store.objects
    driven.close()


def test_hints_of_a_root_that_was_away_for_a_moment_are_made_up_for_by_a_scan(tmp_path, monkeypatch):
    (tmp_path / "root/s").mkdir(parents=True)
    driven = Driven(tmp_path / "root", FlatStore())
    scanned = threading.Semaphore(0)
    daemon = attendant.Attendant(driven.engine, Notifier({}))
    monkeypatch.setattr(daemon, "_scan_all", lambda _: scanned.release())

    def away(*_):
        raise RootHalted("look at the root", "root", "gone")

    daemon.start()
    try:
        assert scanned.acquire(timeout=20), "the scan at the start"
        monkeypatch.setattr(driven.engine.scanner, "notice", away)
        (tmp_path / "root/s/a").write_text("1")
        assert scanned.acquire(timeout=20), "the root is in its place again"
    finally:
        daemon.stop()
        driven.close()


def test_the_hints_that_come_while_others_are_looked_at_are_taken_before_the_end(tmp_path, monkeypatch):
    (tmp_path / "root/s").mkdir(parents=True)
    driven = Driven(tmp_path / "root", FlatStore())
    daemon = attendant.Attendant(driven.engine, Notifier({}))
    monkeypatch.setattr(daemon, "_scan_all", lambda _: None)
    waiting = [["first"], ["second"]]
    looking, noticed = threading.Event(), []

    def take():
        names = waiting.pop(0) if waiting else []
        return Hints({f"s/{name}": Hint.CHANGED for name in names}, frozenset())

    def notice(_, hints):
        looking.set()
        assert daemon._stopping.wait(20), "the end comes in the middle of a round"
        noticed.extend(hints)

    monkeypatch.setattr(daemon.watcher, "take", take)
    monkeypatch.setattr(driven.engine.scanner, "notice", notice)
    daemon.start()
    daemon._hinted.set()
    assert looking.wait(20)
    daemon.stop()
    driven.close()
    assert noticed == ["first", "second"]
