"""Answers that do not come from the store are no answers, whichever way it is asked: ours and botocore's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from cachesync.model.errors import (
    ObjectNotFound,
    StoreCredentials,
    StoreDenied,
    StorePermanent,
    StoreSlowDown,
    StoreTransient,
)
from cachesync.model.values import Version
from cachesync.store.s3.store import S3Store
from tests.bodies import MIB, PLAIN, Bytes, Memory
from tests.faults import proxy as faults
from tests.faults.proxy import Action, Proxy
from tests.servers import Server, kind_of

kind = kind_of("seaweed", "moto", "seaweed by botocore", "moto by botocore")

PART = 5 * MIB
HERE = b"what the store has"


@pytest.fixture
def proxy(server: Server | None) -> Iterator[Proxy]:
    assert server is not None
    with Proxy(server.endpoint) as proxy:
        yield proxy


@pytest.fixture
def s3(server: Server | None, proxy: Proxy, bucket: str) -> Iterator[S3Store]:
    assert server is not None
    server.make_bucket(bucket)
    store = S3Store(server.settings(bucket, endpoint=proxy.endpoint))
    store.check_conditional()
    yield store
    proxy.clear()
    store.close()


@pytest.fixture
def first(s3: S3Store) -> Version:
    return s3.put("k", Bytes(HERE), PLAIN, expect=None).version


Verb = Callable[[S3Store, Version], object]

VERBS: dict[str, tuple[str, Verb]] = {
    "get": ("GetObject", lambda s3, _: b"".join(s3.get("k").chunks)),
    "get a part": ("GetObject", lambda s3, _: b"".join(s3.get("k", start=2, length=5).chunks)),
    "head": ("HeadObject", lambda s3, _: s3.head("k")),
    "head of what is not there": ("HeadObject", lambda s3, _: s3.head("none")),
    "put": ("PutObject", lambda s3, first: s3.put("k", Bytes(b"x"), PLAIN, expect=first)),
    "create": ("PutObject", lambda s3, _: s3.put("new", Bytes(b"x"), PLAIN, expect=None)),
    "delete": ("DeleteObject", lambda s3, first: s3.delete("k", expect=first)),
    "list": ("ListObjects", lambda s3, _: list(s3.list(""))),
    "copy": ("CopyObject", lambda s3, first: s3.copy("k", "l", source_version=first, expect=None)),
    "begin parts": ("CreateMultipartUpload", lambda s3, _: s3.put("b", big(), PLAIN, expect=None)),
    "send a part": ("UploadPart", lambda s3, _: s3.put("b", big(), PLAIN, expect=None)),
    "complete": ("CompleteMultipartUpload", lambda s3, _: s3.put("b", big(), PLAIN, expect=None)),
    "versions": ("GetBucketVersions", lambda s3, _: list(s3.archive.history(""))),
}


def big() -> Bytes:
    return Bytes(os.urandom(PART + 1), PART)


PAGES = {
    "200": faults.PORTAL,
    "200 with ETag": faults.PORTAL_WITH_ETAG,
    "XHTML": faults.page(200, kind="application/xhtml+xml"),
    "302": faults.page(302, "Location: http://127.0.0.1:1/login"),
    "403": faults.page(403),
    "404": faults.page(404),
    "412": faults.page(412),
    "501": faults.page(501),
}


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
@pytest.mark.parametrize(("operation", "verb"), VERBS.values(), ids=VERBS)
def test_a_page_is_no_answer(
    s3: S3Store, proxy: Proxy, first: Version, page: Action, operation: str, verb: Verb
) -> None:
    rule = proxy.add(page, operation if operation != "HeadObject" else "(Head|Get)Object")
    with pytest.raises(StoreTransient):
        verb(s3, first)
    assert rule.hits
    proxy.clear()
    assert b"".join(s3.get("k", version=first).chunks) == HERE
    assert [info.key for info in s3.list("")] == ["k"]


@pytest.mark.parametrize("operation", ["GetObject", "HeadObject", "DeleteObject"])
def test_it_says_what_is_the_matter(s3: S3Store, proxy: Proxy, first: Version, operation: str) -> None:
    proxy.add(faults.PORTAL)
    verb = next(verb for name, verb in VERBS.values() if name == operation)
    with pytest.raises(StoreTransient, match=r"does not come from S3.*captive portal"):
        verb(s3, first)


@pytest.mark.parametrize("page", [faults.PORTAL, faults.page(404)], ids=["200", "404"])
def test_a_page_does_not_say_whether_a_bucket_is_there(s3: S3Store, proxy: Proxy, page: Action) -> None:
    proxy.add(page, "(HeadBucket|ListObjects)")
    with pytest.raises(StoreTransient):
        s3.head("none")
    proxy.clear()
    with pytest.raises(ObjectNotFound):
        s3.head("none")


def test_a_page_does_not_say_that_versions_are_off(s3: S3Store, proxy: Proxy) -> None:
    proxy.add(faults.PORTAL, "GetBucketVersioning")
    assert s3.traits.versioned is None


def test_the_absence_of_an_object_is_asked_for_again_where_no_id_vouches_for_it(s3: S3Store, proxy: Proxy) -> None:
    """As some servers answer that send no request ids: their document says it."""
    proxy.add(faults.page(404, kind="application/octet-stream"), "HeadObject")
    with pytest.raises(ObjectNotFound):
        s3.head("none")


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidAccessKeyId"])
@pytest.mark.parametrize("operation", ["HeadObject", "HeadBucket"])
def test_a_bare_400_is_asked_for_its_cause(s3: S3Store, proxy: Proxy, code: str, operation: str) -> None:
    proxy.add(faults.answer(400, code), "HeadBucket|GetObject|ListObjects")
    proxy.add(faults.answer(400, code), operation)
    with pytest.raises(StoreCredentials, match=code):
        s3.head("none")
    proxy.clear()
    with pytest.raises(ObjectNotFound):
        s3.head("none")


def test_a_bare_403_of_a_key_that_is_unknown_is_no_lack_of_rights(s3: S3Store, proxy: Proxy) -> None:
    proxy.add(faults.answer(403, "InvalidAccessKeyId"), "HeadObject|GetObject")
    with pytest.raises(StoreCredentials, match="InvalidAccessKeyId"):
        s3.head("k")
    proxy.clear()
    proxy.add(faults.ACCESS_DENIED, "HeadObject|GetObject")
    with pytest.raises(StoreDenied):
        s3.head("k")


@pytest.mark.parametrize("throttled", faults.KMS_THROTTLED)
def test_a_key_service_that_is_asked_too_often_slows_us_down(s3: S3Store, proxy: Proxy, throttled: Action) -> None:
    proxy.add(throttled, "PutObject")
    with pytest.raises(StoreSlowDown):
        s3.put("k", Bytes(b"x"), PLAIN, expect=None)


def test_after_a_conflict_at_its_completion_an_upload_begins_anew(s3: S3Store, proxy: Proxy) -> None:
    """What AWS wants: https://docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html"""
    body, memory = big(), Memory()
    proxy.add(faults.CONDITIONAL_CONFLICT, "CompleteMultipartUpload", times=1)
    with pytest.raises(StoreTransient, match="ConditionalRequestConflict"):
        s3.put("b", body, PLAIN, expect=None, resume=memory)
    assert memory.upload is None
    s3.put("b", body, PLAIN, expect=None, resume=memory)
    assert b"".join(s3.get("b").chunks) == body.data
    assert proxy.count("CreateMultipartUpload") == 2
    assert proxy.count("AbortMultipartUpload") == 1


def test_a_store_that_does_not_copy_is_asked_once(s3: S3Store, proxy: Proxy, first: Version) -> None:
    proxy.add(faults.NOT_IMPLEMENTED, "CopyObject")
    for _ in range(2):
        with pytest.raises(StorePermanent, match="NotImplemented"):
            s3.copy("k", "l", source_version=first, expect=None)
    assert proxy.count("CopyObject") == 1
    assert proxy.count("HeadObject") == 2


def test_that_one_object_is_archived_says_nothing_of_others(s3: S3Store, proxy: Proxy, first: Version) -> None:
    proxy.add(faults.ARCHIVED, "CopyObject", times=1)
    with pytest.raises(StorePermanent, match="InvalidObjectState"):
        s3.copy("k", "l", source_version=first, expect=None)
    s3.copy("k", "l", source_version=first, expect=None)
    assert b"".join(s3.get("l").chunks) == HERE
