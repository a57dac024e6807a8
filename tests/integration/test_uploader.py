"""The uploader's own bookkeeping, with transfers that end when and how a test wants."""

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest

from cachesync.journal.journal import Journal
from cachesync.model.errors import StorePermanent
from cachesync.model.events import Events
from cachesync.model.policy import PART_SIZE, SMALL
from cachesync.model.values import Mark, Multipart
from cachesync.sync.uploader import Uploader
from tests.driving import Driven
from tests.flat_store import FlatStore
from tests.integration.test_journal import file_stat

S = "s"


class Transfers:
    """Instead of ``Transfer``: each try waits until it is let go, and then raises what it is to."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.begun = threading.Semaphore(0)
        self.tried: list[str] = []
        self.sessions: list[str] = []
        self.error: Exception | None = None

    def run(self, session: str, path: str) -> bool:
        self.tried.append(path)
        self.sessions.append(session)
        self.begun.release()
        assert self.go.wait(10)
        if self.error is not None:
            raise self.error
        return True


@pytest.fixture
def journal(tmp_path) -> Iterator[Journal]:
    with contextlib.closing(Journal(tmp_path / "journal.db")) as journal:
        journal.sessions.add(S, 1.0)
        yield journal


@pytest.fixture
def transfers() -> Transfers:
    return Transfers()


@pytest.fixture
def uploader(journal, transfers) -> Iterator[Uploader]:
    uploader = Uploader(journal, transfers=32, clock=time.time, events=Events())
    yield uploader
    transfers.go.set()
    assert uploader.stop(5)


def ended(uploader: Uploader) -> bool:
    with uploader._changed:
        return uploader._changed.wait_for(lambda: not uploader._in_flight, 5)


def test_who_waits_for_memory_does_not_turn_in_circles(journal, transfers, uploader, monkeypatch):
    marks = [Mark(f"{number}", file_stat(size=PART_SIZE), 1.0) for number in range(6)]
    journal.entries.mark(S, marks, 1.0)
    rounds: list[float] = []
    real = uploader._round

    def counted() -> float:
        rounds.append(time.monotonic())
        pause: float = real()
        return pause

    monkeypatch.setattr(uploader, "_round", counted)
    uploader.start(transfers, list)
    for _ in range(4):  # of 16 MiB are what memory holds
        assert transfers.begun.acquire(timeout=5)
    uploader.wake()
    time.sleep(0.3)
    assert len(transfers.tried) == 4
    assert len(rounds) < 10
    transfers.go.set()
    assert transfers.begun.acquire(timeout=5)
    assert transfers.begun.acquire(timeout=5)


@pytest.mark.parametrize("error", [StorePermanent("store", "a", "it is \udcff"), OSError("it"), ValueError()])
def test_whatever_went_wrong_the_place_is_given_back(journal, transfers, uploader, error):
    journal.entries.mark(S, [Mark("a", file_stat(size=9), 1.0)], 1.0)
    transfers.error = error
    transfers.go.set()
    uploader.start(transfers, list)
    assert transfers.begun.acquire(timeout=5)
    assert ended(uploader)
    assert uploader._backlog.in_flight == 0
    entry = journal.entries.entry(S, "a")
    assert entry is not None
    assert entry.attempts == 1


def test_parts_of_what_a_file_held_before_are_freed_when_its_tail_is_sent(tmp_path, monkeypatch):
    store = FlatStore()
    given_up: list[Multipart] = []
    monkeypatch.setattr(store, "discard", given_up.append)
    log = tmp_path / "root" / S / "log"
    log.parent.mkdir(parents=True)
    log.write_bytes(bytes(PART_SIZE + 1))
    with contextlib.closing(Driven(tmp_path / "root", store)) as driven:
        assert driven.flush(S).stored
        left = Multipart(f"sessions/{S}/log", "id", "other bytes", PART_SIZE)
        driven.engine.journal.uploads.save(S, "log", left)
        with log.open("ab") as more:
            more.write(b"x")
        assert driven.flush(S).stored
        assert given_up == [left]
        assert driven.engine.journal.uploads.load(S, "log") is None


def test_without_a_thread_nothing_is_in_flight_and_it_is_tried_again(journal, transfers, uploader, monkeypatch):
    journal.entries.mark(S, [Mark("a", file_stat(size=9), 1.0)], 1.0)
    transfers.go.set()
    real = threading.Thread.start
    refused: list[threading.Thread] = []

    def start(thread: threading.Thread) -> None:
        if thread.name.startswith("transfer") and not refused:
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    uploader.start(transfers, list)
    assert transfers.begun.acquire(timeout=5)
    assert refused
    assert ended(uploader)


@pytest.mark.parametrize("size", [1, SMALL + 1, PART_SIZE, PART_SIZE + 1], ids=["small", "medium", "whole", "parts"])
def test_p24_transfers_of_one_session_that_hang_leave_room_for_another_session(journal, transfers, uploader, size):
    journal.sessions.add("other", 1.0)
    journal.entries.mark(S, [Mark(f"{number}", file_stat(size=size), 1.0) for number in range(300)], 1.0)
    uploader.start(transfers, list)
    assert transfers.begun.acquire(timeout=5)
    while transfers.begun.acquire(timeout=0.2):
        pass
    hanging = len(transfers.tried)
    for new in (1, PART_SIZE + 1):
        journal.entries.mark("other", [Mark(f"of {new}", file_stat(size=new), 1.0)], 1.0)
        uploader.wake()
        assert transfers.begun.acquire(timeout=5)
    assert transfers.sessions[hanging:] == ["other", "other"]


def test_p24_a_session_that_floods_and_another_take_turns(journal, transfers, uploader):
    journal.sessions.add("other", 1.0)
    journal.entries.mark(S, [Mark(f"{number}", file_stat(), 1.0) for number in range(2000)], 1.0)
    journal.entries.mark("other", [Mark("late", file_stat(), 2.0)], 2.0)
    transfers.go.set()
    uploader.start(transfers, list)
    for _ in range(40):
        assert transfers.begun.acquire(timeout=5)
    assert "late" in transfers.tried[:40]


def test_looks_at_very_many_sessions_keep_a_distance(journal, uploader, monkeypatch):
    for number in range(120):
        journal.sessions.add(f"s{number}", 1.0)
        journal.entries.mark(f"s{number}", [Mark("later", file_stat(), 500.0 + number)], 1.0)
    looks: list[float] = []
    real = journal.work.heads

    def heads(now):
        looks.append(now)
        return real(now)

    monkeypatch.setattr(journal.work, "heads", heads)
    monkeypatch.setattr(uploader, "_clock", lambda: 2.0)
    assert uploader._round() > 0
    assert 0 < uploader._round() < 0.01
    assert len(looks) == 1
    monkeypatch.setattr(uploader, "_clock", lambda: 3.0)
    uploader._round()
    assert len(looks) == 2


def test_a_path_that_is_marked_again_in_flight_waits_for_no_other_sessions_queue(journal, transfers, uploader):
    journal.sessions.add("other", 1.0)
    journal.entries.mark(S, [Mark("again", file_stat(), 1.0)], 1.0)
    go_on = {"again": threading.Event(), "rest": threading.Event()}
    plain = transfers.run

    def run(session: str, path: str) -> bool:
        transfers.go.set()
        plain(session, path)
        assert go_on["again" if path == "again" else "rest"].wait(10)
        time.sleep(0.01 * (session == "other"))
        return True

    transfers.run = run
    uploader.start(transfers, list)
    assert transfers.begun.acquire(timeout=5)
    journal.entries.mark("other", [Mark(f"{number}", file_stat(), 1.0) for number in range(2000)], 1.0)
    uploader.wake()
    go_on["rest"].set()
    for _ in range(50):
        assert transfers.begun.acquire(timeout=5)
    go_on["again"].set()
    for _ in range(300):
        assert transfers.begun.acquire(timeout=5)
    assert transfers.tried[:350].count("again") >= 2
