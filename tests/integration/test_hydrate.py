"""Opening a session: two hosts on one store, crashes in the middle, agents that write meanwhile, hostile stores."""

import errno
import hashlib
import json
import os
import shutil
import threading
from dataclasses import replace

import pytest

import cachesync.session.opening
from cachesync.model.errors import (
    IntegrityError,
    NoSuchSession,
    ObjectNotFound,
    StoreSilent,
    StoreUnreachable,
    UsageError,
)
from cachesync.model.keys import stays_inside
from cachesync.model.outcomes import Progress
from cachesync.read.hydrate import fetch
from cachesync.root.session_dir import Ground
from cachesync.watch.hints import Hint
from tests.flat_store import Crash, Fault, FlatStore
from tests.life import Host, S, look

PREFIX = f"sessions/{S}/"
MANIFEST = f"{PREFIX}.cachesync/manifest.json"


@pytest.fixture
def store():
    return FlatStore()


@pytest.fixture
def hosts(tmp_path, store):
    """Makes hosts on the store; all of them are stopped at the end."""
    made = []

    def host(name, **options):
        made.append(Host(tmp_path / name, store, **options))
        return made[-1]

    yield host
    for one in made:
        one.stop()


@pytest.fixture
def a(hosts):
    """A host that has stored a session with something of everything."""
    a = hosts("a")
    a.write("x/y/f", b"1", mode=0o600, mtime_ns=1_234_567_890_123_456_789)
    a.write("run.sh", b"#!/bin/sh\n", mode=0o755)
    a.write("x/name with \n and \u0301 ?versionId=[*]", b"odd")
    a.write("x/zero", b"", mode=0o444, mtime_ns=-5_000_000_001)
    os.symlink("y/f", a.session / "x/link")
    os.symlink("nowhere", a.session / "dangling")
    (a.session / "empty").mkdir(mode=0o700)
    os.utime(a.session / "dangling", ns=(7, 7_000_000_009), follow_symlinks=False)
    os.utime(a.session / "x/y", ns=(5, 5))
    os.utime(a.session / "x", ns=(6, 6))
    (a.session / "x/y").chmod(0o750)
    a.flush()
    return a


@pytest.fixture
def b(hosts):
    return hosts("b")


def manifest_of(store, **rows):
    """A manifest that names the objects in the store, with these changes to its rows by path."""
    entries = [
        {"path": key.removeprefix(PREFIX), "type": "file", "size": held.info.size, "mtime": "1.5", "mode": "0644",
         "sha256": held.info.sha256, "version": held.info.version.etag, "version_id": None}
        for key, held in store.objects.items() if key != MANIFEST
    ]  # fmt: skip
    for entry in entries:
        entry.update(rows.pop(entry["path"], {}))
    return json.dumps({"format": 1, "entries": entries + list(rows.values())}).encode()


# -- the same ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 8])
def test_a_session_comes_back_the_same(a, hosts, store, threads):
    b = hosts("b", threads=threads)
    report = b.life.open(S)
    assert look(b.session) == look(a.session)
    assert (report.files, report.fetched, report.present, report.evicted) == (4, 4, 0, 0)
    assert report.bytes == report.fetched_bytes == sum(len(w[1]) for w in look(a.session).values() if w[0] == "file")
    assert (report.failed, report.pending, report.skipped) == ([], [], [])
    assert report.directory == str(b.session)
    writes = store.writes
    assert b.driven.scan(S).marked == 0
    b.flush()
    assert store.writes == writes + 1  # the manifest, in the name of another host
    assert json.loads(store.objects[MANIFEST].data)["state"] == "open"


def test_opening_again_fetches_nothing(a, b, store):
    b.life.open(S)
    gets = store.requests
    report = b.life.open(S)
    assert (report.fetched, report.present, report.files) == (0, 4, 4)
    assert store.requests - gets == 2  # manifest, listing


def test_lazy_only_learns(a, b):
    report = b.life.open(S, lazy=True)
    assert (report.evicted, report.fetched, report.files) == (4, 0, 0)
    assert not b.session.exists()
    assert not b.entry("x/y/f").resident
    assert b.life.open(S).fetched == 4


def test_into_another_directory(a, b, tmp_path):
    into = tmp_path / "copy"
    report = b.life.open(S, into=str(into))
    assert look(into) == look(a.session)
    assert (report.directory, report.fetched) == (str(into), 4)
    assert b.journal.sessions.names() == []
    assert os.listdir(b.root) == [".cachesync"]


def test_into_takes_only_an_empty_directory_outside_the_root(a, b, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    for bad in (tmp_path / "full", tmp_path / "full/file", b.root / "inside"):
        with pytest.raises(UsageError):
            b.life.open(S, into=str(bad))
    with pytest.raises(NoSuchSession):
        b.life.open("other", into=str(tmp_path / "empty"))


def test_no_such_session(b):
    with pytest.raises(NoSuchSession):
        b.life.open("nowhere")
    with pytest.raises(UsageError):
        b.life.open("../s")
    assert b.journal.sessions.names() == []
    assert not (b.root / "nowhere").exists()


def test_a_session_without_a_manifest_is_restored_from_its_objects(a, b, store):
    store.foreign_delete(MANIFEST)
    assert b.life.open(S).fetched == 4
    here, there = look(b.session), look(a.session)
    files = {path for path, what in there.items() if what[0] == "file"}
    assert {path: here[path] for path in files} == {path: there[path] for path in files}
    assert b.entry("x/y/f").stored.sha256 == hashlib.sha256(b"1").hexdigest()
    b.driven.scan(S)
    assert b.dirty() == {"x/", "x/y/"}  # nothing tells of those


def test_progress_is_told(a, b):
    told: list[Progress] = []
    b.life.open(S, progress=told.append)
    size = 1 + 10 + 3 + 0
    assert told[-1] == Progress(4, 4, size, size)


def test_a_large_file_comes_in_ranges(a, b, store, monkeypatch):
    monkeypatch.setattr(fetch, "RANGE", 1000)
    data = os.urandom(10_500)
    a.write("large", data)
    a.flush()
    seen = []
    get = store.get

    def noted(key, **how):
        seen.append(how.get("length"))
        return get(key, **how)

    monkeypatch.setattr(store, "get", noted)
    b.life.open(S)
    assert (b.session / "large").read_bytes() == data
    assert [length for length in seen if length] == [1000] * 10 + [500]


def test_a_large_file_with_wrong_bytes_is_not_placed(a, b, store, monkeypatch):
    monkeypatch.setattr(fetch, "RANGE", 1000)
    a.write("large", b"x" * 3000)
    a.flush()
    damage(store, "large", b"x" * 2999 + b"y")
    assert [failure.path for failure in b.life.open(S).failed] == ["large"]
    assert not (b.session / "large").exists()


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def damage(store, path, data):
    """Other bytes under the version and digest of the right ones."""
    held = store.objects[PREFIX + path]
    store.objects[PREFIX + path] = replace(held, data=data, info=replace(held.info, size=len(data)))


def leftovers(host):
    return [place for place in (host.root / ".cachesync/staging").rglob("*") if not place.is_dir()]


def test_wrong_bytes_are_an_error_and_never_a_file(a, b, store):
    damage(store, "run.sh", b"#!/bin/no\n")
    report = b.life.open(S)
    assert [failure.path for failure in report.failed] == ["run.sh"]
    assert report.exit_code == 1
    assert not (b.session / "run.sh").exists()
    assert (b.session / "x/y/f").read_bytes() == b"1"
    assert leftovers(b) == []


def test_a_manifest_that_lies_about_a_digest_is_a_failure(a, b, store):
    store.foreign_put(MANIFEST, manifest_of(store, **{"x/y/f": {"sha256": "0" * 64}}))
    report = b.life.open(S)
    assert [failure.path for failure in report.failed] == ["x/y/f"]
    assert report.fetched == 3


def test_a_short_answer_is_tried_again(a, b, store, monkeypatch):
    get, short = store.get, {PREFIX + "run.sh"}

    def cut(key, **how):
        download = get(key, **how)
        if key in short:
            short.discard(key)
            return replace(download, chunks=iter([b"#!"]))
        return download

    monkeypatch.setattr(store, "get", cut)
    assert b.life.open(S).failed == []
    assert (b.session / "run.sh").read_bytes() == b"#!/bin/sh\n"


def test_a_store_that_goes_away_leaves_the_rest_pending_and_open_resumes(a, b, store, monkeypatch):
    get, left = store.get, [4]  # the manifest, the store's id and two files

    def dying(key, **how):
        left[0] -= 1
        if left[0] < 0:
            raise StoreUnreachable("get", key, "nobody answers")
        return get(key, **how)

    monkeypatch.setattr(store, "get", dying)
    report = b.life.open(S)
    assert (report.fetched, len(report.pending), report.exit_code) == (2, 2, 4)
    monkeypatch.undo()
    assert b.driven.scan(S).failures == []
    report = b.life.open(S)
    assert (report.fetched, report.present, report.pending) == (2, 2, [])
    assert look(b.session) == look(a.session)


def test_an_open_whose_time_is_up_lists_what_is_missing_and_goes_on(a, b):
    report = b.life.open(S, timeout=0)
    assert (report.fetched, report.exit_code) == (0, 4)
    assert {pending.reason for pending in report.pending} == {"not brought in time"}
    assert len(report.pending) == 4
    report = b.life.open(S, timeout=60)
    assert (report.fetched, report.exit_code) == (4, 0)
    assert look(b.session) == look(a.session)


def test_an_open_that_hangs_in_the_store_ends_all_the_same(a, b, store, monkeypatch):
    get, left, thawed = store.get, [4], threading.Event()  # the manifest, the store's id and two files

    def freezing(key, **how):
        left[0] -= 1
        if left[0] < 0:
            assert thawed.wait(20)
        return get(key, **how)

    monkeypatch.setattr(store, "get", freezing)
    monkeypatch.setattr(cachesync.session.opening, "_GRACE", 0.2)
    report = b.life.open(S, timeout=0.3)
    assert report.exit_code == 4
    assert [pending.path for pending in report.pending] == ["."]
    assert (report.fetched, report.files, report.present) == (2, 2, 0)
    thawed.set()
    report = b.life.open(S)
    assert (report.exit_code, report.files) == (0, 4)
    assert look(b.session) == look(a.session)


def test_a_store_that_is_silent_is_not_asked_for_each_file_six_times(a, b, store, monkeypatch):
    get, asked = store.get, []

    def silent(key, **how):
        if key.endswith("manifest.json"):
            return get(key, **how)
        asked.append(key)
        raise StoreSilent("read", key, "no answer within 30 s")

    monkeypatch.setattr(store, "get", silent)
    report = b.life.open(S)
    assert (report.exit_code, len(report.pending)) == (4, 4)
    assert len(asked) == 2, "the store's id, and one file"


def test_a_directory_that_is_renamed_while_it_is_brought_does_not_come_back(a, b, monkeypatch):
    """Somebody else has brought it, and nobody has noticed yet that it has another name."""
    (a.session / "one" / "two").mkdir(parents=True)
    a.flush()
    place = Ground.place

    def renamed(ground, file, path, rights):
        if path == "run.sh":
            (b.session / "one" / "two").mkdir(parents=True)
            b.driven.engine.scanner.notice(S, {"one": Hint.TREE})
            (b.session / "one").rename(b.session / "other")
        return place(ground, file, path, rights)

    monkeypatch.setattr(Ground, "place", renamed)
    assert b.life.open(S).exit_code == 0
    assert not (b.session / "one").exists()
    assert (b.session / "other" / "two").is_dir()


@pytest.mark.parametrize("into", [False, True])
def test_a_damaged_manifest_is_told_of(a, b, store, tmp_path, into):
    store.foreign_put(MANIFEST, b"{ not JSON")
    report = b.life.open(S, into=str(tmp_path / "copy") if into else None)
    assert (report.exit_code, report.fetched) == (0, 4)
    assert report.flaws == ["it is no manifest of format 1"]
    assert report.json()["flaws"] == report.flaws


def test_a_manifest_with_other_bytes_than_were_stored_is_not_believed(a, b, store, monkeypatch):
    get = store.get

    def damaged(key, **how):
        download = get(key, **how)
        if key != MANIFEST:
            return download

        def chunks():
            yield from download.chunks
            raise IntegrityError("read", key, "its SHA-256 is not the one it was stored with")

        return replace(download, chunks=chunks())

    monkeypatch.setattr(store, "get", damaged)
    report = b.life.open(S)
    assert (report.exit_code, report.fetched) == (0, 4)
    assert report.flaws == ["its SHA-256 is not the one it was stored with"]
    assert not any(what[0] == "link" for what in look(b.session).values()), "links are the manifest's"


def test_a_full_disk_stops_and_says_so(a, b, monkeypatch):
    real = os.pwrite

    def full(descriptor, data, offset):
        if bytes(data) == b"odd":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    report = b.life.open(S)
    assert report.exit_code == 4
    assert all("No space" in row.reason for row in report.pending)
    assert report.fetched + len(report.pending) == 4
    assert leftovers(b) == []
    monkeypatch.undo()
    assert b.life.open(S).pending == []
    assert look(b.session) == look(a.session)


def test_an_object_that_vanishes_is_pending(a, b, store, monkeypatch):
    get = store.get

    def gone(key, **how):
        if key.endswith("run.sh"):
            raise ObjectNotFound("get", key)
        return get(key, **how)

    monkeypatch.setattr(store, "get", gone)
    assert [row.path for row in b.life.open(S).pending] == ["run.sh"]


# -- killed in the middle ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_number", range(6))
def test_killed_at_a_request_and_opened_again(a, b, store, request_number):
    store.faults[request_number] = Fault.CRASH_BEFORE
    with pytest.raises(Crash):
        b.life.open(S)
    b.crash()
    writes = store.writes
    b.driven.scan(S)
    b.driven.pump()
    assert b.life.open(S).pending == []
    assert look(b.session) == look(a.session)
    b.driven.pump()
    assert store.writes == writes
    assert b.dirty() == set()
    assert leftovers(b) == []


@pytest.mark.parametrize("write", range(1, 24))
def test_killed_at_a_write_of_the_journal_and_opened_again(a, b, store, write):
    b.driven.crash_at_journal_write(write)
    try:
        b.life.open(S)
    except Crash:
        b.crash()
    else:
        b.driven.crash_at_journal_write(0)
    bytes_sent = store.writes
    b.driven.scan(S)
    b.driven.clock.push(2)
    b.driven.pump()
    assert store.writes == bytes_sent, "what looks changed is compared, and not sent"
    assert b.life.open(S).failed == []
    assert look(b.session) == look(a.session)
    b.driven.pump()
    assert {path for path in b.dirty() if b.entry(path).kind == "file"} == set()  # the rest is the manifest's
    b.flush()
    assert {held.writer for held in store.objects.values()} == {"us"}


def test_the_watcher_sees_a_file_before_the_journal_does(a, b, monkeypatch):
    placed = b.journal.residence.placed

    def noticed_first(name, directory, files, others):
        b.driven.engine.scanner.notice(S, {path: Hint.CHANGED | Hint.CLOSED for path, _, _ in files})
        assert {path for path, _, _ in files} <= b.dirty()
        placed(name, directory, files, others)

    monkeypatch.setattr(b.journal.residence, "placed", noticed_first)
    b.life.open(S)
    assert not any(entry.dirty for entry in b.journal.entries.walk(S))


def test_a_session_directory_that_goes_meanwhile_is_no_deletion(a, b, store, monkeypatch):
    placed = b.journal.residence.placed

    def removed_first(name, directory, files, others):
        if files:
            shutil.rmtree(b.session)
            b.session.mkdir()
            b.driven.scan(S)
        placed(name, directory, files, others)

    monkeypatch.setattr(b.journal.residence, "placed", removed_first)
    b.life.open(S)
    monkeypatch.undo()
    objects = set(store.objects)
    b.driven.clock.push(10)
    b.driven.scan(S)
    b.driven.pump()
    b.flush()
    assert set(store.objects) == objects
    b.life.open(S)
    assert {p: w[:2] for p, w in look(b.session).items()} == {p: w[:2] for p, w in look(a.session).items()}


# -- agents at work ----------------------------------------------------------------------------------------------------


def test_what_changed_here_is_left_alone(a, b, store):
    b.life.open(S)
    b.write("x/y/f", b"mine")
    b.write("new", b"new")
    report = b.life.open(S)
    assert (report.fetched, report.present) == (0, 5)
    assert (b.session / "x/y/f").read_bytes() == b"mine"
    b.flush()
    assert store.objects[PREFIX + "x/y/f"].data == b"mine"


def test_a_file_that_stands_unknown_wins_and_both_versions_are_kept(a, b, store):
    b.write("x/y/f", b"mine")
    report = b.life.open(S)
    assert (report.fetched, report.present) == (3, 1)
    b.flush()
    assert store.objects[PREFIX + "x/y/f"].data == b"mine"
    kept = [held.data for key, held in store.objects.items() if ".conflict-" in key]
    assert kept == [b"1"]


def test_a_file_made_while_it_is_fetched_wins(a, b, store, monkeypatch):
    get = store.get

    def agent(key, **how):
        download = get(key, **how)
        if key.endswith("x/y/f"):
            b.write("x/y/f", b"mine")
        return download

    monkeypatch.setattr(store, "get", agent)
    report = b.life.open(S)
    assert (report.fetched, report.present, report.failed) == (3, 1, [])
    assert (b.session / "x/y/f").read_bytes() == b"mine"
    assert leftovers(b) == []


def test_a_file_written_right_after_it_was_placed_is_dirty(a, b, monkeypatch):
    placed = b.journal.residence.placed

    def write_first(name, directory, files, others):
        for path, _, _ in files:
            if path == "run.sh":
                (b.session / path).write_bytes(b"mine")
        placed(name, directory, files, others)

    monkeypatch.setattr(b.journal.residence, "placed", write_first)
    b.life.open(S)
    b.driven.scan(S)
    assert "run.sh" in b.dirty()
    b.flush()
    assert b.store.objects[PREFIX + "run.sh"].data == b"mine"


def test_a_deleted_file_is_not_brought_back(a, b):
    b.life.open(S)
    (b.session / "run.sh").unlink()
    report = b.life.open(S)
    assert [row.path for row in report.skipped] == ["run.sh"]
    assert not (b.session / "run.sh").exists()


# -- other hosts -------------------------------------------------------------------------------------------------------


def test_what_another_host_changed_is_replaced(a, b, store):
    b.life.open(S)
    a.write("x/y/f", b"newer", mode=0o640, mtime_ns=42)
    a.flush()
    inode = (b.session / "x/y/f").stat().st_ino
    report = b.life.open(S)
    assert (report.fetched, report.present, report.skipped) == (1, 3, [])
    assert look(b.session)["x/y/f"] == ("file", b"newer", 0o640, 42)
    assert (b.session / "x/y/f").stat().st_ino != inode
    assert look(b.session)["x"] == look(a.session)["x"]
    assert b.driven.scan(S).marked == 0
    assert b.dirty() == set()
    assert leftovers(b) == []
    b.write("x/y/f", b"newest")
    b.flush()
    assert [key for key in store.objects if ".conflict-" in key] == []


def test_what_is_open_for_writing_is_not_replaced(a, b, store):
    b.life.open(S)
    a.write("x/y/f", b"newer")
    a.flush()
    with open(b.session / "x/y/f", "ab") as file:
        report = b.life.open(S)
        file.write(b" and mine")
    assert [row.path for row in report.skipped] == ["x/y/f"]
    assert (b.session / "x/y/f").read_bytes() == b"1 and mine"
    b.flush()
    kept = [held.data for key, held in store.objects.items() if ".conflict-" in key]
    assert kept == [b"newer"]


def test_what_changes_while_its_replacement_is_fetched_stays(a, b, store, monkeypatch):
    b.life.open(S)
    a.write("x/y/f", b"newer")
    a.flush()
    get = store.get

    def agent(key, **how):
        if key.endswith("x/y/f"):
            b.write("x/y/f", b"mine")
        return get(key, **how)

    monkeypatch.setattr(store, "get", agent)
    report = b.life.open(S)
    monkeypatch.undo()
    assert [row.path for row in report.skipped] == ["x/y/f"]
    b.flush()
    assert store.objects[PREFIX + "x/y/f"].data == b"mine"
    assert b"newer" in [held.data for key, held in store.objects.items() if ".conflict-" in key]


def test_what_another_host_deleted_stays_and_is_told(a, b):
    b.life.open(S)
    (a.session / "run.sh").unlink()
    a.flush()
    report = b.life.open(S)
    assert [(row.path, "deleted it in the store" in row.reason) for row in report.skipped] == [("run.sh", True)]
    assert (b.session / "run.sh").exists()


def test_links_and_directories_that_another_host_changed_come_new_after_an_eviction(a, b):
    b.life.open(S)
    b.life.evict(S)
    (a.session / "x/link").unlink()
    os.symlink("zero", a.session / "x/link")
    (a.session / "run.sh").unlink()
    os.symlink("x", a.session / "run.sh")
    (a.session / "empty").rmdir()
    (a.session / "x/y").chmod(0o700)
    a.flush()
    b.life.open(S)
    assert look(b.session) == look(a.session)


# -- nothing escapes ---------------------------------------------------------------------------------------------------

HOSTILE = ["../out", "/out", "a/../../out", "a//out", "./out", ".cachesync/manifest.json/x", ".cachesync/own", "", "d/"]


@pytest.mark.parametrize("path", HOSTILE)
def test_hostile_keys_touch_nothing(a, b, store, path, tmp_path):
    store.foreign_put(PREFIX + path, b"evil")
    store.foreign_put(
        MANIFEST, manifest_of(store, **{path: {"path": path, "type": "dir", "mtime": "1", "mode": "0777"}})
    )
    before = set(os.listdir(tmp_path)) | set(os.listdir(b.root)) | {".cachesync"}
    b.life.open(S)
    assert set(os.listdir(tmp_path)) | set(os.listdir(b.root)) | {".cachesync"} == before | {S}
    assert not any(what[1] == b"evil" for what in look(tmp_path).values())


def test_a_file_and_a_directory_of_one_name(a, b, store):
    store.foreign_put(PREFIX + "x/y", b"a file")
    report = b.life.open(S)
    assert [failure.path for failure in report.failed] == ["x/y"]
    assert (b.session / "x/y/f").read_bytes() == b"1"


def test_names_that_no_disk_takes_fail_alone(a, b, store):
    store.foreign_put(PREFIX + "n" * 300, b"1")
    store.foreign_put(PREFIX + "m" * 300 + "/f", b"1")
    report = b.life.open(S)
    assert [failure.path[0] for failure in sorted(report.failed, key=lambda f: f.path)] == ["m", "n"]
    assert report.fetched == 4


def test_a_local_link_in_the_way_is_never_written_through(a, b, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    b.session.mkdir()
    os.symlink(outside, b.session / "x")
    report = b.life.open(S)
    assert {failure.path for failure in report.failed} == {
        "x/y/f", "x/zero", "x/link", "x/", "x/y/", "x/name with \n and \u0301 ?versionId=[*]"
    }  # fmt: skip
    assert list(outside.iterdir()) == []
    assert os.readlink(b.session / "x") == str(outside)


def test_links_that_lead_out_are_not_made(a, b, store):
    links = {"up": "../other", "x/up": "../../other", "abs": "/etc/passwd", "x/sly": "../dangling/../../other"}
    fine = {"x/fine": "../run.sh", "x/here": "./y/f"}
    rows = {
        path: {"path": path, "type": "link", "mtime": "1", "target": target} for path, target in (links | fine).items()
    }
    store.foreign_put(MANIFEST, manifest_of(store, **rows))
    report = b.life.open(S)
    assert {row.path for row in report.skipped} == set(links)
    assert {path for path in links if (b.session / path).is_symlink()} == set()
    assert {path: os.readlink(b.session / path) for path in fine} == fine


def test_set_id_bits_are_never_applied_to_files_and_set_user_id_to_nothing(a, b, store):
    rows = {
        "run.sh": {"mode": "6755"},
        "sticky": {"path": "sticky", "type": "dir", "mtime": "1", "mode": "7777"},
    }
    store.foreign_put(MANIFEST, manifest_of(store, **rows))
    b.life.open(S)
    assert (look(b.session)["run.sh"][2], look(b.session)["sticky"][1]) == (0o755, 0o3777)


@pytest.mark.parametrize(
    ("path", "target", "inside"),
    [
        ("a", "b", True), ("a", ".", True), ("a", "..", False), ("d/a", "..", True), ("d/a", "../..", False),
        ("d/a", "../b/c", True), ("d/a", "./../b", True), ("a", "b/../c", False), ("a", "/b", False),
        ("d/e/a", "../../x", True),
    ],
)  # fmt: skip
def test_where_a_link_may_lead(path, target, inside):
    assert stays_inside(path, target) is inside


# -- many at once ------------------------------------------------------------------------------------------------------


def test_opening_while_agents_write(hosts, store):
    a = hosts("a")
    for number in range(300):
        a.write(f"d{number % 7}/f{number}", f"{number}")
    a.flush()
    b = hosts("b", threads=8)
    stop = threading.Event()

    def agent():
        number = 0
        while not stop.is_set() and number < 300:
            b.session.mkdir(exist_ok=True)
            b.write(f"d{number % 7}/f{number}", f"mine {number}")
            number += 10

    writer = threading.Thread(target=agent)
    writer.start()
    report = b.life.open(S)
    writer.join()
    assert (report.failed, report.pending) == ([], [])
    for number in range(300):
        expected = f"mine {number}" if number % 10 == 0 else f"{number}"
        assert (b.session / f"d{number % 7}/f{number}").read_text() == expected
    b.flush()
    for number in range(0, 300, 10):
        assert store.objects[f"{PREFIX}d{number % 7}/f{number}"].data == f"mine {number}".encode()
