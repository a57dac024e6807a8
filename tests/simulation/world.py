"""The world that a schedule is played in: two hosts, one store, one time."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from cachesync.model.values import Version
from cachesync.watch.hints import Hint
from tests.flat_store import Crash, Fault, Held
from tests.simulation.barrier import Barrier
from tests.simulation.disk import Backup, Platter, Volumes, lose
from tests.simulation.ending import quiet
from tests.simulation.engines import Engines, Trap
from tests.simulation.host import EPOCH, MANIFEST, PREFIX, Seen, SimulatedHost, VirtualTime, virtual
from tests.simulation.invariants import Ledger
from tests.simulation.kernel import Kernel
from tests.simulation.schedule import ABSENCE, HOSTS, USER, Schedule, Step
from tests.simulation.store import SimulatedStore
from tests.simulation.user import Program

_FAULTS = {"lost": Fault.LOST_REPLY, "refused": Fault.REFUSED}


class World(Engines):
    """Plays one schedule. ``told`` hears of each step before it is made. Raises Broken, or whatever the product does
    not stand."""

    def __init__(self, folder: Path, schedule: Schedule, told: Callable[[str], None] = lambda _: None) -> None:
        self._schedule = schedule
        self._told = told
        self.time = VirtualTime()
        self._kernel = Kernel()
        self.store = SimulatedStore()
        self.store.watch = self._object_changes
        self.store.seen = lambda key, held: self.ledger.seen(self.store.acting, key, held)
        self.store.before = self._request
        self.store.clock = lambda: self.time.now
        self.store.after = lambda: self._reached("request", before=False)
        self._folder = folder
        self.hosts = [self._host(f"h{number}") for number in range(HOSTS)]
        self.ledger = Ledger(self.store, list(self.hosts))
        self._traps: dict[tuple[int, str, bool], Trap] = {}
        self._busy: list[int] = []
        self._asking = False
        self._barriers: list[Barrier] = []
        self._depth = 0
        self.store.now = lambda: self.time.now
        self._foreign = False
        self._held = schedule.guard < 100
        self._programs = {host.name: Program(host.session, self._stamp) for host in self.hosts}
        self._backups: dict[str, Backup] = {}
        self._versions: dict[str, dict[str, Version]] = {}
        """By host: the objects' versions when a backup of its state was taken."""
        self._platters = {host.name: Platter() for host in self.hosts}
        self._volumes = {host.name: Volumes(host) for host in self.hosts}
        for host in self.hosts:
            host.session.mkdir()

    def _stamp(self) -> int:
        return int(self.time.monotonic() * 1e9)

    def _host(self, name: str) -> SimulatedHost:
        s = self._schedule
        ears = s.watched and s.ears
        timed = any(step.verb == "mount" for step in s.steps)
        host = SimulatedHost(
            name,
            self._folder,
            self.store,
            self.time,
            guard=s.guard,
            watched=s.watched,
            disk=s.disk,
            ears=ears,
            timed=timed,
        )
        self._kernel.add(host.disk)
        return host

    def play(self) -> None:
        """All steps, then quiet."""
        random.seed(self._schedule.seed)
        with virtual(self.time, self._kernel):
            for number, host in enumerate(self.hosts):
                self._hook(number, host)
            try:
                for step in self._schedule.steps:
                    self._told(str(step))
                    self.step(step)
                self._told("quiet")
                quiet(self)
            finally:
                for host in self.hosts:
                    host.die()
                for program in self._programs.values():
                    program.release_all()

    def step(self, step: Step) -> None:
        """Make one step."""
        self.time.push(0.001)
        self.store.land()
        host = self.hosts[step.host]
        if step.verb in USER:
            self._user(host, step)
        elif hasattr(self, f"_do_{step.verb}"):
            getattr(self, f"_do_{step.verb}")(step.host, host, *step.args)
        elif step.verb in ABSENCE:
            self._absence(host, step.verb)
        elif step.verb in ("trap", "storm"):
            point, number, before, *stride = step.args
            trap = Trap(int(number), step.inner, None if step.verb == "trap" else int(stride[0]))
            self._traps[step.host, str(point), bool(before)] = trap
        else:
            self.engine(step.host, getattr(self, f"_run_{step.verb}"), *step.args)

    # -- programs ------------------------------------------------------------------------------------------------------

    def _user(self, host: SimulatedHost, step: Step) -> None:
        if self._volumes[host.name].refuse(step.verb, [str(arg) for arg in step.args]):
            return
        with self._changing(host):
            host.hints |= self._programs[host.name].act(step.verb, step.args)
        if step.verb == "ignore":
            self.ledger.must_go[host.name].clear()

    @contextlib.contextmanager
    def _changing(self, host: SimulatedHost) -> Iterator[None]:
        """A program's change in a directory: notes what it wrote and what it took away."""
        heard = host.watcher.names() if host.watcher is not None and host.watcher.is_heard else None
        (stood, folders), aside = host.look_around(), set(host.files_away().values())
        with contextlib.suppress(OSError):
            yield
        host.disk.witness()
        if heard is not None and host.watcher is not None:
            host.watcher.changed(heard, host.watcher.names())
        (stands, now), still_aside = host.look_around(), set(host.files_away().values())
        before = {path: seen.data for path, seen in stood.items()}
        after = {path: seen.data for path, seen in stands.items()}
        gone = before.keys() - after.keys()
        ledger, name = self.ledger, host.name
        lost = {path for other, path in ledger.reverted if other == name}
        host.disk.renamed(folders, now)
        ledger.changed(host, stood, stands)
        self._platters[host.name].changed(self.time.now, stood, stands)
        self._witness(host)
        ledger.appeared(after[path] for path in after if before.get(path) != after[path])
        ledger.appeared(still_aside - aside)  # what is held open is written wherever it was moved to
        ledger.give_up((set(before.values()) | aside) - set(after.values()) - still_aside)
        ledger.give_up({after[path] for path in ledger.asked & after.keys()})  # the last put wins
        ledger.deleted[name] |= gone
        if not self._busy:  # else its deletion may be under way: the engine has looked, and seen nothing stand there
            ledger.deleted[name] -= after.keys()
        if gone and not self._busy:
            rules = host.session / ".cachesyncignore"
            rows = {path: row for path in gone if (row := host.entry(path)) and row.resident}
            if any(row.stored for row in rows.values()):
                ledger.went_at[name] = self.time.now
            sure = name not in ledger.doubted and host.disk.nature.births and not host.disk.timed
            if sure and not (rules.is_file() and rules.stat().st_size):
                ledger.must_go[name] |= {
                    path
                    for path, row in rows.items()
                    if path not in lost and self._is_known(host, row, stood[path]) and not row.hidden
                }
        ledger.must_go[name] -= after.keys()

    @staticmethod
    def _is_known(host: SimulatedHost, row: Any, removed: Seen) -> bool:
        """Whether the journal knows which bytes the store has, and that they are of the file that a program removed.
        After it was lost it knows of an object of that name only: that may be another host's, and stays (P7, P9). And
        what a volume covered, or had, is another file."""
        known = row.stored is not None and row.stored.sha256 is not None and row.stat is not None
        return known and row.stat.inode == host.disk.inodes.get(removed.file, removed.file)

    def _absence(self, host: SimulatedHost, verb: str) -> None:
        ledger, name = self.ledger, host.name
        if self._volumes[name].mounted:
            return
        stands = host.session.exists()
        if verb == "remove_session" and stands:
            stored = {held.data for held in self.store.objects.values()}
            ledger.give_up(set(host.files().values()) - stored)
            shutil.rmtree(host.session)
        elif verb == "move_away" and stands and not host.away.exists():
            host.session.rename(host.away)
            ledger.set_aside[name] = (set(ledger.deleted[name]), set(ledger.unlinked[name]))
        elif verb == "move_back" and not stands and host.away.exists():
            host.away.rename(host.session)
            deleted, unlinked = ledger.set_aside.pop(name, (set(), set()))
            ledger.deleted[name] |= deleted
            ledger.unlinked[name] |= unlinked
            host.hints.clear()
            return
        elif verb == "make_session" and not stands:
            host.session.mkdir()
        else:
            return
        ledger.absence(host)
        went = "" in host.hints or verb in ("remove_session", "move_away")
        host.hints.clear()
        if went and not host.disk.nature.births:
            host.hints[""] = Hint.GONE | Hint.TREE

    def _do_slow_remove(self, number: int, host: SimulatedHost, seconds: int) -> None:
        """``rm -rf`` of a session that takes its time, last in a directory of which nothing is stored."""
        if not host.session.is_dir() or host.disk.mounted or self._busy:
            return
        stood, last = list(host.files()), host.session / "w"
        with contextlib.suppress(FileExistsError):
            last.mkdir()
        for at in range(seconds):
            (last / f"{at}.swp").touch()
        self.ledger.removing.add(host.name)
        try:
            for path in (*stood, *(f"w/{at}.swp" for at in range(seconds))):
                if not os.path.lexists(host.session / path):
                    continue
                self._user(host, Step("unlink", number, (path,)))
                self.engine(number, self._run_notice, 1.0)
                self.time.push(1.0)
                self.engine(number, self._run_pump, 1)
            self._absence(host, "remove_session")
        finally:
            self.ledger.removing.discard(host.name)

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

    def _do_deaf(self, _: int, host: SimulatedHost, deaf: bool) -> None:  # noqa: FBT001
        if host.watcher is not None:
            host.watcher.turn_deaf(deaf)

    def _do_portal(self, _: int, __: SimulatedHost, there: bool) -> None:  # noqa: FBT001
        self.store.portal = there

    def _do_straggle(self, _: int, __: SimulatedHost) -> None:
        self.store.straggling = True

    def _do_keep_store(self, _: int, __: SimulatedHost) -> None:
        self.store.keep()

    def _do_reset_store(self, _: int, __: SimulatedHost, what: str) -> None:
        had = [held.data for held in self.store.objects.values()]
        manifest = self.store.objects.get(MANIFEST)
        if what == "older" and self.store.is_kept(MANIFEST):
            return  # a manifest that is the newest shows no restored store (promises.md says so)
        self.store.reset(what)
        gone = set(had) - {held.data for held in self.store.objects.values()}
        self.ledger.store_was_reset(gone, manifest.data if manifest and what == "older" else None)
        self._foreign = True

    def _do_foreign_copy(self, _: int, __: SimulatedHost, source: str, number: int, target: str) -> None:
        replaced = self._stored(target)
        if (held := self.store.foreign_copy(PREFIX + source, number, PREFIX + target)) is not None:
            self.ledger.give_up(replaced)
            if held.data not in replaced:
                self.ledger.revived(held.data)
            self._foreign = True

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
        self.ledger.cut_off(host, set(), {})

    def _do_power_cut(self, _: int, host: SimulatedHost, what: str, salt: int, kept: bool) -> None:  # noqa: FBT001
        """The disk comes back without some of what was written last, whatever the journal says of that."""
        self._programs[host.name].release_all()
        host.lose_power(commits=not kept)
        had, here = host.everything(), host.snapshot()
        stands = host.session.is_dir()
        lost = set(lose(host, self._platters[host.name], self.time.now, what, salt)) if stands else set[str]()
        self.ledger.cut_off(host, had - host.everything(), {path: here[path].data for path in lost})

    def _do_keep_root(self, _: int, host: SimulatedHost) -> None:
        if host.session.is_dir() and not host.disk.mounted:
            self._backups[host.name] = Backup(host)

    def _do_roll_back_root(self, _: int, host: SimulatedHost, boot: bool) -> None:  # noqa: FBT001
        """The root's volume is as it was when the backup was made; the state lies on another one."""
        if host.name not in self._backups or host.disk.mounted or not host.session.is_dir():
            return
        self._programs[host.name].release_all()
        host.boot() if boot else host.stop()
        had, here = host.everything(), host.files()
        self._backups[host.name].restore()
        self._platters[host.name].forget()
        now = host.files()
        lost = {path: data for path, data in here.items() if now.get(path) != data}
        self.ledger.rolled_back.add(host.name)
        self.ledger.cut_off(host, had - host.everything(), lost)

    def _do_keep_state(self, _: int, host: SimulatedHost) -> None:
        host.keep_state()
        self._versions[host.name] = {key: held.info.version for key, held in self.store.objects.items()}

    def _do_roll_back_state(self, _: int, host: SimulatedHost, boot: bool) -> None:  # noqa: FBT001
        """The state's volume is as it was when the backup was made; the root lies on another one. To the
        engine, what was evicted since may look as if a program had replaced or removed it."""
        if host.roll_back_state():
            host.boot() if boot else None
            self.ledger.forget(host, self._versions[host.name])
            here = host.files()
            stored = {key.removeprefix(PREFIX): held.data for key, held in self.store.objects.items()}
            self.ledger.cut_off(host, set(), {path: stored[path] for path in stored.keys() - here.keys()})

    def _do_mount(self, _: int, host: SimulatedHost, folder: str) -> None:
        if host.session.is_dir() and self._volumes[host.name].mount(folder):
            self._moved_volume(host, folder)

    def _do_unmount(self, _: int, host: SimulatedHost, folder: str) -> None:
        if self._volumes[host.name].unmount(folder):
            self._moved_volume(host, folder)

    def _moved_volume(self, host: SimulatedHost, folder: str) -> None:
        self.ledger.covered(host, folder)
        self._witness(host, program=False)

    def _do_lose_journal(self, _: int, host: SimulatedHost) -> None:
        host.lose_journal()
        self.ledger.forgetful.add(host.name)
        self.ledger.absence(host)

    # -- in the middle of something ------------------------------------------------------------------------------------

    def _hook(self, number: int, host: SimulatedHost) -> None:
        host.look = partial(self._look, number)
        if host.watcher is not None:
            host.watcher.take_hints = partial(self._catch_up, number)
        host.write = lambda: self._reached("journal", before=True, number=number)
        host.committed = lambda: self._reached("journal", before=False, number=number)

    def _catch_up(self, number: int) -> None:
        """The thread for hints takes those that there are, and another thread waits for that."""
        host = self.hosts[number]
        if host.driven is not None:
            self._depth += 1
            try:
                self._run_notice(host, 1.0)
            finally:
                self._depth -= 1

    def _look(self, number: int, verb: str, args: tuple[Any, ...]) -> None:
        self._reached("look", before=True, number=number)
        if verb == "listing":
            self._reached("listing", before=True, number=number)
        if verb == "listing" and args[1] == "":
            self._looks(self.hosts[number])

    def _request(self, verb: str, key: str) -> None:
        self._reached("request", before=True)
        if self._busy and verb in ("put", "copy") and key.startswith(PREFIX) and key != MANIFEST:
            self._looks(self.hosts[self._busy[-1]])

    def _reached(self, point: str, *, before: bool, number: int | None = None) -> None:
        """A point in the engine's work: whatever a trap has for it happens now."""
        at = self._busy[-1] if number is None and self._busy else number
        if at is None or at not in self._busy:
            return
        key = at, point, before or point in ("look", "listing")
        if key not in self._traps:
            return
        trap = self._traps[key]
        if trap.left > 0:
            trap.left -= 1
            return
        del self._traps[key]
        inner = trap.inner
        if inner is None:
            raise Crash
        asking, self._asking = self._asking, point == "request"
        try:
            while inner is not None:
                self.step(inner)
                inner = inner.inner
                if trap.stride is not None and inner is not None:
                    self._traps[key] = Trap(trap.stride, inner, trap.stride)
                    return
        finally:
            self._asking = asking

    def _object_changes(self, key: str, old: Held | None, new: Held | None) -> None:
        if self._busy:
            self.ledger.object_changes(self.hosts[self._busy[-1]], self.time.now, key, old, new)


def play(schedule: Schedule, folder: Path, told: Callable[[str], None] = lambda _: None) -> None:
    """Play a schedule in a folder of its own, which is removed after."""
    place = folder / "world"
    place.mkdir()
    try:
        World(place, schedule, told).play()
    finally:
        shutil.rmtree(place, ignore_errors=True)


__all__ = ["EPOCH", "World", "play"]
