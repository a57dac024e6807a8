"""What the simulation found, as the shortest schedules that showed it. Each broke a promise before it was mended."""

from __future__ import annotations

import os

import pytest

from tests.flat_store import FlatStore
from tests.life import Host, S
from tests.simulation.campaign import fault_of, place
from tests.simulation.schedule import Schedule, Step

FOUND = {
    "a link over an evicted file, whose only copy was deleted": [
        Step("write", 0, ("b", "1")),
        Step("write", 0, ("d/a", "2")),
        Step("flush", 0, (False,)),
        Step("foreign_delete", 0, ("d/a",)),
        Step("evict"),
        Step("symlink", 0, ("b", "elsewhere")),
    ],
    "a file over an evicted one, deleted before it was stored: the evicted one's object went": [
        Step("write", 0, ("d/e/a", "1")),
        Step("write", 0, ("a", "2")),
        Step("flush", 0, (False,)),
        Step("foreign_delete", 0, ("a",)),
        Step("evict"),
        Step("write", 0, ("d/e/a", "3")),
        Step("scan"),
        Step("unlink", 0, ("d/e/a",)),
    ],
    "sent, killed before the answer, changed back: the store had what was sent": [
        Step("write", 0, ("b", "1")),
        Step("flush", 0, (False,)),
        Step("write", 0, ("b", "2")),
        Step("trap", 0, ("request", 0, False)),
        Step("flush", 0, (False,)),
        Step("write", 0, ("b", "1")),
    ],
    "sent, answer lost, changed back: the store had what was sent": [
        Step("write", 0, ("b", "1")),
        Step("flush", 0, (False,)),
        Step("write", 0, ("b", "2")),
        Step("scan"),
        Step("time", 0, (1.5,)),
        Step("fault", 0, (0, "lost")),
        Step("pump", 0, (1,)),
        Step("write", 0, ("b", "1")),
        Step("flush", 0, (False,)),
    ],
    "moved away with its session, put by address, moved back, changed: what was put was replaced": [
        Step("put", 0, ("d/a", "1")),
        Step("move_away"),
        Step("put", 0, ("d/a", "2")),
        Step("move_back"),
        Step("write", 0, ("d/a", "3")),
        Step("flush", 0, (False,)),
    ],
    "renamed with its directory, removed by address, renamed back: clean, and nowhere in the store": [
        Step("put", 0, ("d/b", "1")),
        Step("rename_folder", 0, ("d", "f")),
        Step("rm", 0, ("d/b",)),
        Step("rename_folder", 0, ("f", "d")),
        Step("flush", 0, (False,)),
    ],
    "moved away with its session, removed by address, moved back: clean, and nowhere in the store": [
        Step("put", 0, ("d/a", "1")),
        Step("move_away"),
        Step("rm", 0, ("d/a",)),
        Step("move_back"),
        Step("flush", 0, (False,)),
    ],
    "ignored, removed by address, not ignored any more: clean, and nowhere in the store": [
        Step("write", 0, ("d/a", "1")),
        Step("flush", 0, (False,)),
        Step("ignore", 0, ("d/\n",)),
        Step("notice", 0, (1.0,)),
        Step("rm", 0, ("d/a",)),
        Step("ignore", 0, ("",)),
        Step("flush", 0, (False,)),
    ],
}


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_stays_mended(name):
    schedule = Schedule(0, guard=100, watched=True, orderly=True, third=False, steps=tuple(FOUND[name]))
    with place() as folder:
        assert fault_of(schedule, folder) is None


def test_a_link_over_an_evicted_file_keeps_its_bytes_beside_it(tmp_path):
    store = FlatStore()
    host = Host(tmp_path / "root", store)
    try:
        host.write("f", "only in the store soon")
        host.write("stays", "here")
        host.flush()
        store.foreign_delete(f"sessions/{S}/stays")  # so that the directory stands after the eviction
        host.life.evict(S)
        assert not (host.session / "f").exists()
        os.symlink("elsewhere", host.session / "f")
        report = host.driven.flush(S)
        assert report.stored
        ((conflict),) = report.conflicts
        assert conflict.path == "f"
        assert store.objects[f"sessions/{S}/{conflict.kept_as}"].data == b"only in the store soon"
        assert f"sessions/{S}/f" not in store.objects
    finally:
        host.stop()
