"""Which sessions the store has: a listing that takes long is waited for once, and its answer is kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from cachesync.model.errors import StoreUnreachable
from cachesync.session.stored_sessions import StoredSessions
from tests.promises.host import eventually

MANY = 100_000


def test_a_long_listing_is_shown_when_it_ends_and_asked_for_once():
    go, asked = threading.Event(), []

    def ask() -> Iterator[str]:
        asked.append(1)
        assert go.wait(20)
        yield from (f"s{number}" for number in range(MANY))

    sessions = StoredSessions(ask)
    assert sessions.names() == frozenset()
    assert sessions.names() == frozenset()
    go.set()
    eventually(lambda: len(sessions.names()) == MANY, 20)
    assert len(sessions.names()) == MANY
    assert asked == [1], "the next one is not due yet"


def test_an_outage_takes_nothing_away():
    answers: list[list[str] | Exception] = [["one", "two"], StoreUnreachable("list", "sessions/", "down"), ["three"]]

    def ask() -> list[str]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    sessions = StoredSessions(ask)
    assert sessions.names(refresh=False) == frozenset()
    assert sessions.names() == {"one", "two"}
    eventually(lambda: (sessions.names(), len(answers))[1] == 1)
    assert sessions.names(refresh=False) == {"one", "two"}
    eventually(lambda: sessions.names() == {"three"})
