"""P6: kill it anywhere. At each named point, then at random instants while a program writes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.faults.crashing import POINTS
from tests.faults.harness import REPOSITORY, Bench, until
from tests.faults.proxy import Chance, Proxy

SESSIONS = ("one", "two", "three")
KILLS = int(os.environ.get("CACHESYNC_KILLS", "100"))
"""Random kills over all campaigns; the named points come on top."""

MIB = 1024 * 1024
LARGE = 40
"""MiB of a file that goes up in three parts."""

FOREIGN = ("theirs/a.txt", "theirs/b.txt")

NTH = {
    "store.put": (1, 2, 4, 11, 30), "store.copy": (1, 3), "store.delete": (1, 2, 5), "store.list": (1, 3),
    "multipart.create": (1,), "multipart.part": (1, 3), "multipart.complete": (1, 2),
    "journal.mark": (1, 2, 6), "journal.mark_tree_gone": (1, 2), "journal.confirm": (1, 2, 4, 11, 30),
    "journal.confirm_delete": (1, 2, 5), "journal.fail": (1, 3), "journal.manifest_written": (1, 2, 4),
    "journal.learn": (1, 2), "journal.set_learned": (1, 2), "journal.upload_save": (1,),
    "journal.upload_part": (1, 3), "journal.upload_drop": (1,),
}  # fmt: skip
"""At which hits of each verb."""


def first_half(bench: Bench, session: str, *, large: int) -> None:
    """Creates, of many sizes, and links."""
    for number in range(6):
        bench.write(session, f"keep/{number}", b"kept %d" % number)
        bench.write(session, f"move/{number}", b"moved %d " % number * 40)
        bench.write(session, f"drop/{number}", b"dropped %d" % number)
    bench.write(session, "empty", b"")
    bench.write(session, "larger.bin", os.urandom(70_000))
    bench.write(session, "logs/a.jsonl", b'{"a": 1}\n')
    for number in range(large):
        bench.write(session, f"large{number}.bin", os.urandom(MIB) * LARGE)
    (bench.root / session / "link").symlink_to("keep/1")
    (bench.root / session / "dangling").symlink_to("../nowhere")


def second_half(bench: Bench, session: str, *, large: int) -> None:
    """Rewrites, appends, renames of files and a directory, deletes of files and a directory."""
    top = bench.root / session
    for number in range(3):
        bench.write(session, f"keep/{number}", b"rewritten %d" % number)
        (top / f"keep/new{number}").write_bytes(b"renamed over")
        os.replace(top / f"keep/new{number}", top / f"keep/{number + 3}")
        os.rename(top / f"move/{number}", top / f"moved{number}")
        os.unlink(top / f"drop/{number}")
    with open(top / "logs/a.jsonl", "ab") as file:
        file.write(b'{"b": 2}\n')
    os.rename(top / "move", top / "shifted")
    for number in range(3, 6):
        os.unlink(top / f"drop/{number}")
    os.rmdir(top / "drop")
    os.unlink(top / "link")
    (top / "link").symlink_to("keep/2")
    for number in range(large):
        bench.write(session, f"large{number}.bin", os.urandom(MIB) * LARGE)


def check_dead(bench: Bench) -> None:
    assert bench.falsely_clean(*SESSIONS) == []


def check_recovered(bench: Bench, besides: tuple[str, ...] = ()) -> None:
    """Start as if nothing had happened, flush, and ask the store alone."""
    bench.start()
    for session in SESSIONS:
        report = bench.flush(session)
        assert report.stored, (report, bench.tail())
        assert report.conflicts == [], bench.tail()
        assert bench.differences(session, besides=besides) == [], bench.tail()


@pytest.mark.parametrize(("point", "nth"), [(point, nth) for point in POINTS for nth in NTH[point.rpartition(".")[0]]])
def test_p06_killed_at_a_named_point(bench: Bench, point: str, nth: int) -> None:
    large = 1 if "multipart" in point or "upload" in point else 0
    learning = "learn" in point or "list" in point
    if learning:
        for session in SESSIONS:
            for path in FOREIGN:
                bench.bucket.put(bench.bucket.session(session) + path, b"another writer's " + path.encode())
    bench.start(point, nth, fail_every=4 if "fail" in point else 0)
    for half in (first_half, second_half):
        for session in SESSIONS[: 1 if large else 3]:
            half(bench, session, large=large if half is first_half or nth == 2 else 0)
        for session in SESSIONS[1:]:
            bench.write(session, "also", half.__name__.encode())
        bench.flush_until_dead(*SESSIONS)
    assert bench.ended(10) == -9, f"{point} was not reached {nth} times"
    check_dead(bench)

    # The recovery is killed at the same point, if it gets there.
    bench.start(point, 1)
    bench.flush_until_dead(*SESSIONS)
    if not bench.alive():
        bench.ended()
    else:
        bench.kill()
    check_dead(bench)
    kept: tuple[str, ...] = FOREIGN if learning else ()
    check_recovered(bench, kept)
    assert bench.flush("one").vanished == 0, "a crash between the journal's counter and the root's is no rollback"
    # An upload whose id died with the process is nobody's to abort: the bucket's lifecycle rule is for that.
    if point not in {"multipart.create.after", "journal.upload_save.before"}:
        assert bench.bucket.uploads() == []


@pytest.mark.parametrize("late", ["deleted", "renamed", "rewritten and deleted"])
def test_p06_deleted_after_a_lost_confirm(bench: Bench, late: str) -> None:
    bench.write("one", "stays", b"stays")
    bench.start()
    assert bench.flush("one").stored
    bench.kill()
    bench.start("store.put.after")
    bench.write("one", "a", b"stored, and nobody was told")
    assert bench.ended(10) == -9
    assert "a" in bench.bucket.digests(bench.bucket.session("one"))
    if late == "renamed":
        (bench.root / "one/a").rename(bench.root / "one/b")
    if late == "deleted":
        (bench.root / "one/a").unlink()
    bench.start()
    if late == "rewritten and deleted":
        bench.write("one", "a", b"again")
        (bench.root / "one/a").unlink()
    report = bench.flush("one")
    assert report.stored
    assert report.conflicts == []
    assert bench.differences("one") == []


def test_p06_made_again_with_the_same_bytes_after_a_lost_deletion(bench: Bench) -> None:
    bench.write("one", "stays", b"stays")
    bench.write("one", "a", b"the same")
    bench.start()
    assert bench.flush("one").stored
    before = (bench.root / "one/a").stat()
    bench.kill()
    bench.start("store.delete.after")
    (bench.root / "one/a").unlink()
    assert bench.ended(10) == -9
    assert "a" not in bench.bucket.digests(bench.bucket.session("one"))
    bench.write("one", "a", b"the same")
    os.utime(bench.root / "one/a", ns=(before.st_mtime_ns, before.st_mtime_ns))
    bench.start()
    report = bench.flush("one")
    assert (report.stored, report.conflicts) == (True, [])
    assert bench.differences("one") == []


def final_state(log: Path) -> dict[str, dict[str, str]]:
    """What the writer had on disk at the end: session to path to digest."""
    state: dict[str, dict[str, str]] = {}
    for line in log.read_text("utf-8").splitlines():
        row = json.loads(line)
        files = state.setdefault(row["session"], {})
        if row["sha256"] is None:
            files.pop(row["path"], None)
        else:
            files[row["path"]] = row["sha256"]
    return state


def campaign(bench: Bench, log: Path, seed: int) -> None:
    """Daemons that live for some tenths of a second, under a program that writes all the time."""
    chance = random.Random(seed)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.faults.writing", str(bench.root), str(log), str(seed), *SESSIONS],
        stdin=subprocess.PIPE, cwd=REPOSITORY,
    ) as writer:  # fmt: skip
        assert writer.stdin is not None
        try:
            for _ in range(KILLS // 4):
                said = bench.log.stat().st_size
                more = chance.choice((0, 0, 1, 300, 1500, 5000))  # bytes of log: progress, however busy the machine is
                bench.start(wait=more > 0)
                flusher = threading.Thread(target=bench.flush_until_dead, args=SESSIONS)
                if flushes := more > 0 and chance.random() < 0.5:
                    flusher.start()
                with contextlib.suppress(AssertionError):
                    until(lambda wanted=said + more: bench.log.stat().st_size >= wanted, within=3)  # type: ignore[misc]
                threading.Event().wait(chance.uniform(0, 0.1))
                bench.kill()
                if flushes:
                    flusher.join(30)
                assert bench.falsely_clean(*SESSIONS, still=False) == [], bench.tail()
        finally:
            writer.stdin.close()
            assert writer.wait(30) == 0
    state = final_state(log)
    for session in SESSIONS:
        assert bench.local(session) == state[session], "the test's writer lost track"
    told = bench.log.read_text()
    assert told.count('"stored"') + told.count('"deleted"') >= KILLS // 4, "they lived long enough to do something"


@pytest.mark.timeout(60 + 2 * KILLS)
@pytest.mark.parametrize("seed", [0, 1])
def test_p06_killed_at_random_instants_under_a_writer(bench: Bench, tmp_path: Path, seed: int) -> None:
    campaign(bench, tmp_path / "writer.log", seed)
    check_dead(bench)
    check_recovered(bench)


@pytest.mark.timeout(60 + 2 * KILLS)
@pytest.mark.parametrize("seed", [2, 3])
def test_p06_killed_at_random_instants_under_a_writer_and_a_flapping_store(
    remote: Bench, proxy: Proxy, tmp_path: Path, seed: int
) -> None:
    remote.start()
    for session in SESSIONS:  # what is not learned yet would be most of what fails
        (remote.root / session).mkdir()
        assert remote.flush(session).stored
    remote.kill()
    proxy.chance = Chance(seed, 0.15)
    campaign(remote, tmp_path / "writer.log", seed)
    assert proxy.chance.hits >= KILLS // 10
    proxy.clear()
    check_dead(remote)
    check_recovered(remote)
