"""What happens is told quickly, never in the way, and counted within bounds."""

import math
import random
import threading
import time

import pytest

from cachesync.model.errors import DaemonUnavailable
from cachesync.model.events import LISTENERS, QUEUE, Event, Events, What
from cachesync.telemetry.activity import BOUNDS, BUCKET, KEPT, Activity


def no_wake():
    """For those who take when they like."""


def stored(at, seconds=0.02, size=100, **told):
    return Event(What.STORED, at, "s", "a", size=size, seconds=seconds, **({"sent": True} | told))


@pytest.fixture
def events():
    return Events(lambda: 1764043200.12345)


# -- telling -----------------------------------------------------------------------------------------------------------


def test_telling_nobody_takes_less_than_two_microseconds(events):
    def once():
        begun = time.perf_counter()
        for _ in range(10_000):
            events.tell(What.STORED, "s", "a/b.txt", size=123, seconds=0.031, sent=True)
        return (time.perf_counter() - begun) / 10_000

    assert min(once() for _ in range(20)) < 2e-6


def test_telling_a_listener_that_takes_nothing_stays_cheap(events):
    """Its queue is full all the time."""
    with events.listen(None, no_wake) as listener:
        begun = time.perf_counter()
        for _ in range(50_000):
            events.tell(What.DIRTY, "s", "a")
        assert (time.perf_counter() - begun) / 50_000 < 100e-6
        lost, taken = listener.take()
    assert (lost, len(taken)) == (50_000 - QUEUE, QUEUE)


def test_json_has_what_belongs_to_the_kind_and_nothing_else(events):
    with events.listen(None, no_wake) as listener:
        events.tell(What.STORED, "s", "a/b.txt", size=123, seconds=0.03149, sent=True)
        events.tell(What.FLUSHED, "s", stored=False, files=0, seconds=1.5, left=2)
        events.tell(What.CONFLICT, "s", "\udcff\n", kept_as="\udcff.conflict")
        taken = listener.take()[1]
    at = 1764043200.1235
    assert [event.json() for event in taken] == [
        {"at": at, "session": "s", "path": "a/b.txt", "size": 123, "seconds": 0.0315, "sent": True},
        {"at": at, "session": "s", "seconds": 1.5, "stored": False, "files": 0, "left": 2},
        {"at": at, "session": "s", "path": "\\xff\n", "kept_as": "\\xff.conflict"},
    ]


def test_a_clock_that_was_set_back_makes_no_negative_times(events):
    with events.listen(None, no_wake) as listener:
        events.tell(What.STORED, "s", "a", seconds=-3600.0)
        assert listener.take()[1][0].seconds == 0.0


def test_a_listener_hears_its_session_only(events):
    with events.listen("mine", no_wake) as listener:
        events.tell(What.DIRTY, "other", "a")
        events.tell(What.DIRTY, "mine", "b")
        assert [event.path for event in listener.take()[1]] == ["b"]


def test_a_listener_is_woken_once_until_it_takes(events):
    woken = []
    with events.listen(None, lambda: woken.append(1)) as listener:
        for _ in range(100):
            events.tell(What.DIRTY, "s", "a")
        assert len(woken) == 1
        listener.take()
        events.tell(What.DIRTY, "s", "a")
        assert len(woken) == 2


def test_a_slow_listener_loses_the_oldest_and_is_told_how_many(events):
    with events.listen(None, no_wake) as slow, events.listen(None, no_wake) as quick:
        heard: list[Event] = []
        for number in range(QUEUE + 10):
            events.tell(What.DIRTY, "s", str(number))
            heard += quick.take()[1]
        lost, taken = slow.take()
        assert lost == 10
        assert [event.path for event in taken] == [str(number) for number in range(10, QUEUE + 10)]
        assert len(heard) == QUEUE + 10, "the other one lost nothing"
        assert slow.take() == (0, []), "told once"


def test_a_listener_that_raises_is_heard_of_once_and_harms_nobody(events, caplog):
    heard: list[Event] = []

    def broken(_event):
        raise ValueError

    events.join(broken)
    events.join(heard.append)
    events.tell(What.DIRTY, "s", "a")
    events.tell(What.DIRTY, "s", "b")
    assert [event.path for event in heard] == ["a", "b"]
    assert len(caplog.records) == 1


def test_so_many_listeners_and_no_more(events):
    listeners = [events.listen(None, no_wake) for _ in range(LISTENERS)]
    with pytest.raises(DaemonUnavailable):
        events.listen(None, no_wake)
    listeners[0].close()
    listeners[0].close()  # twice is once: it frees one place, not two
    events.listen(None, no_wake)
    with pytest.raises(DaemonUnavailable):
        events.listen(None, no_wake)


def test_who_has_left_hears_nothing(events):
    with events.listen(None, no_wake) as listener:
        pass
    events.tell(What.DIRTY, "s", "a")
    assert listener.take() == (0, [])


def test_many_threads_tell_at_once_and_nothing_is_counted_wrong(events):
    activity = Activity(time.time)
    events.join(activity.hear)
    taken, lost, done = [], [], threading.Event()

    with events.listen(None, no_wake) as listener:

        def take():
            while not done.is_set():
                gone, some = listener.take()
                lost.append(gone)
                taken.extend(some)

        def tell(name):
            for number in range(2000):
                events.tell(What.STORED, name, str(number), size=1, seconds=0.01, sent=True)

        taker = threading.Thread(target=take)
        tellers = [threading.Thread(target=tell, args=(f"s{n}",)) for n in range(8)]
        for thread in (taker, *tellers):
            thread.start()
        for thread in tellers:
            thread.join()
        done.set()
        taker.join()
        gone, some = listener.take()
    assert len(taken) + len(some) + sum(lost) + gone == 16_000
    assert activity.totals().stored == sum(activity.totals().latency) == 16_000
    for name in {event.session for event in taken}:
        numbers = [int(event.path) for event in taken if event.session == name]
        assert numbers == sorted(numbers), "each thread's own order is kept"


# -- counting ----------------------------------------------------------------------------------------------------------


def test_every_kind_is_counted():
    activity = Activity(lambda: 1000.0)
    hear = activity.hear
    for event in (
        stored(1000.0, size=7),
        stored(1000.0, sent=False),
        Event(What.DIRTY, 1000.0, "s", "a"),
        Event(What.FAILED, 1000.0, "s", "a", error="denied"),
        Event(What.RETRIED, 1000.0, "s", "a", error="503"),
        Event(What.FAILED, 1000.0, "s", "a", error="held", deleting=True),
        Event(What.RETRIED, 1000.0, "s", "a", error="503", deleting=True),
        Event(What.CONFLICT, 1000.0, "s", "a", kept_as="b"),
        Event(What.DELETED, 1000.0, "s", "a", sent=True),
        Event(What.DELETED, 1000.0, "s", "never stored", sent=False),
        Event(What.REPAIRED, 1000.0, "s", changes=3),
        Event(What.EVICTED, 1000.0, "s", files=4, bytes=400),
        Event(What.FLUSHED, 1000.0, "s", stored=True),
        Event(What.FLUSHED, 1000.0, "s", stored=False),
        Event(What.FLUSHED, 1000.0, "s", stored=True),
    ):
        hear(event)
    totals = activity.totals()
    told = {name: getattr(totals, name) for name in totals.__slots__ if name not in ("latency", "seconds", "flushes")}
    assert told == {
        "stored": 1, "bytes": 7, "unchanged": 1, "failed": 1, "retried": 1, "conflicts": 1, "deleted": 1,
        "undeleted": 2, "repaired": 3, "evicted": 4, "evicted_bytes": 400, "marks": 1,
    }  # fmt: skip
    assert totals.flushes == {True: 2, False: 1}


def test_totals_are_a_copy():
    activity = Activity(lambda: 0.0)
    before = activity.totals()
    activity.hear(stored(0.0))
    assert (before.stored, sum(before.latency)) == (0, 0)


@pytest.mark.parametrize("seconds", [0.0, 0.004, *BOUNDS, 299.0, 301.0, 1e9])
def test_a_latency_is_in_the_class_whose_bound_it_does_not_exceed(seconds):
    activity = Activity(lambda: 0.0)
    activity.hear(stored(0.0, seconds))
    place = activity.totals().latency.index(1)
    assert place == len(BOUNDS) or seconds <= BOUNDS[place]
    assert place == 0 or seconds > BOUNDS[place - 1]


def test_a_part_of_a_growing_file_has_no_latency():
    activity = Activity(lambda: 0.0)
    activity.hear(stored(0.0, None, complete=False))
    assert (activity.totals().stored, sum(activity.totals().latency)) == (1, 0)


def test_buckets_are_those_of_a_quarter_of_an_hour():
    now = 1_764_043_200.0
    activity = Activity(lambda: now)
    activity.hear(stored(now - KEPT * BUCKET))  # one bucket too old
    activity.hear(stored(now - (KEPT - 1) * BUCKET, size=1))
    activity.hear(stored(now, size=10))
    activity.hear(stored(now + 4.9, size=20))
    activity.hear(Event(What.FAILED, now - 5, "s", "a", error="denied"))
    told = activity.json()
    assert (told["bucket"], told["from"]) == (5, now - (KEPT - 1) * BUCKET)
    assert [(b["at"], b["stored"], b["bytes"], b["failed"]) for b in told["buckets"]] == [
        (now - (KEPT - 1) * BUCKET, 1, 1, 0),
        (now - 5, 0, 0, 1),
        (now, 2, 30, 0),
    ]
    assert told["buckets"][1]["p50"] is None


def test_percentiles_are_true_to_a_twentieth():
    dice = random.Random(7)
    activity = Activity(lambda: 0.0)
    times = sorted(dice.lognormvariate(-3, 1.5) for _ in range(5000))
    for seconds in times:
        activity.hear(stored(0.0, seconds))
    (bucket,) = activity.json()["buckets"]
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        assert bucket[name] == pytest.approx(times[math.ceil(5000 * share) - 1], rel=0.055)


def test_memory_stays_bounded_whatever_comes_and_whatever_the_clock_does():
    dice, now = random.Random(3), 1e9
    activity = Activity(lambda: now)
    for _ in range(20_000):
        now = dice.choice([now, now + 5, now + 1e6, now - 1e5, 1e9])
        activity.hear(stored(now, dice.expovariate(0.001)))
        assert len(activity._buckets) <= KEPT
    assert all(len(bucket.steps) < 250 for bucket in activity._buckets.values())
