"""What every store does, in the words of ``cachesync.store.base``. Where one differs, the test says so and why."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cachesync.model.errors import FileChanging, ObjectNotFound, PreconditionFailed, StoreError, StorePermanent
from cachesync.model.values import Attributes, Version
from cachesync.store.base import ObjectStore
from cachesync.store.throttled import ThrottledStore
from tests.bodies import PLAIN, Bytes

STALE = Version("00000000000000000000000000000000")

ODD_NAMES = [
    "plain.txt",
    "with space.txt",
    " leading and trailing ",
    "a?versionId=1",
    "we[i]rd*.txt",
    "100%2F literal %20",
    "plus+and&ampersand=equals;semicolon,comma",
    "hash#fragment",
    "combining e\u0301 and composed \u00e9",
    "emoji 🚀/☃",
    "quote'double\"",
    "back\\slash",
    "<xml>&amp;</xml>",
    "tilde~star*bang!(paren)",
    "colon:at@dollar$",
    "n" * 255,
    "\u00e9" * 127,
    ".hidden/.dot.file",
    "deep/" * 20 + "x",
]
CONTROL_NAMES = ["line\nbreak", "tab\there", "return\rhere", "bell\x07"]


def read(store: ObjectStore, key: str, **args) -> bytes:
    return b"".join(store.get(key, **args).chunks)


def test_a_new_object_is_described_as_it_was_stored(store: ObjectStore) -> None:
    body = Bytes(b"hello")
    stored = store.put("s/a.txt", body, Attributes("text/x-test", {"mtime": "1.5"}), expect=None)
    found = store.head("s/a.txt")
    assert (stored.key, stored.size, stored.sha256) == ("s/a.txt", 5, body.sha256)
    assert found.version == stored.version
    assert (found.size, found.content_type, found.metadata["mtime"]) == (5, "text/x-test", "1.5")
    assert found.sha256 == body.sha256
    assert found.modified > 1_600_000_000
    assert read(store, "s/a.txt") == b"hello"


def test_an_empty_object(store: ObjectStore) -> None:
    stored = store.put("empty", Bytes(b""), PLAIN, expect=None)
    assert store.head("empty").size == 0
    assert read(store, "empty", version=stored.version) == b""
    assert read(store, "empty", start=0, length=10) == b""


def test_create_does_not_replace(store: ObjectStore) -> None:
    store.put("k", Bytes(b"first"), PLAIN, expect=None)
    with pytest.raises(PreconditionFailed):
        store.put("k", Bytes(b"second"), PLAIN, expect=None)
    assert read(store, "k") == b"first"


def test_replace_needs_the_version_that_is_there(store: ObjectStore) -> None:
    first = store.put("k", Bytes(b"first"), PLAIN, expect=None)
    second = store.put("k", Bytes(b"second"), PLAIN, expect=first.version)
    assert second.version != first.version
    with pytest.raises(PreconditionFailed):
        store.put("k", Bytes(b"third"), PLAIN, expect=first.version)
    assert read(store, "k") == b"second"


def test_replace_what_is_not_there(store: ObjectStore) -> None:
    with pytest.raises(PreconditionFailed):
        store.put("nothing", Bytes(b"x"), PLAIN, expect=STALE)
    with pytest.raises(ObjectNotFound):
        store.head("nothing")


def test_absent_things_are_not_found(store: ObjectStore) -> None:
    with pytest.raises(ObjectNotFound):
        store.head("no/such")
    with pytest.raises(ObjectNotFound):
        read(store, "no/such")
    with pytest.raises((ObjectNotFound, PreconditionFailed)):
        read(store, "no/such", version=STALE)
    with pytest.raises(ObjectNotFound):
        store.copy("no/such", "other", source_version=STALE, expect=None)
    store.delete("no/such", expect=STALE)
    assert list(store.list("no/")) == []


def test_delete_needs_the_version_that_is_there(store: ObjectStore) -> None:
    first = store.put("d/k", Bytes(b"first"), PLAIN, expect=None)
    second = store.put("d/k", Bytes(b"second"), PLAIN, expect=first.version)
    with pytest.raises(PreconditionFailed):
        store.delete("d/k", expect=first.version)
    assert read(store, "d/k") == b"second"
    store.delete("d/k", expect=second.version)
    with pytest.raises(ObjectNotFound):
        store.head("d/k")
    store.delete("d/k", expect=second.version)
    store.put("d/k", Bytes(b"again"), PLAIN, expect=None)


@pytest.mark.parametrize("race", ["create", "replace"])
def test_of_eight_writers_one_wins(store: ObjectStore, race: str) -> None:
    expect = store.put("k", Bytes(b"before"), PLAIN, expect=None).version if race == "replace" else None
    start = threading.Barrier(8)

    def write(number: int) -> Version | None:
        start.wait()
        try:
            return store.put("k", Bytes(b"%d" % number), PLAIN, expect=expect).version
        except PreconditionFailed:
            return None

    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(write, range(8)))
    [winner] = [number for number, version in enumerate(versions) if version]
    assert read(store, "k", version=versions[winner]) == b"%d" % winner


def test_a_stale_version_is_not_read(store: ObjectStore) -> None:
    first = store.put("k", Bytes(b"first"), PLAIN, expect=None)
    second = store.put("k", Bytes(b"second"), PLAIN, expect=first.version)
    with pytest.raises(PreconditionFailed):
        read(store, "k", version=first.version)
    with pytest.raises(PreconditionFailed):
        read(store, "k", version=first.version, start=1, length=0)
    assert read(store, "k", version=second.version) == b"second"


def test_ranges(store: ObjectStore) -> None:
    store.put("k", Bytes(b"0123456789"), PLAIN, expect=None)
    assert read(store, "k", start=3, length=4) == b"3456"
    assert read(store, "k", start=7) == b"789"
    assert read(store, "k", start=7, length=100) == b"789"
    assert read(store, "k", start=0, length=10) == b"0123456789"
    assert read(store, "k", start=10) == b""
    assert read(store, "k", start=25, length=5) == b""
    assert read(store, "k", length=0) == b""
    assert store.get("k", start=3, length=4).info.size == 10


def test_a_read_that_is_given_up_leaves_nothing_behind(store: ObjectStore) -> None:
    data = os.urandom(5_000_000)
    stored = store.put("big", Bytes(data), PLAIN, expect=None)
    for _ in range(60):  # more than there are connections
        download = store.get("big", version=stored.version)
        assert next(download.chunks) == data[: 1024 * 1024]
        download.chunks.close()  # type: ignore[attr-defined]
        store.get("big", version=stored.version)
    assert read(store, "big") == data


def test_metadata_comes_back(store: ObjectStore) -> None:
    metadata = {
        "mtime": "1732454656.123456789",
        "mode": "33188",
        "session": "s1",
        "artifact-type": "plan é ☃ ",
        "e": "",
    }
    store.put("k", Bytes(b"x"), Attributes("application/json", metadata, {"kind": "log", "a b": "c+d/é"}), expect=None)
    found = store.head("k")
    assert dict(found.metadata) == metadata
    assert dict(store.get("k").info.metadata) == metadata
    assert found.content_type == "application/json"


def test_odd_names_are_names_like_any_other(store: ObjectStore, kind: str) -> None:
    # SeaweedFS takes a backslash for a slash: "back\\slash" is "back/slash" there.
    names = [name for name in ODD_NAMES if kind != "seaweed" or "\\" not in name]
    for name in names:
        store.put(f"odd/{name}", Bytes(name.encode()), PLAIN, expect=None)
    for name in names:
        assert read(store, f"odd/{name}") == name.encode()
        info = store.head(f"odd/{name}")
        copied = store.copy(f"odd/{name}", f"copied/{name}", source_version=info.version, expect=None)
        assert copied.size == info.size
    keys = [info.key for info in store.list("odd/")]
    # SeaweedFS lists folder by folder: "b/c" before "b-c", though "-" sorts before "/".
    assert (sorted(keys, key=str.encode) if kind == "seaweed" else keys) == sorted(
        (f"odd/{name}" for name in names), key=str.encode
    )
    for name in names:
        store.delete(f"odd/{name}", expect=store.head(f"odd/{name}").version)
    assert list(store.list("odd/")) == []
    assert sorted(info.key for info in store.list("copied/")) == sorted(
        key.replace("odd/", "copied/", 1) for key in keys
    )


@pytest.mark.parametrize("name", CONTROL_NAMES)
def test_control_characters_in_names(store: ObjectStore, kind: str, name: str) -> None:
    if kind == "moto" and "\n" in name:
        pytest.skip("moto's URL patterns do not match a newline: it answers 404")
    stored = store.put(f"odd/{name}", Bytes(b"x"), PLAIN, expect=None)
    assert read(store, f"odd/{name}") == b"x"
    assert [info.key for info in store.list("odd/")] == [f"odd/{name}"]
    store.copy(f"odd/{name}", f"copied/{name}", source_version=stored.version, expect=None)
    assert [info.key for info in store.list("copied/")] == [f"copied/{name}"]
    store.delete(f"odd/{name}", expect=stored.version)


def test_a_listing_is_complete_and_in_key_order(store: ObjectStore, kind: str) -> None:
    names = [f"p/{number:04d}" for number in range(2_490)]
    names += ["p/b", "p/b-c", "p/b/c", "p/b.d", "p/B", "p/é", "p2/other", "p"]
    if kind != "moto":
        # A folder holds no object "b" beside another "b/c"; SeaweedFS does if they come in the right order.
        names = [name for name in names if name not in ("p/b", "p")]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: store.put(name, Bytes(name.encode()), PLAIN, expect=None), names))
    found = list(store.list("p/"))
    if kind == "seaweed":
        # It lists folder by folder: "b/c" before "b-c", though "-" sorts before "/".
        found.sort(key=lambda info: info.key.encode())
    assert [info.key for info in found] == sorted((name for name in names if name.startswith("p/")), key=str.encode)
    level = sorted(
        {name if name.count("/") == 1 else "p/b/" for name in names if name.startswith("p/")}, key=str.encode
    )
    assert sorted((info.key for info in store.list("p/", shallow=True)), key=str.encode) == level
    assert [info.key for info in store.list("p/000")] == [f"p/{number:04d}" for number in range(10)]
    last = found[-1]
    assert (last.version.etag, last.size) == (store.head(last.key).version.etag, len(last.key.encode()))
    stream = store.list("")
    assert next(stream).key
    assert len(list(stream)) == len(names) - 1


def test_a_shallow_listing_shows_one_level(store: ObjectStore, kind: str) -> None:
    names = ["p/a", "p/b/c", "p/b/d/e", "p/b.d", "p/we[i]rd +%20*?versionId=1/é", "p/é/x", "p/é.txt", "p2/other", "top"]
    for name in names:
        store.put(name, Bytes(name.encode()), PLAIN, expect=None)
    found = list(store.list("p/", shallow=True))
    level = ["p/a", "p/b.d", "p/b/", "p/we[i]rd +%20*?versionId=1/", "p/é.txt", "p/é/"]
    assert [info.key for info in found] == level
    assert found[0].version.etag == store.head("p/a").version.etag
    assert [(info.size, info.version.etag) for info in found if info.key.endswith("/")] == [(0, "")] * 3
    assert [info.key for info in store.list("p/b/", shallow=True)] == ["p/b/c", "p/b/d/"]
    assert [info.key for info in store.list("p/b", shallow=True)] == ["p/b.d", "p/b/"]
    assert [info.key for info in store.list("p/we[i]rd +%20*?versionId=1/", shallow=True)] == [
        "p/we[i]rd +%20*?versionId=1/é"
    ]
    assert [info.key for info in store.list("", shallow=True)] == ["p/", "p2/", "top"]
    assert [info.key for info in store.list("p", shallow=True)] == ["p/", "p2/"]
    assert list(store.list("none/", shallow=True)) == []
    slow = ThrottledStore(store, 1e9)
    assert [info.key for info in slow.list("p/", shallow=True)] == level


def test_a_folder_that_holds_nothing_is_no_item(store: ObjectStore, kind: str, tmp_path: Path) -> None:
    gone = store.put("p/gone/x", Bytes(b"x"), PLAIN, expect=None)
    store.put("p/there/x", Bytes(b"x"), PLAIN, expect=None)
    store.delete("p/gone/x", expect=gone.version)
    if kind == "file":
        (tmp_path / "store/p/empty/deep").mkdir(parents=True)
    found = [info.key for info in store.list("p/", shallow=True)]
    # SeaweedFS shows a folder for a while after its last object is gone.
    assert [key for key in found if kind != "seaweed" or key != "p/gone/"] == ["p/there/"]


def test_copy_keeps_or_replaces_attributes(store: ObjectStore) -> None:
    source = store.put("a", Bytes(b"data"), Attributes("text/x-one", {"one": "1"}), expect=None)
    kept = store.copy("a", "b", source_version=source.version, expect=None)
    assert (kept.key, kept.size, kept.sha256) == ("b", 4, source.sha256)
    found = store.head("b")
    assert (found.content_type, dict(found.metadata), found.version) == ("text/x-one", {"one": "1"}, kept.version)
    replaced = store.copy("a", "c", Attributes("text/x-two", {"two": "2"}), source_version=source.version, expect=None)
    found = store.head("c")
    assert (found.content_type, dict(found.metadata), found.version) == ("text/x-two", {"two": "2"}, replaced.version)
    assert found.sha256 in (source.sha256, None)  # metadata may carry it; a copy computes none on every store
    assert read(store, "c") == b"data"


def test_copy_compares_source_and_target(store: ObjectStore) -> None:
    first = store.put("a", Bytes(b"first"), PLAIN, expect=None)
    second = store.put("a", Bytes(b"second"), PLAIN, expect=first.version)
    with pytest.raises(PreconditionFailed):
        store.copy("a", "b", source_version=first.version, expect=None)
    with pytest.raises(PreconditionFailed):
        store.copy("a", "b", source_version=second.version, expect=STALE)
    with pytest.raises(ObjectNotFound):
        store.copy("nothing", "b", source_version=second.version, expect=None)
    target = store.put("b", Bytes(b"target"), PLAIN, expect=None)
    with pytest.raises(PreconditionFailed):
        store.copy("a", "b", source_version=second.version, expect=None)
    with pytest.raises(PreconditionFailed):
        store.copy("a", "b", source_version=second.version, expect=STALE)
    assert read(store, "b") == b"target"
    store.copy("a", "b", source_version=second.version, expect=target.version)
    assert read(store, "b") == b"second"


def test_bytes_that_are_not_those_of_the_digest_are_refused(store: ObjectStore, kind: str) -> None:
    wrong = Bytes(b"these", sha256=Bytes(b"those").sha256)
    if kind == "moto":
        store.put("k", wrong, PLAIN, expect=None)  # moto compares no checksums
        return
    with pytest.raises(FileChanging):
        store.put("k", wrong, PLAIN, expect=None)
    with pytest.raises(ObjectNotFound):
        store.head("k")


def test_a_file_that_changes_while_it_is_read_is_not_stored(store: ObjectStore) -> None:
    body = Bytes(b"longer than it is")
    body.data = b"shorter"
    with pytest.raises(FileChanging):
        store.put("k", body, PLAIN, expect=None)
    with pytest.raises(ObjectNotFound):
        store.head("k")


def test_an_object_and_a_folder_of_one_name(store: ObjectStore, kind: str) -> None:
    store.put("x", Bytes(b"object"), PLAIN, expect=None)
    if kind in ("file", "memory"):
        with pytest.raises(StorePermanent, match="x/y"):
            store.put("x/y", Bytes(b"below"), PLAIN, expect=None)
        store.put("d/y", Bytes(b"below"), PLAIN, expect=None)
        with pytest.raises(StorePermanent, match="x/y"):
            store.put("d", Bytes(b"object"), PLAIN, expect=None)
    else:
        store.put("x/y", Bytes(b"below"), PLAIN, expect=None)
        assert read(store, "x/y") == b"below"
        store.put("d/y", Bytes(b"below"), PLAIN, expect=None)
        if kind == "seaweed":
            # SeaweedFS makes folders of prefixes; the other order is refused there.
            with pytest.raises(StorePermanent, match="x/y"):
                store.put("d", Bytes(b"object"), PLAIN, expect=None)
        else:
            store.put("d", Bytes(b"object"), PLAIN, expect=None)
    assert read(store, "x") == b"object"


def test_traits(store: ObjectStore, kind: str) -> None:
    store.put("k", Bytes(b"x"), PLAIN, expect=None)
    assert store.traits.conditional is True
    assert store.traits.versioned is False
    scheme = {"file": "file", "memory": "memory"}.get(kind, "s3")
    assert store.traits.url.startswith(f"{scheme}://")
    assert [info.key for info in store.list("")] == ["k"]


def test_a_throttled_store_is_the_store_below_at_a_rate(store: ObjectStore) -> None:
    slow = ThrottledStore(store, 1e9)
    stored = slow.put("k", Bytes(b"data"), PLAIN, expect=None)
    assert slow.head("k").version == stored.version
    assert b"".join(slow.get("k", version=stored.version).chunks) == b"data"
    copied = slow.copy("k", "l", source_version=stored.version, expect=None)
    assert [info.key for info in slow.list("")] == ["k", "l"]
    slow.delete("l", expect=copied.version)
    assert slow.traits.url == store.traits.url


def test_errors_say_what_failed_on_what(store: ObjectStore) -> None:
    with pytest.raises(StoreError) as error:
        store.head("no/such")
    assert "'no/such'" in str(error.value)
    assert error.value.operation
