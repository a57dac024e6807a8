"""Evicting: only what the store has goes, whatever happens meanwhile, and nothing that is missing counts as deleted."""

import errno
import functools
import os
import socket
from typing import Any

import pytest

from cachesync.journal.session_lock import SharedTurns
from cachesync.model.errors import NoSuchSession, StoreUnreachable
from cachesync.model.policy import Writer
from cachesync.model.values import Mark
from cachesync.root import rename, session_dir
from cachesync.root.openat2 import open_beneath
from cachesync.watch.hints import Hint
from tests.flat_store import Crash, FlatStore
from tests.life import Host, S, look

PREFIX = f"sessions/{S}/"


@pytest.fixture
def a(tmp_path):
    a = Host(tmp_path / "a", FlatStore())
    a.write("f", b"1", mode=0o640, mtime_ns=99)
    a.write("d/e/g", b"22", mtime_ns=98)
    os.symlink("d/e", a.session / "link")
    (a.session / "empty").mkdir()
    os.utime(a.session / "d/e", ns=(5, 5))
    os.utime(a.session / "d", ns=(6, 6))
    a.flush()
    a.before = look(a.session)
    yield a
    a.stop()


def kept(report):
    return {row.path: row.reason for row in report.kept}


def stored(a):
    """What the store has of the session."""
    return {key for key in a.store.objects if key.startswith(PREFIX)}


def settled(a):
    """Everything that a daemon does later on; returns the objects."""
    a.driven.clock.push(10)
    a.driven.scan(S)
    a.driven.pump()
    if a.session.exists():
        a.flush()
    return stored(a)


def folder_times(found):
    return {path: what[2] for path, what in found.items() if what[0] == "dir"}


def without_folder_times(found):
    """A process that dies in the middle leaves folders with the time at which they were emptied."""
    return {path: what[:2] if what[0] == "dir" else what for path, what in found.items()}


def out(a):
    return [path for path in (a.root / ".cachesync/staging").rglob("*") if not path.is_dir()]


def test_a_session_of_which_the_store_has_nothing_keeps_its_directory(tmp_path):
    """The mount shows no session that is neither here nor in the store: its agent could not get in any more."""
    a = Host(tmp_path / "a", FlatStore())
    a.session.mkdir(mode=0o700)
    a.flush()
    assert (a.life.evict(S).evicted, a.session.exists()) == (0, True)
    a.write("f").unlink()
    a.flush()
    assert (a.life.evict(S).evicted, a.session.exists()) == (0, True)
    a.write("f")
    a.flush()
    assert (a.life.evict(S).evicted, a.session.exists()) == (1, False)
    a.stop()


def test_a_closed_session_keeps_no_directory_also_if_it_is_empty(tmp_path):
    a = Host(tmp_path / "a", FlatStore())
    a.session.mkdir(mode=0o700)
    assert a.close_session().closed
    assert not a.session.exists()
    a.stop()


def test_all_that_is_stored_goes_and_the_directory_too(a):
    objects = stored(a)
    report = a.life.evict(S)
    assert (report.evicted, report.bytes, report.kept, report.exit_code) == (2, 3, [], 0)
    assert not a.session.exists()
    assert settled(a) == objects
    assert a.driven.engine.service.status().sessions[0].safe_to_kill
    assert a.journal.waiting.counts(S).evicted == 2
    a.life.open(S)
    assert look(a.session) == a.before
    assert a.driven.scan(S).marked == 0


def test_what_is_not_stored_stays(a):
    a.write("d/new", b"new")
    a.write("f", b"changed")
    report = a.life.evict(S)
    assert set(kept(report)) == {"d/new", "f"}
    assert report.exit_code == 4
    assert {path for path in look(a.session) if not path.endswith("/")} == {"d", "d/new", "f"}
    settled(a)
    assert a.store.objects[PREFIX + "f"].data == b"changed"
    assert PREFIX + "d/e/g" in a.store.objects
    assert a.life.evict(S).kept == []
    a.life.open(S)
    assert (a.session / "d/new").read_bytes() == b"new"


def test_a_directory_that_stays_keeps_its_time(a):
    with open(a.session / "f", "ab"), open(a.session / "d/e/g", "ab"):
        a.life.evict(S)
    assert {p: w for p, w in look(a.session).items() if p in a.before} == {
        path: a.before[path] for path in ("f", "d", "d/e", "d/e/g")
    }
    a.driven.scan(S)
    assert a.dirty() == set()


def test_what_a_program_has_open_for_writing_stays(a):
    with open(a.session / "f", "ab") as file:
        report = a.life.evict(S)
        file.write(b"more")
    assert list(kept(report)) == ["f"]
    assert (a.session / "f").read_bytes() == b"1more"


def test_what_the_mount_has_let_a_program_open_for_writing_stays(a):
    """The kernel opens it a moment later: until then it is open for reading only."""
    shared = SharedTurns(a.root / ".cachesync" / "journal.db")
    shared.written((a.session / "f").stat().st_ino)
    assert kept(a.life.evict(S)) == {"f": "a program has it open for writing"}
    shared.close()
    assert a.life.evict(S).kept == []


def test_what_a_program_at_the_mount_has_closed_a_moment_ago_goes(a, monkeypatch):
    shared = SharedTurns(a.root / ".cachesync" / "journal.db")
    shared.written((a.session / "f").stat().st_ino)
    monkeypatch.setattr(a.life, "_sleep", lambda _: shared.close())
    report = a.life.evict(S)
    assert (report.evicted, report.kept) == (2, [])
    assert not a.session.exists()


def test_reading_does_not_hold_it(a):
    with open(a.session / "f", "rb") as file:
        assert a.life.evict(S).kept == []
        assert file.read() == b"1"


def test_what_cannot_be_asked_for_writers_stays_however_old_it_is_unless_it_is_forced(a, monkeypatch):
    monkeypatch.setattr("cachesync.root.open_file.OpenFile.writer", lambda _: Writer.UNKNOWN)
    a.driven.clock.push(3600)
    reason = "cannot determine whether a program has it open for writing"
    assert kept(a.life.evict(S)) == {"f": reason, "d/e/g": reason}
    assert a.life.evict(S, force=True).kept == []
    assert not a.session.exists()


def test_force_drops_what_was_read_a_moment_ago_and_cannot_be_asked_for_writers(a, monkeypatch):
    monkeypatch.setattr("cachesync.root.open_file.OpenFile.writer", lambda _: Writer.UNKNOWN)
    a.write("f", b"new")
    a.flush()
    assert a.entry("f").unsettled
    assert "f" in kept(a.life.evict(S))
    assert a.life.evict(S, force=True).kept == []
    assert a.store.objects[PREFIX + "f"].data == b"new"


def test_force_drops_nothing_that_is_open_or_changed(a):
    a.write("d/e/g", b"33")
    with open(a.session / "f", "ab"):
        assert kept(a.life.evict(S, force=True)) == {
            "f": "a program has it open for writing",
            "d/e/g": "it is not stored yet",
        }


def test_a_close_may_be_forced_too(a, monkeypatch):
    monkeypatch.setattr("cachesync.root.open_file.OpenFile.writer", lambda _: Writer.UNKNOWN)
    report = a.close_session()
    assert report.closed
    assert set(kept(report.evicted)) == {"f", "d/e/g"}
    assert a.close_session(force=True).evicted.kept == []


def test_ignored_and_special_things_stay(a):
    a.write(".cachesyncignore", "skipped\n")
    a.write("skipped", b"not stored")
    os.mkfifo(a.session / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(a.session / "sock"))
        a.flush()
        assert set(kept(a.life.evict(S))) == {"skipped", "pipe", "sock"}
    assert set(os.listdir(a.session)) == {"skipped", "pipe", "sock"}


def test_what_the_store_has_no_more_stays(a):
    a.store.foreign_delete(PREFIX + "f")
    reasons = kept(a.life.evict(S))
    assert "not stored yet" in reasons["f"]  # nobody's manifest says that it was deleted: it is stored again
    assert (a.session / "f").read_bytes() == b"1"


def test_what_another_host_replaced_goes_and_comes_back_as_theirs(a):
    a.store.foreign_put(PREFIX + "d/e/g", b"theirs")
    assert kept(a.life.evict(S)) == {}
    assert not (a.session / "d/e/g").exists()
    a.life.open(S)
    assert (a.session / "d/e/g").read_bytes() == b"theirs"
    assert not [key for key in settled(a) if "conflict" in key]


def test_what_another_host_replaced_and_changes_while_it_is_evicted_stays(a, monkeypatch):
    """The journal has the other host's version by then, and the one that stands here again."""
    a.store.foreign_put(PREFIX + "d/e/g", b"theirs")
    monkeypatch.setattr(session_dir.Ground, "take_out", lambda *_, **__: "a program opened it a moment ago")
    assert "d/e/g" in kept(a.life.evict(S))
    monkeypatch.undo()
    entry = a.journal.entries.entry(S, "d/e/g")
    assert entry is not None
    assert entry.resident
    (a.session / "d/e/g").write_bytes(b"ours")
    assert len([key for key in settled(a) if key.startswith(f"{PREFIX}d/e/g.conflict-")]) == 1


def test_without_a_store_nothing_goes(a):
    a.store.down = True
    with pytest.raises(StoreUnreachable):
        a.life.evict(S)
    assert look(a.session) == a.before


def test_no_such_session(a):
    with pytest.raises(NoSuchSession):
        a.life.evict("other")
    a.life.evict(S)
    assert a.life.evict(S).evicted == 0


def test_a_deletion_that_waits_for_the_store_keeps_the_session(a):
    (a.session / "f").unlink()
    assert "f" in kept(a.life.evict(S))
    assert a.session.is_dir()
    settled(a)
    assert PREFIX + "f" not in a.store.objects


# -- races -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def meanwhile(a, monkeypatch):
    """Run something after the journal was written, before a file is taken out."""

    def meanwhile(action):
        evicted = a.journal.residence.evicted

        def then(name, entries):
            accepted = evicted(name, entries)
            action()
            return accepted

        monkeypatch.setattr(a.journal.residence, "evicted", then)

    return meanwhile


def test_a_change_after_the_journal_was_written_is_kept(a, meanwhile):
    meanwhile(lambda: (a.session / "f").write_bytes(b"changed"))
    assert list(kept(a.life.evict(S))) == ["f"]
    settled(a)
    assert a.store.objects[PREFIX + "f"].data == b"changed"
    assert (a.session / "f").read_bytes() == b"changed"


def test_a_change_that_leaves_size_and_times_alone_is_kept(a, meanwhile):
    def sly():
        (a.session / "f").write_bytes(b"2")
        os.utime(a.session / "f", ns=(99, 99))

    meanwhile(sly)
    assert list(kept(a.life.evict(S))) == ["f"]
    settled(a)
    assert a.store.objects[PREFIX + "f"].data == b"2"


def test_p07_a_directory_that_is_brought_again_before_its_removal_is_noted_is_not_deleted(a, monkeypatch):
    """The hint of evict's own removal may come late, and wait for the journal while a mount brings the files again."""
    a.life.evict(S)
    before, presence = stored(a), a.driven.engine.scanner.presence
    gone = presence.gone

    def late(session, path):
        if not (a.session / "d").exists():
            a.life.open(S)
        return gone(session, path)

    monkeypatch.setattr(presence, "gone", late)
    a.session.mkdir(exist_ok=True)
    a.driven.engine.scanner.notice(S, {"d": Hint.GONE | Hint.TREE})
    assert (a.session / "d/e/g").read_bytes() == b"22"
    assert not [entry.path for entry in a.journal.entries.walk(S) if entry.tombstone]
    assert settled(a) == before


def test_a_file_that_is_opened_in_between_goes_back(a, monkeypatch):
    """The writer comes after the last look and before the file has left."""
    held: list[Any] = []
    move = rename.move

    def opened_first(old, old_name, new, new_name):
        if old_name == "f" and not held:
            held.append(open(a.session / "f", "ab"))  # noqa: SIM115
        move(old, old_name, new, new_name)

    monkeypatch.setattr(session_dir, "move", opened_first)
    report = a.life.evict(S)
    with held[0] as file:
        file.write(b"more")
    assert list(kept(report)) == ["f"]
    assert (a.session / "f").read_bytes() == b"1more"
    settled(a)
    assert a.store.objects[PREFIX + "f"].data == b"1more"
    assert out(a) == []


def test_a_name_that_is_taken_meanwhile_keeps_both(a, monkeypatch):
    held: list[Any] = []
    move = rename.move

    def opened_and_replaced(old, old_name, new, new_name):
        first = old_name == "f" and not held
        if first:
            held.append(open(a.session / "f", "ab"))  # noqa: SIM115
        move(old, old_name, new, new_name)
        if first:
            (a.session / "f").write_bytes(b"another")

    monkeypatch.setattr(session_dir, "move", opened_and_replaced)
    a.life.evict(S)
    with held[0] as file:
        file.write(b"more")
    assert (a.session / "f").read_bytes() == b"another"
    (beside,) = [path for path in a.session.iterdir() if ".conflict-" in path.name]
    assert beside.read_bytes() == b"1more"
    settled(a)
    assert {a.store.objects[PREFIX + name].data for name in ("f", beside.name)} == {b"another", b"1more"}


def test_a_file_put_into_a_directory_that_goes_is_kept(a, monkeypatch):
    gone = a.journal.residence.evicted_directories

    def then(name, entries):
        accepted = gone(name, entries)
        a.write("d/late", b"late")
        return accepted

    monkeypatch.setattr(a.journal.residence, "evicted_directories", then)
    a.life.evict(S)
    assert (a.session / "d/late").read_bytes() == b"late"
    settled(a)
    assert a.store.objects[PREFIX + "d/late"].data == b"late"
    assert PREFIX + "d/e/g" in a.store.objects


# -- killed in the middle ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("write", range(1, 12))
def test_killed_at_a_write_of_the_journal(a, write):
    objects = stored(a)
    a.driven.crash_at_journal_write(write)
    try:
        a.life.evict(S)
    except Crash:
        a.crash()
    a.driven.crash_at_journal_write(0)
    assert settled(a) == objects
    a.life.open(S)
    assert without_folder_times(look(a.session)) == without_folder_times(a.before)


@pytest.mark.parametrize("number", range(1, 4))
def test_killed_while_a_file_is_on_its_way_out(a, monkeypatch, number):
    """What it held is the store's: it is dropped. What a program wrote to it since is put back."""
    unlink, left = os.unlink, [number]

    def killed(name, **how):
        left[0] -= 1
        if left[0] == 0:
            raise Crash
        unlink(name, **how)

    monkeypatch.setattr("cachesync.root.session_dir.os.unlink", killed)
    with pytest.raises(Crash):
        a.life.evict(S)
    monkeypatch.undo()
    (leaving,) = [path for path in out(a) if path.is_file()] or [None]
    objects = stored(a)
    a.crash()
    a.life.recover()
    assert out(a) == []
    assert settled(a) == objects
    assert leaving is None or not (a.session / leaving.name).exists()
    a.life.open(S)
    assert without_folder_times(look(a.session)) == without_folder_times(a.before)


@pytest.fixture
def leaving(a, monkeypatch):
    """A file that a killed process was evicting, and a program has written to since; and its place in the session."""

    def killed(name, **how):
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr("cachesync.root.session_dir.os.unlink", killed)
        with pytest.raises(Crash):
            a.life.evict(S)
    (leaving,) = out(a)
    leaving.write_bytes(b"changed")
    a.crash()
    return leaving, leaving.relative_to(next(above for above in leaving.parents if above.name == S))


def test_killed_on_the_way_out_and_written_to_since(a, leaving):
    _, path = leaving
    a.life.recover()
    assert (a.session / path).read_bytes() == b"changed"
    settled(a)
    assert a.store.objects[f"{PREFIX}{path}"].data == b"changed"


def test_a_start_does_not_fail_for_a_session_that_gives_no_answer(a, leaving, monkeypatch):
    """What a life before had on its way out of it waits for the next start."""
    file, path = leaving

    def dead(directory, place, flags):
        if place.split("/")[0] == S:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return open_beneath(directory, place, flags)

    with monkeypatch.context() as patch:
        patch.setattr("cachesync.root.tree.open_beneath", dead)
        a.life.recover()
    assert out(a) == [file]
    a.crash()
    a.life.recover()
    assert (a.session / path).read_bytes() == b"changed"


@pytest.mark.parametrize("late", ["late", "d/late", "d/e/late"])
def test_folders_that_something_stays_in_keep_their_times(a, late):
    a.write(late, b"x")
    a.write("d/empty/soon", b"x")
    os.utime(a.session / "d/e", ns=(7, 7))
    os.utime(a.session / "d", ns=(8, 8))
    a.flush()
    before = folder_times(look(a.session))
    a.write(late, b"changed")
    assert set(kept(a.life.evict(S))) == {late}
    found = look(a.session)
    assert folder_times(found) == {path: before[path] for path in folder_times(found)}
    assert a.driven.scan(S).marked == 0
    a.flush()
    a.life.open(S)
    assert folder_times(look(a.session)) == before


def test_a_directory_that_a_scan_sees_on_its_way_out_is_not_taken_for_deleted(a, monkeypatch):
    """The journal has written down that it goes, it still stands, and a flush looks at that moment."""
    residence = a.journal.residence
    write = residence.evicted_directories

    def write_and_look(*told):
        try:
            return write(*told)
        finally:
            a.driven.engine.scanner.scan(S)

    monkeypatch.setattr(residence, "evicted_directories", write_and_look)
    assert {path.rstrip("/") for path in kept(a.life.evict(S))} >= {"empty", "d", "d/e"}
    settled(a)
    for path in ("empty/", "d/", "d/e/"):
        entry = a.entry(path)
        assert entry is not None
        assert not entry.tombstone
    a.life.open(S)
    assert look(a.session).keys() == a.before.keys()


def test_all_names_of_a_file_go_at_once(a):
    for name in ("a", "d/b", "z"):
        os.link(a.session / "f", a.session / name)
    a.flush()
    report = a.life.evict(S)
    assert (report.evicted, report.kept) == (5, [])
    assert not a.session.exists()


def test_a_name_outside_of_the_session_stays(a, tmp_path):
    os.link(a.session / "f", tmp_path / "elsewhere")
    a.flush()
    assert a.life.evict(S).kept == []
    assert (tmp_path / "elsewhere").read_bytes() == b"1"


def test_a_file_that_changes_between_its_names_is_kept(a, monkeypatch):
    os.link(a.session / "f", a.session / "g")
    a.flush()
    dropped = session_dir.Ground._drop

    def and_written_to(ground, out, outside, expected):
        dropped(ground, out, outside, expected)
        if outside == "f":
            a.write("g", b"2", mode=0o640, mtime_ns=99)  # all but the ctime is as before

    monkeypatch.setattr(session_dir.Ground, "_drop", and_written_to)
    assert kept(a.life.evict(S)) == {"g": "it changed a moment ago"}
    settled(a)
    assert a.store.objects[PREFIX + "g"].data == b"2"


def test_what_was_a_directory_the_last_time_may_be_a_file(a):
    a.life.evict(S)
    a.write("d", b"a file now")
    (a.session / "f").mkdir()
    a.write("f/in")
    a.flush()
    assert a.life.evict(S).kept == []


def test_many_files(a, monkeypatch):
    for number in range(1200):
        a.write(f"many/{number % 9}/{number}", f"{number}")
    a.flush()
    batches = []
    evicted = a.journal.residence.evicted

    def noted(name, some):
        batches.append(len(some))
        return evicted(name, some)

    monkeypatch.setattr(a.journal.residence, "evicted", noted)
    assert a.life.evict(S).evicted == 1202
    assert sum(batches) == 1203  # with the link
    assert max(batches) == 100
    assert not a.session.exists()


def test_p09_a_file_made_where_only_the_store_has_bytes_replaces_nothing_in_silence(a):
    """Whoever appends to an evicted file makes a new one: what was stored is kept beside it."""
    a.life.evict(S)
    a.session.mkdir(exist_ok=True)
    a.write("f", b"a late line")
    report = a.driven.flush(S)
    assert report.stored
    (conflict,) = report.conflicts
    assert conflict.path == "f"
    assert a.store.objects[f"{PREFIX}f"].data == b"a late line"
    assert a.store.objects[f"{PREFIX}{conflict.kept_as}"].data == b"1"
    a.write("f", b"and another")
    assert a.driven.flush(S).conflicts == []


def test_the_same_bytes_made_again_are_no_conflict(a):
    a.life.evict(S)
    a.session.mkdir(exist_ok=True)
    a.write("f", b"1")
    assert a.driven.flush(S).conflicts == []
    assert not [key for key in a.store.objects if "conflict" in key]


@pytest.mark.parametrize("after", [False, True], ids=["before it leaves", "when no path leads to it"])
def test_what_is_seen_while_it_is_on_its_way_out_is_not_taken_for_deleted(a, monkeypatch, after):
    objects, taken = stored(a), session_dir.Ground.take_out

    def take_out(ground, path, expected, still, **options):
        def scanned():
            if after:
                a.driven.scan(S)
            return still()

        if not after:
            a.driven.scan(S)
        return taken(ground, path, expected, scanned, **options)

    monkeypatch.setattr(session_dir.Ground, "take_out", take_out)
    report = a.life.evict(S)
    monkeypatch.undo()
    assert ("f" in kept(report)) is not after  # written down as here: it stays; not found any more: it goes
    assert settled(a) == objects
    a.life.open(S)
    assert (a.session / "f").read_bytes() == b"1"
    assert (a.session / "d/e/g").read_bytes() == b"22"


def test_what_is_removed_while_it_is_on_its_way_out_is_removed(a, monkeypatch):
    taken = session_dir.Ground.take_out

    def take_out(ground, path, expected, still, **options):
        if path == "f":
            (a.session / path).unlink()
        return taken(ground, path, expected, still, **options)

    monkeypatch.setattr(session_dir.Ground, "take_out", take_out)
    assert "f" in kept(a.life.evict(S))
    monkeypatch.undo()
    assert settled(a) == {PREFIX + "d/e/g", PREFIX + ".cachesync/manifest.json"}


def test_what_is_written_while_it_is_on_its_way_out_is_no_conflict(a, monkeypatch):
    taken = session_dir.Ground.take_out

    def take_out(ground, path, expected, still, **options):
        if path == "f":
            (a.session / path).write_bytes(b"more")
            a.driven.scan(S)
        return taken(ground, path, expected, still, **options)

    monkeypatch.setattr(session_dir.Ground, "take_out", take_out)
    assert "f" in kept(a.life.evict(S))
    monkeypatch.undo()
    settled(a)
    assert a.store.objects[PREFIX + "f"].data == b"more"
    assert not any(".conflict-" in key for key in a.store.objects)


def test_a_look_that_is_a_moment_old_changes_nothing(a):
    """A scan saw a file that was dropped or deleted since, or missed one that was brought since."""
    entries, stat = a.journal.entries, a.driven.engine.tree.lstat(S, "f")
    entries.mark(S, [Mark("d/e/g", None, 0.0)], 1.0, look=lambda _: stat)
    assert not entries.entry(S, "d/e/g").tombstone
    a.life.evict(S)
    entries.returned(S, ["f"], stands=lambda _: False)
    entries.mark(S, [Mark("f", stat, 0.0)], 1.0, look=lambda _: None)
    assert not entries.entry(S, "f").resident
    assert a.dirty() == set()
    a.life.open(S)
    entries.mark(S, [Mark("f", None, 0.0)], 1.0)
    entries.mark(S, [Mark("f", stat, 0.0)], 1.0, look=lambda _: None)
    assert entries.entry(S, "f").tombstone


def test_a_directory_that_open_finishes_is_clean_whenever_a_scan_looked_at_it(a, monkeypatch):
    """The look is from before the directory got its time again, and its mark comes after."""
    a.life.evict(S)
    finish, looks = session_dir.Ground.finish_directory, []

    def finish_directory(ground, path, mode, mtime_ns):
        looks.append(Mark(path, a.driven.engine.tree.lstat(S, path.rstrip("/")), 0.0))
        return finish(ground, path, mode, mtime_ns)

    monkeypatch.setattr(session_dir.Ground, "finish_directory", finish_directory)
    a.life.open(S)
    look = functools.partial(a.driven.engine.scanner.presence.look, S)
    a.journal.entries.mark(S, looks, 1.0, look=look)
    assert a.dirty() == set()
    (a.session / "d").chmod(0o700)
    a.journal.entries.mark(S, looks, 1.0, look=look)
    assert "d/" in a.dirty()
