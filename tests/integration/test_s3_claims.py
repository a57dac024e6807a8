"""What an answer claims is checked before it is believed: parts, versions, checksums, sizes, and the order of keys."""

from __future__ import annotations

import itertools
import resource
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cachesync.model.errors import PreconditionFailed, StorePermanent, StoreTransient
from cachesync.model.values import ObjectInfo, Version
from cachesync.store.s3 import fields, xml
from cachesync.store.s3.connection import Garbled
from cachesync.store.s3.direct import MAX_DOCUMENT
from cachesync.store.s3.store import S3Store
from tests.integration.test_s3_elsewhere import either_way, opened, script

__all__ = ["script"]

DATA = b"0123456789"


def reply(body: bytes = b"", status: int = 200, **headers: str) -> bytes:
    lines = {"x-amz-request-id": "1", "Content-Length": str(len(body))}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} S\r\n{head}\r\n".encode() + body


# -- one object --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "told",
    ["bytes 0-3/10", "bytes 3-6/10", "bytes 2-9/10", "bytes 2-5/*", "bytes */10", "2-5/10", "bytes 2-5/" + "9" * 30],
)
@either_way
def test_p05_another_part_than_was_asked_for_is_none(script, monkeypatch, way, told):
    server = script(lambda _: reply(DATA[2:6], 206, ETag='"e"', Content_Range=told))
    with opened(server.endpoint, way, monkeypatch) as store, pytest.raises(StoreTransient):
        store.get("k", start=2, length=4)


@either_way
def test_p05_a_part_is_not_taken_for_the_whole(script, monkeypatch, way):
    server = script(lambda _: reply(DATA[2:6], 206, ETag='"e"', Content_Range="bytes 2-5/10"))
    with opened(server.endpoint, way, monkeypatch) as store, pytest.raises(StoreTransient):
        store.get("k")


@pytest.mark.parametrize(
    ("start", "length", "told"), [(2, 4, "2-5"), (2, None, "2-9"), (8, 100, "8-9"), (0, 10, "0-9"), (0, 11, "0-9")]
)
@either_way
def test_the_part_that_was_asked_for(script, monkeypatch, way, start, length, told):
    first, last = map(int, told.split("-"))
    server = script(lambda _: reply(DATA[first : last + 1], 206, ETag='"e"', Content_Range=f"bytes {told}/10"))
    with opened(server.endpoint, way, monkeypatch) as store:
        found = store.get("k", start=start, length=length)
        assert found.info.size == 10
        assert b"".join(found.chunks) == DATA[first : last + 1]


@either_way
def test_a_store_that_knows_no_parts(script, monkeypatch, way):
    server = script(lambda _: reply(DATA, ETag='"e"'))
    with opened(server.endpoint, way, monkeypatch) as store:
        assert b"".join(store.get("k", start=0, length=10).chunks) == DATA
        with pytest.raises(StorePermanent, match="ignored the range"):
            store.get("k", start=2, length=4)


@pytest.mark.parametrize("length", [None, 4])
@either_way
def test_p05_another_version_than_was_asked_for_is_none(script, monkeypatch, way, length):
    part: dict[str, Any] = {} if length is None else {"status": 206, "Content_Range": "bytes 0-3/10"}
    head = [reply(ETag='"other"')]
    server = script(lambda request: head[0] if request[:4] == b"HEAD" else reply(DATA[:length], ETag='"other"', **part))
    with opened(server.endpoint, way, monkeypatch) as store:
        with pytest.raises(PreconditionFailed, match="other"):  # the store knows no conditions
            store.get("k", version=Version("e"), length=length)
        assert store.get("k", version=Version("other"), length=length).info.version.etag == "other"
        head[0] = reply(ETag='"e"')
        with pytest.raises(StoreTransient, match="another version"):  # the answer is wrong
            store.get("k", version=Version("e"), length=length)


@either_way
def test_p05_another_past_version_than_was_asked_for_is_none(script, monkeypatch, way):
    server = script(lambda _: reply(DATA, ETag='"e"', x_amz_version_id="v2"))
    with opened(server.endpoint, way, monkeypatch) as store:
        assert b"".join(store.archive.read("k", "v2").chunks) == DATA
        with pytest.raises(StoreTransient):
            store.archive.read("k", "v1")


@pytest.mark.parametrize("checksum", ["é" * 44, "\u0663" * 44, "=" * 44, "\ud800", "A" * 43 + "é"])
@pytest.mark.parametrize("told", ["", "not hex", "\u0663" * 64, "A" * 64])
def test_a_checksum_that_is_none_is_not_believed(checksum, told):
    answer = {"ETag": '"e"', "ContentLength": 1, "ChecksumSHA256": checksum, "Metadata": {"sha256": told}}
    assert fields.found("read", "k", answer).sha256 is None


@either_way
def test_a_checksum_that_is_none_is_no_error(script, monkeypatch, way):
    server = script(lambda _: reply(DATA, ETag='"e"', x_amz_checksum_sha256="é"))
    with opened(server.endpoint, way, monkeypatch) as store:
        assert b"".join(store.get("k").chunks) == DATA


SIZES = ["-5", "9" * 30, "1_0", "+1", " 1", "\u0663", "0x1", "1.0", "", "1e3"]


@pytest.mark.parametrize("size", SIZES)
def test_a_size_that_no_object_can_have_is_none(size):
    with pytest.raises(StoreTransient):
        fields.found("read", "k", {"ETag": '"e"', "ContentLength": size})
    with pytest.raises(StoreTransient):
        fields.found("read", "k", {"ETag": '"e"', "ContentRange": f"bytes 0-1/{size}"})


@pytest.mark.parametrize("size", ["-5", "9" * 30])
@either_way
def test_p16_nor_is_it_in_a_listing(script, monkeypatch, way, size):
    server = script(lambda _: reply(listing([ENTRY.format(key="a").replace(">1<", f">{size}<")])))
    with opened(server.endpoint, way, monkeypatch) as store, pytest.raises(StoreTransient):
        list(store.list(""))


# -- documents ---------------------------------------------------------------------------------------------------------

ENTRY = (
    "<Contents><Key>{key}</Key><LastModified>2026-11-28T10:00:00.000Z</LastModified><ETag>e</ETag>"
    "<Size>1</Size></Contents>"
)


def listing(entries: list[str], token: str | None = None, *more: str) -> bytes:
    following = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    truncated = f"<IsTruncated>{'true' if token else 'false'}</IsTruncated>"
    return f"<ListBucketResult>{truncated}{following}{''.join(entries)}{''.join(more)}</ListBucketResult>".encode()


BOMB = "<!DOCTYPE r [" + '<!ENTITY a "%s">' % ("x" * 1000) + "]>"
FLOODS = {
    "entities": BOMB.encode() + b"<ListBucketResult>" + b"<Prefix>" + b"&a;" * 1000 + b"</Prefix></ListBucketResult>",
    "a DOCTYPE alone": b"<!DOCTYPE ListBucketResult>" + listing([]),
    "in another encoding": ('<?xml version="1.0" encoding="UTF-16"?>' + BOMB + "<ListBucketResult/>").encode("utf-16"),
    "elements": b"<ListBucketResult>" + b"<a/>" * (MAX_DOCUMENT // 5) + b"</ListBucketResult>",
    "depth": b"<ListBucketResult>" + b"<a>" * (MAX_DOCUMENT // 8) + b"</a>" * (MAX_DOCUMENT // 8),
    "attributes": b"<ListBucketResult " + b" ".join(b'a%x=""' % i for i in range(300_000)) + b"/>",
    "length": b"<ListBucketResult>" + b" " * MAX_DOCUMENT + b"</ListBucketResult>",
}


@pytest.mark.parametrize("page", FLOODS.values(), ids=FLOODS)
@pytest.mark.parametrize("verb", ["list", "versions"])
@pytest.mark.parametrize("status", [200, 500])
@either_way
def test_p16_a_document_takes_no_more_memory_than_a_page_has(script, monkeypatch, way, verb, page, status):
    pages = [listing([])]
    root = b"ListBucketResult" if verb == "list" else b"ListVersionsResult"
    server = script(
        lambda _: reply(pages[0].replace(b"ListBucketResult", root), 200 if pages == [listing([])] else status)
    )
    with opened(server.endpoint, way, monkeypatch) as store:

        def ask() -> None:
            list(store.list("") if verb == "list" else store.archive.history(""))

        ask()  # what an import takes does not count
        pages[0] = page
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(StoreTransient):
            ask()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60 * 1024


def test_the_largest_page_that_s3_can_send_is_read():
    key = "%E2%98%83" * 341
    owner = f"<Owner><ID>{'a' * 64}</ID><DisplayName>somebody</DisplayName></Owner>"
    entry = ENTRY.format(key=key).replace("<ETag>e", f"<ETag>&quot;{'0' * 32}-10000&quot;").replace(
        "</Contents>",
        "<ChecksumAlgorithm>SHA256</ChecksumAlgorithm><ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm>"
        f"<ChecksumType>FULL_OBJECT</ChecksumType>{owner}<StorageClass>INTELLIGENT_TIERING</StorageClass></Contents>",
    )  # fmt: skip
    text = listing([entry] * 1000, "t" * 1024, "<EncodingType>url</EncodingType>")
    assert len(text) < MAX_DOCUMENT
    page = xml.read("list_objects_v2", text)
    assert [entry["Key"] for entry in page["Contents"]] == ["☃" * 341] * 1000


@pytest.mark.parametrize("name", ["IsTruncated", "NextContinuationToken", "Contents/Key", "Contents/Size"])
def test_what_is_said_twice_is_not_said(name):
    text = listing([ENTRY.format(key="a")], "t").decode()
    tag = name.rpartition("/")[2]
    begin, end = text.index(f"<{tag}>"), text.index(f"</{tag}>") + len(f"</{tag}>")
    with pytest.raises(Garbled, match="twice"):
        xml.read("list_objects_v2", (text[:end] + text[begin:end] + text[end:]).encode())


@pytest.mark.parametrize("at", ["2026-19-28T10:00:00.000Z", "1e999", "nan", "9" * 40, "-" * 40])
def test_a_time_that_is_none_is_no_page(at):
    text = listing([ENTRY.format(key="a").replace("2026-11-28T10:00:00.000Z", at)])
    with pytest.raises(Garbled):
        xml.read("list_objects_v2", text)


# -- the order of keys -------------------------------------------------------------------------------------------------


def keys_of(store: S3Store, pages: Iterator[dict[str, Any]], prefix: str = "", **how: Any) -> list[str]:
    def call(*_: object, **__: object) -> dict[str, Any]:
        return next(pages)

    store._client.call = call  # type: ignore[method-assign]
    found: list[ObjectInfo] = []
    for info in store.list(prefix, **how):
        found.append(info)
        assert len(found) < 100_000, "it has no end"
    return [info.key for info in found]


def page_of(*keys: str, token: str | None = None, folders: tuple[str, ...] = ()) -> dict[str, Any]:
    entries = [{"Key": key, "Size": 1, "ETag": "e"} for key in keys]
    below = [{"Prefix": folder} for folder in folders]
    more = {"NextContinuationToken": token} if token else {}
    return {"Contents": entries, "CommonPrefixes": below, "IsTruncated": bool(token)} | more


@pytest.fixture
def store(monkeypatch) -> Iterator[S3Store]:
    with opened("http://127.0.0.1:1", "ours", monkeypatch) as store:
        yield store


@pytest.mark.parametrize(
    "pages",
    [
        lambda: (page_of("a", "b", token=f"t{number % 2}") for number in iter(int, 1)),
        lambda: (page_of("a", "b", token=f"t{number}") for number in range(10**9)),
        lambda: (page_of(token=f"t{number}") for number in range(10**9)),
        lambda: (page_of(f"k{number % 777}", token=f"t{number}") for number in range(10**9)),
        lambda: (page_of(f"k{max(100, number) % 150}", token="t") for number in range(10**9)),
        lambda: iter([page_of("a", "a")]),
        lambda: iter([{"Contents": [], "IsTruncated": True}]),
    ],
    ids=["tokens go round", "new tokens, old keys", "nothing, for ever", "a large round", "a round after a while",
         "twice", "no token"],
)  # fmt: skip
@pytest.mark.parametrize("prefix", ["", "p/"])
def test_p16_a_listing_that_goes_round_ends(store, pages: Callable[[], Iterator[dict[str, Any]]], prefix):
    def under() -> Iterator[dict[str, Any]]:
        for page in pages():
            for entry in page["Contents"]:
                entry["Key"] = prefix + entry["Key"]
            yield page

    with pytest.raises(StoreTransient, match="list"):
        keys_of(store, under(), prefix)


def test_p16_folders_of_a_listing_that_goes_round(store):
    pages = (page_of(token=f"t{number}", folders=("a/", "b/")) for number in range(10**9))
    with pytest.raises(StoreTransient, match="again and again"):
        keys_of(store, pages, shallow=True)


def test_p16_a_key_of_another_prefix_is_not_listed(store):
    with pytest.raises(StoreTransient, match="prefix"):
        keys_of(store, iter([page_of("sessions/other/a")]), "sessions/s/")


@pytest.mark.parametrize(
    "keys",
    [["a-b", "a.b", "a/b", "a0", "é", "😀"], ["a/b", "a/d/e", "a-b", "b"], ["é", "a", "a-b", "a/x", "a.b"]],
    ids=["as S3", "folder by folder", "as SeaweedFS with versions"],
)  # fmt: skip
def test_the_orders_that_stores_have(store, keys):
    pages = [page_of(*keys[:2], token="t"), page_of(token="u"), page_of(*keys[2:], token="v"), page_of()]
    assert keys_of(store, iter(pages)) == keys
    folders = iter([page_of("c", token="t", folders=("b/",)), page_of("a", folders=("a/", "b.d/"))])
    assert keys_of(store, folders, shallow=True) == ["b/", "c", "a", "a/", "b.d/"]


def test_p16_versions_that_go_round_end(store):
    def pages(*keys: str) -> Iterator[dict[str, Any]]:
        for number in range(10**9):
            entries = [{"Key": key, "Size": 1, "ETag": "e", "IsLatest": True, "VersionId": "v"} for key in keys]
            marker = {"NextKeyMarker": keys[-1] if keys else f"k{number}", "NextVersionIdMarker": f"v{number % 3}"}
            yield {"Versions": entries, "IsTruncated": True} | marker

    for keys in ((), ("a",), ("a", "b"), ("b", "a")):
        following = pages(*keys)
        store._client.call = lambda *_, following=following, **__: next(following)
        with pytest.raises(StoreTransient):
            list(itertools.islice(store.archive.history(""), 10_000))
