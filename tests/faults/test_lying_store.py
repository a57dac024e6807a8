"""A store that says what is not so: old listings, parts that it lost, headers that changed on the way (P5, P9, P15)."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from cachesync.model.errors import ExitCode
from tests.faults import proxy as faults
from tests.faults.harness import Bench, digest, until
from tests.faults.proxy import Action, Proxy, Stale

MIB = 1024 * 1024
SMALL = b"the first bytes"


def check_flushed(bench: Bench) -> None:
    report = bench.flush("s")
    assert report.exit_code == ExitCode.DONE, (report, bench.tail())
    assert report.conflicts == []
    assert bench.differences("s") == [], bench.tail()


def seen_by_others(bench: Bench) -> set[str]:
    """Paths of the session that have an object, whatever our own code thinks."""
    return bench.bucket.digests(bench.bucket.session("s")).keys() - {".cachesync/manifest.json"}


# -- listings that are behind ----------------------------------------------------------------------------------------


@pytest.fixture
def behind(remote: Bench, proxy: Proxy) -> Callable[[], Stale]:
    """A session of three files whose listing, from the call on, is the one of that time."""
    stale = Stale()
    proxy.add(stale, "ListObjects")
    remote.start()
    for name in ("a", "b", "c"):
        remote.write("s", name, name.encode())
    check_flushed(remote)

    def begin() -> Stale:
        remote.client.lifecycle.open("s")  # the listing is seen, and remembered
        stale.behind = True
        return stale

    return begin


def test_p15_files_that_a_listing_does_not_show_yet_are_brought(remote: Bench, behind: Callable[[], Stale]) -> None:
    stale = behind()
    remote.write("s", "new", b"new")
    remote.write("s", "a", b"changed")
    check_flushed(remote)
    evicted = remote.client.lifecycle.evict("s")
    assert stale.hits, "the listing was old"
    assert {"new", "a"} <= {pending.path for pending in evicted.kept} | seen_by_others(remote)
    report = remote.client.lifecycle.open("s")
    while report.pending or report.failed:
        stale.behind = False
        report = remote.client.lifecycle.open("s")
    assert remote.local("s") == {
        "a": digest(b"changed"),
        "b": digest(b"b"),
        "c": digest(b"c"),
        "new": digest(b"new"),
    }
    check_flushed(remote)


def test_p08_files_that_a_listing_shows_still_do_not_come_back(remote: Bench, behind: Callable[[], Stale]) -> None:
    stale = behind()
    (remote.root / "s/a").unlink()
    until(lambda: "a" not in seen_by_others(remote), "the deletion is in the store")
    remote.client.lifecycle.open("s")
    assert stale.hits, "the listing was old"
    assert set(remote.local("s")) == {"b", "c"}, "what the store says it does not have is no file"
    stale.behind = False
    remote.client.lifecycle.open("s")
    assert set(remote.local("s")) == {"b", "c"}
    check_flushed(remote)


def test_p09_a_file_that_an_old_listing_shows_is_made_again(remote: Bench, behind: Callable[[], Stale]) -> None:
    stale = behind()
    (remote.root / "s/a").unlink()
    until(lambda: "a" not in seen_by_others(remote), "the deletion is in the store")
    remote.client.lifecycle.open("s")
    assert stale.hits
    remote.write("s", "a", b"made again")
    check_flushed(remote)
    assert seen_by_others(remote) == {"a", "b", "c"}, "and no conflict copy"


# -- parts that are not there ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("skip", [0, 2], ids=["the first", "the last"])
def test_p05_a_part_that_the_store_lost_is_sent_again(remote: Bench, proxy: Proxy, skip: int) -> None:
    remote.start()
    rule = proxy.add(faults.swallow, "UploadPart", skip=skip, times=1)
    data = os.urandom(MIB) * 40
    remote.write("s", "large", data)
    check_flushed(remote)
    assert rule.hits == 1
    assert remote.bucket.uploads() == []
    assert remote.bucket.digests(remote.bucket.session("s"))["large"] == digest(data)


# -- headers that changed on the way ---------------------------------------------------------------------------------

OTHER_ETAG = faults.other_header("ETag", '"0123456789abcdef0123456789abcdef"')


@pytest.mark.parametrize(
    ("operation", "how"),
    [("PutObject", OTHER_ETAG), ("HeadObject", OTHER_ETAG), ("GetObject", OTHER_ETAG)],
    ids=["PUT", "HEAD", "GET"],
)
def test_p09_a_version_that_arrived_wrong_is_no_conflict(
    remote: Bench, proxy: Proxy, operation: str, how: Action
) -> None:
    remote.start()
    proxy.add(how, operation, ".*/f", times=1)
    remote.write("s", "f", SMALL)
    assert remote.flush("s").stored
    for text in (b"the second bytes", b"the third bytes"):
        remote.write("s", "f", text)
        check_flushed(remote)
    remote.client.lifecycle.close("s", timeout=20)
    remote.client.lifecycle.open("s")
    assert remote.local("s") == {"f": digest(b"the third bytes")}
    check_flushed(remote)
    assert seen_by_others(remote) == {"f"}, "and no conflict copy"


# -- a captive portal answers in the store's place -------------------------------------------------------------------

PORTALS = {"200": faults.PORTAL, "200 with ETag": faults.PORTAL_WITH_ETAG, "404": faults.page(404)}
portals = pytest.mark.parametrize("portal", PORTALS.values(), ids=PORTALS)


@portals
def test_p05_a_page_is_never_printed_or_brought_as_a_file(remote: Bench, proxy: Proxy, portal: Action) -> None:
    remote.bucket.put(remote.bucket.session("s") + "f", SMALL)
    proxy.add(portal)
    printed = remote.cli("cat", "s/f")
    assert (printed.returncode, printed.stdout) == (ExitCode.UNFINISHED, ""), printed
    assert "does not come from S3" in printed.stderr
    got = remote.cli("get", "s/f", "here")
    assert got.returncode == ExitCode.UNFINISHED, got
    assert not (remote.base / "here").exists()
    proxy.clear()
    assert remote.cli("cat", "s/f").stdout == SMALL.decode()


@portals
@pytest.mark.parametrize("operation", ["(Head|Get)Object", "DeleteObject"])
def test_p08_a_page_undoes_no_deletion_and_is_none(remote: Bench, proxy: Proxy, portal: Action, operation: str) -> None:
    remote.start()
    remote.write("s", "f", SMALL)
    remote.write("s", "g", SMALL)
    check_flushed(remote)
    rule = proxy.add(portal, operation, ".*/f")
    (remote.root / "s/f").unlink()
    until(lambda: rule.hits >= 2, "the deletion is tried again")
    assert seen_by_others(remote) == {"f", "g"}
    proxy.clear()
    until(lambda: seen_by_others(remote) == {"g"}, "the deletion is in the store")
    check_flushed(remote)
    assert set(remote.local("s")) == {"g"}


@portals
def test_p03_what_a_page_took_is_not_stored(remote: Bench, proxy: Proxy, portal: Action) -> None:
    remote.start()
    remote.write("s", "f", SMALL)
    check_flushed(remote)
    rule = proxy.add(portal, "PutObject", ".*/f")
    remote.write("s", "f", b"the second bytes")
    report = remote.flush("s", timeout=2)
    assert rule.hits
    assert report.exit_code == ExitCode.UNFINISHED
    assert [pending.path for pending in report.pending] == ["f"]
    assert "does not come from S3" in report.pending[0].reason
    proxy.clear()
    check_flushed(remote)
