"""P7: what is missing, unmounted, unreachable or forgotten deletes nothing in the store."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.promises.host import Host, eventually
from tests.promises.line import Line

FILES = {"a.txt": b"a", "d/b.txt": b"b", "d/e/c.txt": b"c", "logs/l.log": b"log\n"}


def _fill(host: Host, session: str = "s1") -> dict[str, bytes]:
    for name, content in FILES.items():
        host.write(name, content, session)
    return dict(FILES)


def _nothing_is_deleted(host: Host, session: str = "s1", seconds: float = 1.5) -> None:
    """For longer than any delay that a delete has here."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert host.keys(session) >= set(FILES)
        time.sleep(0.1)
    objects = host.objects(session)
    assert {name: objects[name] for name in FILES} == FILES
    assert '"deleted"' not in host.said()


@pytest.fixture
def full(host: Host) -> Host:
    """A host whose session is stored and whose daemon runs."""
    _fill(host)
    host.start()
    host.stored()
    return host


def test_p07_a_removed_session_directory_is_evicted(full: Host):
    shutil.rmtree(full.root / "s1")
    _nothing_is_deleted(full)
    full.run("flush", "s1", "--json", "--timeout", "5")
    _nothing_is_deleted(full, seconds=0.5)
    full.write("new.txt", "n")
    full.stored()
    assert full.objects() == FILES | {"new.txt": b"n"}
    assert {path for path, row in full.listed().items() if row["type"] == "file"} == set(FILES) | {"new.txt"}


def test_p07_a_session_removed_slowly_is_evicted(host: Host):
    """It takes longer than a delete settles, but goes file after file: only the end shows what is meant."""
    _fill(host)
    host.start(delete_settle="800ms")
    for number in range(90):
        host.write(f"many/f{number}", "x")
    host.stored()
    before = host.objects()
    for folder, _, names in os.walk(host.root / "s1", topdown=False):
        for name in names:
            os.unlink(os.path.join(folder, name))
            time.sleep(0.02)
        os.rmdir(folder)
    time.sleep(1.5)
    assert host.objects() == before


def test_p07_a_session_removed_while_nobody_watched_is_evicted(full: Host):
    full.stop()
    shutil.rmtree(full.root / "s1")
    full.start()
    _nothing_is_deleted(full)
    full.run("flush", "s1", "--json", "--timeout", "5")
    _nothing_is_deleted(full, seconds=0.3)


@pytest.mark.parametrize("running", [True, False])
def test_p07_a_session_removed_and_made_anew_is_evicted(full: Host, running: bool):  # noqa: FBT001
    """ext4 gives the new directory the inode of the old one."""
    if not running:
        full.stop()
    shutil.rmtree(full.root / "s1")
    (full.root / "s1").mkdir()
    full.write("new.txt", "n")
    if not running:
        full.start()
    full.stored()
    _nothing_is_deleted(full)
    assert full.keys() == set(FILES) | {"new.txt"}


def test_p07_a_session_removed_and_made_anew_while_frozen_is_evicted(full: Host):
    full.freeze()
    shutil.rmtree(full.root / "s1")
    (full.root / "s1").mkdir()
    full.thaw()
    full.stored()
    _nothing_is_deleted(full)


@pytest.mark.parametrize("running", [True, False])
def test_p07_a_session_moved_away_and_back(full: Host, running: bool):  # noqa: FBT001
    away = full.folder / "away"
    if not running:
        full.stop()
    (full.root / "s1").rename(away)
    if not running:
        full.start()
    _nothing_is_deleted(full)
    (away / "a.txt").write_bytes(b"changed while it was away")
    (away / "d" / "b.txt").unlink()
    away.rename(full.root / "s1")
    full.stored()
    objects = full.objects()
    assert objects["a.txt"] == b"changed while it was away"
    assert objects["d/e/c.txt"] == b"c"


def test_p07_a_session_that_is_renamed_leaves_its_objects(full: Host):
    (full.root / "s1").rename(full.root / "s2")
    full.stored("s2")
    assert full.objects("s2") == FILES
    _nothing_is_deleted(full, seconds=1)


@pytest.mark.parametrize("running", [True, False])
def test_p07_a_session_whose_directory_became_a_file_or_a_link(full: Host, running: bool):  # noqa: FBT001
    away = full.folder / "away"
    if not running:
        full.stop()
    (full.root / "s1").rename(away)
    (full.root / "s1").symlink_to(away)
    if not running:
        full.start()
    _nothing_is_deleted(full, seconds=1)
    (full.root / "s1").unlink()
    (full.root / "s1").write_text("a file")
    _nothing_is_deleted(full, seconds=1)
    assert full.run("flush", "s1", "--timeout", "3").code in (0, 1, 3, 4)
    _nothing_is_deleted(full, seconds=0.3)


@pytest.mark.parametrize("running", [True, False])
def test_p07_a_root_renamed_away_and_back(full: Host, running: bool):  # noqa: FBT001
    away = full.folder / "away"
    if not running:
        full.stop()
    full.root.rename(away)
    if running:
        done = full.run(
            "flush", "s1", "--timeout", "2", env={"CACHESYNC_SOCKET": str(away / ".cachesync/control.sock")}
        )
        assert done.code != 0
    else:
        full.root.mkdir()  # an unmounted volume's mount point
        full.start()
        full.stop()
        shutil.rmtree(full.root)
    _nothing_is_deleted(full)
    away.rename(full.root)
    if not running:
        full.start()
    full.write("new.txt", "n")
    eventually(lambda: full.flush(timeout=5).code == 0, 20)
    assert full.objects() == FILES | {"new.txt": b"n"}


def test_p07_an_empty_root_with_the_state_elsewhere(make_host: Callable[..., Host], tmp_path: Path):
    """The volume is not mounted, the journal is there and knows every file."""
    host = make_host(env={"CACHESYNC_STATE": str(tmp_path / "state")})
    host.state = tmp_path / "state"
    _fill(host)
    host.start()
    host.stored()
    host.stop()
    host.root.rename(host.folder / "unmounted")
    host.root.mkdir()
    host.start()
    _nothing_is_deleted(host, seconds=1)
    host.run("flush", "s1", "--timeout", "3")
    host.run("flush", "--all", "--timeout", "3")
    _nothing_is_deleted(host, seconds=0.5)
    host.stop()
    assert os.listdir(host.root) == [".cachesync"], "with the files that daemons lock"
    shutil.rmtree(host.root)
    (host.folder / "unmounted").rename(host.root)
    host.start()
    assert host.stored()["uploaded"] == 0, "what comes back unchanged is not sent again"
    assert host.objects() == FILES


def test_p07_a_root_replaced_by_another_one(full: Host):
    full.root.rename(full.folder / "away")
    full.write("other.txt", "from the other root")
    full.write("a.txt", "another a")
    _nothing = {name: body for name, body in FILES.items() if name != "a.txt"}
    eventually(lambda: full.object("other.txt"), 20)
    eventually(lambda: full.flush(timeout=5).code == 0, 20)
    objects = full.objects()
    assert {name: objects[name] for name in _nothing} == _nothing
    assert objects["other.txt"] == b"from the other root"
    assert objects["a.txt"] == b"another a"
    assert b"a" in [body for name, body in objects.items() if name.startswith("a.txt.conflict-")], (
        "that root's journal does not know the old bytes, so they are another writer's"
    )


def test_p07_a_lost_state_folder_under_a_running_daemon(full: Host):
    shutil.rmtree(full.state)
    full.write("new.txt", "n")
    full.write("a.txt", "changed")
    full.path("d/b.txt").unlink()
    eventually(lambda: full.flush(timeout=5).code == 0, 25)
    objects = full.objects()
    assert objects["new.txt"] == b"n"
    assert objects["a.txt"] == b"changed"
    assert objects["d/e/c.txt"] == b"c"
    assert "d/b.txt" not in objects or objects["d/b.txt"] == b"b"


@pytest.mark.parametrize("what", [".cachesync", "journal.db"])
def test_p07_a_state_lost_while_stopped(full: Host, what: str):
    full.stop()
    if what == ".cachesync":
        shutil.rmtree(full.state)
    else:
        for path in full.state.glob("journal.db*"):
            path.unlink()
    full.path("d/b.txt").unlink()
    full.write("new.txt", "n")
    full.write("a.txt", "changed")
    full.start()
    told = full.stored()
    _nothing = full.objects()
    assert _nothing.items() >= {"d/b.txt": b"b", "new.txt": b"n", "a.txt": b"changed", "d/e/c.txt": b"c"}.items()
    assert told["deleted"] == 0
    assert {path for path, row in full.listed().items() if row["type"] == "file"} == full.keys()
    assert told["uploaded"] <= 3, "what the store has already is not sent again"


@pytest.mark.parametrize("damage", ["garbage", "header", "middle", "truncated", "empty", "not a database"])
def test_p07_a_damaged_journal_is_set_aside_and_built_anew(full: Host, damage: str):
    for number in range(300):
        full.write(f"many/f{number}", f"{number}")
    full.stored()
    before = full.objects()
    full.kill()
    journal = full.state / "journal.db"
    size = journal.stat().st_size
    for path in full.state.glob("journal.db-*"):
        if damage not in ("garbage", "empty"):  # those meet the log that the killed process left, too
            path.unlink()
    match damage:
        case "garbage":
            journal.write_bytes(os.urandom(size))
        case "header":
            _overwrite(journal, 0, os.urandom(100))
        case "middle":
            _overwrite(journal, 4096, os.urandom(max(4096, size - 8192)))
        case "truncated":
            os.truncate(journal, max(4096, size // 2))
        case "empty":
            os.truncate(journal, 0)
        case _:
            journal.write_text("this is no database\n" * 1000)
    full.path("d/b.txt").unlink()
    full.write("new.txt", "n")
    full.start()
    told = full.stored()
    assert told["deleted"] == 0
    assert full.objects() == before | {"new.txt": b"n"}
    assert full.manifest() is not None
    if damage in ("garbage", "header", "middle", "not a database"):
        assert "journal.db.damaged-" in full.said(), "a loud line"
        assert list(full.state.glob("journal.db.damaged-*"))


def _overwrite(path: Path, at: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(data)


def test_p07_a_journal_damaged_under_a_running_daemon(full: Host):
    _overwrite(full.state / "journal.db", 0, b"\0" * 100_000)
    with open(full.state / "journal.db-wal", "r+b") as file:
        file.truncate(0)
    for number in range(20):
        full.write(f"more/f{number}", f"{number}")
        time.sleep(0.02)
    eventually(lambda: full.flush(timeout=10).code == 0, 40)
    objects = full.objects()
    assert objects.items() >= FILES.items()
    assert objects.items() >= {f"more/f{number}": str(number).encode() for number in range(20)}.items()


def test_p07_a_store_that_cannot_be_asked_is_not_empty(wired: Host, line: Line):
    _fill(wired)
    wired.start()
    wired.stored()
    wired.stop()
    shutil.rmtree(wired.state)
    line.cut()
    wired.start()
    wired.write("a.txt", "changed")
    time.sleep(1)
    line.mend()
    wired.stored()
    assert wired.objects().items() >= (FILES | {"a.txt": b"changed"}).items()
    assert b"a" in wired.objects().values(), "a new journal takes what it finds for another writer's and keeps it"


def test_p07_an_unreadable_directory_is_not_empty(humble: Host):
    _fill(humble)
    humble.start(scan_interval="1s")
    humble.stored()
    humble.path("d").chmod(0o000)
    try:
        _nothing_is_deleted(humble, seconds=2.5)
        code, told = humble.flush(timeout=5)
        assert code == 1
        assert told["failed"][0]["path"].rstrip("/") == "d"
        _nothing_is_deleted(humble, seconds=0.3)
    finally:
        humble.path("d").chmod(0o755)
    humble.stored()
    assert humble.objects() == FILES
