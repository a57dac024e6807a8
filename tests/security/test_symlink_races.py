"""P16: a directory that is a link a moment later, and a directory again: at no moment does a path lead out."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cachesync import ArtifactStore
from cachesync.cli import get, put
from cachesync.model.address import Address, Space
from cachesync.model.errors import CacheSyncError
from tests.flat_store import FlatStore
from tests.life import Host, S, driven_time
from tests.memory_artifacts import MemoryArtifacts
from tests.security.swapping import swapping

SECRET = b"SECRET"
FILES = 12
SECONDS = 0.8


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A folder with files of the names that the session's have; it is the same at the end."""
    folder = tmp_path / "outside"
    folder.mkdir()
    for number in range(FILES):
        (folder / f"f{number}").write_bytes(SECRET)
    before = _state(folder)
    yield folder
    assert _state(folder) == before


def _state(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    return {
        path.name: (path.read_bytes(), path.stat().st_mode, path.stat().st_mtime_ns)
        for path in folder.iterdir()
        if path.is_file()
    }


def fill(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(FILES):
        (folder / f"f{number}").write_bytes(b"%d" % number)


def during(act: Callable[[], object], folder: Path, outside: Path, name: str = "d") -> int:
    """Repeat ``act`` while ``folder/name`` and a link to ``outside`` change places; returns how often it got through.
    Whatever it raises is an error of ours."""
    (folder / "link").symlink_to(outside)
    done = 0
    with swapping(folder, name, "link") as swaps:
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            with contextlib.suppress(CacheSyncError):
                act()
                done += 1
    assert swaps.count > 200
    return done


@pytest.fixture
def store() -> FlatStore:
    return FlatStore()


@pytest.fixture
def a(tmp_path: Path, store: FlatStore) -> Iterator[Host]:
    a = Host(tmp_path / "a", store)
    yield a
    a.stop()


def nothing_of_it(store: FlatStore) -> None:
    held = [*store.objects.values(), *(one for past in store.past.values() for _, one in past if one is not None)]
    assert not any(SECRET in one.data for one in held if b'"entries"' not in one.data)


def test_p16_upload(a: Host, outside: Path, store: FlatStore):
    fill(a.session / "d")
    numbers = iter(range(1_000_000))

    def act() -> None:
        for top in ("d", "link"):
            with contextlib.suppress(OSError):  # beneath the directory, wherever it stands now
                held = os.open(a.session / top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                try:
                    made = os.open(f"f{next(numbers) % FILES}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, dir_fd=held)
                    os.write(made, b"%d" % next(numbers))
                    os.close(made)
                finally:
                    os.close(held)
        a.driven.scan(S)
        a.driven.clock.push(2)
        a.driven.pump()

    assert during(act, a.session, outside) > 10
    nothing_of_it(store)
    a.driven.flush(S)
    nothing_of_it(store)
    assert any(key.startswith((f"sessions/{S}/d/f", f"sessions/{S}/link/f")) for key in store.objects)


def test_p16_hydrate_and_evict(a: Host, outside: Path, tmp_path: Path, store: FlatStore):
    fill(a.session / "d")
    (a.session / "d" / "only-here").write_bytes(b"x")
    a.flush()
    b = Host(tmp_path / "b", store)
    b.life.open(S)

    def act() -> None:
        b.life.evict(S)
        b.life.open(S)
        if not os.path.lexists(b.session / "link"):
            (b.session / "link").symlink_to(outside)

    during(act, b.session, outside)
    assert sorted(path.name for path in outside.iterdir()) == sorted(f"f{number}" for number in range(FILES))
    nothing_of_it(store)
    b.stop()


def test_p16_artifacts_put_and_removed_through_the_root(a: Host, outside: Path, store: FlatStore):
    fill(a.session / "d")
    a.flush()
    artifacts = a.driven.engine.service.artifacts
    done = dict.fromkeys(("read", "list", "put", "remove"), 0)

    def read() -> None:
        assert b"".join(artifacts.read(Address(Space.SESSIONS, S, "d/f1")).chunks()) != SECRET

    def listed() -> None:
        list(artifacts.list(Address(Space.SESSIONS, S, "d/"), shallow=True))

    def put_one() -> None:
        artifacts.put(Address(Space.SESSIONS, S, "d/f2"), io.BytesIO(b"another"))

    def remove() -> None:
        artifacts.remove(Address(Space.SESSIONS, S, "d/f2"))

    def act() -> None:
        for name, verb in zip(done, (read, listed, put_one, remove), strict=True):
            with contextlib.suppress(CacheSyncError):
                verb()
                done[name] += 1

    with driven_time(a.driven):
        during(act, a.session, outside)
    nothing_of_it(store)
    assert all(done.values()), done


def test_p16_put_of_a_directory(tmp_path: Path, outside: Path):
    fill(tmp_path / "given" / "d")
    artifacts = MemoryArtifacts()
    options = argparse.Namespace(
        file=str(tmp_path / "given"), address="s1/got", meta=[], type=None, content_type=None, no_overwrite=False,
        json=True,
    )  # fmt: skip

    def act() -> None:
        put.run(options, lambda: contextlib.nullcontext(argparse.Namespace(artifacts=artifacts)))

    assert during(act, tmp_path / "given", outside) > 10
    assert len(artifacts.contents) >= FILES
    assert not any(SECRET in data for data in artifacts.contents.values())


def test_p16_get_of_a_tree(tmp_path: Path, outside: Path, capsys: pytest.CaptureFixture[str]):
    with ArtifactStore(f"file://{tmp_path}/store") as store:
        for number in range(FILES):
            store.upload("s1", f"d/f{number}", b"%d" % number)
        (tmp_path / "target" / "d").mkdir(parents=True)
        options = argparse.Namespace(
            address="s1", target=str(tmp_path / "target"), version_id=None, force=True, json=True
        )

        def act() -> None:
            get.run(options, lambda: contextlib.nullcontext(argparse.Namespace(artifacts=store.artifacts)))

        during(act, tmp_path / "target", outside)
    assert sorted(path.name for path in outside.iterdir()) == sorted(f"f{number}" for number in range(FILES))
