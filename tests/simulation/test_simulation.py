"""Thousands of seeded schedules, each promise an invariant.

- P2: after the last fault everything is stored in 900 virtual seconds; disk and store agree (``ending``,
  ``agreed``).
- P3, P12: "stored", said by a flush, by ``close --keep`` or at SIGTERM, means that the bytes of each file that stood
  there when it began are in the store, under the name that the file has now, and in the manifest; or that a program
  deleted or rewrote the file since (``said_stored``, checked against the model of files in ``barrier``). The manifest
  lists the objects that there are (``manifest_is_current``); a flush that nothing is in the way of is stored
  (``ending.quiet``), and everything ends (``Hangs``).
- P4, P6: what is clean and unchanged is what the store was sent, digest for digest, after every step and every crash
  (``nothing_is_falsely_clean``).
- P7: nothing is deleted in the store that no program deleted by name, and nothing while the session's directory is
  away: not what a power cut lost, what lies on a volume that was unmounted or rolled back, what was evicted
  (``object_changes``).
- P8: a deletion waits ``delete_settle`` after the session's last one, unless a flush asks, and for ever while a program
  removes the whole session; the object of an old name goes after the new name's is there; moved files are not held as
  deleted ones (``object_changes``, ``held``). What was deleted and flushed is gone (``said_stored``,
  ``deletions_followed``).
- P9: no object is replaced or deleted whose bytes no program gave up, unless they are elsewhere: not after a power cut
  emptied the file, and not if another tool or host copied old bytes of ours there; no conflict copy changes
  (``object_changes``).
- P10: every byte string that no program gave up is on a disk or in the store, after every step (``nothing_is_lost``);
  no file that is open for writing is evicted (``engines``).
- P11: a read of what is not here returns what the store had in the last seconds (``was_read``).
- P15: a third host that opens the session has what the store has (``came_back``).
- P17: after the store was emptied, replaced or restored, "stored" still means that it has all local files
  (``is_anothers``).

The table of what an audit found, and of the schedules that show it, is in ``findings``.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from tests.simulation.campaign import campaign, fault_of, kind_of, place, shorten
from tests.simulation.invariants import Broken
from tests.simulation.schedule import Schedule, Step, generate
from tests.simulation.world import World

SCHEDULES = int(os.environ.get("CACHESYNC_SCHEDULES", "2000"))
"""How many; ``make soak`` plays other ones, for as long as it is told to."""

SHARDS = 20


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("shard", range(SHARDS))
def test_every_promise_holds_in_every_schedule(shard):
    """One shard plays each twentieth seed, so that several workers share the work."""
    seeds = range(shard, SCHEDULES, SHARDS)
    played, failures = campaign(shard, step=SHARDS, count=len(seeds), seconds=None, jobs=1)  # beside other tests
    assert not failures, "\n".join(failures)
    assert played == len(seeds)


def test_a_seed_is_a_schedule():
    assert generate(7) == generate(7)
    assert generate(7) != generate(8)


def test_a_broken_promise_is_found_and_shown_in_few_steps(monkeypatch):
    """The simulation itself: a store whose objects decay must not pass."""

    def decay(world, *_):
        for key, held in world.store.objects.items():
            if not key.endswith(".json"):
                world.store.objects[key] = replace(held, data=b"decayed")

    monkeypatch.setattr(World, "_do_touch_store", decay, raising=False)
    noise = [Step("mkdir", 0, ("f",)), Step("time", 0, (1.5,)), Step("scan")]
    steps = [
        *noise,
        Step("write", 0, ("a", "1")),
        *noise,
        Step("flush", 0, (False,)),
        *noise,
        Step("touch_store"),
        *noise,
    ]
    schedule = Schedule(0, guard=1, watched=False, orderly=False, third=True, steps=tuple(steps))
    with place() as folder:
        error = fault_of(schedule, folder)
        assert isinstance(error, Broken)
        shortest = shorten(schedule, folder, kind_of(error))
    assert {"write", "flush", "touch_store"} <= {step.verb for step in shortest.steps}
    assert len(shortest.steps) <= 4, [str(step) for step in shortest.steps]
