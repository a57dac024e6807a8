"""The store is down, slow, lying or half there: nothing is lost, doubled or called stored untruly (P3, P9, P13)."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable

import pytest

from cachesync.model.errors import CacheSyncError, ExitCode
from tests.faults import proxy as faults
from tests.faults.harness import Bench, digest, until
from tests.faults.proxy import Action, Chance, Proxy

MIB = 1024 * 1024
MANIFEST = r".*/\.cachesync/manifest\.json"


def stored(bench: Bench, session: str = "s") -> set[str]:
    """Paths of the session that have an object now."""
    prefix = bench.bucket.session(session)
    return {key.removeprefix(prefix) for key in bench.bucket.objects(prefix)} - {".cachesync/manifest.json"}


def check_flushed(bench: Bench, session: str = "s") -> None:
    report = bench.flush(session)
    assert report.exit_code == ExitCode.DONE, (report, bench.tail())
    assert report.conflicts == []
    assert bench.differences(session) == [], bench.tail()


def successes(proxy: Proxy, operation: str, key: str) -> int:
    """How often the server did it."""
    return sum(
        1
        for record in proxy.records
        if re.fullmatch(operation, record.operation)
        and re.fullmatch(key, record.key)
        and record.upstream is not None
        and record.upstream < 300
    )


# -- flapping --------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(90)
@pytest.mark.parametrize("seed", [1, 2])
def test_p09_a_flapping_store_gets_everything_once(remote: Bench, proxy: Proxy, seed: int) -> None:
    remote.start()
    proxy.chance = Chance(seed, 0.20)
    for number in range(300):
        remote.write("s", f"d{number % 7}/f{number}", b"%d " % number * (1 + number % 50))
    until(lambda: len(proxy.records) >= 250, "300 files on their way")
    for number in range(0, 300, 10):
        remote.write("s", f"d{number % 7}/f{number}", b"again %d" % number)
    for number in range(5, 300, 50):
        (remote.root / f"s/d{number % 7}/f{number}").unlink()
    remote.flush("s", timeout=5)
    hits = proxy.chance.hits
    assert hits > 50
    proxy.clear()
    check_flushed(remote)
    assert not [path for path in stored(remote) if "conflict" in path]
    # 330 writes, a fifth of the tries lost, some of them after the store had done it; and manifests.
    assert proxy.count("PutObject") < 330 * 2 + hits


# -- lost replies ----------------------------------------------------------------------------------------------------


def create(bench: Bench) -> None:
    bench.write("s", "f", b"created")


def overwrite(bench: Bench) -> None:
    bench.write("s", "f", b"the second bytes")


def delete(bench: Bench) -> None:
    (bench.root / "s/f").unlink()


def rename(bench: Bench) -> None:
    (bench.root / "s/f").rename(bench.root / "s/g")


def create_large(bench: Bench) -> None:
    bench.write("s", "f", os.urandom(MIB) * 40)


LOSSES = {
    "create": (False, create, "PutObject", ".*/f"),
    "overwrite": (True, overwrite, "PutObject", ".*/f"),
    "delete": (True, delete, "DeleteObject", ".*/f"),
    "copy": (True, rename, "CopyObject", ".*/g"),
    "delete of a renamed file": (True, rename, "DeleteObject", ".*/f"),
    "create of parts": (False, create_large, "CompleteMultipartUpload", ".*/f"),
    "overwrite by parts": (True, create_large, "CompleteMultipartUpload", ".*/f"),
    "first manifest": (False, create, "PutObject", MANIFEST),
    "second manifest": (True, overwrite, "PutObject", MANIFEST),
}


@pytest.mark.parametrize("how", [faults.lost_reply, faults.truncate], ids=lambda action: action.__name__)
@pytest.mark.parametrize("what", LOSSES)
def test_p09_our_own_lost_reply_is_no_conflict(remote: Bench, proxy: Proxy, what: str, how: Action) -> None:
    before, act, operation, key = LOSSES[what]
    remote.start()
    remote.write("s", "other", b"other")
    if before:
        remote.write("s", "f", b"the first bytes")
        check_flushed(remote)
    proxy.records.clear()
    rule = proxy.add(how, operation, key, times=1)
    act(remote)
    check_flushed(remote)
    assert rule.hits == 1
    # A manifest says when it was written, so the second try has other bytes.
    assert successes(proxy, operation, key) == (2 if key == MANIFEST else 1), "done once, and seen to be done"
    assert remote.bucket.uploads() == []


def test_p06_made_again_with_the_same_bytes_after_a_deletion_without_an_answer(remote: Bench, proxy: Proxy) -> None:
    remote.start()
    remote.write("s", "other", b"other")
    create(remote)
    check_flushed(remote)
    rule = proxy.add(faults.lost_reply, "DeleteObject", ".*/f", times=1)
    delete(remote)
    until(lambda: rule.hits, "the deletion is sent")
    create(remote)
    check_flushed(remote)
    assert "f" in stored(remote)


@pytest.mark.parametrize("what", ["copy", "create of parts"])
def test_p06_an_error_in_a_200_is_an_error(remote: Bench, proxy: Proxy, what: str) -> None:
    before, act, operation, key = LOSSES[what]
    remote.start()
    remote.write("s", "other", b"other")
    if before:
        remote.write("s", "f", b"the first bytes")
    check_flushed(remote)
    rule = proxy.add(faults.ERROR_IN_200, operation, key, times=1)
    act(remote)
    check_flushed(remote)
    assert rule.hits == 1
    assert remote.bucket.uploads() == []


@pytest.mark.parametrize("what", ["create", "overwrite", "create of parts"])
def test_p05_bytes_that_change_on_the_way_are_not_stored(remote: Bench, proxy: Proxy, what: str) -> None:
    before, act, operation, key = LOSSES[what]
    remote.start()
    if before:
        remote.write("s", "f", b"the first bytes")
        check_flushed(remote)
    rule = proxy.add(faults.corrupt, "UploadPart" if "parts" in what else operation, key, times=1)
    act(remote)
    check_flushed(remote)
    assert rule.hits == 1
    assert remote.bucket.uploads() == []


def test_p07_a_bucket_that_is_not_found_for_a_while(remote: Bench, proxy: Proxy) -> None:
    remote.start()
    remote.write("s", "f", b"f")
    remote.write("s", "g", b"g")
    check_flushed(remote)
    proxy.add(faults.NO_SUCH_BUCKET)
    delete(remote)
    remote.write("s", "g", b"changed")
    remote.write("s", "h", b"new")
    with contextlib.suppress(CacheSyncError):
        assert not remote.flush("s", timeout=2).stored
    proxy.clear()
    remote.client.retry("s")
    check_flushed(remote)


def test_p09_a_stalled_reply_is_no_conflict(remote: Bench, proxy: Proxy) -> None:
    remote.start()
    rule = proxy.add(faults.stall_in_answer(30), "PutObject", ".*/f", times=1)
    create(remote)
    check_flushed(remote)
    assert rule.hits == 1


@pytest.mark.parametrize("how", [faults.PRECONDITION_FAILED, faults.CONDITIONAL_CONFLICT], ids=["412", "409"])
@pytest.mark.parametrize("act", [create, overwrite])
def test_p09_a_refusal_without_another_writer_is_no_conflict(
    remote: Bench, proxy: Proxy, how: Action, act: Callable[[Bench], None]
) -> None:
    remote.start()
    remote.write("s", "f", b"the first bytes")
    if act is overwrite:
        check_flushed(remote)
    proxy.add(how, "PutObject", ".*/f", times=1)
    act(remote)
    check_flushed(remote)


@pytest.mark.parametrize("operation", ["ListObjects", "GetObject", "HeadObject"])
@pytest.mark.parametrize(
    "how", [faults.INTERNAL_ERROR, faults.truncate, faults.reset], ids=["500", "truncate", "reset"]
)
def test_p07_what_cannot_be_asked_is_not_gone(remote: Bench, proxy: Proxy, operation: str, how: Action) -> None:
    remote.bucket.put(remote.bucket.session("s") + "theirs", b"another writer's")
    proxy.add(how, operation, times=3)
    remote.start()
    remote.write("s", "ours", b"ours")
    remote.write("s", "theirs", b"ours as well")
    report = remote.flush("s")
    assert report.stored
    (conflict,) = report.conflicts
    bodies = remote.bucket.digests(remote.bucket.session("s"))
    assert bodies["theirs"] == digest(b"ours as well")
    assert bodies[conflict.kept_as] == digest(b"another writer's")
    assert stored(remote) == {"ours", "theirs", conflict.kept_as}


# -- slow ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
def test_p13_one_hanging_transfer_holds_up_nobody(remote: Bench, proxy: Proxy, large: bool) -> None:  # noqa: FBT001
    remote.start()
    remote.write("s", "first", b"first")
    check_flushed(remote)
    rule = proxy.add(faults.stall(30), "UploadPart" if large else "PutObject", ".*/stuck", times=1)
    remote.write("s", "stuck", os.urandom(MIB) * 40 if large else b"stuck")
    until(lambda: rule.hits, "the transfer hangs")
    hangs = time.monotonic()
    for number in range(100):
        remote.write("s", f"f{number}", b"%d" % number)
    until(lambda: len(stored(remote)) >= 101, "100 others", within=2.9)
    assert "stuck" not in stored(remote)
    until(lambda: "stuck" in stored(remote), f"the timeout ends it: {remote.tail(5)}", within=12)
    assert time.monotonic() - hangs >= 2.5
    check_flushed(remote)


def test_p13_one_session_that_cannot_be_learned_holds_up_no_other(remote: Bench, proxy: Proxy) -> None:
    remote.start()
    rule = proxy.add(faults.stall(30), "ListObjects", ".*/sessions/stuck/.*", times=1)
    for number in range(100):
        remote.write("stuck", f"f{number}", b"%d" % number)
    until(lambda: rule.hits, "the listing hangs")
    for number in range(20):
        remote.write("s", f"f{number}", b"%d" % number)
    until(lambda: len(stored(remote)) == 20, f"the other session: {remote.tail(5)}", within=2.5)
    check_flushed(remote, "stuck")


@pytest.mark.parametrize(
    ("operation", "key"),
    [("PutObject", MANIFEST), ("PutObject", ".*/f"), ("ListObjects", ".*"), ("GetObject", MANIFEST)],
)
def test_p03_flush_ends_by_its_timeout_when_the_store_hangs(
    remote: Bench, proxy: Proxy, operation: str, key: str
) -> None:
    remote.start()
    proxy.add(faults.stall(30), operation, key, times=1)
    create(remote)
    begun = time.monotonic()
    report = remote.flush("s", timeout=0.7)
    took = time.monotonic() - begun
    assert report.exit_code == ExitCode.UNFINISHED
    assert report.pending
    assert took < 1.7, f"a timeout of 0.7 s took {took:.1f} s"
    check_flushed(remote)


def test_p03_flush_ends_by_its_timeout_when_an_unchanged_manifest_cannot_be_asked_for(
    remote: Bench, proxy: Proxy
) -> None:
    remote.start()
    create(remote)
    check_flushed(remote)
    proxy.add(faults.stall(30), "HeadObject", MANIFEST, times=1)
    begun = time.monotonic()
    report = remote.flush("s", timeout=0.7)
    took = time.monotonic() - begun
    assert report.exit_code == ExitCode.UNFINISHED
    assert took < 1.7, f"a timeout of 0.7 s took {took:.1f} s"


def test_a_trickling_store_is_waited_for(remote: Bench, proxy: Proxy) -> None:
    remote.start()
    proxy.add(faults.trickle(0.02, 64))
    for number in range(20):
        remote.write("s", f"f{number}", b"%d" % number)
    check_flushed(remote)


def test_p01_writing_never_waits(remote: Bench, proxy: Proxy) -> None:
    proxy.add(faults.stall(30))
    remote.start()
    begun = time.monotonic()
    for number in range(200):
        remote.write("s", f"f{number}", b"%d" % number)
    assert time.monotonic() - begun < 2


# -- refusals --------------------------------------------------------------------------------------------------------


def test_p13_expired_credentials_recover_by_themselves(remote: Bench, proxy: Proxy) -> None:
    remote.start()
    rule = proxy.add(faults.EXPIRED_TOKEN, until=time.monotonic() + 2)
    for number in range(20):
        remote.write("s", f"f{number}", b"%d" % number)
    until(lambda: rule.hits, "refused")
    until(lambda: len(stored(remote)) == 20, f"stored without a command: {remote.tail(5)}", within=20)
    check_flushed(remote)


def test_p13_one_denied_key_is_listed_and_the_rest_is_stored(remote: Bench, proxy: Proxy) -> None:
    rule = proxy.add(faults.ACCESS_DENIED, "PutObject", ".*/denied")
    remote.start()
    remote.write("s", "denied", b"denied")
    for number in range(10):
        remote.write("s", f"f{number}", b"%d" % number)
    begun = time.monotonic()
    report = remote.flush("s", timeout=20)
    assert time.monotonic() - begun < 5, "what is refused for good is not waited for"
    assert report.exit_code == ExitCode.FAILED
    assert [failure.path for failure in report.failed] == ["denied"]
    assert "AccessDenied" in report.failed[0].error
    assert len(stored(remote)) == 10
    (status,) = remote.client.status("s").sessions
    assert [failure.path for failure in status.failures] == ["denied"]
    assert not status.safe_to_kill
    told = remote.cli("flush", "s", "--timeout", "10")
    assert told.returncode == 1, told
    assert "denied" in told.stdout
    tries = rule.hits
    assert tries <= 4, "retried slowly"

    proxy.clear()
    assert remote.client.retry("s") == 1
    until(lambda: len(stored(remote)) == 11, "retry stores it", within=3)
    told = remote.cli("flush", "s")
    assert told.returncode == 0, told
    check_flushed(remote)


def test_an_outage_is_probed_and_ends_by_itself(remote: Bench, proxy: Proxy) -> None:
    remote.start()
    create(remote)
    check_flushed(remote)
    proxy.refuse()
    remote.write("s", "canary", b"notices the outage")
    until(lambda: any("not answer" in note for note in remote.client.status().notes), "the outage is noticed")
    gone = time.monotonic()
    for number in range(100):
        remote.write("s", f"f{number}", b"%d" % number)
    until(lambda: time.monotonic() > gone + 3, "three seconds of outage", pause=0.05)
    tries = sum(remote.client.explain("s", f"f{number}").attempts for number in range(100))
    assert tries <= 12, f"{tries} tries in three seconds: a storm"
    report = remote.flush("s", timeout=0.5)
    assert report.exit_code == ExitCode.UNFINISHED
    assert len(report.pending) >= 100
    proxy.accept()
    until(lambda: len(stored(remote)) == 102, f"stored without a command: {remote.tail(5)}", within=6)
    check_flushed(remote)


# -- large files -----------------------------------------------------------------------------------------------------


def known_parts(bench: Bench) -> int:
    with contextlib.closing(sqlite3.connect(f"file:{bench.state}/journal.db?mode=ro", uri=True)) as db:
        return int(db.execute("SELECT count(*) FROM part").fetchone()[0])


def interrupt_upload(bench: Bench, proxy: Proxy) -> None:
    """Kill the daemon when two of three parts are stored and known to be."""
    bench.start()
    proxy.add(faults.stall(30), "UploadPart", skip=2)
    bench.write("s", "large", os.urandom(MIB) * 40)
    until(lambda: known_parts(bench) == 2, "two parts")
    bench.kill()
    proxy.clear()
    proxy.records.clear()
    assert len(bench.bucket.uploads()) == 1


def test_p06_an_interrupted_upload_goes_on(remote: Bench, proxy: Proxy) -> None:
    interrupt_upload(remote, proxy)
    remote.start()
    check_flushed(remote)
    assert proxy.count("UploadPart") == 1
    assert proxy.count("CreateMultipartUpload") == 0
    assert remote.bucket.uploads() == []


@pytest.mark.parametrize("how", ["by large", "by small", "by nothing", "by a directory"])
def test_a_superseded_upload_is_aborted(remote: Bench, proxy: Proxy, how: str) -> None:
    interrupt_upload(remote, proxy)
    target = remote.root / "s/large"
    if how == "by large":
        target.write_bytes(os.urandom(MIB) * 40)
    elif how == "by small":
        target.write_bytes(b"small now")
    else:
        target.unlink()
    if how == "by a directory":
        remote.write("s", "large/inside", b"inside")
    remote.start()
    check_flushed(remote)
    assert remote.bucket.uploads() == []


def test_p13_a_session_whose_manifest_is_archived_goes_on(remote: Bench, proxy: Proxy) -> None:
    """As the rule of ``bucket init`` moves it to GLACIER. Only a journal that has to learn the session reads it."""
    remote.start()
    remote.write("s", "f", b"the bytes")
    check_flushed(remote)
    remote.stop()
    shutil.rmtree(remote.state)
    rule = proxy.add(faults.ARCHIVED, "GetObject", MANIFEST)
    remote.start()
    remote.write("s", "g", b"new")
    assert remote.flush("s").exit_code == ExitCode.DONE, remote.tail()
    assert rule.hits
    proxy.clear()
    check_flushed(remote)
    assert stored(remote) == {"f", "g"}


# -- a store that ignores conditions ---------------------------------------------------------------------------------


def test_p09_a_store_without_conditions_is_asked_before_each_write(remote: Bench, proxy: Proxy) -> None:
    server = remote.bucket.server
    proxy.add(faults.without_conditions(server.key, server.secret))
    remote.start()
    create(remote)
    remote.write("s", "gone", b"ours")
    check_flushed(remote)
    assert ".cachesync" not in {path.split("/")[0] for path in stored(remote)}
    key = remote.bucket.session("s")
    remote.bucket.put(key + "f", b"another writer's")
    overwrite(remote)
    report = remote.flush("s")
    assert report.stored
    (conflict,) = report.conflicts
    bodies = remote.bucket.digests(key)
    assert bodies["f"] == digest(b"the second bytes")
    assert bodies[conflict.kept_as] == digest(b"another writer's")
    remote.bucket.put(key + "gone", b"another writer's, too")
    (remote.root / "s/gone").unlink()
    remote.flush("s")
    assert remote.bucket.digests(key)["gone"] == digest(b"another writer's, too")


def test_a_store_without_conditions_is_told_of(remote: Bench, proxy: Proxy) -> None:
    server = remote.bucket.server
    proxy.add(faults.without_conditions(server.key, server.secret))
    remote.start()
    create(remote)
    check_flushed(remote)
    until(lambda: any("conditional" in note for note in remote.client.status().notes), "status says so", within=5)


def test_p09_a_store_that_denies_the_question_is_compared_and_told_of(remote: Bench, proxy: Proxy) -> None:
    server = remote.bucket.server
    denied = proxy.add(faults.ACCESS_DENIED, "PutObject", r".*/\.cachesync/probe-.*")
    proxy.add(faults.without_conditions(server.key, server.secret))
    remote.start()
    create(remote)
    check_flushed(remote)
    remote.bucket.put(remote.bucket.session("s") + "f", b"another writer's")
    overwrite(remote)
    (conflict,) = remote.flush("s").conflicts
    assert remote.bucket.digests(remote.bucket.session("s"))[conflict.kept_as] == digest(b"another writer's")
    assert denied.hits == 1
    until(
        lambda: any("cannot determine" in note and "allow s3:" in note for note in remote.client.status().notes),
        "status",
    )


# -- many clients ----------------------------------------------------------------------------------------------------


def test_p03_flushes_side_by_side_under_faults_all_tell_the_truth(remote: Bench, proxy: Proxy) -> None:
    remote.start()
    proxy.chance = Chance(7, 0.10)
    reports = {}

    def work(name: str) -> None:
        for number in range(20):
            remote.write(name, f"f{number}", f"{name} {number}".encode())
        reports[name] = remote.flush(name, timeout=30)

    threads = [threading.Thread(target=work, args=(f"s{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert len(reports) == 6
    for name, report in reports.items():
        assert report.stored, report
        assert report.conflicts == []
        assert remote.differences(name) == []


# -- a store that does not copy --------------------------------------------------------------------------------------

NO_COPY = {
    "no conditions": faults.NOT_IMPLEMENTED,
    "no copies": faults.answer(405, "MethodNotAllowed"),
    "in GLACIER": faults.ARCHIVED,
}
no_copies = pytest.mark.parametrize("how", NO_COPY.values(), ids=NO_COPY)


@no_copies
def test_p02_a_renamed_file_is_sent_where_the_store_does_not_copy_it(remote: Bench, proxy: Proxy, how: Action) -> None:
    remote.start()
    remote.write("s", "f", b"the bytes")
    check_flushed(remote)
    rule = proxy.add(how, "CopyObject")
    rename(remote)
    check_flushed(remote)
    assert rule.hits
    assert stored(remote) == {"g"}


@no_copies
def test_p09_another_writers_bytes_are_kept_where_the_store_does_not_copy(
    remote: Bench, proxy: Proxy, how: Action
) -> None:
    remote.start()
    remote.write("s", "f", b"the first bytes")
    check_flushed(remote)
    rule = proxy.add(how, "CopyObject")
    remote.bucket.put(remote.bucket.session("s") + "f", b"another writer's bytes")
    overwrite(remote)
    report = remote.flush("s")
    assert report.exit_code == ExitCode.DONE, (report, remote.tail())
    assert rule.hits
    ((path, kept_as),) = [(conflict.path, conflict.kept_as) for conflict in report.conflicts]
    assert path == "f"
    assert remote.bucket.body(remote.bucket.session("s") + kept_as) == b"another writer's bytes"
    assert remote.bucket.body(remote.bucket.session("s") + "f") == b"the second bytes"


@no_copies
def test_p08_what_is_only_in_the_store_is_renamed_where_the_store_does_not_copy(
    remote: Bench, proxy: Proxy, how: Action
) -> None:
    remote.start()
    large = os.urandom(MIB) * 17
    remote.write("s", "d/f", b"the bytes")
    remote.write("s", "d/large", large)
    check_flushed(remote)
    remote.client.lifecycle.evict("s")
    rule = proxy.add(how, "CopyObject")
    remote.client.ondemand.move("s", "d/", "s", "e/")
    until(lambda: stored(remote) == {"e/f", "e/large"}, "both are renamed")
    assert rule.hits
    remote.client.lifecycle.open("s")
    assert remote.local("s") == {"e/f": digest(b"the bytes"), "e/large": digest(large)}
    check_flushed(remote)
