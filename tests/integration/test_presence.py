"""What stands on disk is what the store has, by evidence: where leases lie, where times are coarse, after the power
went, and where a program idles on an open file."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cachesync.journal import counters
from cachesync.watch.hints import Hint
from tests.flat_store import FlatStore
from tests.integration.test_capabilities import as_root, coarse, layered
from tests.life import Host, S
from tests.mapped import PAGE, mapped

__all__ = ["coarse", "layered"]
PREFIX = f"sessions/{S}/"
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks the kernel of Linux")


def begin(root: Path, **flags: Any) -> Host:
    host = Host(root, FlatStore(), **flags)
    host.session.mkdir()
    return host


@pytest.fixture
def a(tmp_path: Path) -> Iterator[Host]:
    host = begin(tmp_path / "root")
    yield host
    host.stop()


def stored(host: Host, path: str) -> bytes:
    data: bytes = host.store.objects[PREFIX + path].data  # type: ignore[attr-defined]
    return data


def contents(host: Host) -> list[bytes]:
    """Of all objects of the session but the manifest."""
    objects = host.store.objects  # type: ignore[attr-defined]
    return [
        found.data for key, found in objects.items() if key.startswith(PREFIX) and not key.endswith("manifest.json")
    ]


def kept(report: Any) -> dict[str, str]:
    return {pending.path: pending.reason for pending in report.kept}


# -- leases that lie (B1, B3) ------------------------------------------------------------------------------------------


@as_root
def test_p03_on_an_overlay_a_flush_stores_what_was_written_through_a_mapping(layered: Path):
    host = begin(layered / "root")
    place = host.write("f", bytes(PAGE))
    with mapped(place) as write:
        write(b"BBBB")
        host.flush()
        write(b"CCCC")  # a second store to a page leaves no trace in the file's stat
        host.flush()
        assert stored(host, "f") == place.read_bytes()
        assert kept(host.life.evict(S)).keys() == {"f"}
        write(b"DDDD")
    host.flush()
    assert host.life.evict(S, force=True).kept == []
    assert stored(host, "f").startswith(b"DDDD")
    host.stop()


@as_root
def test_p10_on_an_overlay_nothing_is_evicted_unless_it_is_forced(layered: Path):
    host = begin(layered / "root")
    host.write("f", b"one")
    host.flush()
    host.driven.clock.push(3600)
    assert kept(host.life.evict(S)) == {"f": "cannot determine whether a program has it open for writing"}
    assert (host.session / "f").exists()
    assert host.life.evict(S, force=True).kept == []
    host.stop()


@as_root
def test_a_session_on_an_overlay_is_closed_though_its_files_are_new(layered: Path):
    host = begin(layered / "root")
    host.write("f", b"one")
    report = host.close_session()
    assert report.closed
    assert kept(report.evicted).keys() == {"f"}
    host.stop()


# -- times of whole seconds (B2) ---------------------------------------------------------------------------------------


@as_root
def test_p03_where_times_are_whole_seconds_a_rewrite_in_the_same_one_is_stored(coarse: Path):
    host = begin(coarse / "root", watched=False)
    missed, rounds = [], 0
    while rounds < 8:
        host.driven.clock.ahead = 0.0  # the disk's clock is the real one
        place = host.write("f", b"%04d" % rounds)
        host.flush()
        before = place.stat()
        place.write_bytes(b"%04x" % (rounds + 4096))
        if place.stat().st_ctime_ns != before.st_ctime_ns:
            continue  # a second began between the two
        rounds += 1
        host.driven.clock.ahead = 0.0
        host.flush()
        if stored(host, "f") != place.read_bytes():
            missed.append(rounds)
    assert missed == []
    host.stop()


@as_root
def test_p10_where_times_are_whole_seconds_what_was_rewritten_in_the_same_one_is_not_evicted(coarse: Path):
    host = begin(coarse / "root", watched=False)
    while True:
        place = host.write("f", b"one")
        host.flush()
        before = place.stat().st_ctime_ns
        place.write_bytes(b"two")
        if place.stat().st_ctime_ns == before:
            break
    assert kept(host.life.evict(S)).keys() == {"f"}
    assert kept(host.life.evict(S, force=True)).keys() == {"f"}
    assert place.read_bytes() == b"two"
    host.stop()


def test_p03_what_was_read_before_the_flush_and_written_without_a_trace_since_is_read_again(a: Host):
    """A transfer holds the bytes of before; they are confirmed while the flush waits, and are not what the file has."""
    place = a.write("f", bytes(PAGE))
    store, entered, go_on = a.store, threading.Event(), threading.Event()

    def put(key: str, *_: Any) -> None:
        if key.endswith("/f") and not entered.is_set():
            entered.set()
            assert go_on.wait(10)

    with mapped(place) as write:
        write(b"AAAA")
        a.driven.scan(S)
        a.driven.clock.push(10)  # its writer is waited for no longer
        store.watch = put  # type: ignore[attr-defined]
        transfer = threading.Thread(target=a.driven.one)
        transfer.start()
        assert entered.wait(10)
        write(b"BBBB")
        progress = a.driven.uploader.wait_for_progress

        def landed(timeout: float) -> None:
            go_on.set()
            transfer.join(10)
            progress(timeout)

        a.driven.uploader.wait_for_progress = landed  # type: ignore[method-assign]
        a.flush()
        assert stored(a, "f").startswith(b"BBBB")


# -- a program that idles (exam D8) ------------------------------------------------------------------------------------


def test_status_says_safe_while_a_program_idles_on_an_open_file(a: Host):
    place = a.write("f", b"one")
    with open(place, "r+b") as writer:
        a.flush()
        a.store.down = True  # type: ignore[attr-defined]
        for _ in range(2):
            (session,) = a.driven.engine.service.status(S).sessions
            assert (session.dirty, session.safe_to_kill) == (0, True)
        writer.write(b"two")
        writer.flush()
        (session,) = a.driven.engine.service.status(S).sessions
        assert (session.dirty, session.safe_to_kill) == (1, False)


def test_status_sees_what_was_written_through_a_mapping(a: Host):
    place = a.write("f", bytes(PAGE))
    with mapped(place) as write:
        write(b"BBBB")
        a.flush()
        assert a.driven.engine.service.status(S).sessions[0].safe_to_kill
        write(b"CCCC")
        assert not a.driven.engine.service.status(S).sessions[0].safe_to_kill
    a.flush()
    assert stored(a, "f").startswith(b"CCCC")


def test_a_session_is_closed_while_a_program_idles_on_an_open_file(a: Host):
    with open(a.write("f", b"one"), "ab"):
        report = a.close_session()
    assert report.closed
    assert kept(report.evicted) == {"f": "a program may still write to it"}


def test_a_directory_that_was_made_anew_is_met_once(a: Host, monkeypatch: pytest.MonkeyPatch):
    """Also when two threads look at the same time: what one has found in it is not taken for lost by the other."""
    a.write("old", b"old")
    a.flush()
    shutil.rmtree(a.session)
    a.session.mkdir()
    a.write("new", b"new")
    tree, scanner = a.driven.engine.scanner.presence._tree, a.driven.engine.scanner
    real = tree.session_directory

    def the_other_first(session: str) -> str | None:
        monkeypatch.setattr(tree, "session_directory", real)
        scanner.scan(S)
        return real(session)

    monkeypatch.setattr(tree, "session_directory", the_other_first)
    scanner.presence.meet(S)
    entry = a.journal.entries.entry(S, "new")
    assert entry is not None
    assert entry.resident
    assert scanner.presence.lost[S] == 0


def test_a_file_that_was_let_go_is_settled_by_a_look(a: Host):
    with open(a.write("f", b"one"), "ab"):
        a.flush()
    assert a.entry("f").unsettled
    a.driven.engine.service.status(S)
    assert not a.entry("f").unsettled
    assert a.life.evict(S).kept == []


# -- the power goes (A2, A3) -------------------------------------------------------------------------------------------


@pytest.fixture
def boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Which boot it is: its text. It was when this file was written."""
    place = tmp_path / "boot"
    place.write_text("first")
    monkeypatch.setattr(counters, "BOOT", place)
    monkeypatch.setattr(counters, "booted_at", lambda: place.stat().st_mtime)
    return place


@pytest.fixture
def cut(boot: Path, tmp_path: Path) -> Iterator[Host]:
    host = begin(tmp_path / "cut")
    yield host
    host.stop()


def power_goes(host: Host, boot: Path) -> None:
    boot.write_text("second")
    host.crash()


def as_told(host: Host, path: str) -> None:
    """Let the journal know the stat that a file has by now: the disk has the new times and the old bytes."""
    found = (host.session / path).stat()
    with host.journal._ledger.db.write() as db:
        db.execute(
            "UPDATE entry SET mtime_ns = ?, ctime_ns = ?, inode = ? WHERE name = ?",
            (found.st_mtime_ns, found.st_ctime_ns, found.st_ino, path.encode()),
        )


def started(host: Host) -> Any:
    """What a daemon does at its start, and then a flush."""
    host.driven.scan(S, recheck=True)
    host.driven.pump()
    return host.driven.flush(S)


def test_p06_bytes_that_the_disk_lost_do_not_replace_those_that_were_confirmed(cut: Host, boot: Path):
    cut.write("f", b"flushed")
    cut.flush()
    (cut.session / "f").write_bytes(b"")  # delayed allocation: the name is there, and no bytes
    power_goes(cut, boot)
    report = started(cut)
    assert report.stored
    (conflict,) = report.conflicts
    assert conflict.path == "f"
    assert stored(cut, "f") == b""
    assert stored(cut, conflict.kept_as) == b"flushed"
    (status,) = cut.driven.engine.service.status(S).sessions
    assert status.conflicts == 1


def test_p06_bytes_that_the_disk_lost_after_an_orderly_end_are_kept(cut: Host, boot: Path):
    cut.write("f", b"flushed")
    written = cut.write("g", b"flushed, too")
    cut.flush()
    cut.driven.close()
    found = (cut.session / "f").stat()
    (cut.session / "f").write_bytes(b"")
    os.utime(cut.session / "f", ns=(found.st_atime_ns, found.st_mtime_ns))
    written.write_bytes(b"written by a program that saw it")
    boot.write_text("second")
    cut.start()
    report = started(cut)
    (conflict,) = report.conflicts
    assert conflict.path == "f"
    assert stored(cut, conflict.kept_as) == b"flushed"


def test_p06_bytes_that_the_disk_lost_under_an_equal_stat_are_found(cut: Host, boot: Path):
    cut.write("f", b"older")
    cut.flush()
    cut.write("f", b"newer")
    cut.flush()
    cut.write("f", b"older")
    as_told(cut, "f")
    power_goes(cut, boot)
    assert cut.entry("f").doubted
    assert started(cut).stored
    assert stored(cut, "f") == b"older"
    assert sorted(contents(cut)) == [b"newer", b"older"]
    assert not cut.entry("f").doubted
    assert started(cut).conflicts == []
    assert len(contents(cut)) == 2


def test_p06_what_the_journal_lost_too_does_not_replace_what_was_confirmed(cut: Host, boot: Path):
    """Its last commits went with the power: it never heard of the file, or knows the version before."""
    cut.write("f", b"one")
    cut.flush()
    before = cut.entry("f")
    cut.write("f", b"flushed")
    cut.write("new", b"new and flushed")
    cut.flush()
    with cut.journal._ledger.db.write() as db:
        assert db.execute("DELETE FROM entry WHERE name = ?", (b"new",)).rowcount == 1
        older = (before.stored.version.etag, before.stored.version.version_id, before.stored.sha256, b"f")
        changed = db.execute(
            "UPDATE entry SET etag = ?, version_id = ?, sha256 = ?, stored_size = 3, mtime_ns = 1, stored_at = 1,"
            " dirty_since = 1 WHERE name = ?",
            older,
        )
        assert changed.rowcount == 1
    (cut.session / "f").write_bytes(b"")
    (cut.session / "new").write_bytes(b"")
    power_goes(cut, boot)
    assert started(cut).stored
    assert {b"flushed", b"new and flushed"} <= set(contents(cut))


def test_what_is_written_after_the_boot_is_a_change_as_any_other(cut: Host, boot: Path):
    cut.write("f", b"one")
    cut.flush()
    power_goes(cut, boot)
    place = cut.write("f", b"two")
    later = boot.stat().st_mtime_ns + 10**9
    os.utime(place, ns=(later, later))
    report = started(cut)
    assert report.conflicts == []
    assert contents(cut) == [b"two"]


def test_what_the_power_took_nothing_from_costs_a_reading_and_no_request(cut: Host, boot: Path):
    cut.write("f", b"one")
    cut.flush()
    power_goes(cut, boot)
    cut.store.down = True  # type: ignore[attr-defined]
    cut.driven.scan(S, recheck=True)
    assert not cut.entry("f").unsettled
    assert cut.dirty() == set()


def test_what_was_stored_long_before_the_power_went_is_not_read_again(cut: Host, boot: Path):
    cut.write("old", b"1")
    cut.flush()
    cut.driven.clock.push(3600)
    cut.write("young", b"2")
    cut.flush()
    power_goes(cut, boot)
    assert (cut.entry("old").doubted, cut.entry("young").doubted) == (False, True)


def test_a_clock_that_was_set_back_hides_nothing_from_that(cut: Host, boot: Path):
    cut.driven.clock.push(3600)
    cut.write("before", b"1")
    cut.flush()
    cut.driven.clock.push(-3600)
    cut.write("after", b"2")
    cut.flush()
    power_goes(cut, boot)
    assert (cut.entry("before").doubted, cut.entry("after").doubted) == (True, True)


def test_an_orderly_end_and_a_kill_leave_no_doubt_until_the_machine_is_restarted(cut: Host, boot: Path):
    cut.write("f", b"one")
    cut.flush()
    cut.crash()
    assert not cut.entry("f").doubted
    cut.stop()
    cut.start()
    assert not cut.entry("f").doubted
    cut.stop()
    boot.write_text("second")  # the journal is synced at the end, files are not
    cut.start()
    assert cut.entry("f").doubted
    assert cut.journal.entries.with_learned(S, "f")[1]


def test_a_doubt_outlives_a_mark_and_a_hint(cut: Host, boot: Path):
    cut.write("f", b"one")
    cut.flush()
    (cut.session / "f").write_bytes(b"")
    power_goes(cut, boot)
    cut.driven.engine.scanner.notice(S, {"f": Hint.CHANGED})
    assert cut.entry("f").dirty
    cut.crash()
    assert cut.entry("f").doubted
    assert started(cut).conflicts
    assert sorted(contents(cut)) == [b"", b"one"]
