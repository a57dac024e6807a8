"""What the root's file system can do is measured once, kept, and believed where files are read and evicted."""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import cachesync.daemon.engine
from cachesync.model.policy import Writer
from cachesync.model.values import LONGEST_TICK, UNMEASURED, Capabilities, Leases
from cachesync.root import capabilities
from cachesync.root.capabilities import device_of, measure
from cachesync.root.openat2 import writer_of
from cachesync.root.tree import Tree
from tests.driving import Driven
from tests.faults.volume import Volume
from tests.flat_store import FlatStore
from tests.mapped import PAGE, mapped

S = "s"
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks the kernel of Linux")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def measured(folder: Path) -> Capabilities:
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return measure(held, device_of(held))
    finally:
        os.close(held)


@contextlib.contextmanager
def mounted(kind: str, place: Path, *options: str) -> Iterator[Path]:
    subprocess.run(["mount", "-t", kind, *options, kind, str(place)], check=True, capture_output=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True)


@pytest.fixture
def layered(tmp_path: Path) -> Iterator[Path]:
    """An overlayfs with an empty lower layer."""
    for name in ("lower", "upper", "work", "overlay"):
        (tmp_path / name).mkdir()
    layers = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    with mounted("overlay", tmp_path / "overlay", "-o", layers) as place:
        yield place


@pytest.fixture
def coarse(tmp_path: Path) -> Iterator[Path]:
    """A file system whose times are whole seconds, and that tells no birth times."""
    volume = Volume(tmp_path / "coarse.img", tmp_path / "coarse", 32, make=("-I", "128"))
    volume.mount()
    yield volume.path
    volume.umount()
    volume.umount("-l")


# -- measuring ---------------------------------------------------------------------------------------------------------


def test_a_local_file_system_is_honest_and_nothing_is_left_of_measuring_it(tmp_path: Path):
    found = measured(tmp_path)
    assert found.device.number == tmp_path.stat().st_dev
    assert found.tick in {0.0, 0.020}
    assert found.births
    assert found.leases is Leases.HONEST
    assert list(tmp_path.iterdir()) == []


@as_root
def test_an_overlay_lies_of_what_is_mapped_and_is_found_out(layered: Path):
    found = measured(layered)
    assert (found.device.kind, found.leases) == ("overlayfs", Leases.LYING)
    (layered / "a").write_bytes(bytes(PAGE))
    with mapped(layered / "a"), open(layered / "a", "rb") as file:
        assert writer_of(file.fileno()) is Writer.CLOSED, "which is the lie"


@as_root
def test_whole_seconds_are_seen(coarse: Path):
    found = measured(coarse)
    assert (found.device.kind, found.births, found.leases) == ("ext4", False, Leases.HONEST)
    assert found.tick == pytest.approx(1.0, abs=0.001)


@pytest.mark.parametrize(
    ("kind", "told", "leases"),
    [
        ("ext4", (Writer.OPEN, Writer.OPEN, Writer.CLOSED), Leases.HONEST),
        ("ext4", (Writer.OPEN, Writer.CLOSED, Writer.CLOSED), Leases.LYING),
        ("ext4", (Writer.CLOSED, Writer.OPEN, Writer.CLOSED), Leases.LYING),
        ("ext4", (Writer.UNKNOWN, Writer.UNKNOWN, Writer.UNKNOWN), Leases.REFUSED),
        ("ext4", (Writer.OPEN, Writer.OPEN, Writer.OPEN), Leases.REFUSED),
        ("overlayfs", (Writer.OPEN, Writer.OPEN, Writer.CLOSED), Leases.LYING),
        ("fuse", (Writer.OPEN, Writer.OPEN, Writer.CLOSED), Leases.LYING),
        ("0x1234", (Writer.OPEN, Writer.OPEN, Writer.CLOSED), Leases.LYING),
        ("nfs", (Writer.OPEN, Writer.OPEN, Writer.CLOSED), Leases.REFUSED),
        ("9p", (Writer.OPEN, Writer.OPEN, Writer.CLOSED), Leases.REFUSED),
        ("cifs", (Writer.OPEN, Writer.OPEN, Writer.CLOSED), Leases.REFUSED),
    ],
)
def test_what_of_a_lease_is_believed(kind: str, told: tuple[Writer, Writer, Writer], leases: Leases):
    assert capabilities._leases(kind, *told) is leases


def test_a_pause_of_the_measuring_thread_is_no_coarse_tick(monkeypatch: pytest.MonkeyPatch):
    stamps = iter([10**9] * 2 + [10**9 + 400_000_000, 10**9 + 404_000_000])
    monkeypatch.setattr(capabilities, "_rewritten", lambda _: next(stamps))
    assert capabilities._tick(-1) == 0.020


# -- keeping -----------------------------------------------------------------------------------------------------------


def begin(root: Path, **flags: Any) -> Driven:
    return Driven(root, FlatStore(), **flags)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root" / S).mkdir(parents=True)
    return tmp_path / "root"


def never(*_: Any) -> Any:
    raise AssertionError("it was measured again")


def test_it_is_measured_once_and_known_at_the_next_start(root: Path, monkeypatch: pytest.MonkeyPatch):
    first = begin(root)
    found = first.engine.tree.capabilities
    assert found.leases is Leases.HONEST
    first.close()
    monkeypatch.setattr(cachesync.daemon.engine, "measure", never)
    second = begin(root)
    assert second.engine.tree.capabilities == found
    second.close()


@pytest.mark.parametrize("change", ["kind = 'other'", "leases = 'perhaps'", "tick = 1e9", "tick = -1.0"])
def test_what_we_would_not_write_is_measured_again(root: Path, change: str):
    first = begin(root)
    found = first.engine.tree.capabilities
    with first.engine.journal._ledger.db.write() as db:
        db.execute(f"UPDATE device SET {change}")
    first.close()
    second = begin(root)
    assert second.engine.tree.capabilities == found
    second.close()


@as_root
def test_with_the_state_elsewhere_the_roots_own_file_system_is_measured(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = []

    def noted(folder: int, device: Any) -> Capabilities:
        asked.append(os.readlink(f"/proc/self/fd/{folder}"))
        return measure(folder, device)

    monkeypatch.setattr(cachesync.daemon.engine, "measure", noted)
    (tmp_path / "state").mkdir()
    with mounted("tmpfs", tmp_path / "state") as state:
        driven = begin(root, state=str(state / "own"))
        assert driven.engine.tree.capabilities.device.number == root.stat().st_dev
        driven.close()
    assert asked == [str(root / ".cachesync")]
    assert stat.S_IMODE((root / ".cachesync").stat().st_mode) == 0o700
    assert {path.name for path in (root / ".cachesync").iterdir()} == {"lock", "pulse"}


def test_the_worst_is_assumed_where_it_cannot_be_measured(root: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cachesync.daemon.engine, "measure", full)
    driven = begin(root)
    assert driven.engine.tree.capabilities == UNMEASURED
    driven.close()
    monkeypatch.undo()
    driven = begin(root)
    assert driven.engine.tree.capabilities.leases is Leases.HONEST, "it is tried again"
    driven.close()


# -- using -------------------------------------------------------------------------------------------------------------


@as_root
def test_a_file_on_another_file_system_than_the_root_is_judged_by_none_of_it(root: Path):
    with mounted("tmpfs", root / S), contextlib.closing(Tree(root)) as tree:
        tree.capabilities = measured(root)
        (root / S / "a").write_text("x")
        with tree.open(S, "a") as file:  # type: ignore[union-attr]
            assert file.writer() is Writer.UNKNOWN
            assert file.capabilities.tick == LONGEST_TICK


@pytest.mark.parametrize(
    ("leases", "idle", "open_"),
    [
        (Leases.HONEST, Writer.CLOSED, Writer.OPEN),
        (Leases.LYING, Writer.UNKNOWN, Writer.OPEN),
        (Leases.REFUSED, Writer.UNKNOWN, Writer.UNKNOWN),
    ],
)
def test_a_lease_is_believed_as_far_as_it_told_the_truth(root: Path, leases: Leases, idle: Writer, open_: Writer):
    tree = Tree(root)
    tree.capabilities = Capabilities(device_of(tree.descriptor), 0.0, births=True, leases=leases)
    (root / S / "a").write_text("x")
    with tree.open(S, "a") as file:  # type: ignore[union-attr]
        assert file.writer() is idle
        with open(root / S / "a", "r+"):
            assert file.writer() is open_
    tree.close()


@as_root
def test_a_removal_on_tmpfs_may_leave_its_directory_the_time_stamp_that_it_had(tmp_path: Path):
    with mounted("tmpfs", tmp_path):
        assert measured(tmp_path).tick > 0
