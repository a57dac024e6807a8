"""What counts as a difference, case by case."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cachesync.model.values import Entry, Kind, Session, Stored, Superseded, Version
from cachesync.sync.manifest import FoundManifest, ManifestFile
from cachesync.sync.verify_rules import Found, Known, difference

A, B = "a" * 64, "b" * 64
ROW = ManifestFile("v1", 5, A, 7, 0o644)
FOUND = Found("v1", 5, A)
STORED = Stored(Version("v1"), 5, A, 7, 0o644, 1.0)
ENTRY = Entry(
    session="s", path="f", kind=Kind.FILE, born=1, generation=3, absent=0, synced=3, resident=True, stat=None,
    gone_at=None, closed=False, unsettled=False, stored=STORED, puts=1, created_at=0.0, dirty_since=0.0, due_at=0.0,
    attempts=0, tried_at=None, error=None, failed=False,
)  # fmt: skip
DIRTY = replace(ENTRY, generation=4)
NEVER_STORED = replace(DIRTY, stored=None)
LEARNED = replace(ENTRY, resident=False, stored=replace(STORED, sha256=None))

SETTLED = Session("s", "open", None, True, 9, 9, Version("m"), 0, 0)
BEHIND = replace(SETTLED, revision=10)
NEVER_FLUSHED = replace(SETTLED, manifest_revision=-1)


def judged(
    found: Found | None,
    entry: Entry | None = None,
    row: ManifestFile | None = ROW,
    session: Session | None = None,
    path: str = "f",
) -> str:
    """The difference, or "" for none."""
    listed = FoundManifest(Version("m"), {} if row is None else {path: row}, [])
    return difference(path, found, entry, Known(listed, session)) or ""


@pytest.mark.parametrize("session", [None, SETTLED, BEHIND, NEVER_FLUSHED])
@pytest.mark.parametrize("entry", [None, ENTRY, DIRTY, LEARNED, NEVER_STORED])
def test_what_the_manifest_says_and_the_store_has_is_right(entry, session):
    assert judged(FOUND, entry, session=session) == ""
    assert judged(FOUND, entry, replace(ROW, sha256=None), session) == ""


@pytest.mark.parametrize("session", [None, SETTLED, BEHIND, NEVER_FLUSHED])
@pytest.mark.parametrize("entry", [None, ENTRY, DIRTY, LEARNED, NEVER_STORED])
def test_other_bytes_of_the_version_that_is_named(entry, session):
    assert "it has 4 bytes; the manifest says 5" in judged(replace(FOUND, size=4), entry, session=session)
    assert f"other bytes: SHA-256 {B}; the manifest says {A}" in judged(
        replace(FOUND, sha256=B), entry, session=session
    )


def test_other_bytes_than_the_journal_confirmed_though_the_manifest_agrees():
    lying = replace(ROW, sha256=B)
    assert "this host's journal says" in judged(replace(FOUND, sha256=B), ENTRY, lying, SETTLED)
    assert "this host's journal says 5" in judged(replace(FOUND, size=6), ENTRY, replace(ROW, size=6), SETTLED)
    assert "this host's journal says" in judged(replace(FOUND, sha256=B), ENTRY, None, BEHIND)
    assert judged(replace(FOUND, sha256=B), LEARNED, lying, SETTLED) == "", "a listing told the journal no digest"


@pytest.mark.parametrize("entry", [None, ENTRY, LEARNED])
@pytest.mark.parametrize("session", [None, SETTLED, NEVER_FLUSHED])
def test_an_object_that_is_gone(entry, session):
    assert "there is no such object" in judged(None, entry, session=session)


def test_an_object_that_is_gone_and_no_manifest_ever_listed():
    assert "journal knows that it was stored" in judged(None, ENTRY, None, BEHIND)
    assert "journal knows that it was stored" in judged(None, DIRTY, None, BEHIND)
    assert judged(None, NEVER_STORED, None, BEHIND) == "", "it waits to be stored"
    assert judged(None, None, None) == ""
    assert "the manifest lists it" in judged(None, NEVER_STORED, ROW, BEHIND)


def test_what_this_host_deleted_since_the_manifest():
    assert judged(None, None, ROW, BEHIND) == ""
    assert judged(None, replace(DIRTY, gone_at=1.0), ROW, BEHIND) == ""
    assert judged(FOUND, replace(DIRTY, gone_at=1.0), ROW, BEHIND) == ""


@pytest.mark.parametrize("entry", [None, LEARNED, ENTRY])
@pytest.mark.parametrize("session", [None, SETTLED, BEHIND, NEVER_FLUSHED])
def test_a_version_that_nobody_names(entry, session):
    other = Found("v2", 5, A)
    assert "it is version v2, which the manifest does not name (it names v1)" in judged(other, entry, session=session)
    unlisted = judged(other, entry, None, session)
    assert unlisted == ("it is version v2, not v1, which this host has stored" if entry is ENTRY else
                        "no manifest lists this object")  # fmt: skip


def test_a_version_that_this_host_stored_since_the_manifest():
    ours = Found("v2", 6, B, ours=True)
    stored = replace(ENTRY, stored=Stored(Version("v2"), 6, B, 7, 0o644, 1.0))
    for row in (ROW, None):
        assert judged(ours, stored, row, BEHIND) == ""
        assert judged(replace(ours, ours=False), stored, row, BEHIND) == "", "a copy inside the store names no writer"
        assert judged(ours, stored, row, NEVER_FLUSHED) == ""
        assert judged(ours, DIRTY, row, SETTLED) == "", "its confirmation is under way"
        assert judged(ours, NEVER_STORED, row, SETTLED) == ""
    assert "does not name" in judged(ours, stored, ROW, SETTLED), "the manifest claims to show it, and shows another"
    assert judged(ours, stored, None, SETTLED) == "no manifest lists this object"
    assert "does not name" in judged(replace(ours, ours=False), DIRTY, ROW, SETTLED), "another wrote where we write"
    assert judged(replace(ours, ours=False), NEVER_STORED, None, SETTLED) == "", "it may be an answer that was lost"


def test_an_object_that_no_manifest_lists():
    assert judged(FOUND, None, None) == "no manifest lists this object"
    assert judged(FOUND, LEARNED, None, SETTLED) == "no manifest lists this object"
    assert judged(FOUND, None, None, path="d/f.conflict-20261124T132416Z-abc123") == ""
    assert judged(FOUND, None, None, path="d/f.conflict-of-mine") == "no manifest lists this object"


def test_without_a_manifest_objects_are_compared_with_the_journal_alone():
    def alone(found: Found | None, entry: Entry | None, session: Session | None = SETTLED) -> str:
        return difference("f", found, entry, Known(None, session)) or ""

    assert alone(FOUND, None, None) == ""
    assert alone(FOUND, ENTRY) == ""
    assert "other bytes" in alone(replace(FOUND, sha256=B), ENTRY)
    assert "not v1, which this host has stored" in alone(Found("v2", 5, A), ENTRY)
    assert "there is no such object" in alone(None, ENTRY)


def test_a_directory_or_link_that_took_the_place_of_a_file():
    assert judged(FOUND, replace(DIRTY, kind=Kind.LINK), ROW, BEHIND) == ""


def test_what_another_host_did_and_this_one_heard_of_is_no_difference():
    newer = replace(STORED, version=Version("v2"), sha256=B)
    replaced = replace(ENTRY, superseded=Superseded(newer))
    assert judged(Found("v2", 5, B), replaced, replace(ROW, etag="v2", sha256=B), SETTLED) == ""
    assert "other bytes" in judged(Found("v2", 5, A), replaced, replace(ROW, etag="v2", sha256=B), SETTLED)
    assert "no such object" in judged(None, replaced, None, SETTLED)
    deleted = replace(ENTRY, superseded=Superseded())
    assert judged(None, deleted, None, SETTLED) == ""
    assert "the manifest lists it" in judged(None, deleted, ROW, SETTLED)


def test_what_another_host_has_deleted_and_listed_no_more_is_no_difference_to_who_only_read_of_it():
    overtaken = replace(SETTLED, manifest=Version("before"))
    assert judged(None, LEARNED, None, overtaken) == ""
    assert "no such object" in judged(None, LEARNED, ROW, overtaken)
    assert "no such object" in judged(None, LEARNED, None, SETTLED)
    assert "no such object" in judged(None, ENTRY, None, overtaken), "what stands here may be the last copy"
