"""Past versions and links, on servers that keep and make them."""

from __future__ import annotations

import contextlib
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, urlsplit

import pytest

from cachesync.model.errors import (
    IntegrityError,
    NoSuchBucket,
    ObjectNotFound,
    PreconditionFailed,
    StoreUnreachable,
    UsageError,
)
from cachesync.model.values import Attributes, PastObject, Version
from cachesync.store.base import ObjectStore
from cachesync.store.fsspec_store import FsspecStore
from cachesync.store.s3.archive import S3Archive
from cachesync.store.s3.client import S3Settings
from cachesync.store.s3.store import S3Store
from cachesync.store.throttled import ThrottledStore
from tests.bodies import MIB, PLAIN, Bytes
from tests.contract.test_store import ODD_NAMES
from tests.flat_store import FlatStore
from tests.servers import SeaweedServer, Server, closed_port, kind_of

STALE = Version("00000000000000000000000000000000")


kind = kind_of("seaweed", "moto", "seaweed by botocore")


@pytest.fixture
def server(kind: str, request: pytest.FixtureRequest) -> Server:
    server: Server = request.getfixturevalue(kind)
    return server


@pytest.fixture
def plain(server: Server, bucket: str) -> Iterator[S3Store]:
    """A store that keeps no versions."""
    server.make_bucket(bucket)
    store = S3Store(server.settings(bucket))
    yield store
    store.close()


@pytest.fixture
def store(plain: S3Store, server: Server, bucket: str) -> S3Store:
    """A store that keeps them."""
    with contextlib.closing(server.client()) as s3:
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    return plain


@pytest.fixture(params=["seaweed", "moto", "flat"])
def either(request: pytest.FixtureRequest, bucket: str) -> Iterator[ObjectStore]:
    """The test double is held to the same."""
    if request.param == "flat":
        yield FlatStore()
        return
    server: Server = request.getfixturevalue(request.param)
    with contextlib.closing(server.client()) as s3, contextlib.closing(S3Store(server.settings(bucket))) as store:
        server.make_bucket(bucket)
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        yield store


def put(store: ObjectStore, key: str, *contents: bytes) -> list[Version]:
    """Write one after the other; the versions."""
    versions: list[Version] = []
    for content in contents:
        try:
            expect = store.head(key).version
        except ObjectNotFound:
            expect = None
        versions.append(store.put(key, Bytes(content), PLAIN, expect=expect).version)
    return versions


def history(store: ObjectStore, key: str) -> list[PastObject]:
    assert store.archive is not None
    return [past for past in store.archive.history(key) if past.key == key]


def read(store: ObjectStore, key: str, version_id: str | None) -> bytes:
    assert store.archive is not None
    assert version_id is not None
    return b"".join(store.archive.read(key, version_id).chunks)


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url) as answer:
        data: bytes = answer.read()
    return data


def test_every_state_of_an_object_newest_first(either: ObjectStore) -> None:
    put(either, "k", b"one", b"second")
    either.delete("k", expect=either.head("k").version)
    put(either, "k", b"3")
    put(either, "k2", b"another")
    found = history(either, "k")
    assert [(past.size, past.deleted, past.latest) for past in found] == [
        (1, False, True),
        (0, True, False),
        (6, False, False),
        (3, False, False),
    ]
    assert found[0].version.etag == either.head("k").version.etag
    assert len({past.version.version_id for past in found}) == 4
    assert [read(either, "k", past.version.version_id) for past in found if not past.deleted] == [
        b"3",
        b"second",
        b"one",
    ]
    either.delete("k", expect=either.head("k").version)
    assert [(past.deleted, past.latest) for past in history(either, "k")][:2] == [(True, True), (False, False)]
    with pytest.raises(ObjectNotFound):
        either.head("k")
    assert read(either, "k", found[0].version.version_id) == b"3"


def test_a_history_of_a_prefix_is_a_stream_in_key_order(store: S3Store, server: Server, bucket: str) -> None:
    names = [f"p/{number:03d}" for number in range(260)]
    put(store, "q", b"x")
    with contextlib.closing(server.client()) as s3, ThreadPoolExecutor(8) as pool:
        for content in (b"one", b"two", b"three", b"four"):
            list(pool.map(lambda name, data=content: s3.put_object(Bucket=bucket, Key=name, Body=data), names))
    found = list(store.archive.history("p/"))
    assert [past.key for past in found] == [name for name in names for _ in range(4)]
    assert [past.size for past in found] == [4, 5, 3, 3] * 260
    assert [past.latest for past in found] == [True, False, False, False] * 260
    assert next(store.archive.history("")).key == "p/000"
    assert list(store.archive.history("none/")) == []


def test_a_bucket_without_versions_has_its_objects(plain: S3Store) -> None:
    put(plain, "a/k", b"one", b"second")
    put(plain, "a/l", b"x")
    found = list(plain.archive.history("a/"))
    assert [(past.key, past.size, past.latest, past.deleted) for past in found] == [
        ("a/k", 6, True, False),
        ("a/l", 1, True, False),
    ]
    assert [past.version for past in found] == [plain.head("a/k").version, plain.head("a/l").version]
    assert found[0].version.version_id is None
    assert read(plain, "a/k", "null") == b"second"


def test_what_was_stored_before_versioning_can_be_had_back(plain: S3Store, server: Server, bucket: str) -> None:
    put(plain, "k", b"before")
    with contextlib.closing(server.client()) as s3:
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    after = put(plain, "k", b"after")[0]
    old = history(plain, "k")[1]
    assert read(plain, "k", old.version.version_id) == b"before"
    plain.archive.revive("k", str(old.version.version_id), expect=after)
    assert b"".join(plain.get("k").chunks) == b"before"


def test_there_is_no_such_version(either: ObjectStore) -> None:
    put(either, "k", b"one")
    [version] = put(either, "other", b"x")
    either.delete("k", expect=either.head("k").version)
    [deletion, _] = history(either, "k")
    assert either.archive is not None
    for key, wrong in [
        ("k", deletion.version.version_id), ("k", "nonsense"), ("k", history(either, "other")[0].version.version_id),
        ("none", version.version_id or version.etag),
    ]:  # fmt: skip
        assert wrong is not None
        with pytest.raises(ObjectNotFound):
            either.archive.read(key, wrong)
        with pytest.raises(ObjectNotFound):
            either.archive.revive(key, wrong, expect=None)
    with pytest.raises(ObjectNotFound):
        either.head("k")


def test_a_past_version_is_verified(store: S3Store, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes(3 * MIB + 1)
    [old, _] = put(store, "k", data, b"new")
    download = store.archive.read("k", str(old.version_id))
    assert download.info.sha256 == Bytes(data).sha256
    assert (download.info.size, download.info.version) == (len(data), old)
    assert b"".join(download.chunks) == data
    wrong = Bytes(b"other bytes").sha256
    monkeypatch.setattr("cachesync.store.s3.fields._digest", lambda *_: wrong)
    with pytest.raises(IntegrityError):
        b"".join(store.archive.read("k", str(old.version_id)).chunks)


def test_revive_a_deleted_object_with_all_it_had(either: ObjectStore) -> None:
    attributes = Attributes("text/x-one", {"mtime": "1.5", "name": "é ☃"}, {"kind": "log"})
    first = either.put("k", Bytes(b"one"), attributes, expect=None)
    second = put(either, "k", b"two")[0]
    either.delete("k", expect=second)
    assert either.archive is not None
    old = history(either, "k")[-1].version.version_id
    assert old is not None
    revived = either.archive.revive("k", old, expect=None)
    found = either.head("k")
    assert b"".join(either.get("k").chunks) == b"one"
    assert found.version == revived.version
    assert (found.sha256, revived.sha256, revived.size) == (first.sha256, first.sha256, 3)
    assert (found.content_type, dict(found.metadata)) == ("text/x-one", {"mtime": "1.5", "name": "é ☃"})
    states = [(past.size, past.deleted) for past in history(either, "k")]
    assert states == [(3, False), (0, True), (3, False), (3, False)]


def test_revive_keeps_the_tags(store: S3Store, server: Server, bucket: str) -> None:
    old = store.put("k", Bytes(b"one"), Attributes("text/plain", {}, {"kind": "log"}), expect=None).version
    put(store, "k", b"two")
    store.archive.revive("k", str(old.version_id), expect=store.head("k").version)
    with contextlib.closing(server.client()) as s3:
        assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == [{"Key": "kind", "Value": "log"}]


def test_revive_without_some_metadata_keeps_all_else(either: ObjectStore) -> None:
    attributes = Attributes("text/x-one", {"mtime": "1.5", "name": "é ☃", "writer": "w", "attemptid": "t"}, {})
    old = either.put("k", Bytes(b"one"), attributes, expect=None)
    put(either, "k", b"two")
    newest, first = history(either, "k")
    assert either.archive is not None
    assert first.version.version_id is not None
    without = {"writer", "attemptid", "never there"}
    revived = either.archive.revive("k", first.version.version_id, expect=Version(newest.version.etag), without=without)
    found = either.head("k")
    assert (found.version, found.sha256) == (revived.version, old.sha256)
    assert (found.content_type, dict(found.metadata)) == ("text/x-one", {"mtime": "1.5", "name": "é ☃"})
    assert dict(revived.metadata) == dict(found.metadata)


def test_revive_without_some_metadata_keeps_tags_and_headers(store: S3Store, server: Server, bucket: str) -> None:
    with contextlib.closing(server.client()) as s3:
        old = s3.put_object(
            Bucket=bucket, Key="k", Body=b"one", Metadata={"writer": "w"}, Tagging="kind=log", ContentType="text/plain",
            CacheControl="max-age=60", ContentDisposition="attachment", ContentLanguage="nb",
        )  # fmt: skip
        put(store, "k", b"two")
        store.archive.revive("k", old["VersionId"], expect=store.head("k").version, without={"writer"})
        found = s3.head_object(Bucket=bucket, Key="k")
        assert (found["Metadata"], found["ContentType"]) == ({}, "text/plain")
        assert (found["CacheControl"], found["ContentDisposition"]) == ("max-age=60", "attachment")
        assert found["ContentLanguage"] == "nb"
        assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == [{"Key": "kind", "Value": "log"}]


def test_revive_replaces_only_what_was_expected(either: ObjectStore) -> None:
    first, second = put(either, "k", b"one", b"two")
    old = history(either, "k")[1].version.version_id
    assert either.archive is not None
    assert old is not None
    for stale in (first, STALE, None):
        with pytest.raises(PreconditionFailed):
            either.archive.revive("k", old, expect=stale)
    assert b"".join(either.get("k").chunks) == b"two"
    either.delete("k", expect=second)
    with pytest.raises(PreconditionFailed):
        either.archive.revive("k", old, expect=second)
    with pytest.raises(ObjectNotFound):
        either.head("k")


def test_reviving_the_newest_changes_nothing(either: ObjectStore) -> None:
    [_, second] = put(either, "k", b"one", b"two")
    newest = history(either, "k")[0].version.version_id
    assert either.archive is not None
    assert newest is not None
    assert either.archive.revive("k", newest, expect=second).version == second
    assert len(history(either, "k")) == 2


def test_a_big_one_is_revived_in_parts(store: S3Store, server: Server, bucket: str) -> None:
    data = bytes(range(256)) * (24 * 1024) + b"tail"  # a bit over 6 MiB
    small = S3Store(server.settings(bucket, copy_limit=5 * MIB))
    first = small.put("k +é", Bytes(data), Attributes("text/x-one", {"a": "b", "c": "d"}, {"kind": "log"}), expect=None)
    old = first.version
    newer = put(small, "k +é", b"new")[0]
    with pytest.raises(PreconditionFailed):
        small.archive.revive("k +é", str(old.version_id), expect=old)
    revived = small.archive.revive("k +é", str(old.version_id), expect=newer, without={"c"})
    found = small.head("k +é")
    assert found.version == revived.version
    assert (found.content_type, dict(found.metadata)) == ("text/x-one", {"a": "b"})
    assert b"".join(small.get("k +é").chunks) == data
    with contextlib.closing(server.client()) as s3:
        assert s3.get_object_tagging(Bucket=bucket, Key="k +é")["TagSet"] == [{"Key": "kind", "Value": "log"}]
    small.close()


def test_odd_names_in_every_verb(store: S3Store, kind: str) -> None:
    # SeaweedFS takes a backslash for a slash, and keeps versions in a folder "NAME.versions": its name gets too long.
    names = [name for name in ODD_NAMES if kind != "seaweed" or ("\\" not in name and len(name.encode()) < 240)]
    for name in names:
        key = f"odd/{name}"
        [old, new] = put(store, key, b"old " + name.encode(), b"new")
        assert fetch(store.archive.url(key, expires=60)) == b"new"
        assert fetch(store.archive.url(key, expires=60, version_id=old.version_id)) == b"old " + name.encode()
        found = history(store, key)
        assert [past.version for past in found] == [new, old]
        assert read(store, key, old.version_id) == b"old " + name.encode()
        store.archive.revive(key, str(old.version_id), expect=new)
        assert b"".join(store.get(key).chunks) == b"old " + name.encode()
    assert {past.key for past in store.archive.history("odd/")} == {f"odd/{name}" for name in names}


def test_a_link_says_how_long_it_works(plain: S3Store, server: Server, bucket: str) -> None:
    put(plain, "k", b"data")
    link = urlsplit(plain.archive.url("k", expires=90.9))
    asked = parse_qs(link.query)
    assert f"{link.scheme}://{link.netloc}" == server.endpoint
    assert link.path == f"/{bucket}/k"
    assert asked["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert asked["X-Amz-Expires"] == ["90"]
    assert asked["X-Amz-SignedHeaders"] == ["host"]
    for wrong in (0, 0.5, -1, 604_801, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="604800"):
            plain.archive.url("k", expires=wrong)
    assert "X-Amz-Expires=604800" in plain.archive.url("k", expires=604_800)


def test_a_link_that_was_changed_opens_nothing(seaweed: SeaweedServer, bucket: str) -> None:
    seaweed.make_bucket(bucket)
    store = S3Store(seaweed.settings(bucket))
    put(store, "k", b"data")
    put(store, "secret", b"secret")
    url = store.archive.url("k", expires=60)
    assert fetch(url) == b"data"
    for changed in (
        url.replace("/k?", "/secret?"),
        url.replace("X-Amz-Expires=60", "X-Amz-Expires=600"),
        url[:-1] + ("0" if url[-1] != "0" else "1"),
        url.partition("?")[0],
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            fetch(changed)
        assert refused.value.code == 403
        refused.value.close()
    store.close()


def test_a_link_needs_no_store_that_answers() -> None:
    store = S3Store(S3Settings("bucket", endpoint=closed_port(), region="us-east-1", key="k", secret="s"))
    assert store.archive.url("a b", expires=60).startswith("http://")
    with pytest.raises(StoreUnreachable):
        list(store.archive.history(""))
    with pytest.raises(StoreUnreachable):
        store.archive.read("k", "v")
    with pytest.raises(StoreUnreachable):
        store.archive.revive("k", "v", expect=None)
    store.close()


def test_a_link_to_amazon_names_the_bucket_as_host() -> None:
    store = S3Store(S3Settings("bucket", region="eu-west-1", key="k", secret="s", token="t"))
    link = urlsplit(store.archive.url("a b", expires=60))
    assert link.hostname is not None
    assert link.hostname.startswith("bucket.s3.")
    assert link.path == "/a%20b"
    assert parse_qs(link.query)["X-Amz-Security-Token"] == ["t"]
    store.close()


def test_a_bucket_that_is_not_there(server: Server, bucket: str) -> None:
    store = S3Store(server.settings(bucket))
    with pytest.raises(NoSuchBucket):
        list(store.archive.history(""))
    with pytest.raises(NoSuchBucket):
        store.archive.read("k", "null")
    with pytest.raises(NoSuchBucket):
        store.archive.revive("k", "null", expect=None)
    store.close()


def test_a_throttled_archive_is_the_one_below(store: S3Store) -> None:
    [old, new] = put(store, "k", b"one", b"two")
    slow = ThrottledStore(store, 1e9)
    assert slow.archive is not None
    assert [past.version for past in slow.archive.history("k")] == [new, old]
    assert b"".join(slow.archive.read("k", str(old.version_id)).chunks) == b"one"
    slow.archive.revive("k", str(old.version_id), expect=new)
    assert fetch(slow.archive.url("k", expires=60)) == b"one"


def test_folders_have_no_archive(bucket: str) -> None:
    store = FsspecStore(f"memory://{bucket}")
    assert store.archive is None
    assert ThrottledStore(store, 1e9).archive is None


def test_versions_and_deletions_of_one_second_take_turns() -> None:
    """What a server that counts in seconds gives for: one, two, deleted, three, deleted."""

    class Client:
        settings = S3Settings("bucket")

        def call(self, *_: object, **__: object) -> dict[str, object]:
            def row(version_id: str, **more: object) -> dict[str, object]:
                return {"Key": "k", "VersionId": version_id, "IsLatest": False} | more

            return {
                "Versions": [row(name, ETag=f'"{name}"', Size=1) for name in ("three", "two", "one")],
                "DeleteMarkers": [row("second", IsLatest=True), row("first")],
            }

    archive = S3Archive(Client(), None, lambda *_: None)  # type: ignore[arg-type]
    ids = [past.version.version_id for past in archive.history("k")]
    assert ids == ["second", "three", "first", "two", "one"]
