"""Whatever another writer has put into the bucket: a session's own files are stored all the same (P13, P16)."""

import json

import pytest

from tests.driving import Driven
from tests.flat_store import Crash, Fault, FlatStore
from tests.unit.test_manifest import DIRECTORY_ROW, LINK_ROW, ROW

S = "s"
PREFIX = f"sessions/{S}/"
MANIFEST = f"{PREFIX}.cachesync/manifest.json"

ROWS = {
    "digest is a list": ROW | {"sha256": []},
    "digest is an object": ROW | {"sha256": {"a": 1}},
    "digest is a lone surrogate": ROW | {"sha256": "\ud800"},
    "time out of range": ROW | {"mtime": "9" * 30},
    "size is infinite": ROW | {"size": float("inf")},
    "size out of range": ROW | {"size": 10**30},
    "mode out of range": ROW | {"mode": "7" * 40},
    "directory's time out of range": DIRECTORY_ROW | {"mtime": "9" * 30},
    "directory's mode out of range": DIRECTORY_ROW | {"mode": "7" * 40},
    "directory's path is a lone surrogate": DIRECTORY_ROW | {"path": "\ud800"},
    "directory is ours": DIRECTORY_ROW | {"path": ".cachesync"},
    "link's target is a lone surrogate": LINK_ROW | {"target": "\ud800"},
    "link's target is nothing": LINK_ROW | {"target": ""},
    "link's target has a NUL": LINK_ROW | {"target": "a\0b"},
    "link's path is a lone surrogate": LINK_ROW | {"path": "\udfff"},
}


@pytest.fixture
def store():
    return FlatStore()


@pytest.fixture
def driven(tmp_path, store):
    (tmp_path / "root" / S).mkdir(parents=True)
    (tmp_path / "root" / S / "mine").write_text("mine")
    driven = Driven(tmp_path / "root", store)
    yield driven
    driven.close()


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_a_hostile_manifest_holds_nobody_up(driven, store, row):
    store.foreign_put(f"{PREFIX}a", b"5byte")
    version = store.objects[f"{PREFIX}a"].info.version.etag
    document = {"format": 1, "entries": [row | ({"version": version} if row["type"] == "file" else {})]}
    store.foreign_put(MANIFEST, json.dumps(document).encode())
    report = driven.flush(S)
    assert report.stored, report
    written = json.loads(store.objects[MANIFEST].data)
    assert {"a", "mine"} <= {shown["path"] for shown in written["entries"]}
    assert store.objects[f"{PREFIX}a"].data == b"5byte"


@pytest.mark.parametrize(
    "metadata",
    [{"mtime": "9" * 25}, {"mtime": "x"}, {"mode": "9" * 30}, {"mode": "9" * 5000}, {"mode": "\u0663"}],
    ids=repr,
)
@pytest.mark.parametrize("local", [b"other bytes", b"theirs"], ids=["conflict", "same bytes"])
def test_an_object_with_hostile_metadata_is_kept_or_adopted(driven, store, tmp_path, metadata, local):
    from dataclasses import replace

    store.foreign_put(f"{PREFIX}a", b"theirs")
    held = store.objects[f"{PREFIX}a"]
    store.objects[f"{PREFIX}a"] = replace(held, info=replace(held.info, metadata=metadata))
    (tmp_path / "root" / S / "a").write_bytes(local)
    report = driven.flush(S)
    assert report.stored, report
    assert store.objects[f"{PREFIX}a"].data == local
    assert b"theirs" in [held.data for held in store.objects.values()]


@pytest.mark.parametrize(
    "key", ["", "/", "//x", "../x", "a/../b", "a//b", "dir/", ".cachesync/other", "a\0b", "\udcff", "x" * 1000]
)
def test_p16_objects_with_hostile_keys_are_left_alone(driven, store, key, tmp_path):
    store.foreign_put(f"{PREFIX}{key}", b"theirs")
    report = driven.flush(S)
    assert report.stored, report
    assert store.objects[f"{PREFIX}{key}"].data == b"theirs"
    assert sorted(path.name for path in (tmp_path / "root" / S).iterdir()) == ["mine"]


@pytest.mark.parametrize("fault", [Fault.LOST_REPLY, Fault.CRASH_AFTER])
def test_p09_a_conflict_copy_whose_answer_was_lost_is_not_made_twice_and_is_listed(store, tmp_path, fault):
    (tmp_path / "root" / S).mkdir(parents=True)
    (tmp_path / "root" / S / "a").write_text("ours")
    store.foreign_put(f"{PREFIX}a", b"theirs")
    store.faults["copy"] = fault
    driven = Driven(tmp_path / "root", store)
    driven.scan(S)
    driven.clock.push(1)
    try:
        driven.pump()
        driven.close()
    except Crash:
        driven.crash()
    driven.clock.push(5)
    driven = Driven(tmp_path / "root", store, driven.clock)
    report = driven.flush(S)
    driven.close()
    assert report.stored, report
    copies = {key.removeprefix(PREFIX) for key in store.objects if ".conflict-" in key}
    assert len(copies) == 1
    assert [conflict.kept_as for conflict in report.conflicts] == list(copies)
    assert copies < {row["path"] for row in json.loads(store.objects[MANIFEST].data)["entries"]}
