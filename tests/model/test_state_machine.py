"""The whole engine against a model: files, crashes, outages, other writers, lost journals, sessions that come and go.

What is real: scanner, journal (SQLite on disk), files, uploader's scheduling and judgement, transfer, flush, manifest.
What is not: threads (the machine runs each transfer itself, so a failure shrinks to the same few steps each time; races
are tests/integration's job), the network (a flat store in memory, as S3 is and no file system; tests/contract holds the
adapters to the same contract), and waiting (the engine's clock is pushed on to what is due next). A step takes about a
millisecond that way. CACHESYNC_MODEL_EXAMPLES multiplies the number of runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import cachesync.root.listing
from cachesync.model.errors import NoSuchSession, StoreError, UsageError
from cachesync.model.keys import identity_key
from cachesync.model.reports import FlushReport
from cachesync.model.values import Kind
from cachesync.watch.hints import Hint
from tests.driving import Clock, Driven, tree_of
from tests.flat_store import Crash, Fault, FlatStore, Held
from tests.life import driven_time, kill, life_of
from tests.simulation.host import OldDirectories

SESSION = "s"
PREFIX = f"sessions/{SESSION}/"
MANIFEST = f"{PREFIX}.cachesync/manifest.json"
OURS = frozenset({MANIFEST, identity_key("")})
"""What is no file of the session."""

FAST = ["/dev/shm"] * 3 if os.path.isdir("/dev/shm") else []
"""Mostly without a disk's waits; sometimes on a real one, whose inode numbers come back at once."""

PATHS = st.sampled_from(["a", "b", "l.jsonl", "d", "d/a", "d/e", "d/e/a"])
CONTENTS = st.sampled_from([b"", b"1", b"2", b"one\n", b"two\n", b"one\nhalf", b"longer than the rest\n"])


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Sessions(RuleBasedStateMachine):
    """``kept`` are paths whose object may outlive the local file: absence was not deletion there. ``brought`` is what
    stood here after some opening: whoever replaces that has seen it."""

    @initialize(disk=st.sampled_from([*FAST, None]))
    def begin(self, disk: str | None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="cachesync-model-", dir=disk))
        self.aging = mock.patch.object(cachesync.root.listing, "time", OldDirectories)  # nothing changes under a scan
        self.aging.start()
        self.root = self.folder / "root"
        self.session = self.root / SESSION
        self.away = self.folder / "away"
        self.session.mkdir(parents=True)
        self.clock = Clock()
        self.store = FlatStore()
        self.store.watch = self.check_change
        self.kept: set[str] = set()
        self.user_deleted: set[str] = set()
        self.deleted_before: set[str] = set()
        self.overtaken = False
        self.brought: set[tuple[str, bytes]] = set()
        self.driven = self.open()

    # -- what a user does ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def user(self) -> Any:
        """A user's action: notes which files it took away. One that is not possible does nothing."""
        before = self.local_files()
        with contextlib.suppress(OSError):
            yield
        after = self.local_files()
        self.user_deleted = (self.user_deleted | (before.keys() - after.keys())) - after.keys()

    @rule(path=PATHS, data=CONTENTS)
    def write(self, path: str, data: bytes) -> None:
        with self.user():
            place = self.session / path
            if place.is_symlink() or place.is_fifo():
                place.unlink()
            if self.session.is_dir():
                place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)

    @rule(path=PATHS, data=CONTENTS)
    def replace_by_rename(self, path: str, data: bytes) -> None:
        with self.user():
            fresh = self.folder / "fresh"
            fresh.write_bytes(data)
            os.rename(fresh, self.session / path)

    @rule(path=PATHS, data=CONTENTS)
    def append(self, path: str, data: bytes) -> None:
        with self.user(), open(self.session / path, "ab", opener=files_only) as file:
            file.write(data)

    @rule(path=PATHS, keep_mtime=st.booleans())
    def rewrite_same_size(self, path: str, keep_mtime: bool) -> None:  # noqa: FBT001 - hypothesis names it
        with self.user(), open(self.session / path, "r+b", opener=files_only) as file:
            before = os.fstat(file.fileno())
            data = file.read()
            file.seek(0)
            file.write(bytes(byte ^ 1 for byte in data))
            file.flush()
            if keep_mtime:
                os.utime(file.fileno(), ns=(before.st_atime_ns, before.st_mtime_ns))

    @rule(path=PATHS, mode=st.sampled_from([0o644, 0o600, 0o755]))
    def chmod(self, path: str, mode: int) -> None:
        with self.user():
            if not (self.session / path).is_symlink():
                (self.session / path).chmod(mode | (0o100 if (self.session / path).is_dir() else 0))

    @rule(path=PATHS)
    def touch(self, path: str) -> None:
        with self.user():
            os.utime(self.session / path, follow_symlinks=False)

    @rule(old=PATHS, new=PATHS)
    def rename(self, old: str, new: str) -> None:
        with self.user():
            os.rename(self.session / old, self.session / new)

    @rule(path=PATHS)
    def delete(self, path: str) -> None:
        with self.user():
            remove(self.session / path)

    @rule(path=PATHS)
    def replace_by_directory(self, path: str) -> None:
        with self.user():
            if (self.session / path).parent.is_dir():
                remove(self.session / path)
                (self.session / path).mkdir()
                (self.session / path / "in").write_bytes(b"in a directory")

    @rule(path=PATHS, data=CONTENTS)
    def replace_by_file(self, path: str, data: bytes) -> None:
        with self.user():
            if (self.session / path).parent.is_dir():
                remove(self.session / path)
                (self.session / path).write_bytes(data)

    @rule(path=PATHS, to=st.sampled_from(["a", "../../etc", "d"]))
    def symlink(self, path: str, to: str) -> None:
        with self.user():
            if (self.session / path).parent.is_dir():
                remove(self.session / path)
                os.symlink(to, self.session / path)

    @rule(path=PATHS)
    def pipe(self, path: str) -> None:
        with self.user():
            if (self.session / path).parent.is_dir():
                remove(self.session / path)
                os.mkfifo(self.session / path)

    # -- the session as a whole ----------------------------------------------------------------------------------------

    @rule()
    def move_session_away(self) -> None:
        if self.session.exists() and not self.away.exists():
            os.rename(self.session, self.away)
            self.deleted_before = set(self.user_deleted)

    @rule()
    def move_session_back(self) -> None:
        if self.away.exists() and not self.session.exists():
            os.rename(self.away, self.session)
            self.user_deleted |= self.deleted_before

    @rule()
    def remove_session(self) -> None:
        if self.session.exists():
            shutil.rmtree(self.session)
            self.absence()

    @rule()
    def make_session(self) -> None:
        if not self.session.exists():
            self.session.mkdir()
            self.absence()

    def absence(self) -> None:
        """From now on what is missing was not deleted by name."""
        self.user_deleted.clear()
        self.kept |= {key.removeprefix(PREFIX) for key in self.store.objects if key not in OURS}

    # -- what another writer does --------------------------------------------------------------------------------------

    @rule(path=PATHS, data=CONTENTS, digest=st.booleans())
    def foreign_put(self, path: str, data: bytes, digest: bool) -> None:  # noqa: FBT001 - hypothesis names it
        self.store.foreign_put(PREFIX + path, b"theirs " + data, digest=digest)

    @rule(path=PATHS)
    def foreign_delete(self, path: str) -> None:
        self.store.foreign_delete(PREFIX + path)

    @rule()
    def foreign_manifest(self) -> None:
        self.store.foreign_put(MANIFEST, b'{"format": 1, "entries": [{"path": "../x", "type": "file"}]}')

    @rule(path=PATHS, data=CONTENTS, edit=st.booleans())
    def foreign_put_while_away(self, path: str, data: bytes, edit: bool) -> None:  # noqa: FBT001 - hypothesis names it
        """Another host writes and flushes while the session's directory is away, and this host hears of it."""
        if not self.session.exists() or self.away.exists():
            return
        self.flush_in_calm()
        before, stood = self.local_files(), PREFIX + path in self.store.objects
        entry = self.driven.engine.journal.entries.entry(SESSION, path)
        replaced = entry is not None and entry.superseded is not None and entry.superseded.stored is not None
        self.move_session_away()
        self.scan()
        self.foreign_put(path, data, digest=True)
        self.foreign_manifest()
        self.flush_in_calm()
        if edit and path in before:
            (self.away / path).write_bytes(b"edited while it was away")
        self.move_session_back()
        self.flush_in_calm()
        if path in before:
            theirs = b"theirs " + data
            held = self.store.objects[PREFIX + path].data
            if stood or edit or replaced:  # by that host, before somebody deleted its version
                assert held == (b"edited while it was away" if edit else theirs)
            else:  # some host had deleted it before, so that it stood here alone: both are kept
                both = {known.data for key, known in self.store.objects.items() if key.startswith(PREFIX + path)}
                assert {theirs, before[path]} <= both
            kept = f"{PREFIX}{path}.conflict-"
            copies = [held.data for key, held in self.store.objects.items() if key.startswith(kept)]
            assert not edit or theirs in copies, f"{theirs!r} is lost"

    # -- what goes wrong -----------------------------------------------------------------------------------------------

    @rule(fault=st.sampled_from(Fault), after=st.integers(0, 6))
    def plan_fault(self, fault: Fault, after: int) -> None:
        self.store.faults[after] = fault

    @rule(number=st.integers(1, 12))
    def plan_crash_in_journal(self, number: int) -> None:
        self.driven.crash_at_journal_write(number)

    @rule(down=st.booleans())
    def outage(self, down: bool) -> None:  # noqa: FBT001 - hypothesis names it
        self.store.down = down

    @rule()
    def kill_and_start(self) -> None:
        self.kill()
        self.driven = self.open()

    @rule()
    def stop_and_start(self) -> None:
        self.life.stop()
        self.driven.close()
        self.driven = self.open()

    @rule()
    def lose_journal(self) -> None:
        self.absence()
        self.kill()
        shutil.rmtree(self.root / ".cachesync")
        self.driven = self.open()

    # -- what the daemon does ------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.02, 1.5, 7.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.push(seconds)

    @rule()
    def scan(self) -> None:
        self.daemon(lambda: self.driven.scan(SESSION))

    @rule(path=PATHS, hint=st.sampled_from([Hint.CHANGED, Hint.CLOSED, Hint.GONE, Hint.TREE, Hint.GONE | Hint.CHANGED]))
    def notice(self, path: str, hint: Hint) -> None:
        self.daemon(lambda: self.driven.engine.scanner.notice(SESSION, {path: hint}))

    @rule(rounds=st.integers(1, 3))
    def upload(self, rounds: int) -> None:
        def some_rounds() -> None:
            for _ in range(rounds):
                self.driven.pump()
                self.clock.push(0.05)

        self.daemon(some_rounds)

    @rule()
    def flush_again(self) -> None:
        """Another one, so that it is chosen more often."""
        self.flush()

    @rule()
    def flush_in_calm(self) -> None:
        """Nothing is in the way."""
        self.calm()
        self.flush()

    def calm(self) -> None:
        self.store.down = False
        self.store.faults.clear()
        self.driven.crash_at_journal_write(0)

    @rule()
    def flush(self) -> None:
        if not self.session.exists() and SESSION not in self.driven.engine.service.sessions():
            return
        certain = not self.store.down and not self.store.faults
        self.overtaken = self.is_overtaken()
        report = self.daemon(lambda: self.driven.flush(SESSION, timeout=20.0 if certain else 3.0))
        if report is None:
            return  # killed in the middle
        if certain and [failure.path for failure in report.failed] == ["."]:  # its directory went, or is another now
            report = self.daemon(lambda: self.driven.flush(SESSION, timeout=20.0))
            assert report is None or report.stored == self.session.exists(), report
            if report is None:
                return
        elif certain and not self.is_lost(report):
            assert report.stored, f"nothing was in the way, and yet: {report}"
        if report.stored:
            self.check_stored(report)

    def is_lost(self, report: FlushReport) -> bool:
        """Whether all that fails are files that only the store had, until another tool removed them there (P17)."""
        lost = [self.store.deleted_by.get(PREFIX + failure.path) == "another" for failure in report.failed]
        return bool(lost) and all(lost) and not report.pending

    def is_overtaken(self) -> bool:
        """Whether another host's manifest is in the way of the next one, so that all of the store is learned anew."""
        held, row = self.store.objects.get(MANIFEST), self.driven.engine.journal.sessions.get(SESSION)
        return held is not None and held.writer == "another" and (row is None or row.manifest != held.info.version)

    # -- a session's life ----------------------------------------------------------------------------------------------

    @rule(lazy=st.booleans())
    def bring(self, lazy: bool) -> None:  # noqa: FBT001 - hypothesis names it
        before = self.local_files()
        with contextlib.suppress(NoSuchSession, UsageError):
            report = self.daemon(lambda: self.life.open(SESSION, lazy=lazy))
            if report is not None and not lazy and not report.failed and not report.pending:
                self.check_opened({skipped.path for skipped in report.skipped})
        after = self.local_files()
        self.brought |= set(after.items())
        self.user_deleted -= after.keys()
        assert before.keys() <= after.keys()
        for path, data in before.items():
            held = self.store.objects.get(PREFIX + path)
            newer = held is not None and held.writer == "another" and after[path] == held.data
            assert after[path] == data or newer, f"{path} was overwritten by opening"

    @rule()
    def evict(self) -> None:
        with self.leaving(), contextlib.suppress(NoSuchSession):
            self.daemon(lambda: self.life.evict(SESSION))

    @rule(path=PATHS, data=CONTENTS, change=st.booleans())
    def evict_in_calm(self, path: str, data: bytes, change: bool) -> None:  # noqa: FBT001 - hypothesis names it
        """Most of what there is goes, as it is stored; but for what changes at the last moment."""
        self.flush_in_calm()
        if change:
            self.write(path, data)
        self.evict()

    @rule()
    def bring_in_calm(self) -> None:
        self.calm()
        self.bring(lazy=False)

    @rule(keep=st.booleans())
    def close_session(self, keep: bool) -> None:  # noqa: FBT001 - hypothesis names it
        certain = not self.store.down and not self.store.faults

        def close() -> Any:
            with driven_time(self.driven):
                return self.life.close(SESSION, keep=keep, timeout=20.0 if certain else 3.0)

        with self.leaving(), contextlib.suppress(NoSuchSession):
            report = self.daemon(close)
            if report is None or not report.closed:
                return
            assert json.loads(self.store.objects[MANIFEST].data)["state"] == "closed"
            if not keep and not report.evicted.kept:
                assert not self.session.exists()

    @contextlib.contextmanager
    def leaving(self) -> Any:
        """What leaves the disk here is in the store, byte for byte, and stays there."""
        before = self.local_files()
        yield
        for path in before.keys() - self.local_files().keys():
            held = self.store.objects.get(PREFIX + path)
            assert held is not None, f"{path} was dropped here, and is not stored"
            same = held.data == before[path] or self.is_replaced(path, before[path])
            assert same, f"{path} was dropped here, and the store has other bytes"
            self.kept.add(path)

    def is_replaced(self, path: str, data: bytes) -> bool:
        """Whether the store had these bytes, and another host's took their place: that is what evict leaves."""
        past = [held.data for _, held in self.store.past.get(PREFIX + path, []) if held is not None]
        return self.store.objects[PREFIX + path].writer == "another" and data in past

    def check_opened(self, skipped: set[str]) -> None:
        """Opening is done: what the journal knows of stands here."""
        local = self.local_files()
        for entry in self.driven.engine.journal.entries.walk(SESSION):
            if entry.kind is Kind.FILE and not entry.tombstone and entry.path not in skipped:
                assert entry.path in local, f"{entry.path} was not brought"

    def daemon(self, action: Callable[[], Any]) -> Any:
        """Let the engine work; if it is killed in that, start another."""
        if not self.session.exists():
            self.absence()
        try:
            return action()
        except Crash:
            self.kill()
            self.driven = self.open()
        except StoreError:
            pass  # an answer, and flush says so too
        return None

    # -- what must hold ------------------------------------------------------------------------------------------------

    def check_change(self, key: str, old: Held | None, new: Held | None) -> None:
        """Called before the engine changes an object."""
        path = key.removeprefix(PREFIX)
        if key in OURS:
            return
        if new is None:
            assert self.session.is_dir(), f"{path} deleted by the absence of its session"
            replaced = (self.session / path).is_symlink()  # over an evicted file: a link has no object
            assert replaced or path in self.user_deleted, f"{path} deleted in the store, but nobody deleted it"
        if old is None or (new is not None and new.data == old.data):
            return
        assert ".conflict-" not in path or new is None, f"{path} changed"  # who has it here may delete it
        if old.writer == "another":
            row = self.driven.engine.journal.entries.entry(SESSION, path)
            known = row is not None and row.stored is not None and row.stored.version == old.info.version
            known = known and (path, old.data) in self.brought
            copies = [held.data for name, held in self.store.objects.items() if name.startswith(f"{key}.conflict-")]
            assert known or old.data in copies, f"another writer's {old.data!r} at {path} is lost"

    def check_stored(self, report: FlushReport) -> None:
        """A flush said that all of the session is stored."""
        local = self.local_files()
        rows = {entry.path: entry for entry in self.driven.engine.journal.entries.walk(SESSION)}
        for path, data in local.items():
            held = self.store.objects.get(PREFIX + path)
            if held is not None and held.data == data:
                continue
            row = rows[path]
            assert self.foreign_last(PREFIX + path), f"{path}: flush lied, the store has {held and held.data!r}"
            assert row.stored, f"{path}: never stored"
            assert row.stored.sha256 == sha(data), f"{path}: flush lied, and another writer was there"
        for key, held in self.store.objects.items():
            path = key.removeprefix(PREFIX)
            if key not in OURS and path not in local and ".conflict-" not in path and held.writer == "us":
                assert path in self.kept, f"{path} was deleted, and its object is still there"
        self.check_manifest(local, report)
        self.kept -= local.keys()

    def check_manifest(self, local: dict[str, bytes], report: FlushReport) -> None:
        assert report.manifest == MANIFEST
        document = json.loads(self.store.objects[MANIFEST].data)
        shown = {(row["path"], row["type"]): row for row in document["entries"]}
        assert len(shown) == len(document["entries"]), "a path stands twice in the manifest"
        files = {path for path, kind in shown if kind == "file"}
        for path, data in local.items():
            row, held = shown.get((path, "file")), self.store.objects.get(PREFIX + path)
            is_current = held is not None and row is not None and held.info.version.etag == row["version"]
            if self.foreign_last(PREFIX + path) and self.is_foreign(path, row and row["version"]):
                continue  # this host has heard of it
            assert row is not None, path
            assert (row["size"], row["sha256"]) == (len(data), sha(data)), path
            assert self.foreign_last(PREFIX + path) or is_current, path
        if self.overtaken:
            theirs = [(key, held) for key, held in self.store.objects.items() if key not in OURS]
            current = {key.removeprefix(PREFIX): held.info.version.etag for key, held in theirs}
            listed = {path: row["version"] for (path, kind), row in shown.items() if kind == "file"}
            links = {path for path, kind in shown if kind == "link"}
            assert listed == {p: etag for p, etag in current.items() if p not in links}
        here = tree_of(self.session)
        for path, what in here.items():
            if what is None:
                assert (path.rstrip("/"), "dir") in shown, f"directory {path} is not in the manifest"
            elif isinstance(what, str):
                assert shown[path, "link"]["target"] == what
        for key, held in self.store.objects.items():
            path = key.removeprefix(PREFIX)
            # Another journal's object under the name of a link stays, unmentioned.
            if key not in OURS and held.writer == "us" and (path, "link") not in shown:
                assert path in files, f"the object {path} is not in the manifest"
        for path in files - local.keys():
            stands = PREFIX + path in self.store.objects
            assert stands or self.store.deleted_by.get(PREFIX + path) == "another", f"{path} is in the manifest only"

    @precondition(lambda self: hasattr(self, "driven"))
    @invariant()
    def nothing_is_falsely_clean(self) -> None:
        if SESSION not in self.driven.engine.journal.sessions.names():
            return
        for entry in self.driven.engine.journal.entries.walk(SESSION):
            if entry.dirty or not entry.resident or entry.kind is not Kind.FILE:
                continue
            assert entry.stored is not None, f"{entry.path} is clean and was never stored"
            held = self.store.objects.get(PREFIX + entry.path)
            if not self.foreign_last(PREFIX + entry.path):
                assert held is not None, f"{entry.path} is clean, and the store has nothing"
                assert held.info.sha256 == entry.stored.sha256, f"{entry.path} is clean, and the store has other bytes"
            elif held is not None and held.info.version == entry.stored.version:
                assert entry.stored.sha256 == sha(held.data), f"{entry.path} is clean with a wrong digest"
            found = self.driven.engine.tree.lstat(SESSION, entry.path)
            if found == entry.stat and not entry.unsettled:
                data = (self.session / entry.path).read_bytes()
                assert sha(data) == entry.stored.sha256, f"{entry.path} is clean, and the disk has other bytes"

    # -- small things --------------------------------------------------------------------------------------------------

    def open(self) -> Driven:
        driven = Driven(self.root, self.store, self.clock)
        self.life = life_of(driven)
        return driven

    def kill(self) -> None:
        kill(self.life)
        self.driven.crash()

    def local_files(self) -> dict[str, bytes]:
        return {path: data for path, data in tree_of(self.session).items() if isinstance(data, bytes)}

    def is_foreign(self, path: str, etag: str | None) -> bool:
        """Whether another writer ever made this of an object (None: deleted it)."""
        states = [held for _, held in self.store.past.get(PREFIX + path, [])]
        return any(
            held is None if etag is None else held and (held.writer, held.info.version.etag) == ("another", etag)
            for held in states
        )

    def foreign_last(self, key: str) -> bool:
        held = self.store.objects.get(key)
        return self.store.deleted_by.get(key) == "another" if held is None else held.writer == "another"

    def teardown(self) -> None:
        if not hasattr(self, "driven"):
            return
        self.aging.stop()
        self.life.stop()
        self.driven.close()
        shutil.rmtree(self.folder)


def files_only(path: str, flags: int) -> int:
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise IsADirectoryError(path)
    return os.open(path, flags & ~os.O_CREAT)


def remove(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


SCALE = float(os.environ.get("CACHESYNC_MODEL_EXAMPLES", "1"))

TestSessions: Any = Sessions.TestCase
TestSessions.pytestmark = [pytest.mark.slow, pytest.mark.timeout(300 + 300 * SCALE)]
TestSessions.settings = settings(
    max_examples=int(600 * SCALE),
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
)
