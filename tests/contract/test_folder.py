"""What a folder as a store must stand besides the contract: crashes, strangers, unmounted disks, other processes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cachesync.model.errors import (
    IntegrityError,
    ObjectNotFound,
    PreconditionFailed,
    StorePermanent,
    StoreTransient,
    StoreUnreachable,
)
from cachesync.model.values import Attributes
from cachesync.store.folder import Folder
from cachesync.store.fsspec_store import FsspecStore
from tests.bodies import PLAIN, Bytes


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "the store"


@pytest.fixture
def folder(base: Path) -> FsspecStore:
    return FsspecStore(f"file://{base}")


def read(store: FsspecStore, key: str) -> bytes:
    return b"".join(store.get(key).chunks)


def test_objects_are_plain_files(folder: FsspecStore, base: Path) -> None:
    folder.put("sessions/s/a.txt", Bytes(b"data"), PLAIN, expect=None)
    assert (base / "sessions/s/a.txt").read_bytes() == b"data"
    assert [path.name for path in base.iterdir() if not path.name.startswith(".")] == ["sessions"]
    again = FsspecStore(f"file://{base}")
    assert again.head("sessions/s/a.txt").content_type == "text/plain"


def test_folders_go_with_their_last_file(folder: FsspecStore, base: Path) -> None:
    stored = folder.put("a/b/c", Bytes(b"x"), PLAIN, expect=None)
    folder.delete("a/b/c", expect=stored.version)
    assert not (base / "a").exists()
    folder.put("a", Bytes(b"now a file"), PLAIN, expect=None)
    (base / "d/e").mkdir(parents=True)
    with pytest.raises(StorePermanent):
        folder.put("d", Bytes(b"x"), PLAIN, expect=None)
    (base / "d/e").rmdir()
    folder.put("d", Bytes(b"in the place of an empty folder"), PLAIN, expect=None)


def test_a_stranger_is_noticed(folder: FsspecStore, base: Path) -> None:
    stored = folder.put("k", Bytes(b"ours"), Attributes("text/x", {"a": "b"}), expect=None)
    (base / "k").write_bytes(b"hers")
    found = folder.head("k")
    assert found.version != stored.version
    assert (found.sha256, dict(found.metadata), found.content_type) == (None, {}, None)
    with pytest.raises(PreconditionFailed):
        folder.put("k", Bytes(b"ours again"), PLAIN, expect=stored.version)
    with pytest.raises(PreconditionFailed):
        folder.delete("k", expect=stored.version)
    assert read(folder, "k") == b"hers"
    assert [info.version for info in folder.list("")] == [found.version]
    folder.put("k", Bytes(b"ours again"), PLAIN, expect=found.version)


@pytest.mark.parametrize("step", ["place", "write_own"])
def test_a_crash_leaves_the_old_object_or_the_new(
    folder: FsspecStore, base: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    old = folder.put("k", Bytes(b"old"), PLAIN, expect=None)

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Folder, step, crash)
        with pytest.raises(KeyboardInterrupt):
            folder.put("k", Bytes(b"new"), PLAIN, expect=old.version)
    again = FsspecStore(f"file://{base}")
    assert again.head("k").version == old.version
    assert again.head("k").sha256 == old.sha256
    new = again.put("k", Bytes(b"new"), PLAIN, expect=old.version)
    assert again.head("k").version == new.version


def test_an_unmounted_store_is_not_an_empty_one(folder: FsspecStore, base: Path) -> None:
    stored = folder.put("s/k", Bytes(b"x"), PLAIN, expect=None)
    base.rename(base.with_name("elsewhere"))
    for _ in range(2):
        with pytest.raises(StoreUnreachable):
            folder.head("s/k")
        with pytest.raises(StoreUnreachable):
            folder.get("s/k")
        with pytest.raises(StoreUnreachable):
            list(folder.list(""))
        with pytest.raises(StoreUnreachable):
            folder.delete("s/k", expect=stored.version)
        with pytest.raises(StoreUnreachable):
            folder.put("s/new", Bytes(b"x"), PLAIN, expect=None)
        base.mkdir(exist_ok=True)  # an empty mount point
    base.rmdir()
    base.with_name("elsewhere").rename(base)
    assert read(folder, "s/k") == b"x"


@pytest.mark.parametrize(
    "key", ["../out", "a/../../out", "/etc/passwd", "a//b", "a/", "", ".", "nul\0", ".cachesync-meta/x"]
)
def test_nothing_leaves_the_base(folder: FsspecStore, key: str) -> None:
    with pytest.raises(StorePermanent):
        folder.put(key, Bytes(b"x"), PLAIN, expect=None)
    with pytest.raises(StorePermanent):
        folder.head(key)


def test_links_and_pipes_are_no_objects(folder: FsspecStore, base: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (base / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(base / "pipe")
    for key in ("link", "pipe"):
        with pytest.raises(StorePermanent):
            folder.get(key)
    assert list(folder.list("")) == []


def test_a_full_disk_passes(folder: FsspecStore, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(StoreTransient, match="No space left"):
            folder.put("k", Bytes(b"x"), PLAIN, expect=None)
    assert list((base / ".cachesync-meta/tmp").iterdir()) == []
    with pytest.raises(ObjectNotFound):
        folder.head("k")


def test_a_name_that_is_too_long_for_the_disk(folder: FsspecStore) -> None:
    with pytest.raises(StorePermanent, match="too long"):
        folder.put("n" * 256, Bytes(b"x"), PLAIN, expect=None)


def test_rot_is_noticed(folder: FsspecStore, base: Path) -> None:
    folder.put("k", Bytes(b"data"), PLAIN, expect=None)
    found = os.stat(base / "k")
    (base / "k").write_bytes(b"dat4")
    os.utime(base / "k", ns=(found.st_atime_ns, found.st_mtime_ns))
    with pytest.raises(IntegrityError):
        read(folder, "k")


def test_a_damaged_record_is_no_record(folder: FsspecStore, base: Path) -> None:
    folder.put("k", Bytes(b"data"), PLAIN, expect=None)
    [record] = list(base.glob(".cachesync-meta/??/*.json"))
    record.write_bytes(b'{"key": "k", "records": [{"nonsense": 1}]}')
    assert folder.head("k").sha256 is None
    assert read(folder, "k") == b"data"


def test_of_four_processes_one_wins(folder: FsspecStore, base: Path) -> None:
    script = (
        "import sys\n"
        "from cachesync.model.errors import PreconditionFailed\n"
        "from cachesync.store.fsspec_store import FsspecStore\n"
        "from tests.bodies import PLAIN, Bytes\n"
        f"store, won = FsspecStore({f'file://{base}'!r}), 0\n"
        "for n in range(50):\n"
        "    try:\n"
        "        store.put(f'k{n}', Bytes(b'%d' % n), PLAIN, expect=None)\n"
        "        won += 1\n"
        "    except PreconditionFailed: pass\n"
        "print(won)\n"
    )
    command = [sys.executable, "-c", script]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) for _ in range(4)]
    wins = [int(process.communicate(timeout=50)[0]) for process in processes]
    assert sum(wins) == 50
    assert len(list(folder.list(""))) == 50
