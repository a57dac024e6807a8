"""What the engine of a host does in a schedule, in its turn or beside what another thread of it waits for."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from cachesync.model.errors import CacheSyncError, JournalDamaged, JournalUnavailable
from tests.flat_store import Crash
from tests.simulation.barrier import Barrier
from tests.simulation.host import PREFIX, SESSION, SimulatedHost, VirtualTime
from tests.simulation.invariants import Ledger, check
from tests.simulation.schedule import Step
from tests.simulation.store import SimulatedStore
from tests.simulation.user import Program

_SHORTLY = 1.0
"""Virtual seconds that a flush waits for a transfer that cannot end before it."""


REVALIDATE = 10.0
"""Virtual seconds for which a read may believe what the store said (the setting's default)."""

_LOOKING = ("_run_scan", "_run_flush", "_run_open", "_run_lazy", "_run_evict", "_run_close")
"""What sees all that programs did."""


@dataclass(slots=True)
class Trap:
    """What happens at a point of an engine's work that is ``left`` points away: all of ``inner`` at once, or, with a
    ``stride``, one step of it at each so many points. Without steps the engine is killed there."""

    left: int
    inner: Step | None
    stride: int | None = None


class Engines:
    """The engines of a world. ``_busy`` are the hosts whose engine is at work, the innermost last; ``_asking`` says
    that it waits for the store."""

    time: VirtualTime
    store: SimulatedStore
    hosts: list[SimulatedHost]
    ledger: Ledger
    _busy: list[int]
    _asking: bool
    _traps: dict[tuple[int, str, bool], Trap]
    _programs: dict[str, Program]
    _barriers: list[Barrier]
    _depth: int

    def engine(self, number: int, run: Callable[..., Any], *args: Any) -> Any:
        """Let a host's engine work; a crash in that ends its process."""
        host = self.hosts[number]
        if number in self._busy:
            return self._beside(host, run, *args) if self._busy[-1] == number and self._asking else None
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
            if getattr(run, "__name__", "") in _LOOKING:
                self.ledger.looked(host)
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
        if held and run not in (self._run_put, self._run_rm, self._run_restore):
            gone = [path for path, inode, named in held if named and (path, inode, False) in self._held_open(host)]
            check(not gone, "P10", f"{gone} on {host.name} are open for writing, and were taken away")
        if not self._busy:
            self._compare(host)
        return answer

    def _compare(self, host: SimulatedHost) -> None:
        """Nothing of the engine is under way: compare what there is with what must be."""
        for each in self.hosts:
            self.ledger.deleted[each.name] -= each.files().keys()
        self.ledger.nothing_is_lost()
        self.ledger.nothing_is_falsely_clean(host)

    def _beside(self, host: SimulatedHost, run: Callable[..., Any], *args: Any) -> None:
        """Another thread of the process works while one waits for the store; not if it would wait for that one."""
        assert host.driven is not None
        engine = host.driven.engine
        asks = run not in (self._run_notice, self._run_scan)
        waits = asks and (engine.learner._lock(SESSION).locked() or engine.identity._lock.locked())
        if run == self._run_flush:
            waits = waits or SESSION not in engine.journal.sessions.names() or SESSION in self._committing(engine)
            args = (*args, _SHORTLY)
        if run == self._run_evict:
            waits = waits or engine.lifecycle._turns.setdefault(SESSION, threading.Lock()).locked()
        if not waits:
            believing, before = set(self.ledger.believing), host.look_around()[1]
            self._depth += 1
            try:
                run(host, *args)
            except CacheSyncError:
                pass
            finally:
                self._depth -= 1
                host.disk.renamed(before, host.look_around()[1])
                self._witness(host)
            self.ledger.believing = believing

    @staticmethod
    def _committing(engine: Any) -> list[str]:
        return [name for name, lock in engine.committer._locks.items() if lock.locked()]

    def _held_open(self, host: SimulatedHost) -> list[tuple[str, int, bool]]:
        """What a program has open there that only the engine could take away now."""
        program = self._programs.get(host.name)
        return program.held() if program is not None and not self._traps else []

    @contextlib.contextmanager
    def _flushing(self, host: SimulatedHost) -> Iterator[Barrier]:
        """While a flush is under way all that happens to the session's files is noted."""
        barrier = Barrier(host, self._depth, self.store.tick())
        barrier.see(host.snapshot())
        self._barriers.append(barrier)
        try:
            yield barrier
        finally:
            self._barriers.remove(barrier)

    def _witness(self, host: SimulatedHost, *, program: bool = True) -> None:
        """Something happened to a session's files: flushes that are under way have to know."""
        if concerned := [barrier for barrier in self._barriers if barrier.host is host]:
            now = host.snapshot()
            for barrier in concerned:
                barrier.see(now, program=program)

    def _looks(self, host: SimulatedHost) -> None:
        """An engine looks at a whole session, or uploads: a flush that runs it knows what happened until now."""
        for barrier in self._barriers:
            if barrier.host is host and barrier.depth == self._depth:
                barrier.looked()

    def _run_notice(self, host: SimulatedHost, share: float) -> None:
        hints, host.hints = host.hints, {}
        taken = {path: hint for at, (path, hint) in enumerate(hints.items()) if share == 1.0 or at % 3}
        host.driven.engine.scanner.notice(SESSION, taken)  # type: ignore[union-attr]
        if share == 1.0 and host.name not in self.ledger.doubted:
            self.ledger.looked(host)

    def _run_scan(self, host: SimulatedHost) -> None:
        host.driven.scan(SESSION)  # type: ignore[union-attr]

    def _run_pump(self, host: SimulatedHost, rounds: int) -> None:
        assert host.driven is not None
        for _ in range(rounds):
            if not host.driven.pump():
                break
            self.time.push(0.05)

    def _run_flush(self, host: SimulatedHost, confirm: bool, timeout: float = 60.0) -> Any:  # noqa: FBT001
        assert host.driven is not None
        self.ledger.believing.add(host.name)
        timeout = 3.0 if self.store.is_away else timeout
        with self._flushing(host) as barrier:
            report = host.driven.engine.service.flush(SESSION, timeout=timeout, confirm_deletes=confirm)
        if report.stored:
            self.ledger.said_stored(barrier, report)
        self.ledger.held(host, report)
        return report

    def _run_drain(self, host: SimulatedHost) -> None:
        """SIGTERM: store what is left, say what is not, and end."""
        assert host.driven is not None
        with self._flushing(host) as barrier, contextlib.suppress(CacheSyncError):
            timeout = 3.0 if self.store.is_away else 25.0
            report = host.driven.engine.flusher.flush(SESSION, timeout=timeout, patient=True)
            if report.stored:
                self.ledger.said_stored(barrier, report)
        host.stop()

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
        assert host.driven is not None
        self.ledger.believing.add(host.name)
        try:
            timeout = 3.0 if self.store.is_away else 60.0
            with self._flushing(host) as barrier:
                report = host.driven.engine.lifecycle.close(SESSION, keep=keep, timeout=timeout)
            if report.closed and keep:
                self.ledger.said_stored(barrier, report.flush)
            return report
        finally:
            self._left(host)

    def _left(self, host: SimulatedHost) -> None:
        """What an eviction took away nobody deleted."""
        if not host.session.exists():
            self.ledger.absence(host)

    def _run_put(self, host: SimulatedHost, path: str, data: str) -> None:
        self.ledger.give_up(self._at(path))
        try:
            with self.ledger.asking(host, path):
                host.put(path, data.encode())
        finally:  # one that died before it wrote the file has made nothing undone
            if path in host.files() or not host.session.exists():
                self.ledger.deleted[host.name].discard(path)
                self.ledger.must_go[host.name].discard(path)
        self.ledger.appeared([data.encode()])

    def _run_rm(self, host: SimulatedHost, path: str) -> None:
        self.ledger.give_up(self._at(path))
        stood = path in host.files()
        try:
            with self.ledger.asking(host, path):
                host.rm(path)
        finally:  # not before: a program that changes something meanwhile still sees the file stand
            if stood and path not in host.files():
                self.ledger.deleted[host.name].add(path)

    def _run_restore(self, host: SimulatedHost, path: str) -> None:
        """The version before the newest becomes the newest again: who asks for that gives up what it replaces."""
        before, key = self.store.changed_at.get(PREFIX + path), PREFIX + path
        self.ledger.give_up(self._at(path))
        try:
            with self.ledger.asking(host, path):
                host.restore(path)
        finally:
            if path in host.files() or not host.session.exists():
                self.ledger.deleted[host.name].discard(path)
                self.ledger.must_go[host.name].discard(path)
            if (held := self.store.objects.get(key)) is not None and self.store.changed_at.get(key) != before:
                self.ledger.revived(held.data)

    def _run_read(self, host: SimulatedHost, path: str) -> None:
        """Read by address what is not here."""
        stood, exact = path in host.files(), host.name not in self.ledger.clock_stepped and not self._traps
        with host.read(path) as reading:
            data = b"".join(reading.chunks())
            if exact and not (stood or path in host.files() or reading.unverified):
                key = PREFIX + path
                self.ledger.was_read(key, data, self.store.lately(key, REVALIDATE))

    def _at(self, path: str) -> set[bytes]:
        """What was ever under a name: whoever names it gives it up."""
        here = {host.files()[path] for host in self.hosts if path in host.files()}
        return here | set(self.store.versions(PREFIX + path))
