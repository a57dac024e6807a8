"""When the daemon scans of its own accord."""

import threading

import pytest

from cachesync import attendant
from cachesync.notify import Notifier
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
