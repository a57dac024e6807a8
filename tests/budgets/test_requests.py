"""Requests to the store, as they go over the wire. Each of them is money and a round trip."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import pytest

from cachesync.model.address import Address, Space
from tests.budgets.conftest import Counted, MakeCounted, S
from tests.servers import SeaweedServer

pytestmark = pytest.mark.s3

PUT, HEAD, GET, LIST, DELETE, COPY = (
    "PutObject",
    "HeadObject",
    "GetObject",
    "ListObjects",
    "DeleteObject",
    "CopyObject",
)
MANY = 12
NAMES = [f"d{number % 3}/f{number:02}" for number in range(MANY)]


# -- storing -----------------------------------------------------------------------------------------------------------


def test_a_sessions_first_files_are_a_put_each_after_one_listing_and_one_question_of_the_client(
    make_counted: MakeCounted,
):
    one = make_counted()
    one.write(*NAMES)
    with one.counted() as done:
        one.flush()
    assert done.requests == {GET: 3, LIST: 1, PUT: MANY + 3}, str(done)
    puts = [line for line in done.wire if line.startswith(PUT)]
    # Does the store keep to conditions? Once, at a key that no other host writes.
    assert re.fullmatch(r"PutObject sessions/s/\.cachesync/probe-[0-9a-f]{16} 412", puts[0]), done
    identity = "PutObject sessions/.cachesync/store.json 200"  # once in a store's life
    assert sorted(puts[1:-1]) == [identity, *(f"PutObject sessions/s/{name} 200" for name in sorted(NAMES))], str(done)
    assert "GetObject sessions/.cachesync/store.json 404" in done.wire, str(done)
    # The store's id is asked for before a session's first manifest: nothing else would tell an emptied store.
    asked = "GetObject sessions/.cachesync/store.json 200"
    assert done.wire[-2:] == [asked, "PutObject sessions/s/.cachesync/manifest.json 200"], str(done)
    assert done.wire[0] == "GetObject sessions/s/.cachesync/manifest.json 404", str(done)


def test_a_second_session_is_learned_and_the_client_asks_nothing_more(counting: Counted):
    other = counting.session.parent / "other"
    other.mkdir()
    (other / "a").write_text("a")
    with counting.counted() as done:
        assert counting.driven.flush("other").stored
    assert done.requests == {GET: 2, LIST: 1, PUT: 2}, str(done)


def test_a_root_is_bound_to_a_store_by_one_question(counting: Counted, make_counted: MakeCounted):
    other = make_counted("other")
    other.session.rename(other.session.parent / "o")
    (other.session.parent / "o/a").write_text("a")
    with other.counted() as done:
        assert other.driven.flush("o").stored
    assert "GetObject sessions/.cachesync/store.json 200" in done.wire, str(done)
    assert done.requests == {GET: 3, LIST: 1, PUT: 3}, str(done)


def test_a_new_small_file_is_one_put(counting: Counted):
    counting.write("a")
    counting.notice()
    with counting.counted() as done:
        assert counting.driven.pump() == 1
    assert done.wire == ["PutObject sessions/s/a 200"], str(done)


def test_many_new_files_are_a_put_each(counting: Counted):
    counting.write(*NAMES)
    counting.notice()
    with counting.counted() as done:
        assert counting.driven.pump() == MANY
    assert sorted(done.wire) == [f"PutObject sessions/s/{name} 200" for name in sorted(NAMES)], str(done)


def test_a_rewritten_file_is_one_put(counting: Counted):
    counting.write("first", text="other text")
    counting.notice()
    with counting.counted() as done:
        counting.driven.pump()
    assert done.wire == ["PutObject sessions/s/first 200"], str(done)


def test_a_file_that_was_written_with_the_same_bytes_is_asked_for_and_not_sent(counting: Counted):
    counting.write("first")
    counting.notice()
    with counting.counted() as done:
        assert counting.driven.pump() == 1
    assert done.wire == ["HeadObject sessions/s/first 200"], str(done)


# -- flush -------------------------------------------------------------------------------------------------------------


def test_a_flush_of_what_is_stored_asks_for_the_manifest_and_nothing_else(counting: Counted):
    with counting.counted() as done:
        counting.flush()
    assert done.wire == ["HeadObject sessions/s/.cachesync/manifest.json 200"], str(done)


def test_a_flush_with_one_change_is_its_put_and_the_manifests(counting: Counted):
    counting.write("a")
    with counting.counted() as done:
        counting.flush()
    assert done.wire == ["PutObject sessions/s/a 200", "PutObject sessions/s/.cachesync/manifest.json 200"], str(done)


# -- deletes and renames -----------------------------------------------------------------------------------------------


def test_a_delete_is_a_head_and_a_delete(counting: Counted):
    (counting.session / "first").unlink()
    counting.notice()
    with counting.counted() as done:
        assert counting.driven.pump() == 1
    assert done.wire == ["HeadObject sessions/s/first 200", "DeleteObject sessions/s/first 204"], str(done)


def test_a_rename_copies_in_the_store_and_sends_no_bytes(counting: Counted):
    """The copy names the versions of both sides, but not every store keeps to that: so both are asked for first."""
    (counting.session / "first").rename(counting.session / "second")
    counting.notice()
    with counting.counted() as done:
        counting.driven.pump()
    assert done.wire == [
        "HeadObject sessions/s/first 200",
        "HeadObject sessions/s/second 404",
        "CopyObject sessions/s/second 200",
        "HeadObject sessions/s/first 200",
        "DeleteObject sessions/s/first 204",
    ], str(done)


# -- a session's life --------------------------------------------------------------------------------------------------


def test_evict_asks_for_the_listing_and_nothing_else(counting: Counted):
    """What another host removed meanwhile is kept here: the store is asked whether it still has what goes."""
    counting.write(*NAMES)
    counting.settle()
    with counting.counted() as done:
        assert counting.engine.lifecycle.evict(S).evicted == MANY + 1
    assert done.wire == ["ListObjects sessions/s/ 200"], str(done)


def test_close_is_two_manifests_and_evict(counting: Counted):
    with counting.counted() as done:
        assert counting.engine.lifecycle.close(S, timeout=30).closed
    assert done.requests == {HEAD: 1, PUT: 1, LIST: 1}, str(done)


def test_open_is_a_get_a_file_after_the_manifest_and_two_listings(counting: Counted, make_counted: MakeCounted):
    counting.write(*NAMES)
    counting.settle()
    other = make_counted("other")
    other.session.rmdir()
    with other.counted() as done:
        assert other.engine.lifecycle.open(S).fetched == MANY + 1
    # The first listing only shows that the session exists. A root's first open also reads the store's id.
    assert done.requests == {LIST: 2, GET: MANY + 3}, str(done)


def test_open_of_a_session_that_stands_asks_for_the_listing_and_the_manifest(counting: Counted):
    with counting.counted() as done:
        assert counting.engine.lifecycle.open(S).present == 1
    assert done.requests == {LIST: 1, GET: 1}, str(done)


def test_a_listing_is_a_request_for_a_thousand_entries(make_counted: MakeCounted, seaweed: SeaweedServer, bucket: str):
    s3 = seaweed.client()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: s3.put_object(Bucket=bucket, Key=f"sessions/s/f{n:04}", Body=b""), range(1001)))
    s3.close()
    one = make_counted()
    with one.counted() as done:
        one.engine.lifecycle.open(S, lazy=True)
    assert done.requests == {LIST: 2, GET: 2}, str(done)


def test_verify_is_a_get_a_file_the_manifest_and_the_listing(counting: Counted):
    counting.write(*NAMES)
    counting.settle()
    with counting.counted() as done:
        assert counting.engine.lifecycle.verify(S).files == MANY + 1
    assert done.requests == {LIST: 1, GET: MANY + 2}, str(done)


# -- reading -----------------------------------------------------------------------------------------------------------


def read(counting: Counted, path: str) -> bytes:
    with counting.engine.service.artifacts.read(Address(Space.SESSIONS, S, path)) as reading:
        return b"".join(reading.chunks())


def test_a_file_that_stands_here_is_read_without_a_request(counting: Counted):
    with counting.counted() as done:
        assert read(counting, "first") == b"text"
    assert done.requests == {}, str(done)


def test_an_evicted_file_is_one_get_and_from_then_on_none(counting: Counted):
    counting.engine.lifecycle.evict(S)
    with counting.counted() as done:
        assert read(counting, "first") == b"text"
    assert done.wire == ["GetObject sessions/s/first 200"], str(done)
    with counting.counted() as again:
        assert read(counting, "first") == b"text"
    assert again.requests == {}, str(again)


def test_an_evicted_file_that_is_read_again_is_one_head_each_revalidate(counting: Counted):
    """Ten seconds: another host may have opened the session. What stands here is never asked for."""
    counting.engine.lifecycle.evict(S)
    read(counting, "first")
    counting.driven.clock.push(11)
    with counting.counted() as done:
        assert read(counting, "first") == b"text"
        assert read(counting, "first") == b"text"
    assert done.wire == ["HeadObject sessions/s/first 200"], str(done)


def test_another_hosts_file_is_one_get_and_from_then_on_none(counting: Counted, make_counted: MakeCounted):
    other = make_counted("other")
    other.session.rmdir()
    with other.counted() as done:
        assert read(other, "first") == b"text"
    assert done.wire == ["GetObject sessions/s/first 200"], str(done)
    with other.counted() as again:
        assert read(other, "first") == b"text"
    assert again.requests == {}, str(again)


def put(counting: Counted, address: Address) -> None:
    counting.engine.service.artifacts.put(address, BytesIO(b"put"))


def test_an_artifact_of_a_project_is_a_head_and_a_put(counting: Counted):
    with counting.counted() as done:
        put(counting, Address(Space.PROJECTS, "p", "a"))
    assert done.wire == ["HeadObject projects/p/a 404", "PutObject projects/p/a 200"], str(done)


def test_an_artifact_of_a_session_elsewhere_is_its_put_and_what_its_manifest_needs(
    counting: Counted, make_counted: MakeCounted
):
    """The manifest is read, and the object asked for once more: the row tells of what the store has by then."""
    other = make_counted("other")
    other.session.rmdir()
    put(other, Address(Space.PROJECTS, "p", "a"))  # what comes once in a client's life
    with other.counted() as done:
        put(other, Address(Space.SESSIONS, S, "a"))
    assert done.wire == [
        "HeadObject sessions/s/a 404",
        "PutObject sessions/s/a 200",
        "GetObject sessions/s/.cachesync/manifest.json 200",
        "HeadObject sessions/s/a 200",
        "PutObject sessions/s/.cachesync/manifest.json 200",
    ], str(done)


def test_status_and_explain_and_a_scan_are_no_request(counting: Counted):
    with counting.counted() as done:
        counting.engine.service.status(S)
        counting.engine.service.status()
        counting.engine.service.explain(S, "first")
        counting.driven.scan(S, recheck=True)
    assert done.requests == {}, str(done)
