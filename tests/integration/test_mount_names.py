"""The mount's server while the daemon brings and drops what a program renames or removes, between two of its steps."""

from __future__ import annotations

import errno
import os
import stat as st
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import pytest

from cachesync.fuse import Later, Request, wire
from cachesync.journal.evicted_reader import AbsentNames
from cachesync.mount.daemon_client import Keeper
from cachesync.mount.lookup import Looking
from cachesync.mount.mutations import Changing
from cachesync.mount.nodes import Node
from cachesync.mount.renaming import Renaming, _Names
from cachesync.mount.view import View
from tests.driving import Driven
from tests.flat_store import FlatStore


class Mounted:
    """A root whose session "s" has the files a, d/f and the empty directory to/, and the server's parts."""

    def __init__(self, root: Path) -> None:
        for place in ("d", "to"):
            (root / "s" / place).mkdir(parents=True)
        (root / "s/a").write_text("a")
        (root / "s/d/f").write_text("f")
        self.store = FlatStore()
        self.driven = Driven(root, self.store)
        self.engine = self.driven.engine
        assert self.driven.flush("s").stored
        self.absent = AbsentNames(root / ".cachesync/journal.db")
        self.keeper = Keeper(mock.Mock(ondemand=self.engine.ondemand), 1.0)
        self.view = View(self.absent, self.keeper, frozenset(), revalidate=1e9)
        self.changing = Changing(self.view, mock.Mock())
        self.renaming = Renaming(self.view, self.changing)
        self.session = self.node(self.view.nodes.root, b"s")

    def node(self, parent: Node, name: bytes) -> Node:
        found = os.lstat(parent.below(name))
        return self.view.nodes.local(parent, name, found)

    def evict(self) -> None:
        assert self.engine.lifecycle.evict("s").kept == []
        assert not os.path.exists("s")


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mounted]:
    (tmp_path / "root").mkdir()
    monkeypatch.chdir(tmp_path / "root")
    mounted = Mounted(tmp_path / "root")
    yield mounted
    mounted.absent.close()
    mounted.driven.close()


def answer(handle: partial[bytes]) -> bytes:
    """Handle a request to its end, as the loop does."""
    while True:
        later: Later | None = None
        try:
            return handle()
        except Later as asked:
            later = asked
        later.work()
        assert later.then is not None, "it would begin anew, after it has changed something"
        handle = partial(later.then)


def test_a_file_that_a_program_took_away_is_not_brought_back(mounted: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted.evict()
    remove = mounted.keeper.remove

    def bring_first(session: bytes, path: bytes, *, directory: bool) -> None:
        mounted.engine.ondemand.bring("s", "d/f")  # an open of the session is under way
        remove(session, path, directory=directory)

    monkeypatch.setattr(mounted.keeper, "remove", bring_first)
    mounted.engine.ondemand.bring("s", "d/")
    directory = mounted.node(mounted.session, b"d")
    assert answer(partial(mounted.changing.forget, directory, b"f")) == b""
    assert os.listdir("s/d") == []


def test_what_somebody_else_made_of_the_name_stays(mounted: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted.evict()
    mounted.engine.ondemand.bring("s", "d/")
    directory = mounted.node(mounted.session, b"d")
    remove = mounted.keeper.remove

    def make_too(session: bytes, path: bytes, *, directory: bool) -> None:
        remove(session, path, directory=directory)
        Path("s/d/f").write_text("another")

    monkeypatch.setattr(mounted.keeper, "remove", make_too)
    assert answer(partial(mounted.changing.forget, directory, b"f")) == b""
    assert Path("s/d/f").read_text() == "another"


def test_a_rename_into_a_directory_that_is_dropped_meanwhile_goes_on(mounted: Mounted) -> None:
    """It does not begin anew: what was moved in the store is at the new name, which would not be free."""
    source, target = mounted.node(mounted.session, b"d"), mounted.node(mounted.session, b"to")
    assert source.is_directory
    names = _Names(mounted.session, b"d", target, b"d", 0)
    mounted.evict()
    mounted.engine.ondemand.bring("s", "d/")
    Path("s/d/new").write_text("new")
    answer(partial(mounted.renaming._finish, names, st.S_IFDIR))
    assert sorted(os.listdir("s")) == ["to"]
    assert Path("s/to/d/new").read_text() == "new"
    mounted.engine.scanner.scan("s")
    assert mounted.driven.flush("s").stored
    assert {key for key in mounted.store.objects if ".cachesync" not in key} == {
        "sessions/s/a", "sessions/s/to/d/f", "sessions/s/to/d/new",
    }  # fmt: skip


def test_a_root_without_acls_is_no_reason_to_let_nobody_in(mounted: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel asks for the ACL of what it lets a program into: an error would be the program's."""

    def refuse(*_: object, **__: object) -> bytes:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "getxattr", refuse)
    request = Request(bytes(wire.HEADER) + wire.GETXATTR_IN.pack(100, 0) + b"system.posix_acl_access\0")
    request.node, request.end = mounted.session.number, len(request.buffer)
    with pytest.raises(OSError, match="none"):
        Looking(mounted.view).getxattr(request)


@pytest.mark.parametrize("replaced", ["a", "d/a"])
def test_a_name_at_which_another_host_stored_something_is_renamed(mounted: Mounted, replaced: str) -> None:
    """What is only in the store cannot be renamed there then, so it is brought here first."""
    names = _Names(mounted.session, b"a", mounted.node(mounted.session, b"d"), b"a", 0)
    mounted.evict()
    mounted.engine.ondemand.bring("s", "d/")
    mounted.store.foreign_put(f"sessions/s/{replaced}", b"another")
    answer(partial(mounted.renaming._finish, names, st.S_IFREG))
    assert Path("s/d/a").read_text() == ("another" if replaced == "a" else "a")
    mounted.engine.scanner.scan("s")
    assert mounted.driven.flush("s").stored
    stored = {key: held.data for key, held in mounted.store.objects.items() if ".cachesync/" not in key}
    assert stored.pop("sessions/s/d/a") == Path("s/d/a").read_bytes()
    assert stored.pop("sessions/s/d/f") == b"f"
    assert list(stored.values()) == ([b"another"] if replaced == "d/a" else []), "kept as a conflict copy"


@pytest.mark.parametrize("asks", ["lookup", "attributes", "stand"])
def test_a_name_that_comes_and_goes_between_two_questions_is_found(
    mounted: Mounted, monkeypatch: pytest.MonkeyPatch, asks: str
) -> None:
    """Missing on the disk, it is brought; not only in the store then, it is dropped; missing on the disk again."""
    node = mounted.node(mounted.session, b"a")
    mounted.evict()
    away = mounted.view.away

    def bring_and_drop(path: bytes) -> object:
        monkeypatch.setattr(View, "away", lambda self, path: away(path))
        mounted.engine.ondemand.bring("s", "a")
        try:
            return away(path)
        finally:
            mounted.evict()

    monkeypatch.setattr(View, "away", lambda self, path: bring_and_drop(path))
    if asks == "lookup":
        found = mounted.view.lookup(mounted.session, b"a")
        assert found is not None
    elif asks == "attributes":
        assert mounted.view.attributes(node)
    else:
        with pytest.raises(Later):
            mounted.view.stand(node)
