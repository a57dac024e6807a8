"""Owners, POSIX ACLs and the mode of a session's directory: in the journal, in the manifest, and on the disk again."""

from __future__ import annotations

import errno
import os
import stat as st
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cachesync.journal.rows import rights_text, to_rights
from cachesync.model.address import parse
from cachesync.model.keys import manifest_key
from cachesync.model.values import Rights
from cachesync.root import rights as files_rights
from cachesync.root.rights import ACCESS, DEFAULT, restorable, rights_at
from cachesync.root.tree import Tree
from cachesync.sync import manifest
from tests.flat_store import FlatStore
from tests.life import Host, S

AGENT = 3000
SHARED = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, bits, who & 0xFFFFFFFF)
    for tag, bits, who in ((1, 6, -1), (2, 4, AGENT), (4, 0, -1), (16, 4, -1), (32, 0, -1))
)
"""An agent may read what its owner may read and write; nobody else may anything. The mask is r--."""

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture
def store() -> FlatStore:
    return FlatStore()


@pytest.fixture
def host(tmp_path: Path, store: FlatStore) -> Iterator[Host]:
    host = Host(tmp_path / "one", store)
    yield host
    host.stop()


def belongs(place: Path) -> tuple[int, int, int]:
    found = place.lstat()
    return found.st_uid, found.st_gid, st.S_IMODE(found.st_mode)


def evict(host: Host) -> None:
    host.flush()
    assert host.life.evict(S).kept == []
    assert not host.session.exists()


# -- the journal's text ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rights",
    [Rights(0, 0), Rights(1000, 2**32 - 2), Rights(1, 2, SHARED), Rights(1, 2, None, SHARED), Rights(1, 2, b"a", b"b")],
)
def test_rights_are_read_as_they_were_written(rights: Rights):
    assert to_rights(rights_text(rights)) == rights


@pytest.mark.parametrize(
    "text", ["", "0", "0:", "-1:0", "0:x", "0:4294967295", "4294967295:0", "0:0:", "0:0:a:", "0:0:AB:", "0:0:::", "٣:0"]
)
def test_a_damaged_text_says_nothing(text: str):
    assert to_rights(text) is None


# -- the session's directory -------------------------------------------------------------------------------------------


def test_the_mode_is_in_the_manifest_and_on_the_next_host(host: Host, store: FlatStore, tmp_path: Path):
    host.write("a")
    host.session.chmod(0o1710)
    host.flush()
    assert manifest.read(store, manifest_key("", S)).mode == 0o1710
    two = Host(tmp_path / "two", store)
    try:
        two.life.open(S)
        assert belongs(two.session)[2] == 0o1710
        two.flush()
        before = manifest.read(store, manifest_key("", S)).serial
        two.flush()
        assert manifest.read(store, manifest_key("", S)).serial == before
    finally:
        two.stop()


def test_a_change_of_the_mode_alone_is_flushed(host: Host, store: FlatStore):
    host.write("a")
    host.session.chmod(0o755)
    host.flush()
    host.session.chmod(0o700)
    host.flush()
    assert manifest.read(store, manifest_key("", S)).mode == 0o700


def test_of_two_scans_at_once_the_one_that_began_earlier_records_nothing_old(
    host: Host, monkeypatch: pytest.MonkeyPatch
):
    host.write("d/a")
    host.session.chmod(0o755)
    scanner = host.driven.engine.scanner
    listing = Tree.listing

    def changed_meanwhile(tree: Tree, session: str, directory: str, *given: Any) -> Any:
        if directory:
            monkeypatch.setattr(Tree, "listing", listing)
            host.session.chmod(0o700)
            scanner.scan(S)
        return listing(tree, session, directory, *given)

    monkeypatch.setattr(Tree, "listing", changed_meanwhile)
    scanner.scan(S)
    row = host.journal.sessions.get(S)
    assert row is not None
    assert row.mode == 0o700


def test_a_host_that_has_the_session_keeps_its_own_mode(host: Host, store: FlatStore, tmp_path: Path):
    host.write("a")
    host.session.chmod(0o755)
    host.flush()
    two = Host(tmp_path / "two", store)
    try:
        two.write("b")
        two.session.chmod(0o700)
        two.life.open(S)
        assert belongs(two.session)[2] == 0o700
        two.flush()
    finally:
        two.stop()
    host.life.open(S)
    assert belongs(host.session)[2] == 0o755


def test_another_hosts_mode_counts_where_the_session_is_evicted(host: Host, store: FlatStore, tmp_path: Path):
    host.write("a")
    host.session.chmod(0o755)
    evict(host)
    two = Host(tmp_path / "two", store)
    try:
        two.life.open(S)
        two.session.chmod(0o750)
        two.flush()
    finally:
        two.stop()
    host.life.open(S)
    assert belongs(host.session)[2] == 0o750


@root_only
def test_a_root_hands_its_group_down(host: Host):
    os.chown(host.root, 0, AGENT)
    host.root.chmod(0o2775)
    assert belongs(host.root / host.life.new("made")) == (0, AGENT, 0o2700)


@pytest.mark.parametrize(("umask", "mode"), [("077", 0o700), ("022", 0o755), ("027", 0o750), ("0", 0o777)])
def test_a_mode_that_nobody_knows_is_the_settings(tmp_path: Path, store: FlatStore, umask: str, mode: int):
    store.foreign_put(f"sessions/{S}/a", b"a")
    host = Host(tmp_path / "one", store, umask=umask)
    try:
        host.life.open(S)
        assert belongs(host.session)[2] == mode
        assert belongs(host.root / host.life.new("made"))[2] == mode
    finally:
        host.stop()


def test_a_session_is_never_more_open_than_it_will_be(host: Host, monkeypatch: pytest.MonkeyPatch):
    """Not even for the moment between mkdir and chmod."""
    host.write("a")
    host.session.chmod(0o700)
    evict(host)
    seen = []
    give = files_rights.give

    def look(descriptor: int, *given: object) -> None:
        seen.append(host.session.exists())
        give(descriptor, *given)  # type: ignore[arg-type]

    monkeypatch.setattr("cachesync.root.making.give", look)
    host.life.open(S)
    assert seen[0] is False, "it has no name yet"
    assert belongs(host.session)[2] == 0o700


def test_a_session_that_its_owner_may_not_use_is_worked_in(host: Host, monkeypatch: pytest.MonkeyPatch):
    host.write("a")
    host.session.chmod(0o577)
    evict(host)
    monkeypatch.setattr(os, "geteuid", lambda: os.stat(host.root).st_uid or 1)
    host.driven.engine.transfer._c.make_session(S, host.life.staging())
    assert belongs(host.session)[2] == 0o777


# -- owners and ACLs ---------------------------------------------------------------------------------------------------


@root_only
def test_owners_come_back(host: Host):
    host.write("d/a", mode=0o640)
    (host.session / "l").symlink_to("d")
    for place, owner in ((host.session, 3000), (host.session / "d", 3001), (host.session / "d/a", 3002)):
        os.chown(place, owner, owner + 10)
    os.chown(host.session / "l", 3003, 3003, follow_symlinks=False)
    before = [belongs(host.session / path) for path in ("", "d", "d/a", "l")]
    evict(host)
    host.crash()
    host.life.open(S)
    assert [belongs(host.session / path) for path in ("", "d", "d/a", "l")] == before
    assert host.dirty() == set()


@root_only
def test_a_newer_version_of_another_host_keeps_the_owner_and_the_acl(host: Host, store: FlatStore, tmp_path: Path):
    place = host.write("a", mode=0o600)
    os.chown(place, AGENT, AGENT)
    os.setxattr(place, ACCESS, SHARED)
    host.flush()
    two = Host(tmp_path / "two", store)
    try:
        two.life.open(S)
        two.write("a", "newer", mode=0o640)
        two.flush()
    finally:
        two.stop()
    host.life.open(S)
    assert place.read_text() == "newer"
    assert belongs(place) == (AGENT, AGENT, 0o640)
    assert os.getxattr(place, ACCESS) == SHARED


@root_only
def test_an_artifact_that_is_put_belongs_to_whose_session_it_is(host: Host):
    place = host.write("a")
    for at, owner in ((host.session, AGENT), (place, AGENT + 1)):
        os.chown(at, owner, owner)
    host.flush()
    local: Any = host.driven.engine.service.artifacts._local  # type: ignore[attr-defined]
    staging = local.root.staging()
    for path in ("a", "new/deep/b"):
        file = staging.temporary()
        file.seal(0o640, 0)
        local._place(file, parse(f"{S}/{path}"), overwrite=True)
        file.discard()
    assert belongs(place) == (AGENT + 1, AGENT + 1, 0o640)
    for path in ("new", "new/deep", "new/deep/b"):
        assert belongs(host.session / path)[:2] == (AGENT, AGENT)


@root_only
def test_new_sessions_belong_to_whom_the_root_does(host: Host):
    os.chown(host.root, AGENT, AGENT)
    made = host.root / host.life.new("made")
    for place in (made, *made.rglob("*")):
        assert belongs(place)[:2] == (AGENT, AGENT), place


def test_an_acl_that_cannot_be_set_gives_nobody_more(host: Host, monkeypatch: pytest.MonkeyPatch):
    place = host.write("a")
    os.setxattr(place, ACCESS, SHARED)
    assert belongs(place)[2] == 0o640, "the mask, not what the group may"
    evict(host)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "setxattr", refuse)
    host.life.open(S)
    assert belongs(place)[2] == 0o600
    assert host.dirty() == set()


def test_what_has_no_acl_gets_none_from_where_it_is_put(host: Host):
    host.write("d/e/f")
    evict(host)
    host.session.mkdir()
    os.setxattr(host.session, DEFAULT, SHARED)
    host.life.open(S)
    for path in ("d", "d/e", "d/e/f"):
        assert rights_at(_held(host.session), path) == Rights(os.geteuid(), os.getegid()), path


def _held(directory: Path) -> int:
    return os.open(directory, os.O_PATH | os.O_DIRECTORY)


def test_who_is_not_root_gives_nothing_away_but_to_its_groups(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getegid", lambda: 1000)
    monkeypatch.setattr(os, "getgroups", lambda: [50])
    assert restorable(0, 0) == (1000, 1000)
    assert restorable(3000, 50) == (1000, 50)
    assert restorable(3000, 1000) == (1000, 1000)


@root_only
def test_root_without_the_right_to_give_files_away_keeps_them(host: Host, monkeypatch: pytest.MonkeyPatch):
    place = host.write("a")
    (host.session / "l").symlink_to("a")
    os.chown(place, AGENT, AGENT)
    os.chown(host.session / "l", AGENT, AGENT, follow_symlinks=False)
    evict(host)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "fchown", refuse)
    monkeypatch.setattr(os, "chown", refuse)
    host.life.open(S)
    assert belongs(place)[:2] == (0, 0)
    assert host.dirty() == set()
