"""P16: whatever somebody wrote into the journal: nothing outside is touched, nothing runs, and no file is lost."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cachesync.journal.integrity import check_contents
from cachesync.model.errors import CacheSyncError
from tests.driving import tree_of
from tests.flat_store import FlatStore
from tests.life import Host, S

PLACES = [
    (b"../../outside", b"f"), (b"../outside", b"f"), (b"/etc", b"passwd"), (b"", b"../f"), (b"", b".."),
    (b"d/../../..", b"f"), (b"a", b"b/c"), (b"", b"x\0y"), (b"\0", b"f"), (b"", b""), (b".", b"f"), (b"/", b"f"),
    (b"", b".cachesync/x"), (b"a/", b"f"), (b"a//b", b"f"), (b"a", b"."), (b"..", b"f"), (b"a/..", b"../"),
]  # fmt: skip
CHANGES = ["", ", generation = generation + 5", ", resident = 0", ", gone_at = 1, generation = generation + 5"]

THINGS = {
    "a trigger that calls dirty clean": "CREATE TRIGGER t AFTER UPDATE ON entry BEGIN"
    " UPDATE entry SET synced = generation; END",
    "a trigger that deletes": "CREATE TRIGGER t AFTER INSERT ON entry BEGIN DELETE FROM entry; END",
    "a trigger that runs code": "CREATE TRIGGER t AFTER UPDATE ON meta BEGIN"
    " SELECT load_extension('/tmp/evil.so'); END",
    "a view": "CREATE VIEW v AS SELECT writefile('/tmp/evil', 'x')",
    "a view in the place of a table": "ALTER TABLE entry RENAME TO e2; CREATE VIEW entry AS SELECT * FROM e2",
    "a table": "CREATE TABLE evil (x)",
    "an index on an expression": "CREATE INDEX i ON entry(abs(size))",
    "another schema": "ALTER TABLE entry RENAME COLUMN sha256 TO sha",
    "no table": "DROP TABLE conflict",
    "format 0": "PRAGMA user_version = 0",
    "a negative format": "PRAGMA user_version = -3",
    "text of another form": "UPDATE entry SET older = '[[[['",
    "deep text": f"UPDATE entry SET labels = '{'[' * 5000}'",
    "labels that are a list": "UPDATE entry SET labels = '[1]'",
    "what is newer": "UPDATE entry SET newer = '{\"x\": 1}'",
    "the largest generation": "UPDATE meta SET generation = 9223372036854775807",
    "a directory of another session": "UPDATE session SET directory = '..', revision = -5, state = 'x'",
    "a version that is a path": "UPDATE entry SET version_id = '../../x', etag = '/etc/passwd'",
    "numbers": "UPDATE entry SET size = -1, stored_size = -5, mode = -1, stored_mode = 1 << 40, due_at = 9e999",
    "an upload elsewhere": "INSERT INTO upload VALUES (1, CAST('../x' AS BLOB), 'sessions/../k', 'u', 'z', 0)",
    "a conflict elsewhere": "INSERT INTO conflict VALUES (1, CAST('../x' AS BLOB), CAST('../../y' AS BLOB), 1, 0)",
}


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "f").write_text("precious")
    (tmp_path / "f").write_text("precious")
    yield folder
    assert tree_of(folder) == {"f": b"precious"}
    assert (tmp_path / "f").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f", "outside", "root"]


def life_over(tmp_path: Path, tamper: Callable[[sqlite3.Connection], object]) -> FlatStore:
    """A session that is stored; then its journal is tampered with, and a next process does all that it can."""
    store = FlatStore()
    a = Host(tmp_path / "root", store)
    a.write("a/f", b"1")
    a.write("g", b"22")
    a.flush()
    a.stop()
    with sqlite3.connect(tmp_path / "root" / ".cachesync" / "journal.db") as db:
        tamper(db)
    db.close()
    b = Host(tmp_path / "root", store)
    names = {S, *b.journal.sessions.names()}
    for verb in (b.driven.flush, b.life.evict, b.life.open, b.driven.flush):
        for name in names:
            try:
                verb(name)
            except CacheSyncError as error:
                assert error.cause or error.hint  # noqa: PT017 - any error is as good as none
    b.driven.engine.service.status()
    b.stop()
    return store


def nothing_lost(tmp_path: Path, store: FlatStore) -> None:
    """The session is whole, here or in the store; and under its own keys only."""
    for path, data in (("a/f", b"1"), ("g", b"22")):
        here = tmp_path / "root" / S / path
        held = store.objects.get(f"sessions/{S}/{path}")
        assert (held is not None and held.data == data) or here.read_bytes() == data
    assert {key.partition("/")[2].partition("/")[0] for key in store.objects} <= {S, ".cachesync"}
    assert not any(part in ("..", ".") for key in store.objects for part in key.split("/"))


@pytest.mark.parametrize("change", CHANGES, ids=["as it is", "dirty", "evicted", "deleted"])
@pytest.mark.parametrize(("directory", "name"), PLACES, ids=str)
def test_p16_a_row_that_names_a_place_outside(
    tmp_path: Path, outside: Path, directory: bytes, name: bytes, change: str
):
    store = life_over(
        tmp_path,
        lambda db: db.execute(f"UPDATE entry SET dir = ?, name = ?{change} WHERE name = x'67'", (directory, name)),
    )
    nothing_lost(tmp_path, store)


@pytest.mark.parametrize("name", ["../outside", "..", "/etc", "", ".cachesync", "a/b", "x\0y", "s/../../outside", "\n"])
@pytest.mark.parametrize("added", [False, True], ids=["renamed", "added"])
def test_p16_a_session_that_names_a_place_outside(tmp_path: Path, outside: Path, name: str, added: bool):  # noqa: FBT001
    sql = "INSERT INTO session (name, added_at, learned) VALUES (?, 1, 1)" if added else "UPDATE session SET name = ?"
    nothing_lost(tmp_path, life_over(tmp_path, lambda db: db.execute(sql, (name,))))


@pytest.mark.parametrize("sql", THINGS.values(), ids=THINGS.keys())
def test_p16_a_schema_that_is_not_ours(tmp_path: Path, outside: Path, sql: str):
    nothing_lost(tmp_path, life_over(tmp_path, lambda db: db.executescript(sql)))
    assert not os.path.exists("/tmp/evil")


def test_p16_a_trigger_never_makes_an_unstored_file_look_stored(tmp_path: Path, outside: Path):
    """The journal with the trigger is set aside, a new one is made of what stands here and in the store."""
    store = FlatStore()
    a = Host(tmp_path / "root", store)
    a.write("g", b"22")
    a.flush()
    a.stop()
    with sqlite3.connect(tmp_path / "root" / ".cachesync" / "journal.db") as db:
        db.executescript(THINGS["a trigger that calls dirty clean"])
    db.close()
    b = Host(tmp_path / "root", store)
    b.write("new", b"333")
    b.flush()
    assert store.objects[f"sessions/{S}/new"].data == b"333"
    assert [path.name for path in (tmp_path / "root" / ".cachesync").glob("journal.db.damaged-*")]
    b.stop()


def test_p16_bits_that_flip_in_the_journal(tmp_path: Path, outside: Path):
    """80 journals with flipped bits in the rows: each is believed and harmless, or set aside; no file is lost."""
    chance = random.Random(16)
    store = FlatStore()
    a = Host(tmp_path / "root", store)
    for number in range(8):
        a.write(f"d{number}/f", b"%d" % number)
    a.flush()
    a.stop()
    journal = tmp_path / "root" / ".cachesync" / "journal.db"
    sound = journal.read_bytes()
    aside = 0
    for _ in range(80):
        data = bytearray(sound)
        for _ in range(chance.randint(1, 12)):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        journal.write_bytes(data)
        for suffix in ("-wal", "-shm"):
            journal.with_name(journal.name + suffix).unlink(missing_ok=True)
        try:
            b = Host(tmp_path / "root", store)
        except CacheSyncError as error:
            assert "newer cachesync" in str(error) or "stored in" in str(error)  # noqa: PT017
            continue
        try:
            b.driven.flush(S)
        except CacheSyncError as error:
            assert error.cause  # noqa: PT017
        b.stop()
        for kept in (tmp_path / "root" / ".cachesync").glob("journal.db.damaged-*"):
            aside += kept.name.endswith("Z")
            kept.unlink()
        for number in range(8):
            assert (tmp_path / "root" / S / f"d{number}" / "f").read_bytes() == b"%d" % number
            assert store.objects[f"sessions/{S}/d{number}/f"].data == b"%d" % number
    assert aside > 5


def test_a_sound_journal_is_sound(tmp_path: Path):
    a = Host(tmp_path / "root", FlatStore())
    for name in ("a b", "...", "..a", "a\nb", os.fsdecode(b"\xff\xfe"), "d/e/f", "-", "\u202e", "a."):
        a.write(name)
    (a.session / "empty" / "deep").mkdir(parents=True)
    (a.session / "link").symlink_to("../../../etc/passwd")
    a.driven.flush(S)
    a.stop()
    with sqlite3.connect(tmp_path / "root" / ".cachesync" / "journal.db") as db:
        check_contents(db)
        assert db.execute("SELECT count(*) FROM entry").fetchone()[0] > 12
    db.close()
