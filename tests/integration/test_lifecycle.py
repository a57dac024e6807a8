"""Making and closing sessions, and several verbs at once."""

import contextlib
import json
import os
import re
import threading

import pytest

from cachesync.model.errors import NoSuchSession, ObjectNotFound, StoreUnreachable, UsageError
from cachesync.session.life import template_target
from cachesync.store.s3.store import S3Store
from tests.flat_store import Crash, FlatStore
from tests.life import Host, S, look

PREFIX = f"sessions/{S}/"
MANIFEST = f"{PREFIX}.cachesync/manifest.json"


@pytest.fixture
def a(tmp_path):
    a = Host(tmp_path / "a", FlatStore())
    yield a
    a.stop()


@pytest.fixture
def b(tmp_path, a):
    b = Host(tmp_path / "b", a.store)
    yield b
    b.stop()


def state(store):
    return json.loads(store.objects[MANIFEST].data)["state"]


# -- new ---------------------------------------------------------------------------------------------------------------


def test_a_new_session_is_as_the_design_note_makes_it(a):
    assert a.life.new(S, project="p", workspace="w") == S
    files = {path for path, what in look(a.session).items() if what[0] == "file"}
    assert files == {"metadata.json", "artifacts/.gitkeep", "artifacts/terraform/.gitkeep", "logs/.gitkeep"}
    about = json.loads((a.session / "metadata.json").read_text())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", about.pop("createdAt"))
    assert about == {"sessionId": S, "projectId": "p", "workspaceId": "w"}
    assert a.dirty() >= files
    a.flush()
    assert {PREFIX + path for path in files} <= set(a.store.objects)


def test_a_name_is_made_without_asking_the_store(a):
    a.store.down = True
    names = {a.life.new() for _ in range(3)}
    assert len(names) == 3
    assert all(re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{6}", name) for name in names)
    assert {name for name in os.listdir(a.root) if name != ".cachesync"} == names


def test_a_session_that_is_here_or_in_the_store_is_not_made_again(a, b):
    a.life.new(S)
    with pytest.raises(UsageError, match="there is one"):
        a.life.new(S)
    with pytest.raises(UsageError, match="not a session name"):
        a.life.new("../x")
    a.flush()
    with pytest.raises(UsageError, match="there is one"):
        b.life.new(S)
    (b.root / "f").write_text("a file")
    with pytest.raises(UsageError, match="there is one"):
        b.life.new("f")
    assert not b.session.exists()
    b.store.down = True
    with pytest.raises(StoreUnreachable):
        b.life.new("other")
    assert not (b.root / "other").exists()


def test_a_template_may_be_a_folder(a):
    a.store.foreign_put("templates/kit/terraform/main.tf", b"tf")
    a.store.foreign_put("templates/kit/dashboard-template.yaml", b"d")
    a.store.foreign_put("templates/kit-other", b"not in it")
    a.life.new(S, templates=["kit"])
    assert (a.session / "artifacts/terraform/main.tf").read_bytes() == b"tf"
    assert (a.session / "artifacts/dashboard.yaml").read_bytes() == b"d"
    assert not (a.session / "artifacts/kit-other").exists()


def test_templates_are_copied_in(a):
    a.store.foreign_put("templates/foundation-template.md", b"# base")
    a.store.foreign_put("templates/sub/plain.yaml", b"plain: 1")
    a.life.new(S, templates=["foundation-template.md", "sub/plain.yaml"])
    assert (a.session / "artifacts/foundation.md").read_bytes() == b"# base"
    assert (a.session / "artifacts/sub/plain.yaml").read_bytes() == b"plain: 1"
    with pytest.raises(ObjectNotFound):
        a.life.new("t", templates=["nothing.md"])
    for bad in (["../x"], ["foundation-template.md", "foundation-template.md"]):
        with pytest.raises(UsageError):
            a.life.new("t", templates=bad)
    assert not (a.root / "t").exists()


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("dashboard-template.yaml", "dashboard.yaml"),
        ("a/b-template.tar.gz", "a/b.tar.gz"),
        ("-template.md", "-template.md"),
        ("plain", "plain"),
    ],
)
def test_what_a_template_becomes(name, target):
    assert template_target(name) == target


# -- close -------------------------------------------------------------------------------------------------------------


def test_a_session_that_is_closed_is_stored_listed_and_gone(a, b):
    a.write("d/f", b"1", mtime_ns=7)
    before = look(a.session)
    report = a.close_session()
    assert (report.closed, report.flush.stored, report.exit_code) == (True, True, 0)
    assert (report.evicted.evicted, report.evicted.kept) == (1, [])
    assert not a.session.exists()
    assert state(a.store) == "closed"
    assert a.driven.engine.service.status().sessions[0].state == "closed"
    a.flush()
    assert state(a.store) == "closed", "nothing changed"
    b.life.open(S)
    assert {path: what[:2] for path, what in look(b.session).items()} == {
        path: what[:2] for path, what in before.items()
    }
    assert state(a.store) == "closed"
    b.write("d/f", b"2")
    b.flush()
    assert state(a.store) == "open"


def test_kept_it_stays_closed_until_something_changes(a):
    a.write("f", b"1")
    assert a.close_session(keep=True).evicted is None
    assert (a.session / "f").exists()
    a.flush()
    assert state(a.store) == "closed"
    a.write("f", b"2")
    a.flush()
    assert state(a.store) == "open"
    a.close_session(keep=True)
    a.life.open(S)
    a.flush()
    assert state(a.store) == "open", "it was opened"


def test_what_cannot_be_stored_is_not_closed_and_stays(a):
    a.write("f", b"1")
    a.store.down = True
    report = a.close_session(timeout=3.0)
    assert (report.closed, report.evicted, report.exit_code) == (False, None, 4)
    assert (a.session / "f").exists()


def test_a_change_while_it_is_closed_is_stored_too(a, monkeypatch):
    a.write("f", b"1")
    commit, late = a.life._committer.commit, [b"2", b"3"]

    def slow(session, **how):
        summary = commit(session, **how)
        if how.get("state") == "closed" and late:
            a.write("f", late.pop(0))
        return summary

    monkeypatch.setattr(a.life._committer, "commit", slow)
    report = a.close_session()
    assert (report.closed, report.evicted.kept) == (True, [])
    assert a.store.objects[PREFIX + "f"].data == b"3"
    assert state(a.store) == "closed"


def test_a_session_that_never_holds_still_is_not_closed(a, monkeypatch):
    a.write("f", b"1")
    commit, number = a.life._committer.commit, iter(range(100))

    def slow(session, **how):
        summary = commit(session, **how)
        a.write("f", f"again {next(number)}")
        return summary

    monkeypatch.setattr(a.life._committer, "commit", slow)
    report = a.close_session()
    assert (report.closed, report.exit_code) == (False, 4)
    assert (a.session / "f").exists()
    monkeypatch.undo()
    a.flush()
    assert a.store.objects[PREFIX + "f"].data == (a.session / "f").read_bytes()


def test_another_host_that_wrote_the_manifest_is_merged(a, b):
    a.write("f", b"1")
    a.flush()
    b.write("g", b"2")
    b.flush()
    assert a.close_session().closed
    listed = {row["path"] for row in json.loads(a.store.objects[MANIFEST].data)["entries"]}
    assert listed == {"f", "g"}


@pytest.mark.parametrize("write", range(1, 20))
def test_killed_while_it_is_closed(a, write):
    a.write("d/f", b"1")
    os.symlink("d", a.session / "l")
    a.driven.crash_at_journal_write(write)
    try:
        a.close_session()
    except Crash:
        a.crash()
    a.driven.crash_at_journal_write(0)
    assert a.close_session().closed
    assert not a.session.exists()
    a.life.open(S)
    assert {path: what[:2] for path, what in look(a.session).items()} == {
        "d": ("dir", 0o755), "d/f": ("file", b"1"), "l": ("link", "d")
    }  # fmt: skip


def test_no_such_session(a):
    with pytest.raises(NoSuchSession):
        a.close_session()
    with pytest.raises(UsageError):
        a.life.close("../x", timeout=1)


# -- at once -----------------------------------------------------------------------------------------------------------


def test_open_and_evict_at_once_take_turns(a):
    for number in range(60):
        a.write(f"d/{number}", f"{number}")
    a.flush()
    before = {path: what[:3] for path, what in look(a.session).items()}
    errors = []

    def again(verb):
        try:
            for _ in range(4):
                verb(S)
        except Exception as error:  # noqa: BLE001 - it is asserted on
            errors.append(error)

    threads = [threading.Thread(target=again, args=(verb,)) for verb in (a.life.open, a.life.evict, a.life.open)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    a.life.open(S)
    assert {path: what[:3] for path, what in look(a.session).items()} == before
    a.driven.scan(S)
    assert a.dirty() == set()
    objects = set(a.store.objects)
    a.flush()
    assert set(a.store.objects) == objects


def test_a_folder_of_ours_that_is_a_link_is_refused(tmp_path, a):
    a.write("f")
    a.flush()
    os.symlink(tmp_path, a.root / ".cachesync/staging")
    with pytest.raises(UsageError):
        a.life.evict(S)
    assert (a.session / "f").exists()


def test_a_session_moves_over_a_real_s3(tmp_path, seaweed, bucket):
    seaweed.make_bucket(bucket)
    with contextlib.closing(S3Store(seaweed.settings(bucket))) as store:
        a, b = Host(tmp_path / "a", store), Host(tmp_path / "b", store, threads=4)
        try:
            a.write("d/small", b"1", mode=0o600, mtime_ns=123_456_789)
            a.write("large", os.urandom(20 * 1024 * 1024), mtime_ns=-7)
            a.write("odd \n ?versionId=[*]", b"")
            os.symlink("small", a.session / "d/link")
            before = look(a.session)
            assert a.close_session().closed
            assert not a.session.exists()
            assert b.life.open(S).exit_code == 0
            assert look(b.session) == before
            assert b.life.open(S).fetched == 0
            b.write("d/small", b"2")
            b.flush()
            a.life.open(S)
            assert look(a.session) == look(b.session)
            assert b.life.evict(S).kept == []
        finally:
            a.stop()
            b.stop()
