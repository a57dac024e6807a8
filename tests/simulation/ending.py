"""The end of a schedule: faults end, processes start anew, and everything must get where it belongs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from cachesync.errors import NoSuchSession
from tests.simulation.host import MANIFEST, PREFIX, SESSION, SimulatedHost
from tests.simulation.invariants import check

if TYPE_CHECKING:
    from tests.simulation.world import World

_SETTLED = 5.0
"""Virtual seconds after the last change until the coarsest time stamps tell that nothing changes any more."""

_LONGEST = 900.0
"""Virtual seconds after the last fault in which everything must be stored (a failed entry is tried every 600)."""


def quiet(world: World) -> None:
    """Faults end and processes start anew: everything must get where it belongs, in a bounded time."""
    _calm(world)
    for host in world.hosts:
        with world._changing(host):
            world._programs[host.name].release_all()
            world._programs[host.name].mend()
    world.time.push(_SETTLED)
    lived = [(number, host) for number, host in enumerate(world.hosts) if host.lives or host.files()]
    for number, host in lived:
        host.stop() if world._schedule.orderly else host.die()
        world.engine(number, world._run_scan)
    for number, _ in lived:
        world.engine(number, partial(_drain, world))
    world.ledger.nothing_is_lost()
    whole = _flush_all(world, lived)
    for number, _ in lived:  # a link over another host's object asks for it once more
        world.engine(number, partial(_drain, world))
    for _, host in lived:
        if host.session.is_dir():
            world.ledger.agreed(host)
            if not world._foreign:
                world.ledger.deletions_followed(host)
    if whole and not world._foreign and not world.store.was_stale and MANIFEST in world.store.objects:
        world.ledger.manifest_is_current()
    if world._schedule.third and MANIFEST in world.store.objects:
        _bring_elsewhere(world)


def _flush_all(world: World, lived: list[tuple[int, SimulatedHost]]) -> bool:
    """Flush every host in turn, as often as there are hosts; whether the last answers were all yes."""
    whole = True
    for number, _ in lived if world.store.gone_at else ():  # what one host lost, another may store again
        world.engine(number, world._run_flush, True)
    for _ in lived:
        whole = True
        for number, host in lived:
            report = world.engine(number, world._run_flush, True)
            if report is not None and not report.stored and world.engine(number, partial(_give_up_lost, world)):
                report = world.engine(number, world._run_flush, True)
            stands = host.session.is_dir()
            check(not stands or report is not None, "P3", f"flush on {host.name} gives no answer")
            check(not stands or report.stored, "P3", f"nothing is in the way, and yet: {report}")
            whole = whole and report is not None and report.stored
    return whole


def _calm(world: World) -> None:
    world.store.down = world.store.portal = world.store.straggling = False
    world.store.land(now=True)
    world.store.faults.clear()
    world.store.stale_left = 0
    world._traps.clear()
    for host in world.hosts:
        if host.watcher is not None:
            host.watcher.turn_deaf(False)


def _drain(world: World, host: SimulatedHost) -> None:
    assert host.driven is not None
    engine, end = host.driven.engine, world.time.now + _LONGEST
    if SESSION not in engine.journal.sessions.names():
        return
    while engine.journal.work.remaining(SESSION):
        if not host.driven.pump():
            now = host.clock()
            due = engine.journal.work.next_due(now)
            pause = max(engine.uploader._pace.paused_until - now, 0.0 if due is None else due - now)
            world.time.push(max(0.001, min(pause, 60.0)))
        if world.time.now > end:
            break
    _give_up_lost(world, host)
    left = [entry for entry in engine.journal.entries.walk(SESSION) if entry.dirty and entry.kind == "file"]
    waits = world._held or not world._schedule.watched
    late = [entry for entry in left if not (entry.tombstone and waits)]
    check(not late, "P2", f"{_LONGEST} s after the last fault this is not stored on {host.name}: {late}")


def _give_up_lost(world: World, host: SimulatedHost) -> int:
    """Somebody removes by name what the store lost and this host does not have: nothing else ends that. Returns how
    many files that were. Only another tool than cachesync loses objects."""
    assert host.driven is not None
    entries = host.driven.engine.journal.entries.walk(SESSION)
    lost = [entry.path for entry in entries if entry.dirty and not entry.resident and entry.kind == "file"]
    for path in lost:
        deleted_here = world.store.deleted_by.get(PREFIX + path, host.name) == host.name
        check(not deleted_here, "P17", f"{path} is lost on {host.name}, and nobody else deleted it")
        world._run_rm(host, path)
        world.store.gone_at.pop(PREFIX + path, None)
    return len(lost)


def _bring_elsewhere(world: World) -> None:
    third = world._host("h9")
    world.hosts.append(third)
    world.ledger.add(third)
    try:
        world.engine(len(world.hosts) - 1, world._run_open)
        world.ledger.came_back(third)
    except NoSuchSession:
        pass
