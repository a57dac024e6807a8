"""Storing a source without touching it: what is sent, what is not, and that the sum is right."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cachesync.config import Config, load
from cachesync.daemon.engine import Engine
from cachesync.model.errors import NoSuchBucket, RootLocked, StoreDenied, StoreUnreachable, UsageError
from cachesync.model.keys import identity_key, manifest_key
from cachesync.model.outcomes import MigrateReport, Progress
from cachesync.ops.migrate.place import elsewhere
from cachesync.ops.migrate.rehearsal import rehearse
from cachesync.ops.migrate.run import _expect_only_what_stands, migrate
from cachesync.session.verify import Verifier
from cachesync.store.s3.store import S3Store
from tests.flat_store import FlatStore, Held
from tests.migrating import BYTES, FILES, PUTS, SKIPPED, TREE, make, snapshot
from tests.servers import SeaweedServer

STORED = {f"sessions/{path}" for path, data in TREE.items() if data != b"left out"}
MANIFESTS = {manifest_key("", name) for name in ("s1", "s2", "s3")}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make(tmp_path / "source")


@pytest.fixture
def store() -> FlatStore:
    return FlatStore()


@pytest.fixture
def config(source: Path, tmp_path: Path) -> Config:
    return configured(source, tmp_path)


def configured(source: Path, tmp_path: Path, **flags: str) -> Config:
    given = {"root": str(source), "store": "memory://migrated", **flags}
    return elsewhere(load(given, {}, Path("/"), system_file=Path("/none")), {"HOME": str(tmp_path / "home")})


def adds_up(report: MigrateReport) -> MigrateReport:
    assert report.files == report.sent + report.present + len(report.failed) + len(report.pending)
    assert report.sent_bytes + report.present_bytes <= report.bytes
    told = report.json()
    assert told["files"] == told["sent"] + told["present"] + len(told["failed"]) + len(told["pending"])
    return report


def put_keys(store: FlatStore) -> list[str]:
    """The keys that are written from now on, in order."""
    keys: list[str] = []

    def note(key: str, _before: Held | None, after: Held | None) -> None:
        keys.append(key if after is not None else f"DELETED {key}")

    store.watch = note
    return keys


def test_everything_is_stored_and_the_source_is_as_it_was(source: Path, store: FlatStore, config: Config) -> None:
    before = snapshot(source)
    report = adds_up(migrate(config, store))
    assert snapshot(source) == before
    assert report.exit_code == 0
    assert (report.sessions, report.files, report.bytes) == (3, FILES, BYTES)
    assert (report.sent, report.sent_bytes, report.present) == (FILES, BYTES, 0)
    assert {skipped.path for skipped in report.skipped} == SKIPPED
    assert set(store.objects) == {*STORED, *MANIFESTS, identity_key("")}
    assert all(store.objects[f"sessions/{path}"].data == data for path, data in TREE.items() if data != b"left out")
    assert report.requests == PUTS
    assert report.dollars == pytest.approx(PUTS * 0.005 / 1000)
    assert report.dollars_a_month == pytest.approx(BYTES / 1e9 * 0.023)
    assert oct(config.state.stat().st_mode & 0o777) == "0o700"


def test_a_second_run_sends_nothing(source: Path, store: FlatStore, config: Config) -> None:
    migrate(config, store)
    keys = put_keys(store)
    again = adds_up(migrate(config, store))
    assert keys == []
    assert (again.sent, again.present, again.present_bytes, again.requests) == (0, FILES, BYTES, 0)
    assert again.dollars == again.dollars_a_month == 0.0


def test_what_changed_since_is_sent(source: Path, store: FlatStore, config: Config) -> None:
    migrate(config, store)
    (source / "s1/a.txt").write_bytes(b"changed")
    (source / "s3/new").write_bytes(b"new")
    os.utime(source / "s2/big", (1.0, 1.0))
    keys = put_keys(store)
    again = adds_up(migrate(config, store))
    assert set(keys) == {"sessions/s1/a.txt", "sessions/s3/new", *MANIFESTS}
    assert (again.sent, again.sent_bytes, again.present) == (2, 10, FILES - 1)


@pytest.mark.parametrize("manifests", ["with manifests", "without manifests"])
def test_a_lost_journal_sends_nothing_again(source: Path, store: FlatStore, config: Config, manifests: str) -> None:
    migrate(config, store)
    shutil.rmtree(config.state)
    if manifests == "without manifests":
        for key in MANIFESTS:
            store.foreign_delete(key)
    keys = put_keys(store)
    again = adds_up(migrate(config, store))
    assert set(keys) <= MANIFESTS
    assert (again.sent, again.present, again.failed) == (0, FILES, [])
    assert again.conflicts == []
    assert again.requests == 3


def test_what_another_tool_has_stored_is_not_sent_again(source: Path, store: FlatStore, config: Config) -> None:
    store.foreign_put("sessions/s1/a.txt", b"alpha")
    store.foreign_put("sessions/s1/d/e/b.txt", b"beta", digest=False)
    keys = put_keys(store)
    report = adds_up(migrate(config, store))
    assert not {"sessions/s1/a.txt", "sessions/s1/d/e/b.txt"} & set(keys)
    assert (report.sent, report.present, report.conflicts) == (FILES - 2, 2, [])


def test_nobody_is_overwritten(source: Path, store: FlatStore, config: Config) -> None:
    store.foreign_put("sessions/s1/a.txt", b"theirs")
    report = adds_up(migrate(config, store))
    [conflict] = report.conflicts
    assert conflict.path == "s1/a.txt"
    assert store.objects[f"sessions/{conflict.kept_as}"].data == b"theirs"
    assert store.objects["sessions/s1/a.txt"].data == b"alpha"
    assert report.json()["conflicts"] == [{"path": "s1/a.txt", "kept_as": conflict.kept_as}]


def test_what_the_source_has_no_more_stays_in_the_store(source: Path, store: FlatStore, config: Config) -> None:
    migrate(config, store)
    (source / "s1/a.txt").unlink()
    shutil.rmtree(source / "s1/d")
    (source / "s1/d").write_bytes(b"a file where a directory was")
    shutil.rmtree(source / "s2")
    keys = put_keys(store)
    again = adds_up(migrate(config, store))
    assert keys
    assert not [key for key in keys if key.startswith("DELETED")]
    assert set(store.objects) >= STORED
    assert again.exit_code == 0
    assert (again.sessions, again.sent) == (2, 1)
    assert "a.txt" in store.objects[manifest_key("", "s1")].data.decode(), "what is kept is listed"


def test_a_deletion_that_an_interrupted_run_had_believed(source: Path, store: FlatStore, config: Config) -> None:
    migrate(config, store)
    (source / "s1/a.txt").unlink()
    engine = Engine(config, store, watched=False, read_only=True)
    engine.scanner.scan("s1")
    assert engine.journal.entries.entry("s1", "a.txt").tombstone  # type: ignore[union-attr]
    _expect_only_what_stands(engine)
    assert not engine.journal.entries.entry("s1", "a.txt").tombstone  # type: ignore[union-attr]
    engine.close()
    keys = put_keys(store)
    migrate(config, store)
    assert "DELETED sessions/s1/a.txt" not in keys


def test_files_that_cannot_be_stored_are_told(source: Path, store: FlatStore, config: Config, monkeypatch: Any) -> None:
    (source / "s1" / os.fsdecode(b"bad\xff")).write_bytes(b"x")
    (source / "s1" / ".cachesync").mkdir()
    (source / "s3/denied").write_bytes(b"denied")
    plain = store.put

    def put(key: str, *args: Any, **kwargs: Any) -> Any:
        if key.endswith("denied"):
            raise StoreDenied("store", key, "no")
        return plain(key, *args, **kwargs)

    monkeypatch.setattr(store, "put", put)
    report = adds_up(migrate(config, store))
    assert [failure.path for failure in report.failed] == [
        "s1/.cachesync", "s1/bad\udcff", "s3/denied",
    ]  # fmt: skip
    assert report.exit_code == 1
    assert (report.sent, report.files) == (FILES, FILES + 3)
    assert report.json()["failed"][1]["path"] == "s1/bad\\xff"
    dry = adds_up(rehearse(config, store))
    assert [failure.path for failure in dry.failed] == ["s1/.cachesync", "s1/bad\udcff"]


def test_a_store_that_goes_down_in_the_middle_is_waited_for_and_then_told(
    source: Path, store: FlatStore, config: Config
) -> None:
    def fall(key: str, *_: Any) -> None:
        store.down |= key.endswith("b.txt")

    store.watch = fall
    before = snapshot(source)
    report = adds_up(migrate(config, store, patience=0.3))
    assert report.pending
    assert not report.failed
    assert report.exit_code == 4
    assert report.sent < FILES
    assert snapshot(source) == before
    store.down, store.watch = False, lambda *_: None
    again = adds_up(migrate(config, store))
    assert again.exit_code == 0
    assert again.sent + again.present == FILES
    assert set(store.objects) == {*STORED, *MANIFESTS, identity_key("")}


def test_an_outage_that_ends_is_no_more_than_a_pause(source: Path, store: FlatStore, config: Config) -> None:
    def fall(key: str, *_: Any) -> None:
        if key.endswith("b.txt") and not fallen:
            fallen.append(key)
            store.down = True
            timer = threading.Timer(0.3, setattr, (store, "down", False))
            timer.start()
            timers.append(timer)

    fallen: list[str] = []
    timers: list[threading.Timer] = []
    store.watch = fall
    report = adds_up(migrate(config, store))
    timers[0].join()
    assert report.exit_code == 0
    assert set(store.objects) - {identity_key("")} == {*STORED, *MANIFESTS}


def test_a_store_that_is_not_there_is_said_at_once(source: Path, store: FlatStore, config: Config) -> None:
    store.down = True
    with pytest.raises(StoreUnreachable):
        migrate(config, store)
    with pytest.raises(StoreUnreachable):
        rehearse(config, store)


def test_a_bucket_that_vanishes_ends_it(source: Path, store: FlatStore, config: Config, monkeypatch: Any) -> None:
    def put(key: str, *_: Any, **__: Any) -> Any:
        raise NoSuchBucket("store", key)

    monkeypatch.setattr(store, "put", put)
    with pytest.raises(NoSuchBucket):
        migrate(config, store)


def test_a_rehearsal_says_what_a_migration_does_and_does_nothing(
    source: Path, store: FlatStore, config: Config, tmp_path: Path
) -> None:
    store.foreign_put("sessions/s1/a.txt", b"alpha")
    store.foreign_put("sessions/s1/d/e/b.txt", b"BETA")
    store.foreign_put("sessions/s1/d/empty", b"", digest=False)
    before, writes = snapshot(source), store.writes
    dry = adds_up(rehearse(config, store))
    assert (snapshot(source), store.writes) == (before, writes)
    assert not config.state.exists()
    assert not (tmp_path / "home").exists()
    assert dry.dry_run
    assert (dry.sessions, dry.files, dry.bytes) == (3, FILES, BYTES)
    assert (dry.present, dry.sent) == (1, FILES - 1), "an object without a checksum counts as to be sent"
    assert {skipped.path for skipped in dry.skipped} == SKIPPED
    store.objects.pop("sessions/s1/d/empty")
    store.objects.pop("sessions/s1/d/e/b.txt")
    dry = rehearse(config, store)
    real = migrate(config, store)
    for name in ("sessions", "files", "bytes", "sent", "sent_bytes", "present", "present_bytes", "requests", "dollars"):
        assert getattr(dry, name) == getattr(real, name), name
    assert dry.skipped == real.skipped
    after = adds_up(rehearse(config, store))
    assert (after.sent, after.present, after.requests, after.exit_code) == (0, FILES, 0, 0)
    (source / "s1/a.txt").write_bytes(b"ALPHA")
    (source / "s3/y").chmod(0o600)
    changed = adds_up(rehearse(config, store))
    assert (changed.sent, changed.requests) == (2, 4), "other bytes of one length, another mode, and two manifests"


def test_a_rehearsal_counts_the_manifests_that_are_written(source: Path, store: FlatStore, config: Config) -> None:
    migrate(config, store)
    (source / "s1/new link").symlink_to("a.txt")
    (source / "s3/.cachesync").mkdir()  # cannot be stored: its session's manifest waits
    (source / "s3/new").write_bytes(b"1")
    dry, real = adds_up(rehearse(config, store)), migrate(config, store)
    assert (dry.sent, dry.requests, len(dry.failed)) == (real.sent, real.requests, len(real.failed)) == (1, 2, 1)


def test_a_running_daemon_stores_it_already(source: Path, store: FlatStore, config: Config, tmp_path: Path) -> None:
    own = load({"root": str(source), "store": "memory://migrated"}, {}, Path("/"), system_file=Path("/none"))
    daemon = Engine(own, FlatStore(), wait=lambda _: None)
    with contextlib.closing(daemon), pytest.raises(RootLocked) as refused:
        migrate(config, store)
    assert "the daemon of this root stores it already" in str(refused.value)
    assert "cachesync flush --all" in str(refused.value)
    assert refused.value.exit_code == 2
    with contextlib.closing(Engine(config, FlatStore(), read_only=True)), pytest.raises(RootLocked) as refused:
        migrate(config, store)
    assert f"process {os.getpid()}" in str(refused.value)


def test_how_far_it_is(source: Path, store: FlatStore, config: Config) -> None:
    told: list[Progress] = []
    rehearse(config, store, progress=told.append)
    assert told
    told.clear()
    held, going = threading.Event(), threading.Event()

    def hold(*_: object) -> None:
        going.set()
        held.wait(10)

    store.watch = hold

    def look(progress: Progress) -> None:
        told.append(progress)
        if progress.files_total == FILES and going.is_set():
            held.set()

    migrate(config, store, progress=look)
    assert held.is_set()
    assert (told[-1].files_total, told[-1].bytes_total) == (FILES, BYTES)
    assert all(one.files <= one.files_total and one.bytes <= one.bytes_total for one in told)


def test_an_empty_source_and_one_that_is_none(tmp_path: Path, store: FlatStore) -> None:
    (tmp_path / "empty").mkdir()
    report = adds_up(migrate(configured(tmp_path / "empty", tmp_path), store))
    assert (report.sessions, report.files, report.exit_code) == (0, 0, 0)
    (tmp_path / "file").write_bytes(b"")
    for wrong in ("none", "file"):
        for verb in (migrate, rehearse):
            with pytest.raises(UsageError):
                verb(configured(tmp_path / wrong, tmp_path), store)


def test_where_the_state_is_kept(source: Path, tmp_path: Path) -> None:
    def place(environ: dict[str, str], **flags: str) -> Path:
        given = {"root": str(source), "store": "memory://a", **flags}
        return elsewhere(load(given, environ, Path("/"), system_file=Path("/none")), environ).state

    home = place({"HOME": "/home/x"})
    assert home.parent == Path("/home/x/.local/state/cachesync/migrate")
    assert place({"HOME": "/home/x", "XDG_STATE_HOME": "/xdg"}).parent == Path("/xdg/cachesync/migrate")
    assert place({"HOME": "/home/x", "XDG_STATE_HOME": "relative"}) == home
    assert place({"CACHESYNC_STATE": "/given"}) == Path("/given/migrate") / home.name
    assert place({"HOME": "/home/x"}, state="/flag").parent == Path("/flag/migrate")
    assert place({"HOME": "/home/x"}, store="memory://b").name != home.name
    (tmp_path / "link").symlink_to(source)
    assert place({"HOME": "/home/x"}, root=str(tmp_path / "link")) == home
    with pytest.raises(UsageError, match="written into it"):
        place({"HOME": str(source)})
    with pytest.raises(UsageError, match="written into it"):
        place({"CACHESYNC_STATE": str(source / ".cachesync")})
    with pytest.raises(UsageError, match="no home"):
        place({})


@pytest.fixture
def s3(seaweed: SeaweedServer, bucket: str) -> Iterator[S3Store]:
    seaweed.make_bucket(bucket)
    with contextlib.closing(S3Store(seaweed.settings(bucket))) as store:
        yield store


def test_on_a_real_server(source: Path, s3: S3Store, config: Config) -> None:
    before = snapshot(source)
    report = adds_up(migrate(config, s3))
    assert (report.exit_code, report.sent, report.requests) == (0, FILES, PUTS)
    assert b"".join(s3.get("sessions/s2/big").chunks) == TREE["s2/big"]
    dry = adds_up(rehearse(config, s3))
    assert (dry.sent, dry.present, dry.requests) == (0, FILES, 0)
    versions = {info.key: info.version for info in s3.list("")}
    shutil.rmtree(config.state)
    for key in MANIFESTS:
        s3.delete(key, expect=s3.head(key).version)
    again = adds_up(migrate(config, s3))
    assert (again.sent, again.present) == (0, FILES)
    now = {info.key: info.version for info in s3.list("")}
    assert {key: now[key] for key in STORED} == {key: versions[key] for key in STORED}
    assert snapshot(source) == before
    engine = Engine(config, s3, watched=False, read_only=True)
    verifier = Verifier(engine.transfer._c, engine.learner, engine.scanner)
    assert all(verifier.verify(name).verified for name in ("s1", "s2", "s3"))
    engine.close()
    (source / "s1/a.txt").write_bytes(b"changed")
    assert adds_up(migrate(replace(config), s3)).sent == 1
