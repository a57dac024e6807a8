"""Reading a session again: what was done behind its back is named, and what was not is not."""

from __future__ import annotations

import json
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cachesync.model.errors import NoSuchBucket, NoSuchSession, StoreUnreachable
from cachesync.model.keys import manifest_key
from cachesync.model.outcomes import Progress, VerifyReport, no_progress
from cachesync.model.values import Attributes, ObjectInfo, Version
from cachesync.session.verify import Verifier
from cachesync.store.base import Download
from cachesync.store.s3.store import S3Store
from tests.bodies import Bytes
from tests.driving import Driven
from tests.flat_store import Fault, FlatStore
from tests.servers import SeaweedServer

MANIFEST = ".cachesync/manifest.json"
Files = dict[str, str]
FILES: Files = {"a.txt": "alpha", "d/b.txt": "beta", "d/é ?versionId=1": "gamma", "logs/x.jsonl": "{}\n", "empty": ""}


class Hosts:
    """Hosts that share one store; each session is written on the first."""

    def __init__(self, folder: Path, store: Any) -> None:
        self.folder, self.store = folder, store
        self.lives: list[Driven] = []

    def host(self, name: str = "first") -> Driven:
        (self.folder / name).mkdir(exist_ok=True)
        life = Driven(self.folder / name, self.store)
        self.lives.append(life)
        return life

    def write(self, files: Files, session: str = "s") -> None:
        for path, content in files.items():
            place = self.folder / "first" / session / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(content)

    def close(self) -> None:
        for life in self.lives:
            life.close()


@pytest.fixture
def flat() -> FlatStore:
    return FlatStore()


@pytest.fixture
def hosts(tmp_path: Path, flat: FlatStore) -> Iterator[Hosts]:
    hosts = Hosts(tmp_path, flat)
    yield hosts
    hosts.close()


@pytest.fixture
def first(hosts: Hosts) -> Driven:
    """A host whose session ``s`` is flushed."""
    first = hosts.host()
    hosts.write(FILES)
    (hosts.folder / "first/s/link").symlink_to("a.txt")
    assert first.flush("s").stored
    return first


@pytest.fixture(params=["the writer", "a stranger"])
def judge(request: pytest.FixtureRequest, hosts: Hosts, first: Driven) -> Driven:
    """Who verifies: the host that stored the session, or one that never saw it."""
    return first if request.param == "the writer" else hosts.host("stranger")


def verify(life: Driven, session: str = "s", progress: Callable[[Progress], None] = no_progress) -> VerifyReport:
    e = life.engine
    return Verifier(e.transfer._c, e.learner, e.scanner).verify(session, progress=progress)


def differences(life: Driven) -> dict[str, str]:
    report = verify(life)
    assert not report.pending
    assert report.verified is not bool(report.differences)
    assert report.exit_code == (1 if report.differences else 0)
    return {failure.path: failure.error for failure in report.differences}


def spoil(flat: FlatStore, path: str, data: bytes) -> None:
    """Other bytes under the same version, as a disk that rots gives them."""
    held = flat.objects[f"sessions/s/{path}"]
    flat.objects[f"sessions/s/{path}"] = replace(held, data=data)


def rewrite_manifest(flat: FlatStore, change: Callable[[list[dict[str, Any]]], object]) -> None:
    key = manifest_key("", "s")
    document = json.loads(flat.objects[key].data)
    change(document["entries"])
    flat.foreign_put(key, json.dumps(document).encode())


def test_a_session_that_is_as_it_should_be(judge: Driven, flat: FlatStore) -> None:
    told: list[Progress] = []
    report = verify(judge, progress=told.append)
    assert report.verified
    assert report.exit_code == 0
    assert (report.files, report.bytes) == (len(FILES), sum(map(len, FILES.values())))
    assert told
    assert (told[0].files_total, told[0].bytes_total) == (report.files, report.bytes)


def test_it_writes_nothing(judge: Driven, flat: FlatStore) -> None:
    writes, names = flat.writes, judge.engine.journal.sessions.names()
    verify(judge)
    assert (flat.writes, judge.engine.journal.sessions.names()) == (writes, names)


def test_bytes_that_rot(judge: Driven, flat: FlatStore) -> None:
    spoil(flat, "a.txt", b"Alpha")
    spoil(flat, "d/b.txt", b"bet")
    found = differences(judge)
    assert set(found) == {"a.txt", "d/b.txt"}
    assert "other bytes" in found["a.txt"]
    assert "it has 3 bytes; the manifest says 4" in found["d/b.txt"]


def test_an_object_that_was_deleted_replaced_or_added_behind_its_back(judge: Driven, flat: FlatStore) -> None:
    flat.foreign_delete("sessions/s/a.txt")
    flat.foreign_put("sessions/s/d/b.txt", b"beta")
    flat.foreign_put("sessions/s/empty", b"", digest=False)
    flat.foreign_put("sessions/s/new", b"x")
    flat.foreign_put("sessions/s/.cachesync/own", b"x")
    flat.foreign_put("sessions/s/a/../x", b"x")
    flat.foreign_put("sessions/s/folder/", b"")
    flat.foreign_put("sessions/s2/other", b"x")
    flat.foreign_put("sessions/s/a.txt.conflict-20261124T132416Z-v12", b"x")
    found = differences(judge)
    assert set(found) == {"a.txt", "d/b.txt", "empty", "new", ".cachesync/own", "a/../x"}
    assert "there is no such object" in found["a.txt"]
    assert "which the manifest does not name" in found["d/b.txt"]
    assert "which the manifest does not name" in found["empty"]
    assert found["new"] == "no manifest lists this object"


def test_a_manifest_that_lies(judge: Driven, flat: FlatStore) -> None:
    def lie(rows: list[dict[str, Any]]) -> None:
        by_path = {row["path"]: row for row in rows}
        by_path["a.txt"]["sha256"] = "0" * 64
        by_path["d/b.txt"]["size"] = 5
        by_path["logs/x.jsonl"]["version"] = "another"
        rows.remove(by_path["empty"])
        rows.append(by_path["a.txt"] | {"path": "invented"})

    rewrite_manifest(flat, lie)
    found = differences(judge)
    assert set(found) == {"a.txt", "d/b.txt", "logs/x.jsonl", "empty", "invented"}
    assert f"the manifest says {'0' * 64}" in found["a.txt"]
    assert "it has 4 bytes; the manifest says 5" in found["d/b.txt"]
    assert "it names another" in found["logs/x.jsonl"]
    assert found["empty"] == "no manifest lists this object"
    assert found["invented"] == "there is no such object; the manifest lists it"


def test_a_manifest_and_bytes_that_lie_alike_do_not_agree_with_the_journal(first: Driven, flat: FlatStore) -> None:
    spoil(flat, "a.txt", b"Alpha")
    digest = Bytes(b"Alpha").sha256
    rewrite_manifest(flat, lambda rows: [row.update(sha256=digest) for row in rows if row["path"] == "a.txt"])
    found = differences(first)
    assert set(found) == {"a.txt"}
    assert "this host's journal says" in found["a.txt"]


def test_a_manifest_that_makes_no_sense(judge: Driven, flat: FlatStore) -> None:
    def spoil_rows(rows: list[Any]) -> None:
        rows += [dict(rows[0]), {"path": "../x", "type": "file"}, 7, rows[0] | {"path": "p", "type": "pipe"}]

    rewrite_manifest(flat, spoil_rows)
    report = verify(judge)
    assert [failure.path for failure in report.differences] == [MANIFEST] * 4
    sentences = " ".join(failure.error for failure in report.differences)
    for word in ("'a.txt' is listed twice", "'../x'", "a row makes no sense: 7", "the type 'pipe'"):
        assert word in sentences


@pytest.mark.parametrize(
    ("data", "says"),
    [(b"", "no manifest of format 1"), (b"[]", "no manifest of format 1"),
     (b'{"format": 2}', "no manifest of format 1"),
     (b'{"format": 1, "session": "s", "entries": [\n', "its end is missing"),
     (b'{"format": 1, "session": "s", "entries": [\nnonsense\n]}\n', "a line is no row")],
)  # fmt: skip
def test_a_manifest_that_is_none(judge: Driven, flat: FlatStore, data: bytes, says: str) -> None:
    flat.foreign_put(manifest_key("", "s"), data)
    found = differences(judge)
    assert says in found[MANIFEST]


def test_no_manifest_is_one_difference(judge: Driven, flat: FlatStore) -> None:
    flat.foreign_delete(manifest_key("", "s"))
    found = differences(judge)
    assert set(found) == {MANIFEST}
    assert "never flushed" in found[MANIFEST]


def test_what_was_stored_or_deleted_here_since_the_flush_is_no_difference(hosts: Hosts, first: Driven) -> None:
    hosts.write({"a.txt": "changed", "new": "x"})
    (hosts.folder / "first/s/d/b.txt").unlink()
    first.scan("s")
    assert set(differences(first)) == {"new"}, "what the store has of the others is what it should be"
    first.clock.push(10)
    assert first.pump() == 3
    assert differences(first) == {}, "not in the manifest yet"
    found = differences(hosts.host("stranger"))
    assert set(found) == {"a.txt", "new", "d/b.txt"}, "another host knows no better"
    assert first.flush("s").stored
    assert differences(hosts.lives[-1]) == {}


def test_a_conflict_copy_is_fine(hosts: Hosts, first: Driven, flat: FlatStore) -> None:
    flat.foreign_put("sessions/s/a.txt", b"theirs")
    hosts.write({"a.txt": "ours"})
    report = first.flush("s")
    assert report.conflicts
    assert differences(first) == {}
    assert differences(hosts.host("stranger")) == {}


def test_a_session_that_a_host_has_only_learned(hosts: Hosts, first: Driven, flat: FlatStore) -> None:
    other = hosts.host("other")
    (hosts.folder / "other/s").mkdir()
    other.scan("s")
    flat.foreign_put("sessions/s/foreign", b"x")
    other.engine.learner.ensure("s", wait=True)
    assert set(differences(other)) == {"foreign"}
    flat.foreign_delete("sessions/s/a.txt")
    assert set(differences(other)) == {"foreign", "a.txt"}


def test_there_is_no_such_session(first: Driven, hosts: Hosts, flat: FlatStore) -> None:
    with pytest.raises(NoSuchSession):
        verify(first, "none")
    (hosts.folder / "first/fresh").mkdir()
    (hosts.folder / "first/fresh/x").write_text("x")
    (row,) = verify(first, "fresh").differences[1:]
    assert (row.path, row.error) == ("x", "it is on this host, but not in the store")
    for key in list(flat.objects):
        flat.foreign_delete(key)
    found = differences(first)
    assert set(found) == {*FILES, MANIFEST}, "all of it is gone, which is not the same as never there"
    with pytest.raises(NoSuchSession):
        verify(hosts.host("stranger"))


def test_an_outage_in_the_middle_is_no_difference(judge: Driven, flat: FlatStore, monkeypatch: Any) -> None:
    spoil(flat, "a.txt", b"Alpha")
    get, lock, count = flat.get, threading.Lock(), [0]

    def failing(key: str, **asked: Any) -> Download:
        with lock:
            count[0] += 1
            flat.down |= count[0] > 3  # the manifest and two files
        return get(key, **asked)

    monkeypatch.setattr("cachesync.session.verify.THREADS", 1)
    monkeypatch.setattr(flat, "get", failing)
    report = verify(judge)
    assert {failure.path for failure in report.differences} == {"a.txt"}
    assert len(report.pending) + report.files == len(FILES)
    assert report.files == 2
    assert {pending.reason for pending in report.pending} == {"nobody answers"}
    assert not report.verified
    assert report.exit_code == (1 if report.differences else 4)


def test_a_store_that_is_down_from_the_start(judge: Driven, flat: FlatStore) -> None:
    flat.down = True
    with pytest.raises(StoreUnreachable):
        verify(judge)


def test_a_hiccup_is_no_difference(judge: Driven, flat: FlatStore) -> None:
    flat.faults = {2: Fault.REFUSED, 4: Fault.LOST_REPLY}
    report = verify(judge)
    assert report.verified, report


def test_a_listing_that_breaks_off(judge: Driven, flat: FlatStore, monkeypatch: Any) -> None:
    plain = flat.list

    def broken(prefix: str, **asked: Any) -> Iterator[ObjectInfo]:
        yield next(plain(prefix, **asked))
        raise StoreUnreachable("list", prefix, "nobody answers")

    monkeypatch.setattr(flat, "list", broken)
    report = verify(judge)
    assert not report.differences
    assert [(pending.path, pending.reason) for pending in report.pending] == [
        (".", "the listing broke off: nobody answers")
    ]
    assert report.files == len(FILES), "what should be there is read all the same"


def test_a_flush_meanwhile_is_no_difference(hosts: Hosts, first: Driven, flat: FlatStore, monkeypatch: Any) -> None:
    plain = flat.list
    stranger = hosts.host("stranger")

    def flushing(prefix: str, **asked: Any) -> Iterator[ObjectInfo]:
        monkeypatch.setattr(flat, "list", plain)
        hosts.write({"a.txt": "changed meanwhile", "new": "x"})
        assert first.flush("s").stored
        yield from plain(prefix, **asked)

    monkeypatch.setattr(flat, "list", flushing)
    assert differences(stranger) == {}


def test_many_objects_are_read_eight_at_a_time_and_not_kept(
    hosts: Hosts, first: Driven, flat: FlatStore, monkeypatch: Any
) -> None:
    """A store whose objects are made up as they are read: 400 of 4 MiB, 1.6 GiB."""
    piece = bytes(1024 * 1024)
    digest = Bytes(piece * 4).sha256
    names = [f"f{number:03d}" for number in range(400)]
    row = {"type": "file", "size": 4 << 20, "mtime": "1.0", "mode": "0644", "sha256": digest, "version": "v"}
    rewrite_manifest(flat, lambda rows: rows.clear() or rows.extend(row | {"path": name} for name in names))  # type: ignore[func-returns-value]
    at_once, most, lock = [0], [0], threading.Lock()
    together = threading.Barrier(8)

    def pieces() -> Iterator[bytes]:
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        together.wait(10)
        yield from (piece for _ in range(4))
        with lock:
            at_once[0] -= 1

    real = flat.get

    def get(key: str, **asked: Any) -> Download:
        if key.startswith("sessions/s/f"):
            return Download(ObjectInfo(key, 4 << 20, Version("v"), 1.0), pieces())
        return real(key, **asked)

    listed = [ObjectInfo(f"sessions/s/{name}", 4 << 20, Version("v"), 1.0) for name in names]
    monkeypatch.setattr(flat, "get", get)
    monkeypatch.setattr(flat, "list", lambda *_, **__: iter(listed))
    stranger = hosts.host("stranger")
    tracemalloc.start()
    report = verify(stranger)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert report.verified, report.differences[:3]
    assert (report.files, report.bytes) == (400, 400 * (4 << 20))
    assert most[0] == 8
    assert peak < 8 << 20


def test_a_bucket_that_goes_away_ends_it(judge: Driven, flat: FlatStore, monkeypatch: Any) -> None:
    real = flat.get

    def get(key: str, **asked: Any) -> Download:
        if key.endswith("a.txt"):
            raise NoSuchBucket("read", key)
        return real(key, **asked)

    monkeypatch.setattr(flat, "get", get)
    with pytest.raises(NoSuchBucket):
        verify(judge)


@pytest.fixture
def seaweed_hosts(tmp_path: Path, seaweed: SeaweedServer, bucket: str) -> Iterator[Hosts]:
    seaweed.make_bucket(bucket)
    store = S3Store(seaweed.settings(bucket))
    hosts = Hosts(tmp_path, store)
    yield hosts
    hosts.close()
    store.close()


def test_on_a_real_server(seaweed_hosts: Hosts, seaweed: SeaweedServer, bucket: str) -> None:
    hosts = seaweed_hosts
    first = hosts.host()
    hosts.write(FILES | {"kept": "kept", "big": "x" * 3_000_000})
    assert first.flush("s").stored
    stranger = hosts.host("stranger")
    assert differences(first) == differences(stranger) == {}
    s3 = seaweed.client()
    s3.delete_object(Bucket=bucket, Key="sessions/s/a.txt")
    s3.put_object(Bucket=bucket, Key="sessions/s/d/b.txt", Body=b"other")
    s3.put_object(Bucket=bucket, Key="sessions/s/big", Body=b"x" * 1_000_000)
    s3.put_object(Bucket=bucket, Key="sessions/s/added", Body=b"x")
    store = hosts.store
    held = json.loads(b"".join(store.get("sessions/s/.cachesync/manifest.json").chunks))
    for row in held["entries"]:
        if row["path"] == "logs/x.jsonl":
            row["sha256"] = "0" * 64
    expect = store.head("sessions/s/.cachesync/manifest.json").version
    body = Bytes(json.dumps(held).encode())
    store.put("sessions/s/.cachesync/manifest.json", body, Attributes("application/json"), expect=expect)
    s3.close()
    for life in (first, stranger):
        found = differences(life)
        assert set(found) == {"a.txt", "d/b.txt", "big", "added", "logs/x.jsonl"}
        assert "there is no such object" in found["a.txt"]
        assert "which the manifest does not name" in found["d/b.txt"]
        assert "which the manifest does not name" in found["big"]
        assert found["added"] == "no manifest lists this object"
        assert "the manifest says 0000" in found["logs/x.jsonl"]
