"""What only S3 has: credentials, buckets, networks, and servers that do not keep to conditions."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cachesync.model.errors import (
    NoSuchBucket,
    PreconditionFailed,
    StoreCredentials,
    StoreDenied,
    StoreError,
    StoreTransient,
    StoreUnreachable,
)
from cachesync.model.values import Attributes, Version
from cachesync.store.s3 import probe
from cachesync.store.s3.client import S3Client, S3Settings
from cachesync.store.s3.store import S3Store
from tests.bodies import MIB, PLAIN, Bytes, Memory
from tests.servers import MotoServer, SeaweedServer, closed_port, deaf_server

VERBS = {
    "head": lambda store: store.head("k"),
    "get": lambda store: store.get("k"),
    "put": lambda store: store.put("k", Bytes(b"x"), PLAIN, expect=None),
    "put in parts": lambda store: store.put("k", Bytes(b"x", 1), PLAIN, expect=None),
    "copy": lambda store: store.copy("k", "l", source_version=Version("e"), expect=None),
    "delete": lambda store: store.delete("k", expect=Version("e")),
    "list": lambda store: list(store.list("")),
}


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


@pytest.mark.parametrize("verb", VERBS)
def test_a_bucket_that_is_not_there(seaweed: SeaweedServer, bucket: str, verb: str) -> None:
    store = S3Store(seaweed.settings(bucket))
    with pytest.raises(NoSuchBucket):
        VERBS[verb](store)
    store.close()


def test_a_bucket_that_is_not_there_on_moto(moto: MotoServer, bucket: str) -> None:
    store = S3Store(moto.settings(bucket))
    for verb in VERBS.values():
        with pytest.raises(NoSuchBucket):
            verb(store)
    store.close()


@pytest.mark.parametrize("verb", VERBS)
def test_nobody_there_is_known_at_once(verb: str) -> None:
    store = S3Store(S3Settings("bucket", endpoint=closed_port(), region="us-east-1", key="k", secret="s"))
    start = time.monotonic()
    with pytest.raises(StoreUnreachable):
        VERBS[verb](store)
    assert time.monotonic() - start < 3
    store.close()


@pytest.mark.parametrize("verb", VERBS)
def test_a_server_that_never_answers_is_left_in_time(verb: str) -> None:
    with deaf_server() as endpoint:
        store = S3Store(S3Settings("bucket", endpoint=endpoint, region="us-east-1", timeout=0.3, key="k", secret="s"))
        start = time.monotonic()
        with pytest.raises(StoreTransient, match="no answer within"):
            VERBS[verb](store)
        assert time.monotonic() - start < 5
        assert (store.silent_for or 0) > 0.2
        assert store.traits.versioned is None
        store.close()


def test_wrong_secret(seaweed: SeaweedServer, bucket: str) -> None:
    seaweed.make_bucket(bucket)
    store = S3Store(seaweed.settings(bucket, secret="top-secret-but-wrong"))
    for verb in VERBS.values():
        with pytest.raises((StoreCredentials, StoreDenied)) as error:
            verb(store)
        assert "top-secret" not in str(error.value)
    store.close()
    assert "top-secret" not in repr(store)


def test_no_credentials_at_all(seaweed: SeaweedServer, bucket: str, no_aws: pytest.MonkeyPatch) -> None:
    store = S3Store(seaweed.settings(bucket, key=None, secret=None))
    with pytest.raises(StoreCredentials):
        store.head("k")
    store.close()


def test_renewed_credentials_are_taken_up(seaweed: SeaweedServer, bucket: str, no_aws: pytest.MonkeyPatch) -> None:
    seaweed.make_bucket(bucket)
    no_aws.setenv("AWS_ACCESS_KEY_ID", seaweed.key)
    no_aws.setenv("AWS_SECRET_ACCESS_KEY", "expired")
    store = S3Store(seaweed.settings(bucket, key=None, secret=None))
    with pytest.raises(StoreCredentials):
        store.put("k", Bytes(b"x"), PLAIN, expect=None)
    no_aws.setenv("AWS_SECRET_ACCESS_KEY", seaweed.secret)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: store.put(f"k{n}", Bytes(b"x"), PLAIN, expect=None), range(8)))
    store.close()


def test_refused_credentials_leak_no_connections(seaweed: SeaweedServer, bucket: str) -> None:
    store = S3Store(seaweed.settings(bucket, secret="wrong"))

    def fail() -> None:
        with pytest.raises(StoreError):
            list(store.list(""))

    for _ in range(3):
        fail()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        fail()
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    store.close()


def test_a_closed_store_says_so(seaweed: SeaweedServer, bucket: str) -> None:
    store = S3Store(seaweed.settings(bucket))
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.head("k")


def test_versions_of_a_versioned_bucket(seaweed: SeaweedServer, bucket: str) -> None:
    seaweed.make_bucket(bucket)
    seaweed.client().put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    store = S3Store(seaweed.settings(bucket))
    first = store.put("k", Bytes(b"first"), PLAIN, expect=None)
    second = store.put("k", Bytes(b"second"), PLAIN, expect=first.version)
    assert store.traits.versioned is True
    assert first.version.version_id
    assert first.version.version_id != second.version.version_id
    assert store.head("k").version == second.version
    copied = store.copy("k", "l", source_version=second.version, expect=None)
    assert store.head("l").version == copied.version
    store.delete("k", expect=second.version)
    store.put("k", Bytes(b"third"), PLAIN, expect=None)
    store.close()


def test_tags_and_checksum_arrive(seaweed: SeaweedServer, bucket: str) -> None:
    seaweed.make_bucket(bucket)
    store = S3Store(seaweed.settings(bucket, sse="AES256"))
    tags = {"kind": "log", "a b": "c+d/é"}
    stored = store.put("k", Bytes(b"data"), Attributes("text/plain", {}, tags), expect=None)
    client = seaweed.client()
    found = client.get_object_tagging(Bucket=bucket, Key="k")["TagSet"]
    assert {tag["Key"]: tag["Value"] for tag in found} == tags
    store.copy("k", "l", Attributes("text/plain", {}, {"kind": "x"}), source_version=stored.version, expect=None)
    assert client.get_object_tagging(Bucket=bucket, Key="l")["TagSet"] == [{"Key": "kind", "Value": "x"}]
    assert client.head_object(Bucket=bucket, Key="k")["ServerSideEncryption"] == "AES256"
    assert store.head("k").sha256 == stored.sha256
    store.close()


def test_the_probe_leaves_nothing_behind(moto: MotoServer, bucket: str) -> None:
    moto.make_bucket(bucket)
    store = S3Store(moto.settings(bucket), prefix="our")
    assert store.traits.conditional is None
    assert store.check_conditional() is True
    assert list(store.list("")) == []
    store.close()


def test_stores_that_start_together_do_not_try_one_key(
    moto: MotoServer, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    moto.make_bucket(bucket)
    tried: set[str] = set()
    real = S3Client.call

    def call(self: S3Client, operation: str, path: str, method: str, **args: Any) -> Any:
        if method == "put_object":
            tried.add(args["Key"])
        return real(self, operation, path, method, **args)

    monkeypatch.setattr(S3Client, "call", call)
    for _ in range(5):
        store = S3Store(moto.settings(bucket))
        assert store.check_conditional() is True
        store.close()
    assert len(tried) == 5


def test_a_probe_that_is_denied_proves_nothing(moto: MotoServer, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that ignores conditions, and a policy that denies the probe's key: versions are compared."""
    moto.make_bucket(bucket)
    monkeypatch.setattr("cachesync.store.s3.fields.condition", lambda expect: {})
    store = S3Store(moto.settings(bucket))
    real, tried = store._client.call, 0

    def call(operation: str, path: str, method: str, **args: Any) -> Any:
        nonlocal tried
        if "/probe-" in args.get("Key", ""):
            tried += 1
            raise StoreDenied(operation, path, "AccessDenied")
        return real(operation, path, method, **args)

    monkeypatch.setattr(store._client, "call", call)
    first = store.put("k", Bytes(b"first"), PLAIN, expect=None)
    assert store.traits.conditional is None
    assert "denied, AccessDenied; allow s3:PutObject" in store.traits.denied
    with pytest.raises(PreconditionFailed):
        store.put("k", Bytes(b"second"), PLAIN, expect=None)
    second = store.put("k", Bytes(b"second"), PLAIN, expect=first.version)
    with pytest.raises(PreconditionFailed):
        store.put("k", Bytes(b"third"), PLAIN, expect=first.version)
    assert store.head("k").version == second.version
    assert tried == 1
    monkeypatch.setattr(probe, "AGAIN", 0.0)
    monkeypatch.setattr(store._client, "call", real)
    assert store.check_conditional() is True
    assert store.traits.denied == ""
    store.close()


def test_a_store_without_conditions_is_compared_first(
    moto: MotoServer, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    moto.make_bucket(bucket)
    monkeypatch.setattr("cachesync.store.s3.fields.condition", lambda expect: {})
    store = S3Store(moto.settings(bucket), prefix="our")
    call = store._client.call

    def forgetful(*args, **kwargs):
        kwargs.pop("IfMatch", None)
        return call(*args, **kwargs)

    monkeypatch.setattr(store._client, "call", forgetful)
    first = store.put("k", Bytes(b"first"), PLAIN, expect=None)
    assert store.traits.conditional is False
    assert [info.key for info in store.list("")] == ["k"]
    with pytest.raises(PreconditionFailed):
        store.put("k", Bytes(b"second"), PLAIN, expect=None)
    second = store.put("k", Bytes(b"second"), PLAIN, expect=first.version)
    with pytest.raises(PreconditionFailed):
        store.put("k", Bytes(b"third"), PLAIN, expect=first.version)
    with pytest.raises(PreconditionFailed):
        store.put("k", Bytes(b"third" * MIB, 5 * MIB), PLAIN, expect=None)
    assert store.head("k").version == second.version
    store.close()


def test_reading_and_writing_big_objects_takes_little_memory(seaweed: SeaweedServer, bucket: str) -> None:
    seaweed.make_bucket(bucket)
    store = S3Store(seaweed.settings(bucket, part_concurrency=2))
    data = os.urandom(96 * MIB)
    body = Bytes(data, 8 * MIB)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = peak()
    stored = store.put("big", body, Attributes("a/b", {"sha256": body.sha256}), expect=None)
    assert sum(map(len, store.get("big", version=stored.version).chunks)) == len(data)
    assert peak() - before < 60 * MIB
    store.close()


def test_p24_parts_that_hang_leave_room_for_those_of_another_session(moto: MotoServer, bucket: str) -> None:
    moto.make_bucket(bucket)
    store = S3Store(moto.settings(bucket))
    go_on, hung = threading.Event(), threading.Semaphore(0)

    def hang(_: int) -> None:
        hung.release()
        assert go_on.wait(60)

    flood, other = Bytes(bytes(50 * MIB), 5 * MIB), Bytes(os.urandom(20 * MIB), 5 * MIB)
    flood.before_read = hang
    mine, theirs = Memory(), Memory()
    theirs.session = "flood"
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(store.put, "flood", flood, PLAIN, expect=None, resume=theirs)
        for _ in range(store._client.settings.part_concurrency):
            assert hung.acquire(timeout=60)
        stored = store.put("other", other, PLAIN, expect=None, resume=mine)
        assert not hanging.done()
        go_on.set()
        assert hanging.result(60).size == flood.size
    assert stored.size == other.size
    store.close()


def test_calls_from_32_threads(seaweed: SeaweedServer, bucket: str) -> None:
    seaweed.make_bucket(bucket)
    store = S3Store(seaweed.settings(bucket, connections=32))
    data = os.urandom(50 * 1024)
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(lambda n: store.put(f"k{n}", Bytes(data), PLAIN, expect=None), range(300)))
        sizes = list(pool.map(lambda n: len(b"".join(store.get(f"k{n}").chunks)), range(300)))
    assert sizes == [len(data)] * 300
    store.close()
