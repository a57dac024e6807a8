"""When the daemon scans of its own accord."""

import errno
import os
import threading

import pytest

from cachesync.daemon import reconciler
from cachesync.model.errors import RootHalted
from cachesync.model.keys import identity_key
from cachesync.telemetry.notify import Notifier
from cachesync.watch.hints import Hint, Hints
from tests.driving import Driven
from tests.flat_store import FlatStore


@pytest.mark.parametrize(("flags", "chosen"), [({}, False), ({"scan_interval": "60s"}, True)])
def test_what_a_scan_cost_says_when_the_next_one_is_due(tmp_path, monkeypatch, flags, chosen):
    (tmp_path / "root/s").mkdir(parents=True)
    driven = Driven(tmp_path / "root", FlatStore(), **flags)
    scanned, asked, pause = threading.Semaphore(0), [], [900.0]
    give_up = reconciler.Attendant._give_up_uploads  # the last thing that a scan does

    def scan_ends(self):
        give_up(self)
        scanned.release()

    def until_next_scan(interval, cost, *, chosen, watched):
        asked.append((interval, chosen, watched, cost))
        return pause[0]

    monkeypatch.setattr(reconciler.Attendant, "_give_up_uploads", scan_ends)
    monkeypatch.setattr(reconciler, "until_next_scan", until_next_scan)
    daemon = reconciler.Attendant(driven.engine, Notifier({}))
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
    daemon = reconciler.Attendant(driven.engine, Notifier({}))
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
    daemon = reconciler.Attendant(driven.engine, Notifier({}))
    dead(monkeypatch, "s4")
    daemon._scan_all({"start"})
    for name in names:
        (root / name / "hinted").write_text("2")
    hints = Hints({f"{name}/hinted": Hint.CHANGED | Hint.CLOSED for name in names}, frozenset())
    waiting = [hints]
    monkeypatch.setattr(daemon.watcher, "take", lambda _: waiting.pop() if waiting else Hints({}, frozenset()))
    for _ in names:
        daemon._notice_some()
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
    daemon = reconciler.Attendant(driven.engine, Notifier({}))
    monkeypatch.setattr(daemon, "_scan_all", lambda _: scanned.release())

    def away(*_):
        raise RootHalted("look at the root", "root", "gone")

    daemon.start()
    try:
        assert scanned.acquire(timeout=20), "the scan at the start"
        monkeypatch.setattr(driven.engine.scanner, "notice_in_steps", away)
        (tmp_path / "root/s/a").write_text("1")
        assert scanned.acquire(timeout=20), "the root is in its place again"
    finally:
        daemon.stop()
        driven.close()


def test_the_hints_that_come_while_others_are_looked_at_are_taken_before_the_end(tmp_path, monkeypatch):
    (tmp_path / "root/s").mkdir(parents=True)
    driven = Driven(tmp_path / "root", FlatStore())
    daemon = reconciler.Attendant(driven.engine, Notifier({}))
    monkeypatch.setattr(daemon, "_scan_all", lambda _: None)
    waiting = [["first"], ["second"]]
    looking, noticed = threading.Event(), []

    def take(_):
        names = waiting.pop(0) if waiting else []
        return Hints({f"s/{name}": Hint.CHANGED for name in names}, frozenset())

    def notice(_, hints):
        looking.set()
        assert daemon._stopping.wait(20), "the end comes in the middle of a round"
        noticed.extend(hints)
        yield from ()

    monkeypatch.setattr(daemon.watcher, "take", take)
    monkeypatch.setattr(driven.engine.scanner, "notice_in_steps", notice)
    daemon.start()
    daemon._hinted.set()
    assert looking.wait(20)
    daemon.stop()
    driven.close()
    assert noticed == ["first", "second"]


def test_p24_a_large_tree_of_one_session_holds_up_no_hint_of_another(tmp_path, monkeypatch):
    """One thread looks at all hints, a step of each session in turn."""
    for name in ("flood", "other", "made"):
        (tmp_path / "root" / name).mkdir(parents=True)
    driven = Driven(tmp_path / "root", FlatStore())
    daemon = reconciler.Attendant(driven.engine, Notifier({}))
    driven.engine.scanner.scan("flood")
    driven.engine.scanner.scan("other")
    for folder in range(10):
        (tmp_path / "root/flood/tree" / str(folder)).mkdir(parents=True)
        for number in range(500):
            (tmp_path / "root/flood/tree" / str(folder) / str(number)).touch()
    (tmp_path / "root/other/f").write_text("1")
    waiting = [
        Hints({"other/f": Hint.CHANGED | Hint.CLOSED}, frozenset()),
        Hints({"flood/tree": Hint.TREE}, frozenset()),
    ]
    asked = []

    def take(besides):
        asked.append(set(besides))
        return waiting.pop() if waiting else Hints({}, frozenset())

    monkeypatch.setattr(daemon.watcher, "take", take)
    entries = driven.engine.journal.entries
    for _ in range(4):
        daemon._notice_some()
    assert asked[1] == {"flood"}, "its later hints wait until these are done"
    assert entries.entry("other", "f") is not None
    assert entries.entry("flood", "tree/0/0") is None or entries.entry("flood", "tree/9/0") is None
    while not daemon._hints.is_idle:
        daemon._notice_some()
    assert all(entries.entry("flood", f"tree/{folder}/499") for folder in range(10))
    driven.close()


def test_p24_a_session_whose_turn_does_not_end_holds_up_no_other(tmp_path, monkeypatch):
    for name in ("busy", "other"):
        (tmp_path / "root" / name).mkdir(parents=True)
        (tmp_path / "root" / name / "f").write_text("1")
    driven = Driven(tmp_path / "root", FlatStore())
    daemon = reconciler.Attendant(driven.engine, Notifier({}))
    waiting = [Hints(dict.fromkeys(("busy/f", "other/f"), Hint.CHANGED | Hint.CLOSED), frozenset())]
    monkeypatch.setattr(daemon.watcher, "take", lambda _: waiting.pop() if waiting else Hints({}, frozenset()))
    with driven.engine.journal.turns._of("busy"):
        for _ in range(3):
            daemon._notice_some()
        assert driven.engine.journal.entries.entry("other", "f") is not None
        assert driven.engine.journal.entries.entry("busy", "f") is None
    while not daemon._hints.is_idle:
        daemon._notice_some()
    assert driven.engine.journal.entries.entry("busy", "f") is not None
    driven.close()


def test_p24_scans_go_on_in_turn(tmp_path, monkeypatch):
    for number in range(3000):
        path = tmp_path / "root/flood" / str(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name in ("a", "b"):
        (tmp_path / "root" / name).mkdir()
    driven = Driven(tmp_path / "root", FlatStore())
    daemon = reconciler.Attendant(driven.engine, Notifier({}))
    assert [name for name, _ in daemon._scan_in_turn(["flood", "a", "b"])] == ["a", "b", "flood"]
    assert driven.engine.journal.entries.entry("flood", "2999") is not None
    driven.close()
