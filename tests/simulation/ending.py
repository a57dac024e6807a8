"""The end of a schedule: faults end, processes start anew, and everything must get where it belongs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from cachesync.model.errors import NoSuchSession
from tests.simulation.host import MANIFEST, PREFIX, SESSION, SimulatedHost
from tests.simulation.invariants import check

if TYPE_CHECKING:
    from tests.simulation.world import World

_LONGEST = 900.0
"""Virtual seconds after the last fault in which everything must be stored (a failed entry is tried every 600)."""

_TICK = 2.0
"""Virtual seconds between two scans, as in a daemon: a scan in the tick of a change says nothing of what is missing."""


def quiet(world: World) -> None:
    """Faults end and processes start anew: everything must get where it belongs, in a bounded time."""
    _calm(world)
    for host in world.hosts:
        with world._changing(host):
            world._programs[host.name].release_all()
            world._programs[host.name].mend()
    world.time.push(_TICK)
    lived = [(number, host) for number, host in enumerate(world.hosts) if host.lives or host.files()]
    for number, host in lived:
        host.stop() if world._schedule.orderly else host.die()
        world.engine(number, world._run_scan)
    _store_again(world, lived)
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


def _store_again(world: World, lived: list[tuple[int, SimulatedHost]]) -> None:
    """After the store lost everything: what one host does not have, another one may store again."""
    for number, _ in lived if world.store.gone_at else ():
        world.engine(number, world._run_flush, True)


def _flush_all(world: World, lived: list[tuple[int, SimulatedHost]]) -> bool:
    """Flush every host in turn, as often as there are hosts; whether the last answers were all yes. What one host
    deleted, and wrote no manifest since, looks lost to another one that has evicted it, until then."""
    whole = True
    for turn in range(len(lived)):
        whole = True
        for number, host in lived:
            report = world.engine(number, world._run_flush, True)
            if report is not None and not report.stored and world.engine(number, partial(_give_up_lost, world)):
                report = world.engine(number, world._run_flush, True)
            stands = host.session.is_dir()
            check(not stands or report is not None, "P3", f"flush on {host.name} gives no answer")
            waits = turn + 1 < len(lived) and _lost(world, host)
            check(not stands or waits or report.stored, "P3", f"nothing is in the way, and yet: {report}")
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
    lost = _lost(world, host)
    late = [entry for entry in left if not (entry.tombstone and waits) and entry.path not in lost]
    check(not late, "P2", f"{_LONGEST} s after the last fault this is not stored on {host.name}: {late}")


def _give_up_lost(world: World, host: SimulatedHost) -> int:
    """Somebody removes by name what the store lost and this host does not have: nothing else ends that. Returns how
    many files that were. Only another tool than cachesync loses objects."""
    # What it deleted itself may be expected by an older journal; in a store that was reset, no manifest tells.
    forgot = host.name in world.ledger.forgetful or world.ledger.was_reset
    lost = [path for path in _lost(world, host) if forgot or world.store.deleted_by[PREFIX + path] == "another"]
    for path in lost:
        world._run_rm(host, path)
        world.store.gone_at.pop(PREFIX + path, None)
    return len(lost)


def _lost(world: World, host: SimulatedHost) -> list[str]:
    """The files that the store lost and this host does not have."""
    assert host.driven is not None
    journal = host.driven.engine.journal
    entries = journal.entries.walk(SESSION) if SESSION in journal.sessions.names() else ()
    lost = [entry.path for entry in entries if entry.dirty and not entry.resident and entry.kind == "file"]
    for path in lost:
        check(PREFIX + path in world.store.deleted_by, "P17", f"{path} is lost, and nobody deleted it")
    return lost


def _bring_elsewhere(world: World) -> None:
    third = world._host("h9")
    world.hosts.append(third)
    world.ledger.add(third)
    try:
        world.engine(len(world.hosts) - 1, world._run_open)
        world.ledger.came_back(third)
    except NoSuchSession:
        pass
