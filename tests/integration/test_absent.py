"""The journal as the mount's server reads it, beside the daemon that writes it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cachesync.journal.evicted_reader import AbsentNames
from cachesync.journal.journal import Journal
from cachesync.model.errors import JournalUnavailable
from cachesync.model.values import FileStat, Kind, Mark, Stored, Version

T = 1_700_000_000_123_456_789


def stored(size: int = 5, etag: str = "e1") -> Stored:
    return Stored(Version(etag, "v1"), size, "00" * 32, T, 0o640, 1.0)


def directory(mode: int = 0o750) -> FileStat:
    return FileStat(Kind.DIRECTORY, 0, T, 0, 0, mode)


@pytest.fixture
def journal(tmp_path: Path):
    journal = Journal(tmp_path / "journal.db")
    journal.sessions.add("s", 1.0)
    journal.sessions.set_directory("s", "7:7")
    yield journal
    journal.close()


@pytest.fixture
def absent(journal, tmp_path: Path):
    absent = AbsentNames(tmp_path / "journal.db")
    yield absent
    absent.close()


def learn(journal: Journal, *paths: str, others=()) -> None:
    journal.sessions.learn("s", [(path, stored()) for path in paths], list(others))


def test_what_is_learned_is_there_at_once(journal, absent):
    assert absent.find(b"s", b"a") is None
    learn(journal, "a")
    found = absent.find(b"s", b"a")
    assert (found.kind, found.size, found.mtime_ns, found.mode) == (Kind.FILE, 5, T, 0o640)
    assert absent.find(b"s", b"b") is None
    assert absent.find(b"t", b"a") is None


def test_directories_are_told_by_rows_and_by_paths(journal, absent):
    link = FileStat(Kind.LINK, 0, T, 0, 0, 0o777, "a")
    learn(
        journal, "a", "d/e/f", "d-e/g", "d.h", others=[("d/", directory()), ("empty/", directory(0o700)), ("l", link)]
    )
    assert {name: str(what.kind) for name, what in absent.children(b"s", b"").items()} == {
        b"a": "file", b"d": "dir", b"d-e": "dir", b"d.h": "file", b"empty": "dir", b"l": "link",
    }  # fmt: skip
    assert absent.find(b"s", b"d").mode == 0o750
    assert absent.find(b"s", b"d/e").mode is None  # nobody wrote that one down
    assert set(absent.children(b"s", b"d")) == {b"e"}
    assert set(absent.children(b"s", b"d/e")) == {b"f"}
    assert absent.find(b"s", b"l").target == b"a"
    assert absent.find(b"s", b"d/e/f").size == 5
    assert absent.find(b"s", b"d/x") is None
    assert absent.find(b"s", b"").kind is Kind.DIRECTORY


@pytest.mark.parametrize("names", [["x/a", "x-y/a", "x0/a"], ["x/a/b", "x!/c", "x/a"], ["a/b/c", "a/b-c/d", "a/b0/e"]])
def test_names_that_sort_around_a_slash_are_all_found(journal, absent, names):
    learn(journal, *names)
    tops = {name.split("/")[0].encode() for name in names}
    assert set(absent.children(b"s", b"")) == tops
    for top in tops:
        below = {name.split("/")[1].encode() for name in names if name.split("/")[0].encode() == top}
        assert set(absent.children(b"s", top)) == below


def test_what_stands_is_not_absent(journal, absent):
    learn(journal, "a", "d/b")
    journal.entries.mark("s", [Mark("a", FileStat(Kind.FILE, 5, T, T, 7, 0o640), 0.0)], 1.0)
    assert absent.find(b"s", b"a") is None
    assert set(absent.children(b"s", b"")) == {b"d"}
    assert absent.any_below(b"s", b"d")
    assert not absent.any_below(b"s", b"a")
    known = absent.known(b"s", b"a")
    assert (known.resident, known.dirty, known.stat.inode) == (True, True, 7)


def test_what_is_removed_is_a_tombstone_and_gone_from_here(journal, absent):
    learn(journal, "a", "b")
    assert journal.residence.removed("s", "a", 5.0, 4.0)
    assert not journal.residence.removed("s", "a", 5.0, 4.0)
    assert absent.find(b"s", b"a") is None
    assert set(absent.children(b"s", b"")) == {b"b"}
    entry = journal.entries.entry("s", "a")
    assert entry.tombstone
    assert entry.dirty
    assert entry.stored.version.etag == "e1"


def test_a_file_that_is_foreseen_replaces_and_hides_nothing(journal, absent):
    learn(journal, "a", "b")
    journal.residence.foresee("s", "a")
    assert absent.find(b"s", b"a").foreseen
    assert not absent.find(b"s", b"b").foreseen
    marks = [Mark(path, FileStat(Kind.FILE, 9, T, T, inode, 0o640), 0.0) for path, inode in (("a", 7), ("b", 8))]
    journal.entries.mark("s", marks, 1.0)
    assert not journal.entries.entry("s", "a").hidden
    assert journal.entries.entry("s", "b").hidden


def test_another_journal_in_its_place_is_opened(journal, absent, tmp_path):
    learn(journal, "a")
    assert absent.find(b"s", b"a") is not None
    journal.close()
    for path in tmp_path.glob("journal.db*"):
        path.rename(path.with_name(path.name + ".aside"))
    other = Journal(tmp_path / "journal.db")
    try:
        absent.refresh()
        assert absent.find(b"s", b"a") is None
        other.sessions.add("s", 1.0)
        other.sessions.learn("s", [("b", stored())], [])
        assert absent.find(b"s", b"b") is not None
        assert absent.sessions().keys() == {b"s"}
    finally:
        other.close()


def test_a_journal_that_cannot_be_read_is_an_error_and_no_answer(tmp_path):
    absent = AbsentNames(tmp_path / "journal.db")
    with pytest.raises(JournalUnavailable):
        absent.find(b"s", b"a")
    (tmp_path / "journal.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(JournalUnavailable):
        absent.find(b"s", b"a")


READER = """
import sys
from pathlib import Path
from cachesync.journal.evicted_reader import AbsentNames
absent = AbsentNames(Path(sys.argv[1]))
for line in sys.stdin:
    print(absent.version().hex(), absent.find(b"s", b"a") is not None, flush=True)
"""


def test_another_process_that_reads_keeps_its_locks_and_sees_each_commit(tmp_path):
    """SQLite's lock on the index says that somebody has it open; without it the next to open it would cut it short."""
    path = tmp_path / "journal.db"
    journal = Journal(path)
    journal.sessions.add("s", 1.0)
    journal.sessions.set_directory("s", "7:7")
    with subprocess.Popen(
        [sys.executable, "-c", READER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as reader:
        asks, answers = reader.stdin, reader.stdout
        assert asks is not None
        assert answers is not None

        def asked() -> list[bytes]:
            asks.write(b"\n")
            asks.flush()
            return answers.readline().split()

        before = asked()
        assert before[1] == b"False"
        assert asked() == before
        index = os.stat(f"{path}-shm").st_ino
        held = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        mine = [lock for lock in held if lock[4] == str(reader.pid) and lock[5].endswith(f":{index}")]
        assert ["READ", "128", "128"] in [[lock[3], *lock[6:8]] for lock in mine], mine
        journal.close()
        journal = Journal(path)  # as a daemon that was started again
        learn(journal, "a")
        after = asked()
        assert after[1] == b"True"
        assert after[0] != before[0]
        asks.close()
    journal.close()
