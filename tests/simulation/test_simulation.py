"""Thousands of seeded schedules, each promise an invariant.

- P2: after the last fault everything is stored in 900 virtual seconds; disk and store agree (``ending``,
  ``agreed``).
- P3: "stored" means that each file that stood there, and still does, is in the store and in the manifest, byte for byte
  (``flush_said_stored``); the manifest lists the objects that there are (``manifest_is_current``); a flush that nothing
  is in the way of is stored (``ending.quiet``), and everything ends (``Hangs``).
- P4, P6: what is clean and unchanged is what the store was sent, digest for digest, after every step and every crash
  (``nothing_is_falsely_clean``).
- P7: nothing is deleted in the store that nobody deleted by name, and nothing while the session's directory is away
  (``object_changes``).
- P8: a deletion waits ``delete_settle``, unless a flush asks (``object_changes``); what was deleted and flushed is gone
  (``flush_said_stored``, ``deletions_followed``).
- P9: no object is replaced or deleted whose bytes nobody gave up, unless somebody has them elsewhere; no conflict copy
  changes (``object_changes``).
- P10: every byte string that nobody gave up is on a disk or in the store, after every step (``nothing_is_lost``).
- P15: a third host that opens the session has what the store has (``came_back``).
"""

from __future__ import annotations

import os

import pytest

from tests.simulation.campaign import campaign, fault_of, kind_of, place, shorten
from tests.simulation.invariants import Broken
from tests.simulation.schedule import Schedule, Step, generate
from tests.simulation.world import World

SCHEDULES = int(os.environ.get("CACHESYNC_SCHEDULES", "10000"))
"""How many; ``make soak`` plays on for as long as it is told to."""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_promise_holds_in_every_schedule():
    played, failures = campaign(0, count=SCHEDULES, seconds=None, jobs=1)  # beside other tests
    assert not failures, "\n".join(failures)
    assert played == SCHEDULES


def test_a_seed_is_a_schedule():
    assert generate(7) == generate(7)
    assert generate(7) != generate(8)


def test_a_broken_promise_is_found_and_shown_in_few_steps(monkeypatch):
    """The simulation itself: a store that loses an object must not pass."""

    def forget(world, *_):
        for key in [key for key in world.store.objects if not key.endswith("manifest.json")]:
            del world.store.objects[key]

    monkeypatch.setattr(World, "_do_touch_store", forget, raising=False)
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
