"""What counts as this host's own object (P9), and what a killed process leaves behind (P6, P8): evidence is what the
journal says it tried, not metadata that a copy carries along."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from cachesync.model.address import parse
from cachesync.model.errors import JournalUnavailable, ObjectNotFound, PreconditionFailed
from cachesync.model.reports import ReceiptLine
from cachesync.model.values import Attributes, Labels, ObjectInfo, Stored, Version
from cachesync.root.tree import Tree
from cachesync.store.base import ObjectStore
from cachesync.store.s3.store import S3Store
from cachesync.sync.conflicts import Rivals
from tests.bodies import Bytes
from tests.flat_store import Crash, Fault, FlatStore
from tests.life import Host, S

PREFIX = f"sessions/{S}/"


@pytest.fixture(params=["flat", "seaweed", "moto"])
def store(request: pytest.FixtureRequest, bucket: str) -> Iterator[ObjectStore]:
    """With versions."""
    if request.param == "flat":
        yield FlatStore()
        return
    server = request.getfixturevalue(request.param)
    server.make_bucket(bucket)
    with contextlib.closing(server.client()) as s3:
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    with contextlib.closing(S3Store(server.settings(bucket))) as store:
        yield store


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Callable[[str, ObjectStore], Host]]:
    with contextlib.ExitStack() as stack:

        def make(name: str, store: ObjectStore) -> Host:
            host = Host(tmp_path / name, store)
            stack.callback(host.stop)
            return host

        yield make


def aws_put(store: ObjectStore, path: str, data: bytes) -> None:
    """``aws s3 cp`` of a file."""
    store.put(PREFIX + path, Bytes(data), Attributes("text/plain"), expect=version_of(store, path))


def aws_cp(store: ObjectStore, source: str, target: str) -> None:
    """``aws s3 cp`` inside the bucket: it carries the metadata along."""
    found = store.head(PREFIX + source)
    expect = version_of(store, target)
    store.copy(found.key, PREFIX + target, None, source_version=found.version, expect=expect)


def version_of(store: ObjectStore, path: str) -> Version | None:
    with contextlib.suppress(ObjectNotFound):
        return store.head(PREFIX + path).version
    return None


def aws_mv(store: ObjectStore, source: str, target: str) -> None:
    aws_cp(store, source, target)
    store.delete(PREFIX + source, expect=store.head(PREFIX + source).version)


def bytes_of(store: ObjectStore, path: str) -> bytes:
    return b"".join(store.get(PREFIX + path).chunks)


def objects(store: ObjectStore) -> dict[str, bytes]:
    paths = [info.key.removeprefix(PREFIX) for info in store.list(PREFIX)]
    return {path: bytes_of(store, path) for path in paths if not path.startswith(".cachesync/")}


def stored(host: Host, **files: str) -> Host:
    """The host, once it has flushed ``files``."""
    for path, text in files.items():
        host.write(path, text)
    host.flush()
    return host


def lose_the_answer(host: Host, text: str) -> None:
    """Write ``f``; it is stored, and the process dies before it has the answer."""
    host.write("f", text)
    host.driven.scan(S)
    host.driven.clock.push(2)
    host.store.faults["put"] = Fault.CRASH_AFTER  # type: ignore[attr-defined]
    with pytest.raises(Crash):
        host.driven.pump()


def kept(host: Host) -> dict[str, bytes]:
    """Flush, and what it kept beside: path to bytes."""
    report = host.driven.flush(S)
    assert report.stored, report
    return {conflict.path: bytes_of(host.store, conflict.kept_as) for conflict in report.conflicts}


def receipt(host: Host) -> Sequence[ReceiptLine]:
    report = host.driven.flush(S, receipt=True)
    assert report.entries is not None
    return report.entries


# -- copies inside the bucket ------------------------------------------------------------------------------------------


def test_p09_an_object_that_was_copied_onto_ours_is_kept(store, hosts):
    a = stored(hosts("a", store), f="one", other="two")
    aws_cp(store, "other", "f")
    a.write("f", "three")
    assert kept(a) == {"f": b"two"}
    assert bytes_of(store, "f") == b"three"


def test_p09_an_evicted_object_that_was_moved_onto_ours_is_not_lost(store, hosts):
    a = stored(hosts("a", store), f="one", g="only in the store soon")
    a.life.evict(S)
    a.driven.engine.service.ondemand.bring(S, "f")
    aws_mv(store, "g", "f")
    a.write("f", "three")
    assert kept(a) == {"f": b"only in the store soon"}
    assert bytes_of(store, "f") == b"three"


def test_p09_another_version_in_place_of_what_was_deleted_here_stays(store, hosts):
    a = stored(hosts("a", store), f="one", g="two")
    aws_cp(store, "g", "f")
    (a.session / "f").unlink()
    report = a.driven.flush(S)
    assert [conflict.path for conflict in report.conflicts] == ["f"]
    assert bytes_of(store, "f") == b"two"


def test_p09_a_version_of_ours_that_another_host_restored_is_kept(store, hosts):
    a, b = hosts("a", store), hosts("b", store)
    for text in ("first", "second"):
        a.write("f", text)
        a.flush()
    b.driven.engine.service.artifacts.restore(parse(f"{S}/f"))
    assert bytes_of(store, "f") == b"first"
    a.write("f", "third")
    assert kept(a) == {"f": b"first"}
    assert bytes_of(store, "f") == b"third"


def test_a_restored_version_names_no_writer_and_keeps_all_else(store, hosts):
    a, b = hosts("a", store), hosts("b", store)
    a.write("f", "first", mode=0o640)
    a.flush()
    first = store.head(PREFIX + "f").metadata
    a.write("f", "second")
    a.flush()
    b.driven.engine.service.artifacts.restore(parse(f"{S}/f"))
    restored = store.head(PREFIX + "f").metadata
    assert {"writer", "attemptid"} <= first.keys()
    assert dict(restored) == {name: text for name, text in first.items() if name not in {"writer", "attemptid"}}


def test_p09_a_try_whose_answer_was_lost_is_another_writers_act_once_it_was_restored(hosts):
    store = FlatStore()
    a, b = stored(hosts("a", store), f="first"), hosts("b", store)
    lose_the_answer(a, "tried")
    store.foreign_put(PREFIX + "f", b"another's")
    b.driven.engine.service.artifacts.restore(parse(f"{S}/f"))
    assert store.objects[PREFIX + "f"].data == b"tried"
    a.crash()
    a.write("f", "third")
    assert kept(a) == {"f": b"tried"}


def test_p09_the_put_that_was_confirmed_last_is_ours_under_another_etag_too(hosts):
    """On S3 the same bytes have the same ETag: who copies them back there is not seen either. Nothing is lost by it."""
    store = FlatStore()
    a = hosts("a", store)
    a.write("f", "part")
    a.driven.scan(S)
    entry = a.entry("f")
    key = PREFIX + "f"
    for number, data in enumerate((b"part", b"part and more")):
        lives = a.journal.lives
        facts = {"sha256": Bytes(data).sha256, "attemptid": lives.attempt(entry, key)}
        expect = None if entry.stored is None else entry.stored.version
        info = store.put(key, Bytes(data), Attributes("text/plain", facts), expect=expect)
        assert Rivals(a.driven.engine.transfer._c).is_ours(entry, info), "no answer yet"
        if number == 0:
            stored = Stored(info.version, info.size, info.sha256, 0, 0o644, 1.0)
            a.journal.work.confirm(entry, stored, read=None, complete=False)
            entry = a.entry("f")
            assert entry.dirty
            first = info
    aws = store.archive.revive(key, first.version.etag, expect=info.version)
    assert Rivals(a.driven.engine.transfer._c).is_ours(a.entry("f"), aws)
    a.driven.clock.push(2)
    a.write("f", "all of it")
    assert kept(a) == {}


def test_p09_a_log_that_is_stored_in_pieces_over_an_evicted_one_keeps_that_one_and_no_piece(hosts):
    store = FlatStore()
    a = hosts("a", store)
    a.write("log.jsonl", "evicted\n")
    a.write("stays", "here")
    a.flush()
    a.life.evict(S)
    a.session.mkdir(exist_ok=True)
    with open(a.session / "log.jsonl", "a", buffering=1) as log:
        for number in range(3):
            log.write(f"{number} line\nand a half")
            a.driven.scan(S)
            for _ in range(2):
                a.driven.clock.push(6)
                a.driven.pump()
            assert bytes_of(store, "log.jsonl").endswith(f"{number} line\n".encode())
    copies = [data for path, data in objects(store).items() if ".conflict-" in path]
    assert copies == [b"evicted\n"]


def test_p09_a_file_over_one_that_went_with_its_directory_keeps_also_what_was_stored_of_that_without_an_answer(hosts):
    store = FlatStore()
    a = stored(hosts("a", store), f="first")
    lose_the_answer(a, "tried")
    shutil.rmtree(a.session)
    a.crash()
    a.driven.scan(S)
    a.write("f", "made by somebody who saw nothing of it")
    assert kept(a) == {"f": b"tried"}


# -- clones ------------------------------------------------------------------------------------------------------------


def clone(host: Host, root: Path) -> None:
    """The root on a copy of its disk, block for block: what the journal knows of inodes is true there too."""
    shutil.copytree(host.root, root)
    journal = root / ".cachesync" / "journal.db"
    with contextlib.closing(Tree(root)) as tree:
        directory = tree.session_directory(S)
    with contextlib.closing(sqlite3.connect(journal)) as db, db:
        db.execute("UPDATE meta SET place = ?", (str(journal.stat().st_ino),))
        db.execute("UPDATE session SET directory = ?", (directory,))
        for path in (root / S).iterdir():
            found = path.stat()
            told = (found.st_ino, found.st_ctime_ns, path.name.encode())
            db.execute("UPDATE entry SET inode = ?, ctime_ns = ? WHERE name = ?", told)


def test_p09_clones_of_one_disk_keep_what_the_other_wrote(store, hosts, tmp_path):
    a = stored(hosts("a", store), f="before")
    a.stop()
    clone(a, tmp_path / "b")
    a.start()
    b = hosts("b", store)
    assert a.journal.id == b.journal.id
    a.write("f", "a's")
    a.flush()
    b.write("f", "b's")
    assert kept(b) == {"f": b"a's"}
    assert bytes_of(store, "f") == b"b's"
    a.write("f", "a's again")
    assert kept(a) == {"f": b"b's"}


def test_p09_a_clone_of_a_disk_that_is_in_use_keeps_what_was_written_since(store, hosts, tmp_path):
    """Both know the life under which the first one goes on."""
    a = stored(hosts("a", store), f="before")
    clone(a, tmp_path / "b")
    b = hosts("b", store)
    assert a.journal.id == b.journal.id
    a.write("f", "a's")
    a.flush()
    for text in ("b's", "b's again"):
        b.write("f", text)
        b.driven.scan(S)
    assert kept(b) == {"f": b"a's"}


def test_p09_a_lost_answer_of_a_life_before_this_one_is_no_conflict(hosts):
    store = FlatStore()
    a = stored(hosts("a", store), f="first")
    lose_the_answer(a, "second")
    assert store.objects[PREFIX + "f"].data == b"second"
    for _ in range(3):
        a.crash()
    a.write("f", "third")
    assert kept(a) == {}
    assert objects(store) == {"f": b"third"}


# -- a version that is seen --------------------------------------------------------------------------------------------


def test_p03_a_file_that_is_written_as_it_was_is_not_stored_where_another_version_stands(store, hosts):
    """B4: the receipt lists what the store has."""
    a = stored(hosts("a", store), f="as it was")
    aws_put(store, "f", b"another's")
    a.write("f", "as it was")
    report = a.driven.flush(S, receipt=True)
    assert report.stored
    assert report.entries is not None
    (conflict,) = report.conflicts
    assert (bytes_of(store, "f"), bytes_of(store, conflict.kept_as)) == (b"as it was", b"another's")
    for line in report.entries:
        assert (line.version, line.sha256) == (store.head(line.key).version.etag, store.head(line.key).sha256)


def test_p03_the_same_bytes_by_another_writer_are_taken_as_they_are(store, hosts):
    a = stored(hosts("a", store), f="as it was")
    for data in (b"another's", b"as it was"):
        aws_put(store, "f", data)
    a.write("f", "as it was")
    assert kept(a) == {}
    assert [line.version for line in receipt(a)] == [store.head(PREFIX + "f").version.etag]


def test_p09_a_file_of_which_only_the_links_changed_does_not_replace_a_newer_version(store, hosts):
    """Nobody wrote to it: it is older than what another host stored. The receipt lists that."""
    a = stored(hosts("a", store), f="older")
    aws_put(store, "f", b"newer")
    os.link(a.session / "f", a.root / "link")  # outside of the session: its inode is changed
    assert kept(a) == {}
    assert bytes_of(store, "f") == b"newer"
    assert [(line.version, line.sha256) for line in receipt(a)] == [
        (store.head(PREFIX + "f").version.etag, Bytes(b"newer").sha256)
    ]
    assert (a.session / "f").read_text() == "older"


def test_p09_a_refusal_without_another_writer_is_no_conflict_also_of_an_object_of_an_older_version(hosts):
    """0.1.0 named no tries."""
    store = Refusing()
    a = hosts("a", store)
    for path in ("f", "g"):
        a.write(path, "first")
    a.flush()
    for key, held in store.objects.items():
        held.info.metadata.pop("attemptid", None)  # type: ignore[attr-defined]
        assert "attemptid" not in store.head(key).metadata
    store.refused = {"put", "delete"}
    a.write("f", "second")
    (a.session / "g").unlink()
    assert kept(a) == {}
    assert not store.refused
    assert objects(store) == {"f": b"second"}


class Refusing(FlatStore):
    """Refuses each verb in ``refused`` once, as if something else stood there."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: set[str] = set()

    def _expect(self, verb: str, key: str, expect: Any) -> None:
        if verb in self.refused and not key.endswith("manifest.json"):
            self.refused.remove(verb)
            raise PreconditionFailed(verb, key)
        super()._expect(verb, key, expect)


def test_new_labels_are_stored_where_another_writer_put_the_same_bytes(hosts):
    store = FlatStore()
    a = stored(hosts("a", store), f="bytes")
    a.journal.entries.label(S, "f", Labels("text/x-one", {"reviewed-by": "Ann"}), a.driven.clock())
    store.foreign_put(PREFIX + "f", b"bytes")
    assert kept(a) == {}
    info = store.head(PREFIX + "f")
    assert (info.content_type, info.metadata["reviewed-by"]) == ("text/x-one", "Ann")


# -- ownership ends at eviction ----------------------------------------------------------------------------------------


def test_p11_what_another_host_stored_of_a_closed_session_is_read(store, hosts):
    """C3."""
    a, b = hosts("a", store), hosts("b", store)
    a.write("f", "older")
    assert a.close_session().closed
    read = a.driven.engine.service.artifacts.read
    with read(parse(f"{S}/f")) as reading:
        assert b"".join(reading.chunks()) == b"older"
    assert b.life.open(S).exit_code == 0
    b.write("f", "newer, and longer")
    b.flush()
    a.driven.clock.push(11)
    with read(parse(f"{S}/f")) as reading:
        assert b"".join(reading.chunks()) == b"newer, and longer"


# -- what a killed process sent ----------------------------------------------------------------------------------------


class Late(FlatStore):
    """The process dies as it sends ``dies_at``. The request reaches the store ``seconds`` later (None: never)."""

    def __init__(self, seconds: float | None) -> None:
        super().__init__()
        self.dies_at = ""
        self.clock: Callable[[], float] = lambda: 0.0
        self.on_its_way: Callable[[], object] | None = None
        self._seconds = seconds
        self._sent = 0.0

    def put(self, key: str, *args: Any, **options: Any) -> ObjectInfo:
        if key == self.dies_at:
            self.dies_at, self._sent = "", self.clock()
            self.on_its_way = lambda: super(Late, self).put(key, *args, **options)
            raise Crash
        return super().put(key, *args, **options)

    def head(self, key: str) -> ObjectInfo:
        late = self._seconds is not None and self.clock() - self._sent >= self._seconds
        if late and (land := self.on_its_way) is not None:
            self.on_its_way = None
            land()
        return super().head(key)


def die_sending(host: Host, store: Late, path: str) -> Path:
    """Write a file, have the process killed as it sends it, and start another."""
    place = host.write(path, "never confirmed")
    store.dies_at = PREFIX + path
    with pytest.raises(Crash):
        host.driven.flush(S)
    host.crash()
    return place


@pytest.mark.parametrize("gone", ["deleted", "renamed"])
def test_p06_a_put_that_lands_after_its_process_was_killed_leaves_no_object_of_a_name_that_is_gone(hosts, gone):
    """D9: the file is gone by then, and the store does not have it yet."""
    store = Late(seconds=4.0)
    a = stored(hosts("a", store), stays="here")
    store.clock = lambda: a.driven.clock()  # noqa: PLW0108 -- the next process has another clock
    place = die_sending(a, store, "f")
    place.unlink() if gone == "deleted" else place.rename(a.session / "g")
    a.flush()
    assert store.on_its_way is None, "it landed"
    expected = {"stays": b"here"} | ({} if gone == "deleted" else {"g": b"never confirmed"})
    assert objects(store) == expected
    assert a.entry("f") is None


def test_p06_what_a_killed_process_may_have_sent_is_waited_for_only_so_long(hosts):
    store = Late(seconds=None)
    a = hosts("a", store)
    place = die_sending(a, store, "f")
    place.unlink()
    a.write("stays", "here")
    before, requests = a.driven.clock(), store.requests
    a.flush()
    assert 2 < a.driven.clock() - before < 10, "in the engine's time"
    assert a.entry("f") is None
    assert store.requests - requests < 12, "and nobody asks all the time"
    a.driven.clock.push(100)
    place = a.write("g", "deleted before it is tried in this life")
    a.driven.scan(S)
    place.unlink()
    before = a.driven.clock()
    a.flush()
    assert a.driven.clock() - before < 2, "of what nobody has sent nothing lands"


def test_p06_a_file_whose_confirmation_the_journal_did_not_take_is_looked_for_when_it_is_deleted(hosts):
    """D9: the journal's disk was full."""
    store = FlatStore()
    a = stored(hosts("a", store), stays="here")
    place = a.write("f", "stored")
    a.driven.scan(S)
    a.driven.clock.push(2)
    full = JournalUnavailable("write the journal", "journal.db", "database or disk is full")
    with mock.patch.object(a.journal.work, "confirm", side_effect=full):
        assert a.driven.one()
    assert store.objects[PREFIX + "f"].data == b"stored"
    place.unlink()
    a.flush()
    assert objects(store) == {"stays": b"here"}
