"""P16: a manifest and objects of somebody who wants to do harm; what is opened stays in the session, and is bounded."""

from __future__ import annotations

import json
import os
import resource
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cachesync.model.values import Kind
from cachesync.sync import manifest
from tests.driving import tree_of
from tests.flat_store import FlatStore
from tests.life import Host, S
from tests.unit.test_manifest import DIRECTORY_ROW, LINK_ROW, ROW

PREFIX = f"sessions/{S}/"
KEY = f"{PREFIX}.cachesync/manifest.json"


@pytest.fixture
def store() -> FlatStore:
    return FlatStore()


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "f").write_text("precious")
    yield folder
    assert tree_of(folder) == {"f": b"precious"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "outside"]


def opened(tmp_path: Path, store: FlatStore, *rows: dict[str, Any], text: bytes | None = None) -> Path:
    """What a host makes of a store with this manifest: it opens the session, evicts it, opens it again, flushes."""
    entries = [row | facts(store, row) for row in rows]
    store.foreign_put(KEY, text if text is not None else json.dumps({"format": 1, "entries": entries}).encode())
    b = Host(tmp_path / "b", store)
    b.life.open(S)
    b.life.evict(S)
    b.life.open(S)
    b.driven.flush(S)
    b.stop()
    return b.session


def facts(store: FlatStore, row: dict[str, Any]) -> dict[str, Any]:
    """What is true of a file's object."""
    held = store.objects.get(PREFIX + str(row["path"])) if row["type"] == "file" else None
    if held is None:
        return {}
    return {"version": held.info.version.etag, "size": held.info.size, "sha256": held.info.sha256}


LINKS = [
    "../outside",
    "../../outside",
    "/etc",
    "/",
    "..",
    ".",
    "a/../../../outside",
    "/proc/self/root",
    "d",
    "x" * 4000,
]


@pytest.mark.parametrize("target", LINKS, ids=lambda target: target[:30])
def test_p16_nothing_is_written_through_a_link_of_the_manifest(
    tmp_path: Path, store: FlatStore, outside: Path, target: str
):
    """The manifest makes a link, and the store has objects below its name."""
    target = target.replace("../outside", str(outside)) if target == "../outside" else target
    store.foreign_put(f"{PREFIX}d/f", b"evil")
    store.foreign_put(f"{PREFIX}d/e/f", b"evil")
    store.foreign_put(f"{PREFIX}fine", b"fine")
    session = opened(
        tmp_path, store, LINK_ROW | {"path": "d", "target": target}, LINK_ROW | {"path": "d/e", "target": target},
        DIRECTORY_ROW | {"path": "d/f"}, ROW | {"path": "fine"},
    )  # fmt: skip
    assert (session / "fine").read_bytes() == b"fine"


MODES = [
    "4755",
    "2755",
    "1777",
    "6777",
    "7777",
    "0000",
    "0777",
    "120777",
    "060660",
    "020666",
    "100644",
    "-1",
    "0o644",
    "9",
]


@pytest.mark.parametrize("mode", MODES)
def test_p16_no_mode_makes_more_than_a_plain_file(tmp_path: Path, store: FlatStore, outside: Path, mode: str):
    """A file gets no setuid, setgid or sticky bit, a directory no setuid bit. No mode makes a device, pipe or link."""
    store.foreign_put(f"{PREFIX}f", b"5byte")
    held = store.objects[f"{PREFIX}f"]
    store.objects[f"{PREFIX}f"] = replace(held, info=replace(held.info, metadata={"mode": mode, "mtime": "1.5"}))
    session = opened(tmp_path, store, ROW | {"path": "f", "mode": mode}, DIRECTORY_ROW | {"path": "made", "mode": mode})
    found = os.lstat(session / "f").st_mode
    assert stat.S_ISREG(found)
    assert not found & 0o7000
    assert (session / "f").read_bytes() == b"5byte"
    if os.path.lexists(session / "made"):
        made = os.lstat(session / "made").st_mode
        assert stat.S_ISDIR(made)
        assert not made & stat.S_ISUID


KINDS = ["fifo", "socket", "chr", "blk", "device", "FILE", "dir/", "", 0, None, True, [], {}]


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_p16_no_kind_makes_anything_else(tmp_path: Path, store: FlatStore, outside: Path, kind: object):
    store.foreign_put(f"{PREFIX}f", b"5byte")
    session = opened(tmp_path, store, ROW | {"path": "f"}, LINK_ROW | {"path": "odd", "type": kind})
    assert [path.name for path in session.iterdir()] == ["f"]


FORGED = {
    "a size that is too small": {"size": 1},
    "a size that is too large": {"size": 2**62},
    "another digest": {"sha256": "0" * 64},
    "a digest in capitals": {"sha256": "A" * 64},
    "another version": {"version": "forged"},
    "a version that is a path": {"version": "../../outside/f"},
    "a version that is no text": {"version": "\ud800"},
    "a version id": {"version_id": "../../outside/f"},
    "the end of time": {"mtime": "9223372036.854775807"},
    "before time": {"mtime": "-9223372036"},
    "not a number": {"mtime": "NaN"},
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED.keys())
def test_p16_forged_facts_give_no_forged_bytes(tmp_path: Path, store: FlatStore, outside: Path, forged: dict[str, Any]):
    """The object is what it is: it comes whole and as it is, or not at all."""
    store.foreign_put(f"{PREFIX}f", b"5byte")
    store.foreign_put(f"{PREFIX}g", b"other")
    rows = [row | facts(store, row) for row in (ROW | {"path": "f"}, ROW | {"path": "g"})]
    text = json.dumps({"format": 1, "entries": [rows[0] | forged, rows[1]]})
    session = opened(tmp_path, store, text=text.encode())
    assert not (session / "f").exists() or (session / "f").read_bytes() == b"5byte"
    assert (session / "g").read_bytes() == b"other"
    assert store.objects[f"{PREFIX}f"].data == b"5byte"


TEXTS = {
    "NaN": b'{"format": 1, "entries": [{"path": "f", "type": "file", "size": NaN, "mtime": Infinity, "mode": "6"}]}',
    "one name twice": b'{"format": 1, "entries": [{"path": "f", "path": "../../outside/f", "type": "link",'
    b' "mtime": "1", "target": "x"}]}',
    "one path twice": b'{"format": 1, "entries": [{"path": "l", "type": "dir", "mtime": "1", "mode": "755"},'
    b' {"path": "l", "type": "link", "mtime": "1", "target": "/etc"}]}',
    "two heads": b'{"format": 2, "format": 1, "entries": [], "entries": [7]}',
    "deep": b'{"format": 1, "entries": [' + b"[" * 200_000,
    "deep rows": b'{"format": 1, "entries": [\n' + b'{"a":' * 100_000 + b"\n]}\n",
    "a number without an end": b'{"format": 1, "entries": [\n{"size": ' + b"9" * 100_000 + b"}\n]}\n",
    "no end": b'{"format": 1, "entries": [\n{"path": "f"',
    "UTF-16": '{"format": 1, "entries": []}'.encode("utf-16"),
    "a mark": b'\xef\xbb\xbf{"format": 1, "entries": []}',
    "NULs": b"\0" * 100_000,
    "entries by name": b'{"format": 1, "entries": {"path": "f"}}',
}  # fmt: skip


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_p16_no_text_holds_a_session_up(tmp_path: Path, store: FlatStore, outside: Path, text: bytes):
    store.foreign_put(f"{PREFIX}f", b"5byte")
    session = opened(tmp_path, store, text=text)
    assert (session / "f").read_bytes() == b"5byte"
    assert {path.name for path in session.iterdir()} <= {"f", "l"}


def test_p16_a_manifest_of_many_rows(store: FlatStore):
    """Row by row: what it takes of the memory is what is kept, not what was sent."""
    head, end = b'{"format": 1, "entries": [\n', b"\n]}\n"
    row = json.dumps(ROW | {"path": "@"})
    good = b",\n".join(row.replace("@", f"d/{number}").encode() for number in range(30_000))
    store.foreign_put(KEY, head + good + end)
    found = manifest.read(store, KEY)
    assert len(found.files) == 30_000
    assert found.flaws == []
    bad = b",\n".join([b'{"path": "../x", "type": "file"}', b"[[]]", b"7", b'{"path": "/etc"}'] * 8_000)
    store.foreign_put(KEY, head + bad + end)
    found = manifest.read(store, KEY)
    assert (found.files, found.others) == ({}, [])
    assert len(found.flaws) == 100


@pytest.mark.parametrize(
    "text",
    [
        b'{"format":1,"entries":[' + b"{}," * 12_000_000 + b"{}]}",
        b'{"format": 1, "entries": [\n{"a":[' + b"[]," * 12_000_000 + b"[]]}\n]}\n",
        b'{"format": 1, "entries": [\n' + b"x" * 40_000_000,
    ],
    ids=["without lines", "one long row", "one line"],
)
def test_p16_what_is_understood_at_once_is_bounded(store: FlatStore, text: bytes):
    """36 MB of text that would be a gigabyte of objects is passed over, and said."""
    store.foreign_put(KEY, text)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = manifest.read(store, KEY)
    assert (found.files, found.others) == ({}, [])
    assert found.flaws
    assert all(len(flaw) < 300 for flaw in found.flaws)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KiB


def test_p16_a_row_with_a_path_that_no_disk_takes(tmp_path: Path, store: FlatStore, outside: Path):
    store.foreign_put(f"{PREFIX}f", b"5byte")
    long = "x" * 300
    deep = "/".join(["y" * 200] * 30)
    rows = [DIRECTORY_ROW | {"path": path} for path in (long, deep, "z/" * 400 + "z")]
    rows += [LINK_ROW | {"path": path} for path in (f"l{long}", f"l{deep}")]
    session = opened(tmp_path, store, ROW | {"path": "f"}, *rows)
    assert (session / "f").read_bytes() == b"5byte"


def test_kinds_are_these():
    assert {str(kind) for kind in Kind} == {"file", "link", "dir"}
