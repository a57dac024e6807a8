"""Large files: hashing ends when the bytes are not wanted any more, reads no holes, and is refused where no object can
be that large."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cachesync.model.errors import FileChanging
from cachesync.model.policy import MIB, PART_SIZE
from cachesync.model.values import UNMEASURED, Capabilities
from cachesync.root.capabilities import device_of
from cachesync.root.open_file import OpenFile
from cachesync.root.snapshot import take
from cachesync.watch.hints import Hint
from tests.driving import Driven
from tests.flat_store import FlatStore

S = "s"
SIZE = 8 * PART_SIZE
STRETCH = 16


class Reads(OpenFile):
    """Counts what is read, and does something after the first time."""

    def __init__(self, place: Path, capabilities: Capabilities, action: Callable[[], object] = lambda: None) -> None:
        super().__init__(os.open(place, os.O_RDONLY), str(place), capabilities)
        self.action = action
        self.reads: list[tuple[int, int]] = []

    def read(self, offset: int, length: int) -> bytes:
        data = super().read(offset, length)
        self.reads.append((offset, length))
        if len(self.reads) == 1:
            self.action()
        return data


def capabilities(folder: Path, kind: str = "") -> Capabilities:
    with open_folder(folder) as opened:
        device = device_of(opened)
    return replace(UNMEASURED, device=replace(device, kind=kind or device.kind))


@contextlib.contextmanager
def open_folder(folder: Path) -> Iterator[int]:
    number = os.open(folder, os.O_RDONLY)
    try:
        yield number
    finally:
        os.close(number)


def sparse(place: Path, size: int, *data: tuple[int, bytes]) -> str:
    """Make a file with holes; returns its SHA-256."""
    with place.open("wb") as file:
        file.truncate(size)
        for offset, piece in data:
            file.seek(offset)
            file.write(piece)
    return hashlib.sha256(place.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "data",
    [
        [],
        [(0, b"first")],
        [(SIZE - 1, b"x")],
        [
            (5 * MIB + 1, b"a"),
            (5 * MIB + 4096, b"b"),
            (PART_SIZE - 3, b"over the end of a part"),
            (3 * PART_SIZE, b"c"),
        ],
    ],
    ids=["nothing", "begins", "ends", "some"],
)
@pytest.mark.parametrize("kind", ["ext4", "fuse"])
def test_holes_are_not_read_and_hash_as_zeros(tmp_path, data, kind):
    whole = sparse(tmp_path / "f", SIZE + 77, *data)
    with Reads(tmp_path / "f", capabilities(tmp_path, kind)) as file:
        body = take(file).body
        hashed = len(file.reads)
        read = b"".join(body.read(start, min(PART_SIZE, body.size - start)) for start in range(0, SIZE + 77, PART_SIZE))
    assert body.sha256 == whole == hashlib.sha256(read).hexdigest()
    parts = [read[start : start + PART_SIZE] for start in range(0, len(read), PART_SIZE)]
    assert list(body.part_sha256) == [hashlib.sha256(part).hexdigest() for part in parts]
    if kind == "fuse":
        assert hashed == SIZE // MIB + 1, "SEEK_DATA does not see what such a file system has not written yet"
    else:
        assert hashed <= len(data)


def test_a_hole_that_is_cut_off_is_no_zeros(tmp_path):
    sparse(tmp_path / "f", SIZE)
    with Reads(tmp_path / "f", capabilities(tmp_path, "ext4")) as file:
        os.truncate(tmp_path / "f", 100)
        assert file.content(0, 200) == bytes(100)
        assert file.content(4096, 200) == b""


@pytest.mark.parametrize("change", ["deleted", "replaced", "rewritten", "shorter"])
def test_hashing_ends_when_the_bytes_are_those_of_no_file(tmp_path, change):
    place, other = tmp_path / "f", tmp_path / "other"
    place.write_bytes(os.urandom(SIZE))
    other.write_bytes(b"other")
    changes: dict[str, Callable[[], object]] = {
        "deleted": place.unlink,
        "replaced": lambda: other.replace(place),
        "rewritten": lambda: os.utime(place),
        "shorter": lambda: os.truncate(place, SIZE - 1),
    }
    with Reads(place, capabilities(tmp_path), changes[change]) as file:
        with pytest.raises(FileChanging):
            take(file)
        assert len(file.reads) <= STRETCH


def test_parts_of_a_file_that_was_deleted_are_not_sent(tmp_path):
    place = tmp_path / "f"
    place.write_bytes(os.urandom(2 * PART_SIZE))
    with Reads(place, capabilities(tmp_path)) as file:
        body = take(file).body
        body.read(0, PART_SIZE)
        place.unlink()
        with pytest.raises(FileChanging, match="deleted"):
            body.read(PART_SIZE, PART_SIZE)


def test_the_search_for_the_last_line_end_ends_too(tmp_path):
    place = tmp_path / "f.jsonl"
    place.write_bytes(b"x" * SIZE)
    turns: list[int] = []

    @contextlib.contextmanager
    def turn() -> Iterator[None]:
        turns.append(1)
        if len(turns) == 2:
            raise FileChanging("read", "f.jsonl", "the daemon stops")
        yield

    with Reads(place, capabilities(tmp_path)) as file:
        with pytest.raises(FileChanging):
            take(file, at_line_end=True, turn=turn)
        assert len(file.reads) == STRETCH


@pytest.fixture
def driven(tmp_path) -> Iterator[Driven]:
    (tmp_path / "root" / S).mkdir(parents=True)
    with contextlib.closing(Driven(tmp_path / "root", FlatStore())) as driven:
        yield driven


def hashed(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> list[int]:
    """Do something at the first chunk that is hashed; returns the list of their offsets."""
    offsets: list[int] = []
    plain = OpenFile.content

    def content(file: OpenFile, offset: int, length: int) -> bytes:
        offsets.append(offset)
        if len(offsets) == 1:
            action()
        return plain(file, offset, length)

    monkeypatch.setattr(OpenFile, "content", content)
    return offsets


def test_hashing_ends_when_another_file_has_the_name_though_the_old_one_has_another(driven, tmp_path, monkeypatch):
    place = tmp_path / "root" / S / "f"
    place.write_bytes(os.urandom(SIZE))
    os.link(place, tmp_path / "a second name")

    def replaced() -> None:
        (tmp_path / "new").write_bytes(b"new")
        (tmp_path / "new").replace(place)
        driven.engine.scanner.notice(S, {"f": Hint.CHANGED | Hint.CLOSED})

    offsets = hashed(monkeypatch, replaced)
    assert driven.flush(S).stored
    assert len(offsets) == STRETCH
    assert driven.engine.journal.entries.entry(S, "f").stored.size == 3


def test_hashing_ends_when_the_daemon_stops(driven, tmp_path, monkeypatch):
    (tmp_path / "root" / S / "f").write_bytes(os.urandom(SIZE))
    offsets = hashed(monkeypatch, lambda: setattr(driven.uploader, "_stopping", True))
    driven.engine.scanner.scan(S)
    driven.clock.push(1.0)
    assert driven.pump() == 1
    assert len(offsets) == STRETCH
    entry = driven.engine.journal.entries.entry(S, "f")
    assert (entry.dirty, entry.failed, entry.error) == (True, False, "the daemon stops")


def test_p13_a_size_that_no_object_can_have_is_refused_before_it_is_read(driven, tmp_path, monkeypatch):
    with (tmp_path / "root" / S / "huge").open("wb") as file:
        file.truncate(10 * SIZE)
    (tmp_path / "root" / S / "small").write_bytes(b"x")
    monkeypatch.setattr(FlatStore, "largest", SIZE)
    offsets = hashed(monkeypatch, lambda: None)
    report = driven.flush(S, timeout=1.0)
    assert offsets == []
    hint = "make it smaller or list it in .cachesyncignore"
    why = f"it has {10 * SIZE:,} bytes, and the store takes at most {SIZE:,} ({hint})"
    assert [(failure.path, failure.error) for failure in report.failed] == [("huge", why)]
    assert driven.engine.journal.entries.entry(S, "small").dirty is False
