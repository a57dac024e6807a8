"""An answer of the store that is older than the journal by the time it is written down."""

import shutil

import pytest

from cachesync.model.keys import manifest_key
from cachesync.sync import manifest
from tests.flat_store import FlatStore
from tests.life import Host, S, look


@pytest.fixture
def a(tmp_path):
    a = Host(tmp_path / "a", FlatStore())
    yield a
    a.stop()


def during_the_next_listing(a, monkeypatch, act):
    """Let something happen when the store has made its answer and nobody has read it."""
    ask = a.store.list

    def list_(prefix, *, shallow=False):
        answer = iter([*ask(prefix, shallow=shallow)])
        monkeypatch.setattr(a.store, "list", ask)
        act()
        return answer

    monkeypatch.setattr(a.store, "list", list_)


def directories(a):
    return {path for path in known(a) if path.endswith("/")}


def known(a):
    return {entry.path for entry in a.journal.entries.walk(S) if not entry.tombstone}


def test_what_is_deleted_meanwhile_does_not_come_back(a, monkeypatch):
    a.write("kept")
    a.write("d/gone")
    (a.session / "link").symlink_to("kept")
    a.flush()

    def act():
        shutil.rmtree(a.session / "d")
        (a.session / "link").unlink()
        a.flush()

    during_the_next_listing(a, monkeypatch, act)
    report = a.life.open(S)
    assert (report.files, report.failed, report.pending, report.skipped) == (1, [], [], [])
    assert known(a) == {"kept"}
    assert set(look(a.session)) == {"kept"}
    a.flush()
    assert known(a) == {"kept"}


def test_what_is_deleted_and_made_again_meanwhile_replaces_nobody(a, monkeypatch):
    a.write("again", "first")
    a.write("kept")
    a.flush()

    def act():
        (a.session / "again").unlink()
        a.flush()
        a.write("again", "second")
        a.driven.scan(S)

    during_the_next_listing(a, monkeypatch, act)
    a.life.open(S)
    report = a.driven.flush(S)
    assert (report.stored, report.conflicts) == (True, [])
    assert a.store.objects[f"sessions/{S}/again"].data == b"second"
    assert known(a) == {"again", "kept"}


def test_what_is_stored_meanwhile_is_no_other_hosts(a, monkeypatch):
    a.write("file", "first")
    a.flush()

    def act():
        a.write("file", "second")
        a.flush()

    during_the_next_listing(a, monkeypatch, act)
    report = a.life.open(S)
    assert (report.fetched, report.failed, report.pending) == (0, [], [])
    assert (a.session / "file").read_text() == "second"


def test_a_manifest_that_is_written_meanwhile_is_the_one_that_is_known(a, monkeypatch):
    a.write("file")
    a.flush()

    def act():
        (a.session / "made").mkdir()
        a.flush()

    during_the_next_listing(a, monkeypatch, act)
    a.life.open(S)
    assert not a.entry("made/").superseded
    puts = a.store.writes
    a.flush()  # nobody else's manifest is in the way
    assert a.store.writes <= puts + 1
    assert known(a) == {"file", "made/"}


def test_what_an_old_listing_lacks_and_the_manifest_has_is_not_forgotten(a, tmp_path, monkeypatch):
    a.write("f", "stored")
    a.write("gone")
    a.flush()
    a.store.foreign_delete(f"sessions/{S}/gone")
    ask = a.store.list
    monkeypatch.setattr(a.store, "list", lambda *args, **options: iter(list(ask(*args, **options))[:0]))
    b = Host(tmp_path / "b", a.store)
    try:
        b.write("mine")
        b.flush()
        assert known(b) == {"f", "mine"}
        listed = manifest.read(a.store, manifest_key("", S)).files
        assert listed.keys() == {"f", "mine"}
        assert listed["f"].sha256 == a.entry("f").stored.sha256
    finally:
        b.stop()


def test_a_link_that_went_after_the_last_manifest_does_not_come_back_from_it(a):
    """Its row went with that of a file which stood in its place."""
    a.write("stays")
    link = a.session / "link"
    link.symlink_to("elsewhere")
    a.flush()
    link.unlink()
    a.driven.scan(S)
    a.write("link", "a file")
    a.driven.scan(S)
    link.unlink()
    a.driven.scan(S)
    a.driven.clock.push(100.0)
    a.driven.pump()
    assert a.entry("link") is None
    a.driven.engine.learner.again(S)
    assert known(a) == {"stays"}
    a.flush()
    assert manifest.read(a.store, manifest_key("", S)).others == []


def test_a_directory_that_no_manifest_has_yet_is_new_when_it_comes_back_with_its_session(a, tmp_path):
    a.write("file")
    a.flush()
    (a.session / "d" / "e").mkdir(parents=True)
    (a.session / "link").symlink_to("file")
    a.driven.scan(S)
    a.session.rename(tmp_path / "away")
    a.driven.scan(S)
    assert known(a) == {"file"}
    (tmp_path / "away").rename(a.session)
    a.driven.scan(S)
    assert a.dirty() == {"d/", "d/e/", "link"}
    a.life.open(S)  # the manifest in the store does not have them, and nobody has removed them
    assert not a.entry("d/").superseded
    a.flush()
    assert known(a) == {"file", "d/", "d/e/", "link"}


def test_a_directory_that_was_renamed_in_the_store_only_does_not_come_back_with_its_old_name(a):
    a.write("old/file")
    a.flush()
    a.life.evict(S)
    a.session.mkdir()
    a.driven.scan(S)
    old = a.entry("old/")
    assert a.journal.sessions.renamed(old, S, "new/", None, 1.0)
    a.life.open(S, lazy=True)  # the manifest in the store still has the old name
    assert directories(a) == {"new/"}
    a.life.open(S)
    assert directories(a) == {"new/", "old/"}  # the file in it was not renamed
    assert a.entry("new/").dirty
    a.flush()
    assert not a.entry("new/").dirty
