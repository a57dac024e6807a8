"""Absence needs evidence: when a missing file is deleted, when evicted, and when nothing is decided (P7, P8)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from unittest import mock

import pytest

import cachesync.journal.counters
from cachesync.root.tree import Tree
from cachesync.watch.hints import Hint
from tests.faults.volume import Volume
from tests.flat_store import Fault, FlatStore
from tests.life import Host, S

GONE, CHANGED = Hint.GONE, Hint.CHANGED | Hint.CLOSED


@pytest.fixture
def host(tmp_path):
    host = Host(tmp_path / "root", FlatStore())
    yield host
    host.stop()


def objects(host: Host) -> set[str]:
    prefix = f"sessions/{S}/"
    keys = host.store.objects  # type: ignore[attr-defined]
    return {key.removeprefix(prefix) for key in keys if key.startswith(prefix)} - {".cachesync/manifest.json"}


def flushed(host: Host, *paths: str) -> None:
    """Write files, and flush."""
    for path in paths:
        host.write(path)
    host.flush()


def wait(host: Host, seconds: float = 30.0) -> None:
    """Longer than any deletion waits."""
    for _ in range(10):
        host.driven.clock.push(seconds / 10)
        host.driven.pump()


def vanished(host: Host) -> int:
    row = host.journal.sessions.get(S)
    assert row is not None
    return row.vanished


def mount(*words: str | Path) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True)


def umount(*words: str | Path, check: bool = True) -> None:
    subprocess.run(["umount", *words], check=check, capture_output=True)


@pytest.fixture
def volume(host: Host):
    """A file system of its own on a directory of the session."""
    place = host.session / "data"
    place.mkdir(parents=True)
    mount("-t", "tmpfs", "tmpfs", place)
    yield place
    umount("-l", place, check=False)


# -- an unclean boot (core A1) -----------------------------------------------------------------------------------------


@pytest.fixture
def cut(host: Host, monkeypatch):
    """Let the machine lose its power, and with it names that a flush had confirmed."""

    def cut(*lost: str) -> None:
        host.driven.crash()
        for path in lost:
            (host.session / path).unlink()
        monkeypatch.setattr(cachesync.journal.counters, "_boot", lambda: f"boot after {lost}")
        host.start()

    return cut


def test_p07_names_that_a_power_cut_took_stay_in_the_store(host, cut):
    flushed(host, "a", "b", "d/c", "stays")
    cut("a", "b", "d/c")
    host.driven.scan(S)
    wait(host)
    assert objects(host) == {"a", "b", "d/c", "stays"}
    assert vanished(host) == 3
    report = host.driven.flush(S)
    assert (report.stored, report.vanished, report.files) == (True, 3, 4)


def test_p07_names_that_a_power_cut_took_after_an_orderly_end_stay_in_the_store(host, monkeypatch):
    flushed(host, "a", "stays")
    host.stop()
    (host.session / "a").unlink()
    monkeypatch.setattr(cachesync.journal.counters, "_boot", lambda: "another boot")
    host.start()
    host.driven.scan(S)
    wait(host)
    assert objects(host) == {"a", "stays"}
    assert vanished(host) == 1


def test_p08_what_went_after_an_orderly_end_in_the_same_boot_was_deleted(host):
    flushed(host, "a", "stays")
    host.stop()
    (host.session / "a").unlink()
    host.start()
    host.driven.scan(S)
    wait(host)
    assert objects(host) == {"stays"}


def test_p07_the_doubt_outlives_a_second_death(host, cut):
    flushed(host, "a", "stays")
    cut("a")
    host.driven.crash()  # before anything was scanned
    host.start()
    host.driven.scan(S)
    wait(host)
    assert objects(host) == {"a", "stays"}


def test_p08_after_one_whole_scan_deletions_follow_again(host, cut):
    flushed(host, "a", "b", "stays")
    cut("a")
    host.driven.scan(S)
    (host.session / "b").unlink()
    host.driven.scan(S)
    wait(host)
    assert objects(host) == {"a", "stays"}
    assert vanished(host) == 1


def test_p08_a_deletion_that_was_heard_in_this_life_follows_at_once(host, cut):
    flushed(host, "a", "stays")
    cut()
    (host.session / "a").unlink()
    host.driven.engine.scanner.notice(S, {"a": GONE})
    wait(host, 3.0)
    assert objects(host) == {"stays"}


@pytest.mark.parametrize("made", ["", "d", "d/another"], ids=["moved away", "a file now", "made anew"])
def test_p07_in_doubt_a_directory_s_event_says_nothing_of_what_was_in_it(host, made):
    """A file below it may have been missing before that."""
    flushed(host, "d/f", "stays")
    before = objects(host)
    host.journal.sessions.doubt_all()
    shutil.rmtree(host.session / "d")
    if made:
        host.write(made, b"new")
    host.driven.engine.scanner.notice(S, {"d": Hint.GONE | Hint.TREE})
    wait(host)
    assert before <= objects(host)
    host.flush()
    assert before <= objects(host)
    assert vanished(host) == 1


def test_a_file_that_vanished_and_returns_is_clean_again(host, cut):
    place = host.write("a")
    flushed(host, "stays")
    aside = host.root.parent / "aside"
    os.rename(place, aside)
    cut()
    host.driven.scan(S)
    assert vanished(host) == 1
    os.rename(aside, place)
    host.driven.scan(S)
    assert vanished(host) == 0
    report = host.driven.flush(S)
    assert (report.stored, report.vanished, report.uploaded) == (True, 0, 0)


def test_what_a_program_makes_in_place_of_a_vanished_file_is_stored_beside_its_bytes(host, cut):
    host.write("a", "flushed before the cut")
    flushed(host, "stays")
    cut("a")
    host.driven.scan(S)
    host.write("a", "made anew")
    report = host.driven.flush(S)
    assert report.stored
    ((conflict),) = report.conflicts
    assert host.store.objects[f"sessions/{S}/{conflict.kept_as}"].data == b"flushed before the cut"
    assert host.store.objects[f"sessions/{S}/a"].data == b"made anew"


# -- a root that was rolled back ---------------------------------------------------------------------------------------


def test_p07_a_root_that_was_rolled_back_deletes_nothing(tmp_path, monkeypatch):
    """The journal lies on another disk: it knows files that came after the snapshot."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "tmpfs", disk)
    try:
        host = Host(disk / "root", FlatStore(), state=str(tmp_path / "state"))
        host.write("before")
        host.flush()
        snapshot = tmp_path / "snapshot"
        shutil.copytree(disk / "root", snapshot, symlinks=True)
        host.write("after")
        host.flush()
        host.stop()
        pulses = [root / ".cachesync/pulse" for root in (snapshot, disk / "root")]
        assert len({pulse.stat().st_size for pulse in pulses}) == 2, "rsync compares sizes, and times in seconds"
        (host.session / "after").unlink()
        shutil.copyfile(snapshot / ".cachesync/pulse", disk / "root/.cachesync/pulse")
        host.start()
        assert host.driven.flush(S).vanished == 1
        wait(host)
        assert objects(host) == {"before", "after"}
        host.stop()
        # A root that is as it was left is believed.
        host.start()
        (host.session / "before").unlink()
        host.flush()
        assert objects(host) == {"after"}
        host.stop()
    finally:
        umount("-l", disk, check=False)


# -- mounts below a session (core A4, exam D3) -------------------------------------------------------------------------


def test_p07_an_unmounted_volume_deletes_nothing(host, volume):
    flushed(host, "own", *(f"data/d/f{number}" for number in range(20)))
    umount(volume)
    host.driven.scan(S)
    wait(host)
    host.driven.flush(S)
    wait(host)
    assert len(objects(host)) == 21
    assert vanished(host) == 20
    assert (host.entry("own").resident, host.entry("data/d/f0").resident) == (True, False)


def test_p07_a_volume_that_comes_back_is_as_it_was(host, volume, tmp_path):
    flushed(host, "data/f", "own")
    other = tmp_path / "other"
    other.mkdir()
    mount("--bind", volume, other)
    umount(volume)
    host.driven.scan(S)
    assert vanished(host) == 1
    mount("--bind", other, volume)
    umount(other)
    before = host.store.writes
    report = host.driven.flush(S)
    assert (report.stored, report.vanished, report.uploaded) == (True, 0, 0)
    assert host.store.writes == before + 1, "the manifest"


def test_p07_what_a_mount_hides_is_not_deleted(host):
    flushed(host, "own", *(f"data/f{number}" for number in range(3)))
    mount("-t", "tmpfs", "tmpfs", host.session / "data")
    try:
        host.driven.scan(S)
        wait(host)
        assert host.driven.flush(S).stored
        wait(host)
        assert len(objects(host)) == 4
    finally:
        umount("-l", host.session / "data", check=False)
    report = host.driven.flush(S)
    assert (report.stored, report.vanished) == (True, 0)


def test_p07_another_volume_at_the_same_place_deletes_nothing(host, volume):
    """Root inode and device number may be the same ones again."""
    flushed(host, "data/f", "own")
    umount(volume)
    mount("-t", "tmpfs", "tmpfs", volume)
    host.driven.scan(S)
    wait(host)
    assert objects(host) == {"data/f", "own"}


def test_p08_a_deletion_on_a_volume_below_a_session_follows(host, volume):
    flushed(host, "data/f", "data/g")
    (volume / "f").unlink()
    host.driven.scan(S)
    wait(host)
    assert objects(host) == {"data/g"}


def test_p07_what_a_bind_mount_of_the_same_file_system_hides_is_not_deleted(host):
    flushed(host, "d/f", "own")
    aside = host.root.parent / "aside"
    aside.mkdir()
    mount("--bind", aside, host.session / "d")
    try:
        host.driven.scan(S)
        wait(host)
        assert objects(host) == {"d/f", "own"}
        assert vanished(host) == 1
    finally:
        umount(host.session / "d")
    report = host.driven.flush(S)
    assert (report.stored, report.vanished, report.uploaded) == (True, 0, 0)


def test_p08_a_directory_that_a_program_made_anew_while_nobody_watched_lost_its_files(host):
    """``rm -rf build; mkdir build`` between two flushes without a daemon."""
    host.write("build/old")
    host.write("build/again", "1")
    flushed(host, "own")
    os.rename(host.session / "build", host.root.parent / "aside")  # its inode stays taken
    host.write("build/again", "2")
    report = host.driven.flush(S)
    assert (report.stored, report.conflicts, report.vanished) == (True, [], 0)
    assert objects(host) == {"build/again", "own"}


def test_p08_a_directory_that_is_heard_to_be_replaced_was_deleted(host):
    flushed(host, "d/f", "own")
    os.rename(host.session / "d", host.root.parent / "aside")
    (host.session / "d").mkdir()
    host.driven.engine.scanner.notice(S, {"d": GONE | Hint.TREE})
    wait(host)
    assert objects(host) == {"own"}


# -- no birth times (core A5) ------------------------------------------------------------------------------------------


@pytest.fixture
def ageless(monkeypatch):
    """A file system that tells no birth times, and gives an inode number again at once."""
    monkeypatch.setattr(Tree, "session_directory", lambda self, name: "7:None" if (self.root / name).is_dir() else None)
    monkeypatch.setattr(Tree, "birth_ns", lambda *_: None)


def test_p07_without_birth_times_a_session_made_anew_deletes_nothing(host, ageless):
    flushed(host, *(f"f{number}" for number in range(5)))
    shutil.rmtree(host.session)
    host.session.mkdir()
    wait(host)  # no hint is on its way any more
    host.driven.scan(S)
    wait(host)
    assert len(objects(host)) == 5
    assert vanished(host) == 5


def test_p07_on_a_disk_without_birth_times_a_session_made_anew_deletes_nothing(tmp_path):
    disk = Volume(tmp_path / "image", tmp_path / "disk", 16, make=("-I", "128"))
    disk.mount()
    host = Host(disk.path / "root", FlatStore())
    try:
        flushed(host, *(f"f{number}" for number in range(5)))
        before = host.session.stat().st_ino
        shutil.rmtree(host.session)
        host.session.mkdir()
        assert host.session.stat().st_ino == before
        wait(host)
        report = host.driven.flush(S)
        assert (report.stored, report.vanished) == (True, 5)
        wait(host)
        assert len(objects(host)) == 5
    finally:
        host.stop()
        disk.umount("-l")


def test_p07_without_birth_times_a_session_heard_to_go_is_evicted(host, ageless):
    flushed(host, "a", "b")
    shutil.rmtree(host.session)
    host.session.mkdir()
    scanner = host.driven.engine.scanner
    scanner.notice(S, {"a": GONE, "b": GONE})
    scanner.notice(S, {"": GONE | Hint.TREE})
    wait(host)
    assert objects(host) == {"a", "b"}
    assert not host.entry("a").resident
    assert not host.entry("b").resident


def test_p08_without_birth_times_a_deletion_that_is_heard_follows(host, ageless):
    flushed(host, "a", "b")
    (host.session / "a").unlink()
    host.driven.engine.scanner.notice(S, {"a": GONE})
    wait(host)
    assert objects(host) == {"b"}


# -- looks without evidence --------------------------------------------------------------------------------------------


def test_p07_a_look_at_a_missing_path_is_no_evidence_of_a_deletion(host):
    flushed(host, "a", "b")
    (host.session / "a").unlink()
    host.driven.engine.scanner.notice(S, {"a": CHANGED})
    wait(host)
    assert objects(host) == {"a", "b"}
    host.driven.scan(S)
    wait(host)
    assert objects(host) == {"b"}


def test_p07_a_scan_under_which_the_tree_changed_deletes_nothing(host):
    """A file that moves from a directory that is not listed yet to one that is, is seen nowhere."""
    flushed(host, "a/other", "b/f")
    listing, listed = host.driven.engine.tree.listing, []

    def moving(session, directory, seen):
        listed.append(directory)
        if directory == "b/" and (host.session / "b/f").exists():
            os.rename(host.session / "b/f", host.session / "a/f")
        return listing(session, directory, seen)

    with mock.patch.object(host.driven.engine.tree, "listing", moving):
        host.driven.scan(S)
    assert listed.index("a/") < listed.index("b/")
    assert host.entry("a/f") is None
    assert not host.entry("b/f").tombstone
    wait(host)
    assert objects(host) == {"a/other", "b/f"}
    host.driven.scan(S)
    wait(host)
    assert objects(host) == {"a/f", "a/other"}


# -- moved files (core A6, A8, exam D7) --------------------------------------------------------------------------------


def test_p08_an_old_name_stays_until_the_store_has_the_new_one_whatever_tries_failed(host):
    host.write("results/f", "only here")
    flushed(host, "stays")
    os.rename(host.session / "results", host.session / "moved")
    host.driven.scan(S)
    for number in range(400):
        host.store.faults[number] = Fault.REFUSED
    wait(host, 60)
    assert host.entry("moved/f").attempts > 1
    assert "results/f" in objects(host)
    host.store.faults.clear()
    wait(host, 120)
    assert objects(host) == {"moved/f", "stays"}


def test_p08_moved_to_a_name_that_cannot_be_stored(host):
    for number in range(5):
        host.write(f"results/f{number}", f"{number}")
    flushed(host, "stays")
    os.rename(host.session / "results", os.path.join(os.fsencode(host.session), b"r\xe9sultats"))
    host.driven.scan(S)
    wait(host, 60)
    report = host.driven.flush(S, timeout=5.0)
    assert not report.stored
    assert len(report.failed) == 5
    assert objects(host) == {"stays", *(f"results/f{number}" for number in range(5))}


def test_p08_moved_and_changed_files_are_not_a_mass_deletion(tmp_path):
    host = Host(tmp_path / "root", FlatStore(), delete_guard="3")
    try:
        for number in range(10):
            host.write(f"d/f{number}", "line\n")
        host.flush()
        os.rename(host.session / "d", host.session / "e")
        for number in range(10):
            with open(host.session / f"e/f{number}", "a", encoding="ascii") as file:
                file.write("another\n")
        report = host.driven.flush(S)
        assert report.stored, report
        assert objects(host) == {f"e/f{number}" for number in range(10)}
    finally:
        host.stop()


def test_p08_new_files_with_the_inode_numbers_of_deleted_ones_are_no_moved_files(tmp_path):
    """ext4 gives a number again at once: the guard still counts the deletions."""
    disk = Volume(tmp_path / "image", tmp_path / "disk", 16)
    disk.mount()
    host = Host(disk.path / "root", FlatStore(), delete_guard="3")
    try:
        inodes = {}
        for number in range(10):
            inodes[f"d/f{number}"] = host.write(f"d/f{number}", f"{number}").stat().st_ino
        host.flush()
        for path in inodes:
            (host.session / path).unlink()
        taken = {host.write(f"e/f{number}", f"new {number}").stat().st_ino for number in range(10)}
        assert taken & set(inodes.values())
        report = host.driven.flush(S, timeout=5.0)
        assert not report.stored
        assert all(f"d/f{number}" in objects(host) for number in range(10))
    finally:
        host.stop()
        disk.umount("-l")


def test_p08_a_hard_link_that_stands_beside_a_deleted_name_changes_nothing_of_its_deletion(host):
    """An rm -rf of a tree with hard links: no name goes before the deletions have settled."""
    host.write("a", "x")
    os.link(host.session / "a", host.session / "twin")
    flushed(host, "stays")
    (host.session / "a").unlink()
    host.driven.engine.scanner.notice(S, {"a": GONE})
    host.driven.clock.push(1.0)
    host.driven.pump()
    assert "a" in objects(host), "two seconds have not passed"
    wait(host)
    assert objects(host) == {"twin", "stays"}


@pytest.mark.parametrize("hint", [GONE, GONE | Hint.TREE])
def test_p08_a_session_that_only_shrinks_is_being_removed_for_minutes(host, hint):
    """An rm -rf of a session that is at node_modules, which is ignored, for a minute (core A7)."""
    host.write(".cachesyncignore", "node_modules/\n")
    flushed(host, "a", "stays")
    scanner = host.driven.engine.scanner
    (host.session / "a").unlink()
    scanner.notice(S, {"a": GONE})
    for number in range(60):
        host.driven.clock.push(1.0)
        scanner.notice(S, {f"node_modules/{number}": hint})
        host.driven.pump()
        assert "a" in objects(host), number
    wait(host)
    assert "a" not in objects(host)
