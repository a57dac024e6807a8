"""What the simulation found, as the shortest schedules that showed it. Each broke a promise before it was mended."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from cachesync.model.values import ObjectInfo
from cachesync.watch.hints import Hint
from tests.flat_store import FlatStore
from tests.life import Host, S
from tests.simulation.campaign import fault_of, place
from tests.simulation.findings import FINDINGS
from tests.simulation.schedule import Schedule, Step

FOUND = {
    "removed after a killed upload over another host's object: the upload arrived later": [
        Step("write", 0, ("b", "1")),
        Step("flush", 0, (False,)),
        Step("write", 1, ("b", "2")),
        Step("straggle", 1),
        Step("flush", 1, (False,)),
        Step("unlink", 1, ("b",)),
        Step("flush", 1, (False,)),
    ],
    "a link that replaced a stored file, and moved with its directory while the flush began": [
        Step("write", 0, ("d/e/a", "1")),
        Step("close", 0, (True,)),
        Step("symlink", 0, ("a", "../../etc")),
        Step("rename", 0, ("a", "d/e/a")),
        Step("storm", 0, ("journal", 1, True, 0), Step("rename_folder", 0, ("d", "f"))),
        Step("drain", 0),
    ],
    "a bucket that was emptied twice, and another host that wrote the first manifest then": [
        Step("write", 0, ("l.jsonl", "same\n")),
        Step("foreign_put", 1, ("l.jsonl", "1\n", False)),
        Step("flush", 0, (False,)),
        Step("reset_store", 0, ("emptied",)),
        Step("flush", 0, (False,)),
        Step("reset_store", 0, ("emptied",)),
        Step("close", 1, (True,)),
        Step("flush", 0, (False,)),
    ],
    "moved away while a put stored it: the put turned around without a pause": [
        Step("trap", 0, ("request", 0, False), Step("rename", 0, ("d/b", "l.jsonl"))),
        Step("put", 0, ("d/b", "1")),
        Step("time", 0, (0.02,)),
    ],
    "removed after two killed uploads, of which the second arrived later": [
        Step("flush", 0, (False,)),
        Step("write", 0, ("a", "1")),
        Step("straggle", 0),
        Step("flush", 0, (False,)),
        Step("time", 0, (7.0,)),
        Step("straggle", 0),
        Step("flush", 0, (False,)),
        Step("unlink", 0, ("a",)),
        Step("flush", 0, (False,)),
    ],
    "a file that lost its bytes with the power, and was evicted and came back before it was read again": [
        Step("write", 0, ("d/e/a", "1")),
        Step("flush", 0, (False,)),
        Step("power_cut", 0, ("zeros", 0, True)),
        Step("move_away", 0),
        Step("flush", 0, (False,)),
        Step("move_back", 0),
        Step("flush", 0, (False,)),
    ],
    "an ignored file that lost its bytes with the power, which took the ignore file, too": [
        Step("write", 0, ("b", "1")),
        Step("straggle", 0),
        Step("flush", 0, (False,)),
        Step("rename", 0, ("b", "a")),
        Step("pump", 0, (2,)),
        Step("ignore", 0, ("a\n",)),
        Step("flush", 0, (False,)),
        Step("power_cut", 0, ("zeros", 0, True)),
    ],
    "an upload whose answer was lost before its volume was unmounted: the manifest listed the old version": [
        Step("write", 0, ("f/a", "1 there")),
        Step("flush", 0, (False,)),
        Step("fault", 0, (6, "lost")),
        Step("put", 0, ("d/a", "2\n")),
        Step("evict", 0),
        Step("mkdir", 0, ("f",)),
        Step("flush", 0, (False,)),
        Step("mount", 0, ("f",)),
        Step("write", 0, ("f/a", "3 there")),
        Step("scan", 0),
        Step("time", 0, (100.0,)),
        Step("pump", 0, (2,)),
        Step("unmount", 0, ("f",)),
    ],
    "a session that another host opened before the bucket was emptied": [
        Step("write", 0, ("l.jsonl", "1\n")),
        Step("scan", 0),
        Step("pump", 0, (50,)),
        Step("evict", 0),
        Step("open", 1),
        Step("reset_store", 0, ("another",)),
    ],
    "stored, killed before the journal knew, and moved with its directory": [
        Step("trap", 0, ("journal", 8, True)),
        Step("write", 0, ("d/a", "1")),
        Step("write", 0, ("d/b", "2")),
        Step("flush", 0, (False,)),
        Step("rename_folder", 0, ("d", "f")),
        Step("flush", 0, (False,)),
    ],
    "a link that replaced a stored file, and was replaced by a file before the delete": [
        Step("write", 0, ("d/b", "1")),
        Step("flush", 0, (False,)),
        Step("symlink", 0, ("d/b", "../../etc")),
        Step("slow_remove", 1, (20,)),
        Step("scan", 0),
        Step("write", 0, ("d/b", "2")),
        Step("pump", 0, (2,)),
    ],
    "a link and a file of two hosts at one path: the manifest did not list the file": [
        Step("write", 0, ("l.jsonl", "1\n")),
        Step("flush", 0, (True,)),
        Step("trap", 1, ("request", 2, True), Step("symlink", 1, ("l.jsonl", "../../etc"))),
        *[Step("flush", host, (False,)) for host in (1, 0, 1, 0)],
        Step("append", 0, ("l.jsonl", "2\n")),
    ],
    "stored by the next process and removed, while the put of the one that was killed was on its way": [
        Step("write", 0, ("a", "1")),
        Step("scan", 0),
        Step("straggle", 0),
        Step("pump", 0, (2,)),
        Step("rm", 0, ("a",)),
    ],
    "deleted while another host wrote the manifest; an old listing brought it back as a lost file": [
        Step("write", 0, ("a", "1")),
        Step("scan", 0),
        Step("pump", 0, (2,)),
        Step("flush", 1, (False,)),
        Step("stale", 0, (1,)),
        Step("unlink", 0, ("a",)),
        Step("flush", 0, (False,)),
    ],
    "a directory that a power cut took, made anew while the first scan ran": [
        Step("write", 0, ("d/b", "1")),
        Step("flush", 0, (False,)),
        Step("power_cut", 0, ("names", 3, True)),
        Step("trap", 0, ("look", 4, True), Step("rename", 0, ("d/a", "d/a"))),
        Step("scan", 0),
    ],
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
    "put by address into a directory that nobody had looked at, removed with it unseen: it stayed stored": [
        Step("flush", 0, (False,)),
        Step("mkdir", 0, ("d/e",)),
        Step("put", 0, ("d/e/a", "1")),
        Step("rmtree", 0, ("d/e",)),
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
    "stored, killed before the answer, ignored from then on: no manifest listed it": [
        Step("write", 0, ("l.jsonl", "1")),
        Step("trap", 0, ("request", 1, False)),
        Step("flush", 0, (False,)),
        Step("ignore", 0, ("*\n",)),
    ],
    "stored by a daemon that ended in order, and emptied by a power cut a moment after: the store's bytes went": [
        Step("write", 0, ("a", "1\n")),
        Step("drain"),
        Step("power_cut", 0, ("empty", 0, True)),
    ],
    "changed, not stored again, and lost with the power: taken for its own new name, its object was deleted": [
        Step("write", 0, ("l.jsonl", "1")),
        Step("flush", 0, (False,)),
        Step("write", 0, ("l.jsonl", "2")),
        Step("scan"),
        Step("power_cut", 0, ("names", 0, True)),
    ],
    "a second name that the power took with the first: taken for the first one's new name": [
        Step("write", 0, ("a", "1")),
        Step("flush", 0, (False,)),
        Step("hardlink", 0, ("a", "b")),
        Step("scan"),
        Step("power_cut", 0, ("names", 0, True)),
    ],
    "renamed to what cannot be stored, and lost with the power: the old name's object was deleted": [
        Step("write", 0, ("d/a", "1")),
        Step("flush", 0, (False,)),
        Step("spoil", 0, ("d/a",)),
        Step("notice", 0, (1.0,)),
        Step("rename_folder", 0, ("d", "f")),
        Step("power_cut", 0, ("names", 0, True)),
    ],
    "renamed, and its bytes lost with the power: its old name's object, which alone had them, was deleted": [
        Step("write", 0, ("a", "1")),
        Step("flush", 0, (False,)),
        Step("rename", 0, ("a", "b")),
        Step("power_cut", 0, ("zeros", 0, True)),
    ],
    "the same, and the daemon had heard of the new name": [
        Step("write", 0, ("a", "1")),
        Step("flush", 0, (False,)),
        Step("rename", 0, ("a", "b")),
        Step("notice", 0, (1.0,)),
        Step("power_cut", 0, ("empty", 0, True)),
    ],
    "moved and emptied by a power cut, and another file made of its name: that replaced what was confirmed": [
        Step("write", 0, ("d/b", "1")),
        Step("close", 0, (True,)),
        Step("rename_folder", 0, ("d", "f")),
        Step("power_cut", 0, ("empty", 0, True)),
        Step("write", 0, ("d/b", "2")),
    ],
    "renamed over an older file while the store refused puts: the object of its old name went": [
        Step("write", 0, ("b", "1")),
        Step("write", 0, ("a", "2")),
        Step("flush", 0, (False,)),
        Step("rename", 0, ("a", "b")),
        Step("notice", 0, (1.0,)),
        Step("time", 0, (100.0,)),
        Step("fault", 0, (0, "refused")),
        Step("fault", 0, (1, "refused")),
        Step("fault", 0, (2, "refused")),
        Step("fault", 0, (3, "refused")),
        Step("pump", 0, (1,)),
    ],
    "renamed to what cannot be stored, over another such file: the object of its old name went": [
        Step("write", 0, ("a", "1")),
        Step("spoil", 0, ("a",)),
        Step("write", 0, ("a", "2")),
        Step("flush", 0, (False,)),
        Step("spoil", 0, ("a",)),
        Step("scan"),
        Step("time", 0, (7.0,)),
        Step("pump", 0, (1,)),
    ],
    "renamed while it was flushed, with a link in its old place for a moment: the old object went first": [
        Step("write", 0, ("b", "1")),
        Step("flush", 0, (False,)),
        Step("write", 0, ("d/a", "2")),
        Step("rename", 0, ("b", "d/b")),
        Step("symlink", 0, ("b", "a")),
        Step("notice", 0, (1.0,)),
        Step("unlink", 0, ("b",)),
        Step("flush", 0, (False,)),
    ],
    "opened, renamed and changed: the object of its old name went before the new one was stored": [
        Step("write", 0, ("a", "1")),
        Step("flush", 0, (False,)),
        Step("open", 1),
        Step("rename", 1, ("a", "d/a")),
        Step("write", 1, ("d/a", "2")),
        Step("flush", 1, (False,)),
    ],
    "its journal lost, renamed and changed: the object of its old name went before the new one was stored": [
        Step("write", 0, ("a", "1")),
        Step("flush", 0, (False,)),
        Step("lose_journal"),
        Step("flush", 0, (False,)),
        Step("rename", 0, ("a", "b")),
        Step("write", 0, ("b", "2")),
        Step("flush", 0, (False,)),
    ],
    "rm -rf of a session, a directory of which has a name that cannot be stored: old objects were deleted": [
        Step("write", 0, ("d/a", "1")),
        Step("flush", 0, (False,)),
        Step("spoil", 0, ("d",)),
        Step("scan"),
        Step("slow_remove", 0, (20,)),
    ],
    "replaced by another store, in which another host had written by then: files were taken for removed there": [
        Step("write", 1, ("a", "1")),
        Step("flush", 1, (False,)),
        Step("reset_store", 1, ("another",)),
        Step("drain", 0),
        Step("flush", 1, (False,)),
    ],
    "emptied before the session had a manifest: flush wrote the first one, of files that were nowhere": [
        Step("write", 0, ("a", "1")),
        Step("scan"),
        Step("time", 0, (2.5,)),
        Step("pump", 0, (1,)),
        Step("reset_store", 0, ("emptied",)),
        Step("flush", 0, (False,)),
    ],
    "ended in order, and the power went a moment later: objects of files whose names were lost were deleted": [
        Step("write", 0, ("a", "1")),
        Step("drain"),
        Step("power_cut", 0, ("names", 0, True)),
        Step("scan"),
        Step("time", 0, (7.0,)),
        Step("pump", 0, (2,)),
    ],
    "ended in order, and the power went a moment later: an empty file replaced what was stored": [
        Step("write", 0, ("a", "1")),
        Step("drain"),
        Step("power_cut", 0, ("empty", 0, True)),
        Step("flush", 0, (False,)),
    ],
    "changed and not stored yet when the power went and its name was lost: what was stored of it was deleted": [
        Step("write", 0, ("a", "1")),
        Step("flush", 0, (False,)),
        Step("write", 0, ("a", "2")),
        Step("scan"),
        Step("power_cut", 0, ("names", 0, True)),
        Step("scan"),
        Step("time", 0, (7.0,)),
        Step("pump", 0, (2,)),
    ],
    "changed and not stored yet when a volume was mounted over it: what was stored of it was deleted": [
        Step("write", 0, ("d/a", "1")),
        Step("flush", 0, (False,)),
        Step("write", 0, ("d/a", "2")),
        Step("scan"),
        Step("mount", 0, ("d",)),
        Step("scan"),
        Step("time", 0, (7.0,)),
        Step("pump", 0, (2,)),
    ],
    "renamed, and the power went: the new name had zeros, and the old object was deleted": [
        Step("write", 0, ("a", "1")),
        Step("flush", 0, (False,)),
        Step("rename", 0, ("a", "b")),
        Step("power_cut", 0, ("zeros", 0, True)),
        Step("flush", 0, (False,)),
    ],
    "killed between an rm's deletion and the manifest: the removed file counted as lost": [
        Step("flush", 0, (False,)),
        Step("evict"),
        Step("put", 0, ("a", "1")),
        Step("trap", 0, ("request", 2, False)),
        Step("rm", 0, ("a",)),
        Step("open"),
    ],
    "killed before the store had an id, and emptied: what was stored was taken for stored": [
        Step("trap", 0, ("request", 3, True)),
        Step("write", 0, ("l.jsonl", "1")),
        Step("flush", 0, (False,)),
        Step("reset_store", 0, ("emptied",)),
    ],
    "renamed, and the root rolled back: the object of the newer name was deleted": [
        Step("write", 0, ("d/a", "1")),
        Step("keep_root"),
        Step("rename", 0, ("d/a", "a")),
        Step("flush", 0, (False,)),
        Step("roll_back_root", 0, (True,)),
        Step("flush", 0, (False,)),
    ],
    "rm -rf of a session, part of which was about to be stored: the rest was deleted after ten seconds": [
        Step("open"),
        Step("write", 0, ("d/a", "1")),
        Step("write", 0, ("a", "2")),
        Step("slow_remove", 0, (20,)),
    ],
    "removed by a program while rm let the store have it first: rm waited for what was gone": [
        Step("write", 0, ("l.jsonl", "1")),
        Step("scan"),
        Step("trap", 0, ("request", 0, True), Step("unlink", 0, ("l.jsonl",))),
        Step("rm", 0, ("l.jsonl",)),
    ],
}


NOT_BROKEN = {
    "a put that was killed before it wrote the file does not undo that a program removed it": [
        Step("write", 0, ("d/b", "1")),
        Step("flush", 0, (True,)),
        Step("trap", 0, ("look", 4, True)),
        Step("rename_folder", 0, ("d", "f")),
        Step("put", 0, ("d/b", "2")),
    ],
    "the same, on a host that opened what another one put": [
        Step("put", 1, ("l.jsonl", "1")),
        Step("open"),
        Step("rename", 0, ("l.jsonl", "d/e/a")),
        Step("trap", 0, ("look", 1, True)),
        Step("put", 0, ("l.jsonl", "2")),
    ],
    "an rm that was killed after it removed the file, and a program that worked meanwhile": [
        Step("trap", 0, ("look", 6, True), Step("flip", 0, ("d/b", False))),
        Step("replace", 0, ("d/e/a", "1")),
        Step("trap", 0, ("journal", 10, False)),
        Step("rm", 0, ("d/e/a",)),
    ],
    "the same, and the program wrote to that file": [
        Step("write", 0, ("a", "1")),
        Step("trap", 0, ("journal", 8, True)),
        Step("trap", 0, ("request", 0, True), Step("append", 0, ("a", "2"))),
        Step("rm", 0, ("a",)),
    ],
    "written to where it was moved with its session, by a program that holds it open": [
        Step("write", 0, ("a", "1")),
        Step("hold", 0, ("a",)),
        Step("move_away"),
        Step("hold_write", 0, ("2",)),
    ],
    "a put that saw what another writer had stored a moment before, killed before it was replaced": [
        Step("trap", 0, ("journal", 6, False)),
        Step("trap", 0, ("look", 1, True), Step("foreign_put", 0, ("a", "1", True))),
        Step("put", 0, ("a", "2")),
    ],
    "deleted before the journal that came after a lost one had compared it: the object may be another's": [
        Step("put", 0, ("d/a", "1")),
        Step("lose_journal"),
        Step("put", 0, ("a", "2")),
        Step("rename", 0, ("d/a", "a")),
    ],
    "a deletion that was due, carried out while a program removed something else of which no hint had come yet": [
        Step("write", 0, ("b", "1")),
        Step("flush", 0, (False,)),
        Step("put", 0, ("d/e/a", "2")),
        Step("unlink", 0, ("b",)),
        Step("open"),
        Step("time", 0, (100.0,)),
        Step("rename", 0, ("d/e/a", "l.jsonl")),
        Step("pump", 0, (2,)),
    ],
    "deleted, and made again in the moment in which the deletion was carried out": [
        Step("write", 0, ("b", "1")),
        Step("flush", 0, (True,)),
        Step("unlink", 0, ("b",)),
        Step("trap", 0, ("journal", 0, True), Step("write", 0, ("a", "2"))),
        Step("evict"),
        Step("trap", 0, ("journal", 3, False), Step("write", 0, ("b", ""))),
        Step("flush", 0, (False,)),
    ],
    "made over an evicted file and removed again, of which nobody was told: the evicted one stays": [
        Step("put", 0, ("d/a", "1")),
        Step("evict"),
        Step("replace", 0, ("d/a", "2")),
        Step("rmtree", 0, ("d",)),
    ],
    "ignored while it was flushed": [
        Step("write", 0, ("d/e/a", "1")),
        Step("trap", 0, ("request", 0, True), Step("ignore", 0, ("a\n",), Step("scan"))),
        Step("flush", 0, (True,)),
    ],
}
"""What the simulation once took for a broken promise, and is none."""


UNWATCHED = {
    "deleted by a clock that was set back: the deletion was put off, and due at once, for ever": [
        Step("write", 0, ("a", "1")),
        Step("flush", 0, (False,)),
        Step("unlink", 0, ("a",)),
        Step("notice", 0, (1.0,)),
        Step("step_clock", 0, (-3600.0,)),
        Step("pump", 0, (1,)),
    ],
}
"""What it found where nobody watches the disk."""


COARSE = {
    "rolled back, and the directory renamed before a scan was still: what was missing in it was deleted": [
        Step("write", 0, ("d/e/a", "1")),
        Step("keep_root"),
        Step("write", 0, ("d/a", "2")),
        Step("flush", 0, (False,)),
        Step("roll_back_root", 0, (True,)),
        Step("scan"),
        Step("rename_folder", 0, ("d", "f")),
        Step("scan"),
    ],
}
"""What it found where time stamps are whole seconds and files have no birth time."""


@pytest.mark.parametrize("name", [*FOUND, *UNWATCHED, *COARSE, *NOT_BROKEN])
def test_what_was_found_stays_mended(name):
    steps = tuple((FOUND | UNWATCHED | COARSE | NOT_BROKEN)[name])
    coarse = name in COARSE
    schedule = Schedule(
        0,
        guard=100,
        watched=name not in UNWATCHED,
        orderly=True,
        third=False,
        steps=steps,
        disk="ext3" if coarse else "plain",
        ears=coarse,
    )
    with place() as folder:
        assert fault_of(schedule, folder) is None


@pytest.mark.parametrize("finding", FINDINGS, ids=lambda finding: finding.name)
def test_what_an_audit_found_stays_mended(finding):
    with place() as folder:
        assert fault_of(finding.schedule, folder) is None, finding.sentence


class During(FlatStore):
    """Lets somebody work in the middle of the first request that stores ``key``."""

    def __init__(self) -> None:
        super().__init__()
        self.key = ""
        self.work: Callable[[], None] = lambda: None

    def put(self, key: str, *args: Any, **options: Any) -> ObjectInfo:
        if key == self.key:
            self.key = ""
            self.work()
        return super().put(key, *args, **options)


def test_a_file_that_becomes_a_link_and_goes_while_it_is_stored_stays_gone(tmp_path):
    store = During()
    host = Host(tmp_path / "root", store)
    try:
        host.write("stays", "here")
        host.flush()
        place = host.write("d/f", "never stored before")
        scanner = host.driven.engine.scanner
        scanner.scan(S)

        def work() -> None:  # of a program, the watcher's thread and a flush's
            place.unlink()
            place.symlink_to("elsewhere")
            scanner.notice(S, {"d/f": Hint.CHANGED | Hint.GONE})
            shutil.rmtree(place.parent)
            scanner.notice(S, {"d": Hint.GONE | Hint.TREE})
            host.driven.engine.committer.commit(S)

        store.key, store.work = f"sessions/{S}/d/f", work
        host.driven.clock.push(1.0)  # it is due
        host.driven.pump()
        assert not store.key, "it was stored, and all that happened meanwhile"
        host.flush()
        assert f"sessions/{S}/d/f" not in store.objects
        assert host.entry("d/f") is None
    finally:
        host.stop()


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
