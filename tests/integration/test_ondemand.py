"""What a mount asks of the daemon, in moments that a mount comes to only now and then."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cachesync.session.evict import Evictor
from tests.flat_store import FlatStore
from tests.life import Host, S


@pytest.fixture
def a(tmp_path: Path) -> Iterator[Host]:
    a = Host(tmp_path / "a", FlatStore())
    yield a
    a.stop()


def known(a: Host) -> dict[str, bool]:
    """The paths that the journal has, and which of them are here."""
    return {entry.path: entry.resident for entry in a.journal.entries.walk(S) if not entry.tombstone}


def test_what_nobody_noticed_in_an_evicted_files_place_goes_along_with_its_directory(a: Host):
    a.write("kept")
    a.write("d/x", "old")
    a.write("d/y", "far away")
    a.flush()
    a.life.evict(S)
    ondemand = a.driven.engine.service.ondemand
    ondemand.foresee(S, "d/x")
    a.write("d/x", "new")
    ondemand.move(S, "d/", S, "e/")
    (a.session / "d").rename(a.session / "e")
    assert "d/x" not in {path for path, here in known(a).items() if not here}
    a.driven.scan(S)
    a.flush()
    assert known(a) == {"kept": False, "e/": True, "e/x": True, "e/y": False}
    assert isinstance(a.store, FlatStore)
    objects = {key: held.data for key, held in a.store.objects.items() if key.startswith("sessions/s/")}
    stored = {key.removeprefix("sessions/s/"): data for key, data in objects.items()}
    del stored[".cachesync/manifest.json"]
    assert stored == {"kept": b"text", "e/x": b"new", "e/y": b"far away"}


def test_a_directory_that_is_evicted_under_what_is_put_into_it_is_made_again(a: Host, monkeypatch):
    a.write("kept")
    a.write("d/x", "old")
    a.flush()
    a.life.evict(S)
    bringer = a.driven.engine.ondemand._bringer
    bring, times = bringer._bring, []

    def and_evicted(session: str, path: str) -> None:
        bring(session, path)
        times.append(path)
        if len(times) == 1:
            a.life.evict(S)
            assert not (a.session / "d").exists()

    monkeypatch.setattr(bringer, "_bring", and_evicted)
    a.driven.engine.ondemand.make_empty(S, "d/x")
    assert times == ["d/", "d/"]
    assert (a.session / "d" / "x").read_bytes() == b""


def test_a_name_is_removed_though_the_sessions_empty_directory_is_evicted_meanwhile(a: Host, monkeypatch):
    a.write("f")
    a.flush()
    a.life.evict(S)
    ondemand = a.driven.engine.ondemand
    stand, times = ondemand._bringer.stand, []

    def and_evicted(session: str) -> None:
        stand(session)
        times.append(session)
        if len(times) == 1:
            a.life.evict(S)
            assert not a.session.exists()

    monkeypatch.setattr(ondemand._bringer, "stand", and_evicted)
    ondemand.remove(S, "f")
    assert times == [S, S]
    assert known(a) == {}
    a.driven.scan(S)
    assert known(a) == {}


def test_a_deletion_that_comes_while_its_session_is_evicted_is_not_taken_for_the_directorys_loss(a: Host, monkeypatch):
    a.write("f")
    a.write("g")
    a.flush()
    a.life.evict(S)
    ondemand, directories = a.driven.engine.ondemand, Evictor._directories
    a.write("h")
    a.flush()

    def and_removed(self: Evictor, *given: Any) -> None:
        directories(self, *given)
        ondemand.remove(S, "f")

    monkeypatch.setattr(Evictor, "_directories", and_removed)
    assert [kept.path for kept in a.life.evict(S).kept] == ["."]
    a.driven.scan(S)
    assert known(a) == {"g": False, "h": False}
