"""What version 0.1.0 has written is read by this one: a journal, a manifest, and a folder that is a store.

``tests/data/0.1.0`` was written by that version: one session with a clean, a dirty, an evicted and a deleted file, a
link, a directory, a conflict copy, and an upload under way. The journal is SQL. What no copy of files keeps (inodes,
times of change, the session directory's birth) is set to what it is here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cachesync.config import load
from cachesync.daemon.store_factory import settled
from cachesync.model.keys import identity_key, manifest_key
from cachesync.model.values import Kind
from cachesync.root.tree import Tree
from cachesync.store.fsspec_store import FsspecStore
from cachesync.sync import manifest
from tests.driving import Driven
from tests.life import driven_time, life_of

DATA = Path(__file__).parents[1] / "data/0.1.0"
S = "s"
HERE = {
    "clean.txt": ("of clean.txt", 1_700_000_000),
    "conflict.txt": ("changed here", 1_700_000_100),
    "dirty.txt": ("changed since", 1_700_000_200),
    "big.bin": ("large", 1_700_000_200),
}
COPY = "conflict.txt.conflict-20261130T034959Z-4a30eb958446"
STORED = {path: text.encode() for path, (text, _) in HERE.items()} | {
    "d/evicted.txt": b"of d/evicted.txt",
    COPY: b"of another host",
}


class Noting(FsspecStore):
    """Notes what is written."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.puts: list[str] = []
        self.deletes: list[str] = []

    def put(self, key: str, *args: Any, **given: Any) -> Any:
        self.puts.append(key)
        return super().put(key, *args, **given)

    def delete(self, key: str, **given: Any) -> None:
        self.deletes.append(key)
        super().delete(key, **given)


def restore_store(folder: Path) -> None:
    """A copy of the store, whose records are of the copied files."""
    shutil.copytree(DATA / "store", folder)
    for place in folder.glob(".cachesync-meta/??/*.json"):
        told = json.loads(place.read_bytes())
        file = folder / told["key"]
        if not file.exists():
            continue
        digest, found = hashlib.sha256(file.read_bytes()).hexdigest(), file.stat()
        for record in told["records"]:
            if record["sha256"] == digest:
                record["stamp"] = f"{found.st_size}:{found.st_mtime_ns}:{found.st_ino}"
        place.write_text(json.dumps(told))


def restore_root(root: Path) -> None:
    session = root / S
    (session / "d").mkdir(parents=True)
    (session / "empty").mkdir()
    (session / "link").symlink_to("clean.txt")
    for path, (text, mtime) in HERE.items():
        place = session / path
        place.write_text(text)
        place.chmod(0o644)
        os.utime(place, (mtime, mtime))


def restore_journal(root: Path, store: str) -> None:
    state = root / ".cachesync"
    state.mkdir(mode=0o700)
    path = state / "journal.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript((DATA / "journal.sql").read_text())
        db.execute("UPDATE meta SET store = ?, place = ?", (store, str(path.stat().st_ino)))
        tree = Tree(root)
        db.execute("UPDATE session SET directory = ?", (tree.session_directory(S),))
        tree.close()
        rows = db.execute("SELECT dir, name, kind FROM entry WHERE resident = 1 AND gone_at IS NULL").fetchall()
        for above, name, kind in rows:
            found = os.lstat(root / S / os.fsdecode(above) / os.fsdecode(name).rstrip("/"))
            db.execute(
                "UPDATE entry SET inode = ?, ctime_ns = ? WHERE dir = ? AND name = ?",
                (found.st_ino, found.st_ctime_ns, above, name),
            )
            if kind != "file":  # nobody sets these times back
                values = (found.st_mtime_ns, found.st_mode & 0o7777, above, name)
                db.execute("UPDATE entry SET mtime_ns = ?, mode = ? WHERE dir = ? AND name = ?", values)
        db.commit()
    path.chmod(0o600)


@pytest.fixture
def store(tmp_path: Path) -> Noting:
    restore_store(tmp_path / "store")
    return Noting(f"file://{tmp_path}/store")


@pytest.fixture
def life(tmp_path: Path, store: Noting) -> Iterator[Driven]:
    """This version over what 0.1.0 left."""
    restore_root(tmp_path / "root")
    restore_journal(tmp_path / "root", f"file://{tmp_path}/store")
    life = Driven(tmp_path / "root", store, url=f"file://{tmp_path}/store")
    yield life
    life.close()


def objects(store: Noting) -> dict[str, bytes]:
    found = {}
    for info in store.list(f"sessions/{S}/"):
        if info.key != manifest_key("", S):
            found[info.key.removeprefix(f"sessions/{S}/")] = b"".join(store.get(info.key).chunks)
    return found


def test_the_journal_is_what_it_was(life: Driven) -> None:
    found = {entry.path: entry for entry in life.engine.journal.entries.walk(S)}
    assert found.keys() == {"clean.txt", "dirty.txt", "big.bin", "tombstone.txt", "conflict.txt", COPY,
                            "d/", "empty/", "link", "d/evicted.txt"}  # fmt: skip
    assert {path for path, entry in found.items() if entry.dirty} == {"dirty.txt", "big.bin", "tombstone.txt"}
    assert {path for path, entry in found.items() if entry.tombstone} == {"tombstone.txt"}
    assert {path for path, entry in found.items() if not entry.resident} == {"d/evicted.txt", COPY}
    assert found["link"].kind is Kind.LINK
    assert life.engine.journal.sessions.conflict_count(S) == 1
    upload = life.engine.journal.uploads.load(S, "big.bin")
    assert upload is not None
    assert (upload.upload_id, upload.parts) == ("upload-1", {1: "etag-1"})


def test_nothing_is_sent_or_deleted_that_need_not_be(life: Driven, store: Noting) -> None:
    report = life.flush(S)
    assert report.stored
    assert (report.uploaded, report.deleted, report.conflicts) == (2, 1, [])
    wanted = {f"sessions/{S}/dirty.txt", f"sessions/{S}/big.bin", manifest_key("", S), identity_key("")}
    assert sorted(store.puts) == sorted(wanted)
    assert store.deletes == [f"sessions/{S}/tombstone.txt"]
    assert objects(store) == STORED
    life.flush(S)
    assert len(store.puts) == len(wanted), "the second has nothing to do"


def test_it_gets_an_identity_without_anything_to_store(life: Driven, store: Noting, tmp_path: Path) -> None:
    known = life.engine.journal.binding.get()
    assert known is not None
    assert (known.store, known.store_id) == (f"file://{tmp_path}/store", None)
    assert life.flush(S).stored
    written = json.loads(b"".join(store.get(identity_key("")).chunks))
    known = life.engine.journal.binding.get()
    assert known is not None
    assert known.store_id == written["id"]


def test_evicted_files_open(life: Driven, tmp_path: Path) -> None:
    with driven_time(life):
        report = life_of(life).open(S)
    assert (report.fetched, report.failed, report.pending) == (2, [], [])
    assert (tmp_path / "root/s/d/evicted.txt").read_bytes() == b"of d/evicted.txt"
    assert (tmp_path / "root/s" / COPY).read_bytes() == b"of another host"
    assert life.flush(S).stored


def test_the_session_keeps_its_mode_from_now_on(life: Driven, store: Noting, tmp_path: Path) -> None:
    (tmp_path / "root/s").chmod(0o750)
    assert life.flush(S).stored
    assert manifest.read(store, manifest_key("", S)).mode == 0o750
    with driven_time(life):
        verbs = life_of(life)
        assert verbs.evict(S).kept == []
        verbs.open(S)
    assert (tmp_path / "root/s").stat().st_mode & 0o7777 == 0o750
    assert {path: (tmp_path / "root/s" / path).read_bytes() for path in STORED} == STORED


def test_a_session_whose_manifest_has_no_mode_is_private(store: Noting, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Driven(tmp_path / "other", store, url=f"file://{tmp_path}/store")
    try:
        with driven_time(other):
            life_of(other).open(S)
        assert (tmp_path / "other/s").stat().st_mode & 0o7777 == 0o700
    finally:
        other.close()


def test_the_manifest_is_read(store: Noting) -> None:
    found = manifest.read(store, manifest_key("", S))
    assert found.serial is None
    assert found.mode is None
    assert found.flaws == []
    assert found.files.keys() == {"clean.txt", "conflict.txt", COPY, "dirty.txt", "tombstone.txt", "d/evicted.txt"}
    assert {path for path, _ in found.others} == {"link", "d/", "empty/"}


def test_an_emptied_store_is_noticed_after_the_update_too(life: Driven, store: Noting, tmp_path: Path) -> None:
    for path in (tmp_path / "store/sessions").rglob("*"):
        if path.is_file():
            path.unlink()
    report = life.flush(S)
    assert {failure.path for failure in report.failed} == {"d/evicted.txt", COPY}
    assert objects(store).keys() == HERE.keys()


def test_a_root_in_the_folder_that_all_shared_stays_there(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path / "data")}
    flags = {"root": str(tmp_path / "root")}
    shared = f"file://{tmp_path}/data/cachesync/store"
    restore_store(tmp_path / "data/cachesync/store")
    restore_root(tmp_path / "root")
    fresh = settled(load(flags, environ, tmp_path, system_file=Path("/none")))
    assert fresh.store_url != shared
    restore_journal(tmp_path / "root", shared)
    config = settled(load(flags, environ, tmp_path, system_file=Path("/none")))
    assert (config.store_url, config.embedded) == (shared, True)
    other = settled(load({"root": str(tmp_path / "other")}, environ, tmp_path, system_file=Path("/none")))
    assert other.store_url not in (shared, fresh.store_url)
