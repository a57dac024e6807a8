"""Putting things into the tree and taking them out, on a real file system, with and without renameat2."""

import errno
import os
from typing import Any

import pytest

from cachesync.model.errors import DiskFull, FileUnwritable, RootHalted
from cachesync.model.policy import Writer
from cachesync.model.values import Kind
from cachesync.root import rename, session_dir
from cachesync.root.capabilities import device_of, measure
from cachesync.root.making import make_session, make_whole_session
from cachesync.root.session_dir import Ground
from cachesync.root.staging import Staging
from cachesync.root.tree import Tree


@pytest.fixture(params=["renameat2", "without"])
def tree(tmp_path, request, monkeypatch):
    if request.param == "without":
        monkeypatch.setattr(rename, "_renameat2", lambda *_: errno.ENOSYS)
    (tmp_path / "root/s").mkdir(parents=True)
    tree = Tree(tmp_path / "root")
    tree.capabilities = measure(tree.descriptor, device_of(tree.descriptor))
    yield tree
    tree.close()


@pytest.fixture
def staging(tree):
    staging = Staging(tree)
    yield staging
    staging.close()


@pytest.fixture
def ground(tree, staging):
    with Ground(tree, "s", staging) as ground:
        yield ground


def _still() -> bool:
    return True


def sealed(staging, data=b"new", mode=0o640, mtime_ns=5):
    file = staging.temporary()
    file.write(data, 0)
    file.seal(mode, mtime_ns)
    return file


def names(staging):
    return [name for _, _, found in os.walk(staging.tree.root / ".cachesync/staging") for name in found]


@pytest.mark.parametrize("sandbox", [False, True])
def test_a_directory_gets_its_sticky_and_set_group_id_bits(tree, ground, monkeypatch, sandbox):
    """systemd's RestrictSUIDSGID= refuses the set-group-ID bit with EPERM: then everything else is given."""
    fchmod = os.fchmod

    def refused(descriptor, mode):
        if mode & 0o6000:
            raise PermissionError(errno.EPERM, "refused")
        fchmod(descriptor, mode)

    if sandbox:
        monkeypatch.setattr(os, "fchmod", refused)
    (tree.root / "s/d").mkdir()
    found = ground.finish_directory("d", 0o7775, 5)
    assert found.mode == (0o1775 if sandbox else 0o3775), "the set-user-ID bit means nothing on a directory"
    assert found == tree.lstat("s", "d")


def test_a_file_does_not_come_back_with_the_rights_of_its_owner(staging):
    file = staging.temporary()
    assert file.seal(0o7755, 5).mode == 0o755
    file.discard()


def test_a_file_gets_a_free_name_whole(tree, staging, ground):
    file = sealed(staging)
    stat = ground.place(file, "f")
    file.discard()
    assert stat == tree.lstat("s", "f")
    assert (stat.size, stat.mode, stat.mtime_ns) == (3, 0o640, 5)
    assert names(staging) == []


def test_a_name_that_is_taken_stays_as_it_is(tree, staging, ground):
    for name, make in (("f", lambda p: p.write_text("mine")), ("d", os.mkdir), ("l", lambda p: os.symlink("x", p))):
        make(tree.root / "s" / name)
        before = tree.lstat("s", name)
        file = sealed(staging)
        assert ground.place(file, name) is None
        file.discard()
        assert ground.place_link(name, "elsewhere", 1) is None
        assert tree.lstat("s", name) == before
    assert names(staging) == []


def test_what_is_expected_is_exchanged(tree, staging, ground, request):
    (tree.root / "s/f").write_text("old")
    file = sealed(staging)
    stat = ground.swap(file, "f", tree.lstat("s", "f"))
    file.discard()
    if "without" in request.node.name:
        assert stat is None
        assert (tree.root / "s/f").read_text() == "old"
    else:
        assert stat == tree.lstat("s", "f")
        assert (tree.root / "s/f").read_text() == "new"
    assert names(staging) == []


def test_what_cannot_be_asked_for_writers_is_not_exchanged(tree, staging, ground, monkeypatch):
    """A program may write to it, however old it is (core B3)."""
    (tree.root / "s/f").write_text("old")
    os.utime(tree.root / "s/f", (1, 1))
    monkeypatch.setattr("cachesync.root.open_file.OpenFile.writer", lambda _: Writer.UNKNOWN)
    file = sealed(staging)
    assert ground.swap(file, "f", tree.lstat("s", "f")) is None
    file.discard()
    assert (tree.root / "s/f").read_text() == "old"
    assert names(staging) == []


def test_what_is_not_expected_is_not_exchanged(tree, staging, ground):
    (tree.root / "s/f").write_text("old")
    expected = tree.lstat("s", "f")
    (tree.root / "s/f").write_text("changed")
    file = sealed(staging)
    assert ground.swap(file, "f", expected) is None
    file.discard()
    assert (tree.root / "s/f").read_text() == "changed"


@pytest.mark.parametrize("touched", [False, True])
def test_a_writer_that_comes_during_an_exchange_gets_its_file_back(tree, staging, ground, monkeypatch, touched):
    (tree.root / "s/f").write_text("old")
    held: list[Any] = []
    expected, real = tree.lstat("s", "f"), rename.exchange

    def exchange(*names):
        if not held:
            held.append(open(tree.root / "s/f", "a"))  # noqa: SIM115
            done = real(*names)
            if done and touched:
                (tree.root / "s/f").write_text("written to the new one")
            return done
        return real(*names)

    monkeypatch.setattr(session_dir, "exchange", exchange)
    file = sealed(staging)
    assert ground.swap(file, "f", expected) is None
    file.discard()
    with held[0] as writer:
        writer.write(" and more")
    assert (tree.root / "s/f").read_text() == "old and more"
    others = [path.read_text() for path in (tree.root / "s").iterdir() if path.name != "f"]
    exchanged = rename._renameat2(-1, "", -1, "", 0) != errno.ENOSYS
    assert others == (["written to the new one"] if touched and exchanged else [])
    assert names(staging) == []


def test_only_what_is_expected_is_taken_out(tree, ground, staging):
    (tree.root / "s/d").mkdir()
    (tree.root / "s/d/f").write_text("old")
    expected = tree.lstat("s", "d/f")
    (tree.root / "s/d/f").chmod(0o600)
    assert ground.take_out("d/f", expected, _still) is not None
    assert (tree.root / "s/d/f").read_text() == "old"
    assert ground.take_out("d/f", tree.lstat("s", "d/f"), _still) is None
    assert not (tree.root / "s/d/f").exists()
    assert ground.remove_directory("d/")
    os.symlink("x", tree.root / "s/l")
    assert ground.take_out("l", tree.lstat("s", "l"), _still) is None
    assert ground.remove()
    assert not (tree.root / "s").exists()
    assert names(staging) == []


def test_no_link_is_followed(tmp_path, tree, staging, ground):
    (tmp_path / "out").mkdir()
    os.symlink(tmp_path / "out", tree.root / "s/l")
    file = sealed(staging)
    for verb in (
        lambda: ground.place(file, "l/f"),
        lambda: ground.place_link("l/k", "x", 1),
        lambda: ground.make_directories("l/d", {}),
        lambda: ground.finish_directory("l", 0o777, 1),
        lambda: ground.place(file, "../f"),
    ):
        with pytest.raises(FileUnwritable):
            verb()
    file.discard()
    assert list((tmp_path / "out").iterdir()) == []


def test_directories(tree, ground):
    assert ground.make_directories("a/b/c", {"a/b/": 0o500}) == ["a/", "a/b/", "a/b/c/"]
    assert ground.make_directories("a/b/c", {}) == []
    stat = ground.finish_directory("a/b/", 0o3750, 77)
    assert (stat.kind, stat.mode, stat.mtime_ns) == (Kind.DIRECTORY, 0o3750, 77)
    assert not ground.remove_directory("a/")
    assert not ground.remove()


def test_another_directory_in_the_place_of_the_held_one(tree, staging, ground):
    os.rename(tree.root / "s", tree.root / "moved")
    with pytest.raises(RootHalted):
        Ground(tree, "s", staging)
    (tree.root / "s").mkdir()
    file = sealed(staging)
    assert ground.place(file, "f") is not None
    file.discard()
    assert (tree.root / "moved/f").exists()
    assert not ground.remove()


def test_a_full_disk_has_an_error_of_its_own(staging, monkeypatch):
    file = staging.temporary()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DiskFull):
        file.write(b"1", 0)
    file.discard()


def test_sessions_are_made_whole(tree, staging):
    assert make_session(tree, staging, "t", 0o1750, None)
    assert (tree.root / "t").stat().st_mode & 0o7777 == 0o1750
    assert not make_session(tree, staging, "t", 0o700, None)
    assert make_whole_session(tree, staging, "n", {"a/b": b"1", "c": b"2"}, 0o700)
    assert (tree.root / "n").stat().st_mode & 0o7777 == 0o700
    assert (tree.root / "n/a/b").read_bytes() == b"1"
    assert not make_whole_session(tree, staging, "n", {"d": b"3"}, 0o700)
    assert sorted(os.listdir(tree.root / "n")) == ["a", "c"]


def test_a_life_leaves_nothing_behind(tree, staging, ground):
    file = sealed(staging)
    ground.place(file, "f")
    file.discard()
    staging.close(leave_nothing=True)
    assert os.listdir(tree.root) == ["s"]
