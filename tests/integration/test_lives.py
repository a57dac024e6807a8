"""The lives of a journal: which objects it tried to store (journal/lives.py)."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from cachesync.journal import counters
from cachesync.journal.journal import Journal
from cachesync.model.values import Entry, FileStat, Kind, Mark

S, KEY = "s", "sessions/s/f"


def seen(journal: Journal, path: str = "f", size: int = 1) -> Entry:
    """A file is seen changed; its entry."""
    journal.sessions.add(S, 1.0)
    journal.entries.mark(S, [Mark(path, FileStat(Kind.FILE, size, size, size, size, 0o644), 1.0)], 1.0)
    found = journal.entries.entry(S, path)
    assert found is not None
    return found


def number(journal: Journal, entry: Entry, key: str, attempt: str) -> int | None:
    tried = journal.lives.tried(entry, key, attempt)
    assert tried is None or tried.generation <= entry.generation
    return None if tried is None else tried.number


def lives(path: Path) -> list[Any]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute("SELECT number, token, began FROM life ORDER BY number").fetchall()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def test_a_try_of_this_life_is_known_and_says_which_put_it_is(path):
    with contextlib.closing(Journal(path)) as journal:
        entry = seen(journal)
        name = journal.lives.attempt(entry, KEY)
        assert number(journal, entry, KEY, name) == 1
        assert number(journal, seen(journal, size=2), KEY, name) == 1, "of an entry that was changed since"


@pytest.mark.parametrize("wrong", ["", "x", "1.2.3", "{name}.", "{name}0", " {name}", "{name}\n", "é{name}", "0" * 16])
def test_what_names_no_try_is_none_of_ours(path, wrong):
    with contextlib.closing(Journal(path)) as journal:
        entry = seen(journal)
        name = journal.lives.attempt(entry, KEY)
        assert number(journal, entry, KEY, wrong.format(name=name)) is None


def test_a_try_of_another_key_or_journal_is_none_of_ours(path, tmp_path):
    with contextlib.closing(Journal(path)) as journal, contextlib.closing(Journal(tmp_path / "other.db")) as other:
        entry = seen(journal)
        assert number(journal, entry, KEY + "2", journal.lives.attempt(entry, KEY)) is None
        assert number(journal, entry, KEY, other.lives.attempt(entry, KEY)) is None


def test_a_try_before_the_path_was_made_anew_is_none_of_ours(path):
    with contextlib.closing(Journal(path)) as journal:
        entry = seen(journal)
        name = journal.lives.attempt(entry, KEY)
        journal.entries.mark(S, [Mark("f", None, 1.0)], 1.0)
        gone = journal.entries.entry(S, "f")
        assert gone is not None
        assert number(journal, gone, KEY, name) == 1, "its answer may have been lost"
        journal.work.confirm_delete(gone)
        assert number(journal, seen(journal), KEY, name) is None


def test_a_try_of_an_earlier_life_is_known(path):
    with contextlib.closing(Journal(path)) as journal:
        name = journal.lives.attempt(seen(journal), KEY)
    for _ in range(3):
        with contextlib.closing(Journal(path)) as journal:
            assert number(journal, seen(journal), KEY, name) == 1


def test_an_earlier_life_tried_nothing_that_was_seen_after_it(path):
    """So it is a life of a clone, which was made while it went on."""
    with contextlib.closing(Journal(path)) as first:
        seen(first)
        copy = path.with_name("copy.db")
        copy.write_bytes(path.read_bytes())
        copy.with_name("copy.db-wal").write_bytes(path.with_name("journal.db-wal").read_bytes())
        with contextlib.closing(sqlite3.connect(copy)) as db, db:
            db.execute("UPDATE meta SET place = ?", (str(copy.stat().st_ino),))
        with contextlib.closing(Journal(copy)) as clone:
            assert clone.id == first.id
            name = first.lives.attempt(seen(first), KEY)
            for _ in range(3):
                assert number(clone, seen(clone), KEY, name) is None


def test_a_copied_journal_has_no_life_of_the_one_it_was_copied_from(path, tmp_path):
    with contextlib.closing(Journal(path)) as journal:
        name = journal.lives.attempt(seen(journal), KEY)
    copy = tmp_path / "copy.db"
    shutil.copy(path, copy)
    with contextlib.closing(Journal(copy)) as copied:
        assert number(copied, seen(copied), KEY, name) is None


def test_who_stores_nothing_begins_no_life(path):
    Journal(path).close()
    before = lives(path)
    assert len(before) == 1
    Journal(path, stores=False).close()
    assert lives(path) == before


def test_so_many_lives_are_remembered(path, monkeypatch):
    monkeypatch.setattr(counters, "_MOST_LIVES", 3)
    names = []
    for size in range(1, 6):
        with contextlib.closing(Journal(path)) as journal:
            entry = seen(journal, size=size)
            names.append(journal.lives.attempt(entry, KEY))
            known = [number(journal, entry, KEY, name) is not None for name in names]
            assert known == [age < 3 for age in range(size - 1, -1, -1)]
    assert len(lives(path)) == 3
