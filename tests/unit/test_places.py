"""Threads that parties share."""

from __future__ import annotations

import threading

from cachesync.fuse.places import Places
from tests.promises.host import eventually


def test_a_party_has_its_part_and_the_others_take_turns():
    go, begun, done = threading.Semaphore(0), threading.Semaphore(0), list[str]()

    def work(item: str) -> None:
        begun.release()
        assert go.acquire(timeout=10)
        done.append(item)

    places = Places("test", work, most=3, each=2)
    for number in range(6):
        places.submit(b"greedy", f"greedy {number}")
    for _ in range(2):
        assert begun.acquire(timeout=10)
    places.submit(b"other", "other")
    assert begun.acquire(timeout=10), "there is a place for it"
    places.submit(b"third", "third")
    go.release()  # one of greedy's ends, or other: third comes before the rest of greedy
    assert begun.acquire(timeout=10)
    go.release(7)
    for _ in range(4):
        assert begun.acquire(timeout=10)
    eventually(lambda: len(done) == 8)
    assert sorted(done) == [*(f"greedy {number}" for number in range(6)), "other", "third"]
    places.close()


def test_what_is_queued_can_be_taken_back():
    go, begun = threading.Event(), threading.Event()

    def work(_: int) -> None:
        begun.set()
        assert go.wait(10)

    places = Places("test", work, most=1, each=1)
    for number in range(4):
        places.submit(b"%d" % number, number)
    assert begun.wait(10)
    assert places.take_queued() == [1, 2, 3]
    assert places.take_queued() == []
    go.set()
    places.close()
