"""The world that a schedule is played in: two hosts, one store, one time."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cachesync.errors import CacheSyncError, JournalDamaged, JournalUnavailable, NoSuchSession
from tests.flat_store import Crash, Fault, Held
from tests.simulation.host import EPOCH, MANIFEST, PREFIX, SESSION, SimulatedHost, VirtualTime, virtual
from tests.simulation.invariants import Ledger, check
from tests.simulation.schedule import ABSENCE, HOSTS, USER, Schedule, Step
from tests.simulation.store import SimulatedStore
from tests.simulation.user import Program

_FAULTS = {"lost": Fault.LOST_REPLY, "refused": Fault.REFUSED}
_LONGEST = 900.0
"""Virtual seconds after the last fault in which everything must be stored (a failed entry is tried every 600)."""


class World:
    """Plays one schedule. ``told`` hears of each step before it is made. Raises Broken, or whatever the product does
    not stand."""

    def __init__(self, folder: Path, schedule: Schedule, told: Callable[[str], None] = lambda _: None) -> None:
        self._schedule = schedule
        self._told = told
        self.time = VirtualTime()
        self.store = SimulatedStore()
        self.store.watch = self._object_changes
        self.store.before = lambda: self._reached("request", before=True)
        self.store.after = lambda: self._reached("request", before=False)
        self._folder = folder
        self.hosts = [self._host(f"h{number}") for number in range(HOSTS)]
        self.ledger = Ledger(self.store, list(self.hosts))
        self._traps: dict[tuple[int, str, bool], tuple[int, Step | None]] = {}
        self._busy: list[int] = []
        self._foreign = False
        self._held = schedule.guard < 100
        self._programs = {host.name: Program(host.session, self._stamp) for host in self.hosts}
        for host in self.hosts:
            host.session.mkdir()

    def _stamp(self) -> int:
        return int(self.time.monotonic() * 1e9)

    def _host(self, name: str) -> SimulatedHost:
        s = self._schedule
        return SimulatedHost(name, self._folder, self.store, self.time, guard=s.guard, watched=s.watched)

    def play(self) -> None:
        """All steps, then quiet."""
        random.seed(self._schedule.seed)
        with virtual(self.time):
            for number, host in enumerate(self.hosts):
                self._hook(number, host)
            try:
                for step in self._schedule.steps:
                    self._told(str(step))
                    self.step(step)
                self._told("quiet")
                self._quiet()
            finally:
                for host in self.hosts:
                    host.die()
                for program in self._programs.values():
                    program.release_all()

    def step(self, step: Step) -> None:
        """Make one step."""
        self.time.push(0.001)
        host = self.hosts[step.host]
        if step.verb in USER:
            self._user(host, step)
        elif step.verb in ABSENCE:
            self._absence(host, step.verb)
        elif hasattr(self, f"_do_{step.verb}"):
            getattr(self, f"_do_{step.verb}")(step.host, host, *step.args)
        elif step.verb == "trap":
            point, number, before = step.args
            self._traps[step.host, str(point), bool(before)] = (int(number), step.inner)
        else:
            self._engine(step.host, getattr(self, f"_run_{step.verb}"), *step.args)

    # -- programs ------------------------------------------------------------------------------------------------------

    def _user(self, host: SimulatedHost, step: Step) -> None:
        with self._changing(host):
            host.hints |= self._programs[host.name].act(step.verb, step.args)
        if step.verb == "ignore":
            self.ledger.must_go[host.name].clear()

    @contextlib.contextmanager
    def _changing(self, host: SimulatedHost) -> Iterator[None]:
        """A program's change in a directory: notes what it wrote and what it took away."""
        before = host.files()
        with contextlib.suppress(OSError):
            yield
        after = host.files()
        gone = before.keys() - after.keys()
        ledger, name = self.ledger, host.name
        ledger.appeared(after[path] for path in after if before.get(path) != after[path])
        ledger.give_up(set(before.values()) - set(after.values()))
        ledger.give_up({after[path] for path in ledger.asked & after.keys()})  # the last put wins
        ledger.deleted[name] = (ledger.deleted[name] | gone) - after.keys()
        if gone and not self._busy:
            rules = host.session / ".cachesyncignore"
            rows = {path: row for path in gone if (row := host.entry(path)) and row.resident}
            if any(row.stored for row in rows.values()):
                ledger.deleted_at[name] = self.time.now
            if not (rules.is_file() and rules.stat().st_size):
                ledger.must_go[name] |= {path for path, row in rows.items() if row.stored and not row.hidden}
        ledger.must_go[name] -= after.keys()

    def _absence(self, host: SimulatedHost, verb: str) -> None:
        ledger, name = self.ledger, host.name
        stands = host.session.exists()
        if verb == "remove_session" and stands:
            stored = {held.data for held in self.store.objects.values()}
            ledger.give_up(set(host.files().values()) - stored)
            shutil.rmtree(host.session)
        elif verb == "move_away" and stands and not host.away.exists():
            host.session.rename(host.away)
            ledger.set_aside[name] = (set(ledger.deleted[name]), set())
        elif verb == "move_back" and not stands and host.away.exists():
            host.away.rename(host.session)
            ledger.deleted[name] |= ledger.set_aside.pop(name, (set(), set()))[0]
            host.hints.clear()
            return
        elif verb == "make_session" and not stands:
            host.session.mkdir()
        else:
            return
        ledger.absence(host)
        host.hints.clear()

    # -- the engine ----------------------------------------------------------------------------------------------------

    def _engine(self, number: int, run: Callable[..., Any], *args: Any) -> Any:
        """Let a host's engine work; a crash in that ends its process."""
        if number in self._busy:
            return None
        host = self.hosts[number]
        acting, self.store.acting = self.store.acting, host.name
        self._busy.append(number)
        if not host.session.exists():
            self.ledger.absence(host)
        answer = None
        held = self._held_open(host)
        try:
            if host.driven is None:
                host.start()
            answer = run(host, *args)
        except Crash:
            host.die()
        except (JournalDamaged, JournalUnavailable):
            raise
        except CacheSyncError:
            pass
        finally:
            self._busy.pop()
            self.store.acting = acting
            self.ledger.believing.discard(host.name)
        if held and run not in (self._run_put, self._run_rm):
            gone = [path for path, inode, named in held if named and (path, inode, False) in self._held_open(host)]
            check(not gone, "P10", f"{gone} on {host.name} are open for writing, and were taken away")
        if not self._busy:
            self.ledger.nothing_is_lost()
            self.ledger.nothing_is_falsely_clean(host)
        return answer

    def _held_open(self, host: SimulatedHost) -> list[tuple[str, int, bool]]:
        """What a program has open there that only the engine could take away now."""
        program = self._programs.get(host.name)
        return program.held() if program is not None and not self._traps else []

    def _run_notice(self, host: SimulatedHost, share: float) -> None:
        hints, host.hints = host.hints, {}
        taken = {path: hint for at, (path, hint) in enumerate(hints.items()) if share == 1.0 or at % 3}
        host.driven.engine.scanner.notice(SESSION, taken)  # type: ignore[union-attr]

    def _run_scan(self, host: SimulatedHost) -> None:
        host.driven.scan(SESSION)  # type: ignore[union-attr]

    def _run_pump(self, host: SimulatedHost, rounds: int) -> None:
        assert host.driven is not None
        for _ in range(rounds):
            if not host.driven.pump():
                break
            self.time.push(0.05)

    def _run_flush(self, host: SimulatedHost, confirm: bool) -> Any:  # noqa: FBT001
        assert host.driven is not None
        before = host.files()
        self.ledger.believing.add(host.name)
        timeout = 3.0 if self.store.down else 60.0
        report = host.driven.engine.service.flush(SESSION, timeout=timeout, confirm_deletes=confirm)
        if report.stored:
            self.ledger.flush_said_stored(host, before, report)
        return report

    def _run_open(self, host: SimulatedHost) -> Any:
        return host.driven.engine.lifecycle.open(SESSION)  # type: ignore[union-attr]

    def _run_lazy(self, host: SimulatedHost) -> Any:
        return host.driven.engine.lifecycle.open(SESSION, lazy=True)  # type: ignore[union-attr]

    def _run_evict(self, host: SimulatedHost) -> Any:
        try:
            return host.driven.engine.lifecycle.evict(SESSION)  # type: ignore[union-attr]
        finally:
            self._left(host)

    def _run_close(self, host: SimulatedHost, keep: bool) -> Any:  # noqa: FBT001
        before = host.files()
        self.ledger.believing.add(host.name)
        try:
            timeout = 3.0 if self.store.down else 60.0
            report = host.driven.engine.lifecycle.close(SESSION, keep=keep, timeout=timeout)  # type: ignore[union-attr]
            if report.closed and keep:
                self.ledger.flush_said_stored(host, before, report.flush)
            return report
        finally:
            self._left(host)

    def _left(self, host: SimulatedHost) -> None:
        """What an eviction took away nobody deleted."""
        if not host.session.exists():
            self.ledger.absence(host)

    def _run_put(self, host: SimulatedHost, path: str, data: str) -> None:
        self.ledger.give_up(self._at(path))
        self.ledger.deleted[host.name].discard(path)
        self.ledger.must_go[host.name].discard(path)
        self.ledger.asked.add(path)
        try:
            host.put(path, data.encode())
        finally:
            self.ledger.asked.discard(path)
        self.ledger.appeared([data.encode()])

    def _run_rm(self, host: SimulatedHost, path: str) -> None:
        self.ledger.give_up(self._at(path))
        self.ledger.asked.add(path)
        self.ledger.deleted[host.name].add(path)
        try:
            host.rm(path)
        finally:
            self.ledger.asked.discard(path)

    def _at(self, path: str) -> set[bytes]:
        """What was ever under a name: whoever names it gives it up."""
        here = {host.files()[path] for host in self.hosts if path in host.files()}
        return here | set(self.store.versions(PREFIX + path))

    # -- the world -----------------------------------------------------------------------------------------------------

    def _do_time(self, _: int, __: SimulatedHost, seconds: float) -> None:
        self.time.push(seconds)

    def _do_step_clock(self, _: int, host: SimulatedHost, seconds: float) -> None:
        host.clock.skew += seconds
        self.ledger.clock_stepped.add(host.name)

    def _do_outage(self, _: int, __: SimulatedHost, down: bool) -> None:  # noqa: FBT001
        self.store.down = down

    def _do_fault(self, _: int, __: SimulatedHost, number: int, what: str) -> None:
        self.store.faults[number] = _FAULTS[what]

    def _do_stale(self, _: int, __: SimulatedHost, listings: int) -> None:
        self.store.remember(listings)

    def _do_foreign_put(self, _: int, __: SimulatedHost, path: str, data: str, digest: bool) -> None:  # noqa: FBT001
        body = f"theirs {data}".encode()
        self.ledger.give_up(self._stored(path))
        self.ledger.appeared([body])
        self.store.foreign_put(PREFIX + path, body, digest=digest)
        self._foreign = True

    def _do_foreign_delete(self, _: int, __: SimulatedHost, path: str) -> None:
        self.ledger.give_up(self._stored(path))
        self.store.foreign_delete(PREFIX + path)
        self._foreign = True

    def _stored(self, path: str) -> list[bytes]:
        held = self.store.objects.get(PREFIX + path)
        return [] if held is None else [held.data]

    def _do_crash(self, _: int, host: SimulatedHost) -> None:
        host.die()

    def _do_stop(self, _: int, host: SimulatedHost) -> None:
        host.stop()

    def _do_remember(self, _: int, host: SimulatedHost) -> None:
        host.remember()

    def _do_power_loss(self, _: int, host: SimulatedHost) -> None:
        host.lose_power()

    def _do_lose_journal(self, _: int, host: SimulatedHost) -> None:
        host.lose_journal()
        self.ledger.absence(host)

    # -- in the middle of something ------------------------------------------------------------------------------------

    def _hook(self, number: int, host: SimulatedHost) -> None:
        host.look = lambda: self._reached("look", before=True, number=number)
        host.write = lambda: self._reached("journal", before=True, number=number)
        host.committed = lambda: self._reached("journal", before=False, number=number)

    def _reached(self, point: str, *, before: bool, number: int | None = None) -> None:
        """A point in the engine's work: whatever a trap has for it happens now."""
        at = self._busy[-1] if number is None and self._busy else number
        if at is None or at not in self._busy:
            return
        key = at, point, before or point == "look"
        if key not in self._traps:
            return
        left, inner = self._traps[key]
        if left > 0:
            self._traps[key] = left - 1, inner
            return
        del self._traps[key]
        if inner is None:
            raise Crash
        self.step(inner)

    def _object_changes(self, key: str, old: Held | None, new: Held | None) -> None:
        if self._busy:
            self.ledger.object_changes(self.hosts[self._busy[-1]], self.time.now, key, old, new)

    # -- the end -------------------------------------------------------------------------------------------------------

    def _quiet(self) -> None:
        """Faults end and processes start anew: everything must get where it belongs, in a bounded time."""
        self._calm()
        for host in self.hosts:
            with self._changing(host):
                self._programs[host.name].release_all()
        lived = [(number, host) for number, host in enumerate(self.hosts) if host.lives or host.files()]
        for number, host in lived:
            host.stop() if self._schedule.orderly else host.die()
            self._engine(number, self._run_scan)
        for number, _ in lived:
            self._engine(number, self._drain)
        self.ledger.nothing_is_lost()
        whole = self._flush_all(lived)
        for number, _ in lived:  # a link over another host's object asks for it once more
            self._engine(number, self._drain)
        for _, host in lived:
            if host.session.is_dir():
                self.ledger.agreed(host)
        if whole and not self._foreign and not self.store.was_stale and MANIFEST in self.store.objects:
            self.ledger.manifest_is_current()
        if self._schedule.third and MANIFEST in self.store.objects:
            self._bring_elsewhere()

    def _flush_all(self, lived: list[tuple[int, SimulatedHost]]) -> bool:
        """Flush every host in turn, as often as there are hosts; whether the last answers were all yes."""
        whole = True
        for _ in lived:
            whole = True
            for number, host in lived:
                report = self._engine(number, self._run_flush, True)
                stands = host.session.is_dir()
                check(not stands or report is not None, "P3", f"flush on {host.name} gives no answer")
                check(not stands or report.stored, "P3", f"nothing is in the way, and yet: {report}")
                whole = whole and report is not None and report.stored
        return whole

    def _calm(self) -> None:
        self.store.down = False
        self.store.faults.clear()
        self.store.stale_left = 0
        self._traps.clear()

    def _drain(self, host: SimulatedHost) -> None:
        assert host.driven is not None
        engine, end = host.driven.engine, self.time.now + _LONGEST
        if SESSION not in engine.journal.sessions.names():
            return
        while engine.journal.work.remaining(SESSION):
            if not host.driven.pump():
                now = host.clock()
                due = engine.journal.work.next_due(now)
                pause = max(engine.uploader._pace.paused_until - now, 0.0 if due is None else due - now)
                self.time.push(max(0.001, min(pause, 60.0)))
            if self.time.now > end:
                break
        left = [entry for entry in engine.journal.entries.walk(SESSION) if entry.dirty and entry.kind == "file"]
        waits = self._held or not self._schedule.watched
        late = [entry for entry in left if not (entry.tombstone and waits)]
        check(not late, "P2", f"{_LONGEST} s after the last fault this is not stored on {host.name}: {late}")

    def _bring_elsewhere(self) -> None:
        third = self._host("h9")
        self.hosts.append(third)
        self.ledger.deleted[third.name], self.ledger.must_go[third.name] = set(), set()
        try:
            self._engine(len(self.hosts) - 1, self._run_open)
            self.ledger.came_back(third)
        except NoSuchSession:
            pass


def play(schedule: Schedule, folder: Path, told: Callable[[str], None] = lambda _: None) -> None:
    """Play a schedule in a folder of its own, which is removed after."""
    place = folder / "world"
    place.mkdir()
    try:
        World(place, schedule, told).play()
    finally:
        shutil.rmtree(place, ignore_errors=True)


__all__ = ["EPOCH", "World", "play"]
