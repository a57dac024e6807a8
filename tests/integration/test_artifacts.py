"""Artifacts by address: straight in the store, and through the root of a running engine."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock
from urllib.parse import unquote, urlsplit

import pytest

from cachesync.artifacts.by_address import Artifacts
from cachesync.artifacts.local import LocalRoot
from cachesync.config import load
from cachesync.daemon.engine import Engine
from cachesync.model.address import parse, parse_whole
from cachesync.model.errors import (
    ArtifactExists,
    FileUnwritable,
    NoSuchSession,
    ObjectNotFound,
    PreconditionFailed,
    StorePermanent,
    StoreTransient,
    StoreUnreachable,
    Unstorable,
    UsageError,
)
from cachesync.model.keys import identity_key
from cachesync.model.policy import PART_SIZE
from cachesync.read.reader import Reader
from cachesync.store.fsspec_store import FsspecStore
from cachesync.store.s3.store import S3Store
from tests.bodies import PLAIN, Bytes
from tests.flat_store import Fault, FlatStore

MIB = 1024 * 1024
MANIFEST = "sessions/s/.cachesync/manifest.json"
HOSTILE_KEYS = [
    *("sessions/s/../t/a", "sessions/s//a", "sessions/s/./a", "sessions/../x", "sessions/-/x", "sessions/templates/x"),
    *(
        "projects//x",
        "projects/../x",
        "projects/p/../../x",
        "templates/../x",
        "sessions/s/.cachesync/x",
        "sessions/s/ok",
    ),
]


@pytest.fixture(params=["flat", "file", "seaweed"])
def kind(request):
    return request.param


@pytest.fixture
def store(kind, request, bucket, tmp_path):
    if kind == "flat":
        yield FlatStore()
        return
    if kind == "file":
        yield FsspecStore(f"file://{tmp_path}/store")
        return
    server = request.getfixturevalue("seaweed")
    server.make_bucket(bucket)
    with contextlib.closing(server.client()) as s3, contextlib.closing(S3Store(server.settings(bucket))) as store:
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        yield store


def direct(store, writer="tester"):
    reader = Reader(store, prefix="", cache=None, local=None, revalidate=0.0, clock=time.time, url="s3://bucket")
    return Artifacts(store, reader, prefix="", url="s3://bucket", writer=writer, local=None, clock=time.time)


class Host:
    """One root with a running engine, and its artifacts."""

    def __init__(self, root: Path, store, **flags: str) -> None:
        (root / "s").mkdir(parents=True)
        chosen = {"root": str(root), "store": "s3://bucket", "max_dirty_age": "1s", **flags}
        self.engine = Engine(load(chosen, {}, Path("/"), system_file=Path("/none")), store)
        self.session = root / "s"
        self.verbs = self.engine.service.artifacts
        self.engine.start()

    def impatient(self) -> Artifacts:
        """The same, waiting for the store no longer than a moment."""
        e = self.engine
        local = LocalRoot(
            e.transfer._c, e.scanner, e.learner, e.uploader, e.transfer.removal, e.lifecycle.staging, patience=0.2
        )
        return Artifacts(
            e.store, e.reader, prefix="", url="s3://bucket", writer=e.journal.id, local=local, clock=time.time
        )

    def flush(self):
        report = self.engine.service.flush("s", timeout=20)
        assert report.stored, report
        return report

    def close(self):
        assert self.engine.close(5.0)


@pytest.fixture
def host(tmp_path, store):
    host = Host(tmp_path / "root", store)
    yield host
    host.close()


@pytest.fixture
def flat_host(tmp_path):
    host = Host(tmp_path / "root", FlatStore(), delete_settle="1h")
    yield host
    host.close()


def put(artifacts, address, data, **options):
    return artifacts.put(parse(address), io.BytesIO(data), **options)


def read(store, key):
    return b"".join(store.get(key).chunks)


def names(artifacts, address):
    return [found.address for found in artifacts.list(parse_whole(address))]


def states(artifacts, address):
    return {found.address: found.state for found in artifacts.list(parse_whole(address))}


# -- straight in the store ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["s/a.md", "projects/p/learnings/1.md", "templates/a b?versionId=1.tf"])
def test_what_is_put_is_an_object_at_its_key(store, address):
    artifact = put(direct(store), address, b"hello")
    key = f"sessions/{address}" if address.startswith("s/") else address
    assert read(store, key) == b"hello"
    assert (artifact.address, artifact.key, artifact.uri) == (address, key, f"s3://bucket/{key}")
    assert (artifact.size, artifact.state, artifact.kind) == (5, "stored", "file")
    assert artifact.sha256 == hashlib.sha256(b"hello").hexdigest()
    assert artifact.version == store.head(key).version.etag


def test_the_metadata_of_a_direct_put(store):
    verbs = direct(store, writer="w1")
    before = time.time()
    put(verbs, "s/artifacts/dashboard.yaml", b"one")
    first = store.head("sessions/s/artifacts/dashboard.yaml")
    given = {"projectId": "p7", "artifactType": "report", "reviewed-by": "Ann Example"}
    put(verbs, "s/artifacts/dashboard.yaml", b"two!", content_type="text/x-special", metadata=given)
    second = store.head("sessions/s/artifacts/dashboard.yaml")
    assert first.content_type == "application/yaml"
    assert abs(float(first.metadata["mtime"]) - before) < 60
    facts = {"mode": "33188", "sha256": hashlib.sha256(b"one").hexdigest(), "writer": "w1"}
    seed = {"sessionid": "s", "version": "1", "artifacttype": "dashboard", "createdat": first.metadata["createdat"]}
    own = {name: first.metadata[name] for name in ("mtime", "attemptid")}
    assert dict(first.metadata) == facts | seed | own
    assert second.content_type == "text/x-special"
    assert (second.metadata["version"], second.metadata["createdat"]) == ("2", first.metadata["createdat"])
    assert {name.lower(): value for name, value in given.items()}.items() <= second.metadata.items()
    put(verbs, "projects/p/dashboard.yaml", b"x")
    project = store.head("projects/p/dashboard.yaml").metadata
    assert (project["projectid"], project["artifacttype"]) == ("p", "dashboard")
    assert "sessionid" not in project
    put(verbs, "templates/t.html", b"x")
    assert store.head("templates/t.html").metadata["artifacttype"] == "template"
    assert store.head("templates/t.html").content_type == "text/html"


@pytest.mark.parametrize(
    "metadata",
    [
        {"mtime": "1"},
        {"MODE": "1"},
        {"sha256": "1"},
        {"writer": "me"},
        {"a b": "1"},
        {"": "1"},
        {"a": "é"},
        {"a": "x\r\nb: y"},
        {"a": "x" * 2000},
    ],
)
def test_metadata_that_are_no_metadata_are_refused(metadata):
    store = FlatStore()
    with pytest.raises(UsageError):
        put(direct(store), "s/a", b"", metadata=metadata)
    assert not store.requests


@pytest.mark.parametrize("kind_", ["text", "text/plain\r\nx: y", "", "a/b/c", "text/é"])
def test_a_content_type_that_is_none_is_refused(kind_):
    with pytest.raises(UsageError):
        put(direct(FlatStore()), "s/a", b"", content_type=kind_)


def test_a_large_source_is_stored_in_parts_with_flat_memory(store, kind):
    if kind == "flat":
        pytest.skip("it takes a body whole")
    size = PART_SIZE + 3 * MIB

    class Source(io.RawIOBase):
        """Hands out odd amounts, as a pipe does."""

        left, largest = size, 0

        def read(self, length=-1):
            self.largest = max(self.largest, length)
            taken = min(length, self.left, 700_001)
            self.left -= taken
            return b"x" * taken

    source = Source()
    artifact = direct(store).put(parse("s/large"), source)
    assert artifact.size == size
    assert artifact.sha256 == hashlib.sha256(b"x" * size).hexdigest()
    assert store.head("sessions/s/large").sha256 == artifact.sha256
    assert 0 < source.largest <= MIB


def test_listing_sessions_folders_and_files(store):
    verbs = direct(store)
    for address in ("s/a.md", "s/a/b.md", "s/a/c/d", "s/a.d/x", "t/z", "projects/p/x", "projects/q/d/y", "templates/t"):
        put(verbs, address, b"1")
    store.put("sessions/.cachesync/probe", Bytes(b""), PLAIN, expect=None)
    sessions = list(verbs.list(parse_whole("")))
    assert [(found.address, found.kind) for found in sessions] == [("s", "dir"), ("t", "dir")]
    everything = ["s/a.d/x", "s/a.md", "s/a/b.md", "s/a/c/d"]
    assert names(verbs, "s") == names(verbs, "s/") == everything
    assert names(verbs, "s/a") == names(verbs, "s/a/") == ["s/a/b.md", "s/a/c/d"]
    assert names(verbs, "s/a.md") == ["s/a.md"]
    assert names(verbs, "projects") == ["projects/p/x", "projects/q/d/y"]
    assert names(verbs, "projects/q") == ["projects/q/d/y"]
    assert names(verbs, "templates") == ["templates/t"]
    one = next(verbs.list(parse("s/a.md")))
    assert one == verbs.describe(parse("s/a.md"))
    assert (one.content_type, one.sha256) == ("text/markdown", hashlib.sha256(b"1").hexdigest())


def test_where_nothing_is(store):
    verbs = direct(store)
    assert names(verbs, "") == names(verbs, "projects") == names(verbs, "templates") == []
    with pytest.raises(NoSuchSession):
        verbs.list(parse_whole("nosuch"))
    put(verbs, "s/a", b"")
    for address in ("s/b", "s/a/", "s/a/b", "projects/p", "projects/p/x", "templates/x"):
        with pytest.raises(ObjectNotFound):
            verbs.list(parse_whole(address))
    for call in (verbs.remove, verbs.url, verbs.describe):
        with pytest.raises(ObjectNotFound):
            call(parse("s/b"))


def test_hostile_keys_are_passed_over():
    store = FlatStore()
    for key in HOSTILE_KEYS:
        store.foreign_put(key, b"")
    verbs = direct(store)
    assert names(verbs, "s") == ["s/ok"]
    assert names(verbs, "") == ["s"]
    assert names(verbs, "projects") == names(verbs, "templates") == []


@pytest.mark.parametrize("address", ["s/.cachesync/manifest.json", "s/.cachesync/x", "s/" + "a" * 1030])
def test_what_has_no_key_is_never_written(address):
    store = FlatStore()
    for call in (lambda: put(direct(store), address, b""), lambda: direct(store).remove(parse(address))):
        with pytest.raises(Unstorable):
            call()
    assert not store.writes


@pytest.mark.parametrize("address", ["s", "s/d/", "projects/p", "templates"])
def test_verbs_of_one_artifact_want_one(address):
    verbs = direct(FlatStore())
    place = parse_whole(address)
    for call in (verbs.remove, verbs.url, verbs.history, verbs.restore, lambda a: verbs.put(a, io.BytesIO())):
        with pytest.raises(UsageError):
            call(place)


def test_an_outage_is_not_absence():
    store = FlatStore()
    verbs = direct(store)
    put(verbs, "s/a", b"1")
    store.down = True
    for call in (
        lambda: list(verbs.list(parse_whole("s"))),
        lambda: list(verbs.list(parse_whole(""))),
        lambda: list(verbs.list(parse("s/a"))),
        lambda: put(verbs, "s/a", b"2"),
        lambda: verbs.remove(parse("s/a")),
        lambda: verbs.url(parse("s/a")),
        lambda: verbs.history(parse("s/a")),
        lambda: verbs.restore(parse("s/a")),
    ):
        with pytest.raises(StoreUnreachable):
            call()
    store.down = False
    assert read(store, "sessions/s/a") == b"1"


class RacedStore(FlatStore):
    """Somebody else is quicker than a put, as often as ``rivals`` has bytes."""

    rivals: list[bytes] = []  # noqa: RUF012 -- replaced, never changed in place

    def put(self, key, body, attributes, *, expect, resume=None, tail=None):
        if self.rivals:
            *self.rivals, data = self.rivals
            self.foreign_put(key, data)
        return super().put(key, body, attributes, expect=expect, resume=resume)


def history(store):
    return [held.data for _, held in store.past["sessions/s/a"]]


def test_the_last_put_wins_and_hiccups_are_outlasted():
    store = RacedStore()
    verbs = direct(store)
    put(verbs, "s/a", b"1")
    store.rivals = [b"theirs 1", b"theirs 0"]
    put(verbs, "s/a", b"mine")
    assert history(store) == [b"1", b"theirs 0", b"theirs 1", b"mine"]
    store.faults["put"] = Fault.REFUSED
    put(verbs, "s/a", b"refused once")
    store.faults["put"] = Fault.LOST_REPLY
    put(verbs, "s/a", b"reply lost")
    assert history(store)[-2:] == [b"refused once", b"reply lost"]
    store.faults["delete"] = Fault.LOST_REPLY
    verbs.remove(parse("s/a"))
    assert "sessions/s/a" not in store.objects


def test_remove_and_what_lives_on(store):
    verbs = direct(store)
    put(verbs, "s/a", b"1")
    put(verbs, "s/a2", b"2")
    verbs.remove(parse("s/a"))
    assert names(verbs, "s") == ["s/a2"]
    with pytest.raises(ObjectNotFound):
        verbs.remove(parse("s/a"))


def test_url(store, kind):
    verbs = direct(store)
    put(verbs, "s/a b#%.txt", b"linked")
    url = verbs.url(parse("s/a b#%.txt"), expires=60)
    if kind == "file":
        assert url.startswith("file:///")
        assert Path(unquote(urlsplit(url).path)).read_bytes() == b"linked"
    elif kind == "seaweed":
        with urllib.request.urlopen(url) as answer:
            assert answer.read() == b"linked"
    with pytest.raises(ObjectNotFound):
        verbs.url(parse("s/no"))


def test_a_store_without_links_or_versions_says_so(bucket):
    store = FsspecStore(f"memory://{bucket}")
    verbs = direct(store)
    put(verbs, "s/a", b"1")
    for call in (verbs.url, verbs.history, verbs.restore):
        with pytest.raises(UsageError):
            call(parse("s/a"))


# -- versions ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def versioned(store, kind):
    if kind == "file":
        pytest.skip("a folder keeps no versions")
    return store


def test_history_and_restore(versioned):
    verbs = direct(versioned)
    for data in (b"one", b"two", b"three"):
        put(verbs, "s/a", data, metadata={"note": data.decode()})
    put(verbs, "s/a2", b"another")
    found = verbs.history(parse("s/a"))
    assert [(past.size, past.latest, past.deleted) for past in found] == [
        (5, True, False),
        (3, False, False),
        (3, False, False),
    ]
    restored = verbs.restore(parse("s/a"))
    assert read(versioned, "sessions/s/a") == b"two"
    assert restored.version == versioned.head("sessions/s/a").version.etag
    assert versioned.head("sessions/s/a").metadata["note"] == "two"
    verbs.restore(parse("s/a"), version_id=found[-1].version_id)
    assert read(versioned, "sessions/s/a") == b"one"
    verbs.remove(parse("s/a"))
    gone = verbs.history(parse("s/a"))
    assert (gone[0].deleted, gone[0].version, gone[0].latest) == (True, None, True)
    verbs.restore(parse("s/a"))
    assert read(versioned, "sessions/s/a") == b"one"
    with pytest.raises(ObjectNotFound):
        verbs.restore(parse("s/a"), version_id=gone[0].version_id)
    with pytest.raises(ObjectNotFound):
        verbs.restore(parse("s/a"), version_id="nosuch")
    with pytest.raises(ObjectNotFound, match="before this one"):
        verbs.restore(parse("s/a2"))
    with pytest.raises(ObjectNotFound):
        verbs.history(parse("s/never"))
    assert verbs.url(parse("s/a"), version_id=found[-1].version_id)


def test_without_versioning_restore_says_so(seaweed, bucket):
    seaweed.make_bucket(bucket)
    with contextlib.closing(S3Store(seaweed.settings(bucket))) as store:
        verbs = direct(store)
        put(verbs, "s/a", b"1")
        assert len(verbs.history(parse("s/a"))) == 1
        with pytest.raises(UsageError, match="versioning"):
            verbs.restore(parse("s/a"))


# -- through a local root ----------------------------------------------------------------------------------------------


def test_a_put_to_a_local_session_is_a_file_and_an_object(host, store, kind):
    (host.session / "d").mkdir()
    artifact = put(host.verbs, "s/d/e/a.md", b"hello", metadata={"artifactType": "report"}, content_type="text/x-a")
    assert (host.session / "d/e/a.md").read_bytes() == b"hello"
    info = store.head("sessions/s/d/e/a.md")
    assert (info.content_type, info.metadata["artifacttype"]) == ("text/x-a", "report")
    assert info.metadata["writer"] == host.engine.journal.id
    assert (artifact.state, artifact.version, artifact.artifact_type) == ("clean", info.version.etag, "report")
    assert artifact.uri == "s3://bucket/sessions/s/d/e/a.md"
    assert artifact.sha256 == hashlib.sha256(b"hello").hexdigest()
    assert not os.listdir(host.engine.lifecycle.staging().inward)


def test_a_put_that_is_overwritten_before_it_is_stored_says_so(host, store, monkeypatch):
    local = host.verbs._local
    place = local._place

    def overwritten(file, address, **given):
        made = place(file, address, **given)
        (host.session / "a.md").write_bytes(b"the agent's")
        return made

    monkeypatch.setattr(local, "_place", overwritten)
    with pytest.raises(PreconditionFailed, match="overwritten"):
        put(host.verbs, "s/a.md", b"hello")
    assert store.get("sessions/s/a.md").info.size == len(b"the agent's")


def test_what_a_put_replaces_is_stored_before(host, store):
    (host.session / "a.md").write_bytes(b"not stored yet")
    put(host.verbs, "s/a.md", b"hello")
    if store.archive is not None:
        sizes = [past.size for past in host.verbs.history(parse("s/a.md"))]
        assert sizes == [len(b"hello"), len(b"not stored yet")]
    assert store.head("sessions/s/a.md").metadata["version"] == "2"


def test_labels_outlive_a_change_of_the_file_but_not_its_deletion(host, store):
    put(host.verbs, "s/a.md", b"one", metadata={"note": "n"}, content_type="text/x-a")
    (host.session / "a.md").write_bytes(b"two, by the agent")
    host.flush()
    info = store.head("sessions/s/a.md")
    assert (read(store, "sessions/s/a.md"), info.metadata["note"], info.content_type) == (
        b"two, by the agent",
        "n",
        "text/x-a",
    )
    (host.session / "a.md").unlink()
    host.flush()
    (host.session / "a.md").write_bytes(b"three")
    host.flush()
    info = store.head("sessions/s/a.md")
    assert ("note" in info.metadata, info.content_type) == (False, "text/markdown")


def test_the_same_bytes_with_other_labels_are_stored_again(host, store):
    put(host.verbs, "s/a", b"same", metadata={"note": "1"})
    first = put(host.verbs, "s/a", b"same", metadata={"note": "1"})
    second = put(host.verbs, "s/a", b"same", metadata={"note": "2"})
    assert store.head("sessions/s/a").metadata["note"] == "2"
    third = put(host.verbs, "s/a", b"same")
    assert "note" not in store.head("sessions/s/a").metadata
    assert third.version == store.head("sessions/s/a").version.etag
    assert first.sha256 == second.sha256 == third.sha256


def test_a_put_keeps_the_mode_and_replaces_a_link_itself(host, store, tmp_path):
    (host.session / "run").write_bytes(b"old")
    (host.session / "run").chmod(0o755)
    put(host.verbs, "s/run", b"new")
    assert (host.session / "run").stat().st_mode & 0o777 == 0o755
    outside = tmp_path / "outside"
    outside.write_bytes(b"keep")
    (host.session / "link").symlink_to(outside)
    put(host.verbs, "s/link", b"mine")
    assert outside.read_bytes() == b"keep"
    assert not (host.session / "link").is_symlink()
    assert read(store, "sessions/s/link") == b"mine"


def test_nothing_is_written_through_a_link_or_over_a_directory(flat_host, tmp_path):
    host = flat_host
    (tmp_path / "outside").mkdir()
    (host.session / "out").symlink_to(tmp_path / "outside")
    (host.session / "dir").mkdir()
    (host.session / "file").write_bytes(b"x")
    for address in ("s/out/a", "s/out/b/a", "s/dir", "s/file/a"):
        with pytest.raises(FileUnwritable):
            put(host.verbs, address, b"1")
    with pytest.raises(UsageError):
        host.verbs.remove(parse("s/dir"))
    with pytest.raises(ObjectNotFound):
        host.verbs.remove(parse("s/out/a"))
    assert not list((tmp_path / "outside").iterdir())
    assert not os.listdir(host.engine.lifecycle.staging().inward)


def test_what_is_ignored_is_not_put(flat_host):
    (flat_host.session / ".cachesyncignore").write_text("*.log\n")
    with pytest.raises(Unstorable, match="would not be stored"):
        put(flat_host.verbs, "s/a.log", b"1")
    os.mkfifo(flat_host.session / "pipe")
    with pytest.raises(Unstorable):
        put(flat_host.verbs, "s/pipe", b"1")


def test_removing_a_local_file_waits_for_no_settling_and_takes_nothing_else_along(flat_host):
    """``delete_settle`` is an hour here."""
    host, store = flat_host, flat_host.engine.store
    for name in ("a", "b"):
        put(host.verbs, f"s/{name}", b"1")
    (host.session / "b").unlink()  # a deletion that is not believed yet
    host.verbs.remove(parse("s/a"))
    assert not (host.session / "a").exists()
    assert set(store.objects) - {identity_key("")} == {"sessions/s/b"}
    assert host.engine.journal.entries.entry("s", "a") is None
    with pytest.raises(ObjectNotFound):
        host.verbs.remove(parse("s/a"))


def test_a_file_that_is_made_again_while_it_is_removed_keeps_its_object(flat_host, monkeypatch):
    """An agent writes it anew, and the engine stores it, between the removal and our last look at the store."""
    host, store = flat_host, flat_host.engine.store
    put(host.verbs, "s/a", b"old")
    head = store.head

    def late(key):
        if key == "sessions/s/a" and not (host.session / "a").exists():
            monkeypatch.setattr(store, "head", head)
            (host.session / "a").write_bytes(b"new")
            host.flush()
        return head(key)

    monkeypatch.setattr(store, "head", late)
    host.verbs.remove(parse("s/a"))
    assert read(store, "sessions/s/a") == b"new"
    assert states(host.verbs, "s") == {"s/a": "clean"}


def test_what_is_removed_is_stored_before(flat_host):
    host, store = flat_host, flat_host.engine.store
    put(host.verbs, "s/a", b"stored")
    (host.session / "a").write_bytes(b"changed, not stored yet")
    host.verbs.remove(parse("s/a"))
    assert "sessions/s/a" not in store.objects
    host.verbs.restore(parse("s/a"))
    assert (host.session / "a").read_bytes() == b"changed, not stored yet"


def test_what_cannot_be_stored_now_is_not_removed(flat_host):
    (flat_host.session / "a").write_bytes(b"not stored yet")
    flat_host.engine.store.down = True
    with pytest.raises(StoreTransient, match="nothing was done"):
        flat_host.impatient().remove(parse("s/a"))
    assert (flat_host.session / "a").read_bytes() == b"not stored yet"


# -- one level --------------------------------------------------------------------------------------------------------


def level(artifacts, address):
    found = artifacts.list(parse_whole(address), shallow=True)
    return [(one.address, str(one.kind), one.key) for one in found if one.address != address.rstrip("/")]


def test_one_level_of_what_is_only_in_the_store(host, store):
    for name in ("a", "d/a", "d/e/f/a", "d-e"):
        (host.session / name).parent.mkdir(parents=True, exist_ok=True)
        (host.session / name).write_bytes(b"1")
    (host.session / "d/empty/er").mkdir(parents=True)
    (host.session / "d/link").symlink_to("a")
    host.flush()
    verbs = direct(store)
    put(verbs, "projects/p/x/y", b"1")
    top = [
        ("s/a", "file", "sessions/s/a"),
        ("s/d", "dir", "sessions/s/d/"),
        ("s/d-e", "file", "sessions/s/d-e"),
    ]
    inside = [
        ("s/d/a", "file", "sessions/s/d/a"),
        ("s/d/e", "dir", "sessions/s/d/e/"),
        ("s/d/empty", "dir", None),
        ("s/d/link", "link", None),
    ]
    for artifacts in (verbs, host.verbs):
        assert level(artifacts, "s") == top
        assert level(artifacts, "s/d") == level(artifacts, "s/d/") == inside
        assert names(artifacts, "s/a") == [one.address for one in artifacts.list(parse("s/a"), shallow=True)] == ["s/a"]
        with pytest.raises(ObjectNotFound):
            level(artifacts, "s/none")
    assert level(verbs, "projects") == [("projects/p", "dir", "projects/p/")]
    assert level(verbs, "projects/p") == [("projects/p/x", "dir", "projects/p/x/")]


def test_the_sessions_with_what_the_journal_knows(host, store):
    (host.session / "a").write_bytes(b"12345")
    os.utime(host.session / "a", (1000, 1000))
    host.flush()
    put(direct(store), "other/a", b"1")
    found = [(one.address, one.files, one.size, one.modified) for one in host.verbs.list(parse_whole(""))]
    assert found == [("other", None, 0, None), ("s", 1, 5, 1000.0)]


# -- many changes at once ---------------------------------------------------------------------------------------------


def versions_listed(store):
    return {row["path"]: row["version"] for row in json.loads(read(store, MANIFEST))["entries"]}


def flushed(host, *names_):
    for name in names_:
        (host.session / name).write_bytes(b"before")
    host.flush()


def test_changes_together_write_the_manifest_once(flat_host):
    store, paths = flat_host.engine.store, [f"{number:02}" for number in range(20)]
    flushed(flat_host, *paths, "stays")
    before, states_ = versions_listed(store), len(store.past[MANIFEST])
    verbs = direct(store)
    with verbs.together():
        for path in paths[:-1]:
            put(verbs, f"s/{path}", b"after")
        verbs.remove(parse(f"s/{paths[-1]}"))
        assert versions_listed(store) == before
        assert read(store, "sessions/s/00") == b"after", "each is stored when it returns"
    assert len(store.past[MANIFEST]) == states_ + 1
    kept = {path: store.head(f"sessions/s/{path}").version.etag for path in [*paths[:-1], "stays"]}
    assert versions_listed(store) == kept
    put(verbs, "s/00", b"alone")
    assert len(store.past[MANIFEST]) == states_ + 2


def test_what_a_manifest_misses_is_made_up_for_by_the_next_change(flat_host):
    store = flat_host.engine.store
    flushed(flat_host, "a", "b")
    verbs = direct(store)

    def broken():
        with verbs.together():
            put(verbs, "s/a", b"after")
            store.down = True

    with pytest.raises(StoreUnreachable):
        broken()
    store.down = False
    assert versions_listed(store)["a"] != store.head("sessions/s/a").version.etag
    put(verbs, "s/b", b"after")
    assert versions_listed(store) == {path: store.head(f"sessions/s/{path}").version.etag for path in "ab"}


def test_threads_that_wait_for_one_manifest_write_it_together(flat_host, monkeypatch):
    store = flat_host.engine.store
    flushed(flat_host, "a")
    verbs, states_ = direct(store), len(store.past[MANIFEST])
    get, began, stored = store.get, threading.Event(), threading.Event()

    def slow(key, **given):
        if key == MANIFEST and not began.is_set():
            began.set()
            assert stored.wait(10)
        return get(key, **given)

    monkeypatch.setattr(store, "get", slow)
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(put, verbs, "s/a", b"0")
        assert began.wait(10)
        rest = [pool.submit(put, verbs, f"s/{number}", b"1") for number in range(8)]
        deadline = time.monotonic() + 10
        while len(verbs._remote._stale.get("s", ())) < 8 and time.monotonic() < deadline:
            time.sleep(0.01)
        stored.set()
        for future in (first, *rest):
            future.result(10)
    assert len(store.past[MANIFEST]) == states_ + 2
    assert set(versions_listed(store)) == {"a", *map(str, range(8))}


# -- what is told of errors -------------------------------------------------------------------------------------------


def test_an_error_names_the_verb_and_the_artifact_as_they_were_asked_for(store, kind):
    verbs = direct(store)
    asked = {"read": verbs.read, "remove": verbs.remove, "link to": verbs.url, "describe": verbs.describe}
    if kind != "file":
        asked |= {"list the versions of": verbs.history, "restore": verbs.restore}
    for verb, call in asked.items():
        with pytest.raises(ObjectNotFound) as caught:
            call(parse("s/none"))
        assert (caught.value.operation, caught.value.path) == (verb, "s/none")


def test_a_link_lives_from_a_second_to_a_week(store):
    verbs = direct(store)
    put(verbs, "s/a", b"1")
    for seconds in (0, 0.9, 604_801, float("nan")):
        with pytest.raises(UsageError, match="604800"):
            verbs.url(parse("s/a"), expires=seconds)
    for seconds in (1, 604_800):
        assert verbs.url(parse("s/a"), expires=seconds)


# -- what is only to be made ------------------------------------------------------------------------------------------


def test_of_many_who_make_an_artifact_one_gets_through(store):
    def make(number):
        try:
            return put(direct(store, f"writer{number % 2}"), "s/a", b"%d" % number, overwrite=False)
        except ArtifactExists:
            return None

    with ThreadPoolExecutor(8) as pool:
        made = [number for number, artifact in enumerate(pool.map(make, range(8))) if artifact is not None]
    assert len(made) == 1
    assert read(store, "sessions/s/a") == b"%d" % made[0]


def test_who_was_there_first_between_look_and_put_is_not_overwritten():
    store = FlatStore()

    def late(key):
        looking.stop()
        store.foreign_put(key, b"the same bytes")
        raise ObjectNotFound("ask for", key)

    looking = mock.patch.object(store, "head", late)
    looking.start()
    with pytest.raises(ArtifactExists, match="s/a"):
        put(direct(store), "s/a", b"the same bytes", overwrite=False)


def test_what_was_made_and_whose_answer_was_lost_is_made():
    store = FlatStore()
    store.faults["put"] = Fault.LOST_REPLY
    assert put(direct(store), "s/a", b"1", overwrite=False).size == 1
    assert len(store.past["sessions/s/a"]) == 1


def test_an_artifact_that_is_here_or_only_in_the_store_is_not_made(host, store):
    (host.session / "here").write_bytes(b"the agent's")
    put(direct(store), "s/there", b"theirs")
    for name in ("s/here", "s/there"):
        with pytest.raises(ArtifactExists, match=name):
            put(host.verbs, name, b"mine", overwrite=False)
    assert put(host.verbs, "s/dir/new", b"mine", overwrite=False).state == "clean"
    assert read(store, "sessions/s/dir/new") == (host.session / "dir/new").read_bytes() == b"mine"
    host.verbs.remove(parse("s/there"))
    put(host.verbs, "s/there", b"mine", overwrite=False)
    (host.session / "here").unlink()
    put(host.verbs, "s/here", b"mine", overwrite=False)
    assert not host.flush().conflicts


def test_a_file_that_an_agent_makes_first_is_not_overwritten(host, monkeypatch):
    check = host.verbs._local._check_free

    def late(address):
        check(address)
        (host.session / "a").write_bytes(b"the agent's")

    monkeypatch.setattr(host.verbs._local, "_check_free", late)
    with pytest.raises(ArtifactExists):
        put(host.verbs, "s/a", b"mine", overwrite=False)
    assert (host.session / "a").read_bytes() == b"the agent's"


def test_removing_what_was_never_stored(flat_host):
    (flat_host.session / "new").write_bytes(b"x")
    flat_host.verbs.remove(parse("s/new"))
    assert states(flat_host.verbs, "s") == {}
    (flat_host.session / "link").symlink_to("nowhere")
    flat_host.verbs.remove(parse("s/link"))
    assert not (flat_host.session / "link").is_symlink()


def test_removing_and_putting_what_is_only_in_the_store(flat_host):
    host, store = flat_host, flat_host.engine.store
    for name in ("a", "b"):
        store.foreign_put(f"sessions/s/{name}", b"theirs")
    assert states(host.verbs, "s") == {"s/a": "evicted", "s/b": "evicted"}
    host.verbs.remove(parse("s/a"))
    put(host.verbs, "s/b", b"mine")
    assert states(host.verbs, "s") == {"s/b": "clean"}
    found = {key: held.data for key, held in store.objects.items() if key != identity_key("")}
    assert found == {"sessions/s/b": b"mine"}
    assert not host.flush().conflicts, "it was asked for by its name"


def test_a_local_listing_is_of_the_disk_as_it_is(host):
    (host.session / "d").mkdir()
    (host.session / "empty").mkdir()
    (host.session / "d/a").write_bytes(b"12345")
    (host.session / "d.x").write_bytes(b"1")
    (host.session / "link").symlink_to("d/a")
    found = {one.address: one for one in host.verbs.list(parse_whole("s"))}
    assert list(found) == ["s/d.x", "s/d", "s/d/a", "s/empty", "s/link"]
    assert [one.kind for one in found.values()] == ["file", "dir", "file", "dir", "link"]
    assert (found["s/d/a"].size, found["s/link"].target) == (5, "d/a")
    host.flush()
    assert set(states(host.verbs, "s").values()) == {"clean"}
    (host.session / "d/a").write_bytes(b"changed")
    (host.session / "d/new").write_bytes(b"")
    assert names(host.verbs, "s/d") == names(host.verbs, "s/d/") == ["s/d", "s/d/a", "s/d/new"]
    assert names(host.verbs, "s/empty") == ["s/empty"]
    assert [one.size for one in host.verbs.list(parse("s/d/a"))] == [7]
    with pytest.raises(ObjectNotFound):
        host.verbs.list(parse("s/d/no"))
    assert names(host.verbs, "") == ["s"]


def test_in_an_outage_the_local_answer_counts_all_the_same(flat_host):
    host, store = flat_host, flat_host.engine.store
    store.down = True
    (host.session / "a").write_bytes(b"1")
    (host.session / "d").mkdir()
    assert states(host.verbs, "s") == {"s/a": "dirty", "s/d": "dirty"}
    assert names(host.verbs, "s/a") == ["s/a"]
    with pytest.raises(StoreUnreachable):
        host.verbs.list(parse_whole("s/b"))
    with pytest.raises(StoreUnreachable):
        list(host.verbs.list(parse_whole("other")))
    host.engine.journal.sessions.add("emptied", time.time())  # known, but nothing of it: that is no answer either
    with pytest.raises(StoreUnreachable):
        host.verbs.list(parse_whole("emptied"))


def test_what_is_listed_in_an_outage_is_flagged_until_the_store_answers(flat_host):
    host, store = flat_host, flat_host.engine.store
    put(host.verbs, "s/a", b"1")
    assert host.engine.lifecycle.close("s", timeout=10).closed
    assert [one.unverified for one in host.verbs.list(parse_whole("s"))] == [False]
    store.down = True
    assert [(one.address, one.unverified) for one in host.verbs.list(parse_whole("s"))] == [("s/a", True)]
    store.down = False
    assert [one.unverified for one in host.verbs.list(parse_whole("s"))] == [False]


def test_a_link_to_what_this_host_stored_needs_no_answer(flat_host):
    host, store = flat_host, flat_host.engine.store
    put(host.verbs, "s/a", b"1")
    store.foreign_put("sessions/s/theirs", b"2")
    store.down = True
    assert host.verbs.url(parse("s/a"))
    for other in ("s/theirs", "s/never", "projects/p/x"):
        with pytest.raises(StoreUnreachable):
            host.verbs.url(parse(other))
    store.down = False
    host.verbs.remove(parse("s/a"))
    with pytest.raises(ObjectNotFound):
        host.verbs.url(parse("s/a"))


def test_a_put_in_an_outage_is_written_and_says_that_it_is_not_stored(tmp_path):
    store = FlatStore()
    host = Host(tmp_path / "root", store)
    host.verbs = host.impatient()
    store.down = True
    with pytest.raises(StoreTransient, match="cachesync flush s"):
        put(host.verbs, "s/a", b"1", metadata={"note": "kept"})
    assert (host.session / "a").read_bytes() == b"1"
    store.down = False
    host.flush()
    assert store.objects["sessions/s/a"].info.metadata["note"] == "kept"
    host.close()


def test_a_put_that_the_store_refuses_raises_what_it_said(flat_host, monkeypatch):
    def refuse(*_, **__):
        raise StorePermanent("store", "k", "the bucket is full of eels")

    monkeypatch.setattr(flat_host.engine.store, "put", refuse)
    with pytest.raises(StorePermanent, match="eels"):
        put(flat_host.verbs, "s/a", b"1")
    assert states(flat_host.verbs, "s") == {"s/a": "failed"}


def test_restore_brings_the_local_file_back(host, versioned):
    put(host.verbs, "s/a.md", b"one", metadata={"note": "first"}, content_type="text/x-a")
    (host.session / "a.md").chmod(0o600)
    put(host.verbs, "s/a.md", b"two")
    restored = host.verbs.restore(parse("s/a.md"))
    assert (host.session / "a.md").read_bytes() == read(versioned, "sessions/s/a.md") == b"one"
    info = versioned.head("sessions/s/a.md")
    assert (restored.state, restored.version) == ("clean", info.version.etag)
    assert (info.metadata["note"], info.content_type) == ("first", "text/x-a")
    host.verbs.remove(parse("s/a.md"))
    assert host.verbs.history(parse("s/a.md"))[0].deleted
    host.verbs.restore(parse("s/a.md"))
    assert (host.session / "a.md").read_bytes() == read(versioned, "sessions/s/a.md") == b"one"
    assert not host.flush().conflicts


# -- the manifest, and two hosts ---------------------------------------------------------------------------------------


def listed(store):
    document = json.loads(read(store, MANIFEST))
    return document, {row["path"]: row for row in document["entries"]}


def test_the_manifest_goes_on_listing_what_is_there(host, store, versioned):
    for name in ("a", "b", "ü\n"):
        (host.session / name).write_bytes(name.encode())
    (host.session / "link").symlink_to("a")
    host.flush()
    before, _ = listed(store)
    other = direct(store)
    artifact = put(other, "s/a", b"changed")
    put(other, "s/new", b"new")
    other.remove(parse("s/ü\n"))
    other.remove(parse("s/link"))
    after, rows = listed(store)
    assert {key: after[key] for key in ("format", "session", "state", "host")} == {
        key: before[key] for key in ("format", "session", "state", "host")
    }
    assert set(rows) == {"a", "b", "new"}
    assert (rows["a"]["version"], rows["a"]["sha256"]) == (artifact.version, artifact.sha256)
    other.restore(parse("s/ü\n"))
    found = {one.address: one for one in other.list(parse_whole("s"))}
    assert set(found) == {"s/a", "s/b", "s/new", "s/ü\n"}
    assert all(one.sha256 for one in found.values()), "each version is the one that the manifest lists"


def test_a_session_without_a_manifest_gets_none_and_a_strange_one_is_left(versioned):
    store = versioned
    verbs = direct(store)
    put(verbs, "s/a", b"1")
    with pytest.raises(ObjectNotFound):
        store.head(MANIFEST)
    for data in (b"", b"{}", b'{"format": 1, "entries": []}', b'{"format": 1, "entries": [\n{"path": "a"},'):
        with contextlib.suppress(ObjectNotFound):
            store.delete(MANIFEST, expect=store.head(MANIFEST).version)
        store.put(MANIFEST, Bytes(data), PLAIN, expect=None)
        put(verbs, "s/a", b"2")
        verbs.remove(parse("s/a"))
        assert read(store, MANIFEST) == data


def test_many_writers_at_once_lose_no_row_of_the_manifest():
    store = FlatStore()
    store.put(
        MANIFEST, Bytes(b'{"format": 1, "session": "s", "state": "closed", "entries": [\n]}\n'), PLAIN, expect=None
    )
    hosts = [direct(store, writer=name) for name in ("one", "two")]
    addresses = [f"s/{number % 12}" for number in range(24)]  # each path twice

    def work(number):
        put(hosts[number % 2], addresses[number], b"%d" % number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(24)))
    document, rows = listed(store)
    assert document["state"] == "closed"
    assert {path: row["version"] for path, row in rows.items()} == {
        str(number): store.head(f"sessions/s/{number}").version.etag for number in range(12)
    }
    assert len(document["entries"]) == 12
    assert {store.head(f"sessions/s/{number}").metadata["version"] for number in range(12)} == {"2"}


def test_what_is_put_is_what_is_read(store, kind):
    verbs = direct(store)
    put(verbs, "s/a", b"one")
    put(verbs, "s/a", b"two")
    with verbs.read(parse("s/a")) as reading:
        assert b"".join(reading.chunks()) == b"two"
        assert (reading.source, reading.unverified) == ("store", False)
    if kind != "file":
        past = verbs.history(parse("s/a"))[-1].version_id
        with verbs.read(parse("s/a"), version_id=past) as reading:
            assert b"".join(reading.chunks(1, 1)) == b"n"
    verbs.remove(parse("s/a"))
    with pytest.raises(ObjectNotFound):
        verbs.read(parse("s/a"))


def test_a_session_that_was_here_and_is_elsewhere_now(host, store, tmp_path):
    (host.session / "a").write_bytes(b"1")
    (host.session / "b").write_bytes(b"2")
    host.flush()
    for name in ("a", "b"):
        (host.session / name).unlink()
    host.session.rmdir()
    assert states(host.verbs, "s") == {"s/a": "evicted", "s/b": "evicted"}
    other = direct(store)
    put(other, "s/c", b"3")
    other.remove(parse("s/a"))
    assert states(host.verbs, "s") == {"s/b": "evicted", "s/c": "evicted"}
    put(host.verbs, "s/d", b"4")
    host.verbs.remove(parse("s/b"))
    assert states(host.verbs, "s") == {"s/c": "evicted", "s/d": "evicted"}
    assert not host.session.exists()


def test_two_hosts_put_into_one_session(tmp_path, store):
    one, two = Host(tmp_path / "one", store), Host(tmp_path / "two", store)
    put(one.verbs, "s/a", b"from one")
    put(two.verbs, "s/b", b"from two")
    put(two.verbs, "s/a", b"replaced by two")
    assert read(store, "sessions/s/a") == b"replaced by two"
    assert not two.flush().conflicts
    put(one.verbs, "s/a", b"again from one")  # its own file, which another host has changed: both are kept (P9)
    assert read(store, "sessions/s/a") == b"again from one"
    report = one.flush()
    assert [conflict.path for conflict in report.conflicts] == ["a"]
    assert read(store, f"sessions/s/{report.conflicts[0].kept_as}") == b"replaced by two"
    one.close()
    two.close()
