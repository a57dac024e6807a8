"""Who may take how much, and whose turn it is."""

import threading
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachesync.model.gate import Gate
from cachesync.model.policy import MIB, PART_SIZE, SMALL, Weight, weigh
from cachesync.model.shares import Limit, Pool, Turns, may_take
from cachesync.sync.backlog import Backlog, Work

LARGE = PART_SIZE + 1
MEDIUM = PART_SIZE


@given(most=st.integers(1, 100), spare=st.integers(0, 100))
def test_a_session_that_is_alone_has_all_of_most_and_never_more_than_is_free(most, spare):
    limit, held = Limit(most, spare), 0
    while may_take(limit, used=held, held=held):
        held += 1
    assert held == max(most, (most + spare) // 2 + (most + spare) % 2)


@given(most=st.integers(1, 100), spare=st.integers(1, 100), greedy=st.lists(st.integers(0, 4), max_size=300))
def test_whatever_greedy_sessions_hold_the_first_of_another_has_room_while_any_is_free(most, spare, greedy):
    pool = Pool(Limit(most, spare))
    for number in greedy:
        if pool.may(str(number)):
            pool.take(str(number))
    assert pool.used <= most + spare
    assert pool.may("other") == (not pool.is_full)


def test_what_is_larger_than_the_pool_counts_as_all_of_it():
    pool = Pool(Limit(10, 5))
    assert pool.may("a", 99)
    pool.take("a", 99)
    assert (pool.used, pool.is_full) == (10, False)
    assert not pool.may("a", 1 + 5)
    assert pool.may("b", 5)
    assert not pool.may("b", 6)
    pool.give("a", 99)
    assert (pool.used, pool._held) == (0, {})


def test_turns_go_to_who_paid_least_and_a_late_comer_waits_behind_no_queue():
    turns = Turns()
    got: list[str | None] = []
    for cost in (10, 10):
        turns.wait("a")
        turns.wait("a")
        got.append(turns.next(lambda _: True))
        turns.pay("a", cost)
    turns.wait("a")
    turns.wait("b")
    assert len(turns) == 2
    assert [turns.next(lambda _: True), turns.next(lambda _: True), turns.next(lambda _: True)] == ["b", "a", None]
    assert got == ["a", "a"]


def test_who_may_not_keeps_its_turn():
    turns = Turns()
    for name in "abc":
        turns.wait(name)
    assert turns.next(lambda name: name == "c") == "c"
    assert turns.next(lambda _: False) is None
    assert turns.next(lambda _: True) == "a"


def test_of_those_who_got_their_share_only_debts_are_remembered():
    turns = Turns()
    for number in range(1000):
        turns.wait(str(number))
        turns.next(lambda _: True)
        turns.pay(str(number), 1)
        turns.wait("x")
        turns.next(lambda _: True)
        turns.pay("x", 5)
    assert len(turns._paid) < 200


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 50), min_size=2))
def test_everybody_gets_as_many_bytes_as_everybody_else(costs):
    turns, got = Turns(), Counter[str]()
    for name in costs:
        turns.wait(name)
    for _ in range(2000):
        name = turns.next(lambda _: True)
        assert name is not None
        got[name] += costs[name]
        turns.pay(name, costs[name])
        turns.wait(name)
    assert max(got.values()) - min(got[name] for name in costs) <= 2 * max(costs.values())


def begin(backlog: Backlog, count: int = 1000, **more: bool) -> list[Work]:
    begun: list[Work] = []
    while len(begun) < count and (work := backlog.begin((), allowed=backlog._allowed, **more)) is not None:
        begun.append(work)
    return begun


def offered(backlog: Backlog, session: str, size: int, count: int) -> None:
    backlog.offer(session, weigh(size), [(f"{size}-{number}", size) for number in range(count)], more=False)


@pytest.mark.parametrize(("size", "alone", "beside"), [(1, 32, 4), (SMALL + 1, 28, 4), (MEDIUM, 4, 1), (LARGE, 4, 1)])
def test_a_session_alone_has_all_places_and_beside_it_another_has_some_at_once(size, alone, beside):
    backlog = Backlog(32)
    offered(backlog, "flood", size, 1000)
    assert len(begin(backlog)) == alone
    offered(backlog, "other", size, 1000)
    assert [work.session for work in begin(backlog)] == ["other"] * beside
    offered(backlog, "third", size, 1000)
    assert begin(backlog)[0].session == "third"


@pytest.mark.parametrize("size", [SMALL + 1, MEDIUM, LARGE])
def test_small_files_wait_for_no_large_ones_of_any_session(size):
    backlog = Backlog(32)
    offered(backlog, "flood", size, 1000)
    begin(backlog)
    offered(backlog, "flood", 1, 1)
    offered(backlog, "other", 1, 1)
    assert {(work.session, work.size) for work in begin(backlog)} == {("flood", 1), ("other", 1)}


def test_a_large_file_waits_behind_no_queue_of_small_ones():
    backlog = Backlog(32)
    offered(backlog, "flood", 1, 1000)
    begin(backlog)
    offered(backlog, "other", LARGE, 1)
    assert [work.session for work in begin(backlog)] == ["other"]


def test_a_place_that_is_free_again_goes_to_who_got_less():
    backlog = Backlog(8)
    offered(backlog, "flood", 1, 1000)
    running = begin(backlog)
    offered(backlog, "other", 1, 100)
    running += begin(backlog)
    got = Counter[str]()
    for _ in range(100):
        backlog.end(running.pop(0))
        running += (begun := begin(backlog, 1))
        got.update(work.session for work in begun)
    assert abs(got["flood"] - got["other"]) <= 2


def test_what_is_in_flight_or_taken_back_is_passed_over_and_the_store_s_limit_holds():
    backlog = Backlog(4)
    offered(backlog, "s", 1, 3)
    work = backlog.begin({("s", "1-0")}, allowed=4)
    assert work == ("s", "1-1", 1, Weight.SMALL)
    assert backlog.begin((), allowed=1) is None
    backlog.end(work)
    hungry = backlog.hungry
    assert not hungry
    assert backlog.begin((), allowed=1) == ("s", "1-2", 1, Weight.SMALL)
    assert backlog.in_flight == 1
    backlog.offer("s", Weight.SMALL, [], more=False)
    assert not backlog.has("s", Weight.SMALL)


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("more", [False, True])
def test_the_journal_is_asked_when_work_ran_out_of_which_it_has_more(asked, more):
    backlog = Backlog(4)
    backlog.offer("s", Weight.SMALL, [("a", 1), ("b", 1)], more=more)
    if asked:  # the work at hand was older than the question
        assert backlog.has("s", Weight.SMALL)
    begin(backlog, 1)
    hungry = backlog.hungry
    assert not hungry
    begin(backlog, 1)
    assert backlog.hungry is (more or asked)
    assert not backlog.has("s", Weight.SMALL)
    backlog.hungry = False
    backlog.offer("s", Weight.SMALL, [("c", 1)], more=False)
    begin(backlog, 1)
    assert not backlog.hungry


def test_at_a_shutdown_small_files_come_first():
    backlog = Backlog(32)
    offered(backlog, "a", LARGE, 2)
    offered(backlog, "a", MEDIUM, 2)
    offered(backlog, "a", 1, 2)
    assert [weigh(work.size) for work in begin(backlog, small_first=True)] == [0, 0, 1, 1, 2, 2]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([1, SMALL + 1, MEDIUM, LARGE]))), st.integers(1, 40))
def test_nothing_is_lost_or_done_twice_and_the_bounds_hold(files, transfers):
    backlog = Backlog(transfers)
    for number, (session, size) in enumerate(files):
        backlog.offer(session, weigh(size), [(str(number), size)], more=False)
    done: list[str] = []
    while running := begin(backlog):
        assert len(running) <= transfers + transfers // 4
        assert sum(work.size for work in running if weigh(work.size) is Weight.MEDIUM) <= 96 * MIB
        for work in running:
            backlog.end(work)
            done.append(work.path)
    assert sorted(done, key=int) == [str(number) for number in range(len(files))]
    assert backlog.in_flight == 0


def test_threads_wait_at_a_gate_for_their_sessions_share():
    gate = Gate(Limit(2, 1))
    gate.enter("flood")
    gate.enter("flood")
    went = threading.Semaphore(0)
    order: list[str] = []

    def work(session: str) -> None:
        with gate.entered(session):
            order.append(session)
        went.release()

    waiting = [threading.Thread(target=work, args=("flood",)) for _ in range(3)]
    for thread in waiting:
        thread.start()
    other = threading.Thread(target=work, args=("other",))
    other.start()
    assert went.acquire(timeout=10)
    assert order == ["other"], "another session has a place beside the two"
    assert not went.acquire(timeout=0.05)
    gate.leave("flood")
    for thread in (*waiting, other):
        thread.join(10)
    assert order == ["other", "flood", "flood", "flood"]
    gate.leave("flood")
    assert gate._pool.used == 0
    assert not gate._queues
