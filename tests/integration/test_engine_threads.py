"""The engine with its real threads: what the state machine cannot show, since it runs one transfer at a time."""

import hashlib
import os
import random
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from cachesync.config import load
from cachesync.daemon.engine import Engine
from cachesync.model.values import Kind
from cachesync.watch.hints import Hint
from tests.driving import tree_of
from tests.flat_store import Fault, FlatStore

S = "s"
PREFIX = f"sessions/{S}/"
MANIFEST = f"{PREFIX}.cachesync/manifest.json"
SECONDS = 5.0


class SlowStore(FlatStore):
    """Takes some milliseconds over each request, so that things happen in the meantime."""

    def _begin(self, verb, key):
        after = super()._begin(verb, key)
        time.sleep(random.choice([0, 0, 0.001, 0.01]))

        def later():
            time.sleep(random.choice([0, 0, 0.001, 0.01]))
            after()

        return later


@pytest.fixture
def store():
    return SlowStore()


@pytest.fixture
def engine(tmp_path, store):
    (tmp_path / "root" / S).mkdir(parents=True)
    flags = {"root": str(tmp_path / "root"), "store": "memory://threads", "transfers": "8", "delete_settle": "20ms"}
    engine = Engine(load(flags, {}, Path("/"), system_file=Path("/none")), store)
    engine.start()
    yield engine
    assert engine.close(5.0)


def objects(store):
    found = {key: held.data for key, held in dict(store.objects).items() if key.startswith(PREFIX)}
    return {key.removeprefix(PREFIX): data for key, data in found.items() if key != MANIFEST}


def files(engine):
    return {path: data for path, data in tree_of(engine.config.root / S).items() if isinstance(data, bytes)}


def change(session, dice):
    """One random change; returns the paths that a watcher would name."""
    names = ["a", "b", "c", "d/a", "d/b", "d/e/a", "f"]
    path, other = dice.choice(names), dice.choice(names)
    place = session / path
    data = dice.randbytes(dice.choice([0, 3, 3, 100, 50_000]))
    with suppress(OSError):
        match dice.randrange(9):
            case 0 | 1 | 2:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data)
            case 3:
                with open(place, "ab") as file:
                    file.write(data)
            case 4:
                place.unlink()
            case 5:
                os.rename(place, session / other)
            case 6:
                os.rename(session / "d", session / "g")
                os.rename(session / "g", session / dice.choice(["d", "h"]))
            case 7:
                shutil.rmtree(session / dice.choice(["d", "h"]))
            case 8:
                place.chmod(dice.choice([0o600, 0o644]))
    return [path, other, "d", "g", "h"]


class Crowd:
    """Everybody at work at once on one session."""

    def __init__(self, engine, store, *, faults):
        self.engine, self.store, self.faults = engine, store, faults
        self.session = engine.config.root / S
        self.stop = threading.Event()
        self.errors: list[Exception] = []

    def write(self, dice):
        paths = change(self.session, dice)
        kind = dice.choice([Hint.CHANGED, Hint.CHANGED | Hint.CLOSED, Hint.GONE | Hint.TREE | Hint.CHANGED])
        if dice.random() < 0.8:  # the rest is the scan's to find
            self.engine.scanner.notice(S, dict.fromkeys(paths, kind))
        time.sleep(dice.random() * 0.004)

    def scan(self, dice):
        self.engine.scanner.scan(S)
        if self.faults:
            self.store.faults[dice.randrange(20)] = dice.choice([Fault.LOST_REPLY, Fault.REFUSED])
        time.sleep(0.05)

    def flush(self, dice):
        self.engine.service.flush(S, timeout=dice.choice([0.01, 0.5, 2]))

    def check(self, _):
        if S not in self.engine.journal.sessions.names():
            return  # nobody has looked yet
        for entry in self.engine.journal.entries.walk(S):
            clean = not entry.dirty and entry.resident and entry.kind is Kind.FILE
            assert not clean or entry.stored is not None
        time.sleep(0.01)

    def guarded(self, work, number):
        dice = random.Random(number)
        try:
            while not self.stop.is_set():
                work(dice)
        except Exception as error:  # noqa: BLE001 - shown at the end
            self.errors.append(error)

    def run(self, seconds):
        work = [self.write, self.write, self.write, self.scan, self.flush, self.flush, self.check]
        threads = [threading.Thread(target=self.guarded, args=(what, number)) for number, what in enumerate(work)]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        self.stop.set()
        for thread in threads:
            thread.join()
        assert not self.errors


@pytest.mark.slow
@pytest.mark.parametrize("faults", [False, True], ids=["calm", "faults"])
def test_after_much_at_once_the_store_is_the_disk(engine, store, faults):
    Crowd(engine, store, faults=faults).run(SECONDS)
    store.faults.clear()
    report = engine.service.flush(S, timeout=20)
    assert report.stored, report
    assert not report.conflicts, "we alone write here"
    assert objects(store) == files(engine)
    for entry in engine.journal.entries.walk(S):
        assert not entry.dirty
        if entry.kind is Kind.FILE:
            assert entry.stored.sha256 == hashlib.sha256(store.objects[PREFIX + entry.path].data).hexdigest()


@pytest.mark.slow
def test_p03_a_flush_stores_at_least_what_was_written_before_it(engine, store):
    """Each writer knows what it wrote last before it asked; the file goes on changing meanwhile."""
    session = engine.config.root / S
    stop, errors = threading.Event(), []
    written = [0] * 4

    def write(number):
        place = session / f"f{number}"
        while not stop.is_set():
            fresh = session.parent / f".fresh-{number}"
            fresh.write_text(str(written[number] + 1))
            os.rename(fresh, place)
            written[number] += 1
            engine.scanner.notice(S, {f"f{number}": Hint.CHANGED | Hint.CLOSED})
            time.sleep(0.002)

    def ask(_):
        try:
            while not stop.is_set():
                before = list(written)
                report = engine.service.flush(S, timeout=10)
                assert report.stored, report
                for number, least in enumerate(before):
                    if least:
                        assert int(store.objects[f"{PREFIX}f{number}"].data) >= least, "flush lied"
        except Exception as error:  # noqa: BLE001 - shown below
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    threads += [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(SECONDS)
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors
    assert min(written) > 50


@pytest.mark.slow
def test_a_file_that_changes_all_the_time_goes_up_now_and_then(engine, store):
    place = engine.config.root / S / "busy"
    puts = []
    store.watch = lambda key, old, new: puts.append(time.monotonic()) if key == f"{PREFIX}busy" else None
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        with open(place, "a") as file:
            file.write("line\n")
        engine.scanner.notice(S, {"busy": Hint.CHANGED | Hint.CLOSED})
        time.sleep(0.005)
    assert 3 <= len(puts) <= 2 * SECONDS + 2, [round(later - puts[0], 2) for later in puts]


@pytest.mark.slow
def test_p02_a_file_that_is_held_open_goes_up_each_maximum_dirty_age(tmp_path, store):
    (tmp_path / "root" / S).mkdir(parents=True)
    flags = {"root": str(tmp_path / "root"), "store": "memory://threads", "max_dirty_age": "1500ms"}
    engine = Engine(load(flags, {}, Path("/"), system_file=Path("/none")), store)
    engine.start()
    puts = []
    store.watch = lambda key, old, new: puts.append(time.monotonic()) if key.startswith(f"{PREFIX}open") else None
    until = time.monotonic() + SECONDS
    with open(tmp_path / "root" / S / "open.log", "a") as file:
        while time.monotonic() < until:
            file.write("line\n")
            file.flush()
            engine.scanner.notice(S, {"open.log": Hint.CHANGED})
            time.sleep(0.01)
    engine.close()
    assert 2 <= len(puts) <= 5, [round(later - puts[0], 2) for later in puts]


def test_a_clock_that_is_set_back_puts_nothing_out_of_reach(tmp_path):
    from tests.driving import Driven

    store = FlatStore()
    (tmp_path / "root" / S).mkdir(parents=True)
    driven = Driven(tmp_path / "root", store)
    (tmp_path / "root" / S / "a").write_text("x")
    driven.scan(S)
    driven.clock.push(-3600)
    for _ in range(20):
        driven.pump()
        driven.clock.push(1)
        driven.scan(S)
    assert objects(store) == {"a": b"x"}
    store.down = True
    (tmp_path / "root" / S / "a").write_text("yy")
    driven.scan(S)
    driven.clock.push(1)
    driven.pump()
    store.down = False
    driven.clock.push(-3600)
    for _ in range(20):
        driven.pump()
        driven.clock.push(1)
        driven.scan(S)
    assert objects(store) == {"a": b"yy"}
    driven.close()
