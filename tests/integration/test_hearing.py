"""Names that come to a session while a flush follows its files, and waiting for what the watcher hears."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cachesync.daemon import reconciler
from cachesync.telemetry.notify import Notifier
from cachesync.watch.arrivals import Arrivals
from cachesync.watch.hearing import Ears, Hearing
from cachesync.watch.hints import OVERFLOW, Hint
from tests.driving import Driven
from tests.flat_store import FlatStore
from tests.watching import Bench, exchange, write


@pytest.fixture
def bench(tmp_path) -> Iterator[Bench]:
    bench = Bench(str(tmp_path))
    bench.watcher.start()
    yield bench
    bench.watcher.stop()


@pytest.fixture
def ears(bench: Bench) -> Iterator[Ears]:
    hearing = Hearing()
    hearing.attach(bench.watcher, lambda _session, _timeout: True)
    with hearing.listen("s") as ears:
        assert ears is not None
        yield ears


def test_every_name_that_came_before_the_question_is_heard(bench, ears):
    for number in range(200):
        write(f"{bench.root}/s/f{number}")
        assert f"f{number}" in (ears.names() or ())


def test_names_that_were_deleted_again_are_not_told(bench, ears):
    write(f"{bench.root}/s/deleted")
    os.unlink(f"{bench.root}/s/deleted")
    write(f"{bench.root}/s/old name")
    os.rename(f"{bench.root}/s/old name", f"{bench.root}/s/new name")
    assert set(ears.names()) == {"old name", "new name"}


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_names_that_changed_places_are_both_told(bench, ears, kind):
    """RENAME_EXCHANGE: the kernel reports of each name that something came, and that something left."""
    for name in ("a", "b"):
        write(f"{bench.root}/s/{name}" + "/f" * (kind == "directory"))
    for name, arrival in ears.names().items():
        ears.take(name, arrival)
    exchange(f"{bench.root}/s/a", f"{bench.root}/s/b")
    assert {"a", "b"} <= set(ears.names())


def test_a_link_and_a_directory_come_too_and_other_sessions_do_not(bench, ears):
    write(f"{bench.root}/s/f")
    os.link(f"{bench.root}/s/f", f"{bench.root}/s/twin")
    os.mkdir(f"{bench.root}/s/d")
    write(f"{bench.root}/other/f")
    assert set(ears.names()) == {"f", "twin", "d"}


def test_a_name_that_was_looked_at_is_not_told_again_before_it_comes_again(bench, ears):
    write(f"{bench.root}/s/f")
    ((name, arrival),) = ears.names().items()
    assert name == "f"
    ears.take("f", arrival)
    assert ears.names() == {}
    os.rename(f"{bench.root}/s/f", f"{bench.root}/s/g")
    os.rename(f"{bench.root}/s/g", f"{bench.root}/s/f")
    again = ears.names()
    assert set(again) == {"f", "g"}
    ears.take("f", arrival)
    assert "f" in ears.names(), "it came again since it was looked at"
    ears.take("f", again["f"])
    assert "f" not in ears.names()


def test_after_an_overflow_no_names_are_told(bench, ears):
    bench.watcher._pending.rescan(OVERFLOW)
    assert ears.names() is None


def test_a_watcher_that_stopped_hears_nothing(bench, ears):
    bench.watcher.stop()
    assert ears.names() is None


def test_where_not_all_is_watched_there_are_no_ears(bench, monkeypatch):
    hearing = Hearing()
    with hearing.listen("s") as ears:
        assert ears is None
    hearing.attach(bench.watcher, lambda _session, _timeout: True)
    for uncovered in ("s/d", "s", "."):
        monkeypatch.setattr(bench.watcher, "uncovered", lambda path=uncovered: frozenset({path}))
        with hearing.listen("s") as ears:
            assert ears is None, uncovered
    monkeypatch.setattr(bench.watcher, "uncovered", lambda: frozenset({"other"}))
    with hearing.listen("s") as ears:
        assert ears is not None
    assert bench.watcher._pending.listeners == ()


def test_too_many_names_are_none(monkeypatch):
    monkeypatch.setattr("cachesync.watch.arrivals._MOST", 3)
    arrivals = Arrivals("s/")
    for number in range(3):
        arrivals.came(f"s/{number}", moved=False)
    assert not arrivals.lost
    arrivals.came("s/another", moved=False)
    assert arrivals.lost


class Replacing:
    """A watcher of a session in which a program replaces a file by a new one whenever one asks."""

    def __init__(self, session: Path) -> None:
        self._session = session
        self._arrivals = Arrivals("s/")

    def listen(self, below: str) -> Arrivals:
        assert below == "s/"
        return self._arrivals

    def end_listening(self, arrivals: Arrivals) -> None:
        assert arrivals is self._arrivals

    def hear(self, timeout: float) -> bool:
        del timeout
        write(f"{self._session}/new")
        self._arrivals.came("s/new", moved=False)
        (self._session / "new").rename(self._session / "kept")
        self._arrivals.came("s/kept", moved=True)
        return True


def test_a_program_that_replaces_files_all_the_time_does_not_hold_a_flush_up(tmp_path):
    session = tmp_path / "root/s"
    write(f"{session}/kept")
    driven = Driven(tmp_path / "root", FlatStore())
    driven.engine.hearing.attach(Replacing(session), lambda _session, _timeout: True)
    report = driven.flush("s", timeout=5)
    assert report.stored, report
    driven.close()


def test_caught_up_means_that_everything_before_was_looked_at(tmp_path, monkeypatch):
    """Also while another round of hints is under way, which took its hints before."""
    (tmp_path / "root/s").mkdir(parents=True)
    driven = Driven(tmp_path / "root", FlatStore())
    looked: set[str] = set()
    begun, go_on = threading.Event(), threading.Event()

    def notice(session: str, hints: dict[str, Hint]) -> Iterator[None]:
        begun.set()
        assert go_on.wait(20)
        looked.update(hints)
        yield

    monkeypatch.setattr(driven.engine.scanner, "notice_in_steps", notice)
    daemon = reconciler.Attendant(driven.engine, Notifier({}))
    daemon.start()
    try:
        write(f"{tmp_path}/root/s/first")
        assert begun.wait(20)
        write(f"{tmp_path}/root/s/second")
        answers: list[bool] = []
        waiting = threading.Thread(target=lambda: answers.append(daemon.catch_up("s", 20)))
        waiting.start()
        go_on.set()
        waiting.join(20)
        assert answers == [True]
        assert {"first", "second"} <= looked
    finally:
        go_on.set()
        daemon.stop()
        driven.close()
