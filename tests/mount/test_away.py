"""Files that are only in the store: how they are brought, and what happens when the store does not answer."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cachesync.mount.open_files import WHOLE
from tests.mount.conftest import MakeMounted
from tests.mount.mounted import MountedHost
from tests.promises.host import eventually
from tests.promises.line import Line

pytestmark = [pytest.mark.s3, pytest.mark.timeout(180)]


@pytest.fixture
def wired(make_mounted: MakeMounted, line: Line) -> MountedHost:
    """A mounted host that reaches the store through ``line``."""
    return make_mounted(env={"S3_ENDPOINT": line.endpoint}).mount()


def close(host: MountedHost) -> None:
    done = host.run("close", "s")
    assert done.code == 0, done.out + done.err
    assert not (host.root / "s").exists()


def fill(host: MountedHost, files: dict[str, bytes]) -> None:
    for path, data in files.items():
        (host.mnt / "s" / path).parent.mkdir(parents=True, exist_ok=True)
        (host.mnt / "s" / path).write_bytes(data)
    close(host)


def state(path: Path) -> str:
    return os.getxattr(path, b"user.cachesync.state").decode()


def test_a_file_is_brought_when_it_is_opened_and_not_before(mounted):
    fill(mounted, {"a": b"alpha", "d/b": b"beta"})
    assert sorted(p.name for p in (mounted.mnt / "s").rglob("*")) == ["a", "b", "d"]
    assert state(mounted.mnt / "s" / "a") == "evicted"
    assert not (mounted.root / "s").exists()
    assert (mounted.mnt / "s" / "d" / "b").read_bytes() == b"beta"
    assert (mounted.root / "s" / "d" / "b").read_bytes() == b"beta"
    assert not (mounted.root / "s" / "a").exists()
    # The watcher may have seen it before the journal was told: then it is compared once more.
    eventually(lambda: state(mounted.mnt / "s" / "d" / "b") == "clean", 10)
    # Nothing that was brought is taken for a change.
    again = mounted.run("flush", "s", "--json").json
    assert (again["stored"], again["uploaded"], again["deleted"]) == (True, 0, 0)


def test_many_readers_download_once(wired, line):
    fill(wired, {"big": os.urandom(3_000_000)})
    before = line.answered
    done: list[bytes] = []
    readers = [threading.Thread(target=lambda: done.append((wired.mnt / "s" / "big").read_bytes())) for _ in range(16)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert len({hashlib.sha256(data).digest() for data in done}) == 1
    assert len(done) == 16
    assert 3_000_000 <= line.answered - before < 4_000_000


def test_a_large_file_is_read_where_it_is_until_it_is_written(mounted):
    data = os.urandom(1024 * 1024) * (WHOLE // (1024 * 1024) + 3) + b"end"
    fill(mounted, {"large": data})
    path = mounted.mnt / "s" / "large"
    with path.open("rb") as file:
        file.seek(-3, os.SEEK_END)
        assert file.read() == b"end"
        file.seek(5_000_000)
        assert file.read(1000) == data[5_000_000:5_001_000]
        assert not (mounted.root / "s" / "large").exists()
        assert state(path) == "evicted"
        with path.open("r+b") as writer:  # it is brought now, and its reader goes on
            writer.seek(10)
            writer.write(b"WRITTEN")
        assert (mounted.root / "s" / "large").stat().st_size == len(data)
        file.seek(8)
        assert file.read(12) == data[8:10] + b"WRITTEN" + data[17:20]
    expected = data[:10] + b"WRITTEN" + data[17:]
    assert hashlib.sha256(path.read_bytes()).digest() == hashlib.sha256(expected).digest()
    assert mounted.run("flush", "s").code == 0
    stored = mounted.s3.get_object(Bucket=mounted.bucket, Key="sessions/s/large")["Body"].read()
    assert hashlib.sha256(stored).digest() == hashlib.sha256(expected).digest()


def test_an_outage_is_an_error_and_no_missing_file(wired, line):
    fill(wired, {"a": b"alpha", "b": b"beta"})
    assert (wired.mnt / "s" / "b").read_bytes() == b"beta"
    line.cut()
    with pytest.raises(OSError, match="rror") as caught:
        (wired.mnt / "s" / "a").read_bytes()
    assert caught.value.errno == errno.EIO
    assert sorted(os.listdir(wired.mnt / "s")) == ["a", "b"]
    assert (wired.mnt / "s" / "b").read_bytes() == b"beta"
    (wired.mnt / "s" / "new").write_bytes(b"made in the outage")  # P1
    (wired.mnt / "t").mkdir()
    (wired.mnt / "t" / "x").write_bytes(b"x")
    line.mend()
    assert eventually(lambda: _read(wired.mnt / "s" / "a"), 30) == b"alpha"
    assert wired.run("flush", "--all").code == 0
    assert wired.in_bucket("s") == {"a", "b", "new"}


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def test_while_one_waits_for_the_store_others_go_on_and_it_can_be_killed(wired, line):
    fill(wired, {"a": b"alpha", "b": b"beta"})
    assert (wired.mnt / "s" / "b").read_bytes() == b"beta"
    line.mute()
    waiting = subprocess.Popen([sys.executable, "-c", f"open({str(wired.mnt / 's' / 'a')!r}).read()"])
    time.sleep(1.0)
    assert waiting.poll() is None
    began = time.monotonic()
    assert (wired.mnt / "s" / "b").read_bytes() == b"beta"
    (wired.mnt / "s" / "c").write_bytes(b"c")
    assert sorted(os.listdir(wired.mnt / "s")) == ["a", "b", "c"]
    assert time.monotonic() - began < 2
    waiting.send_signal(signal.SIGKILL)
    assert waiting.wait(5) == -signal.SIGKILL
    line.mend()
    assert eventually(lambda: _read(wired.mnt / "s" / "a"), 60) == b"alpha"


def test_a_session_of_another_host_is_there_under_its_name(make_mounted):
    first = make_mounted("first").mount()
    fill(first, {"a": b"alpha", "d/e/f": b"deep"})
    second = make_mounted("second").mount()
    assert "s" in os.listdir(second.mnt)
    assert (second.mnt / "s" / "d" / "e" / "f").read_bytes() == b"deep"
    assert sorted(os.listdir(second.mnt / "s")) == ["a", "d"]
    (second.mnt / "s" / "a").write_bytes(b"changed there")
    close(second)
    eventually(lambda: (first.mnt / "s" / "a").read_bytes() == b"changed there", 40, "the first host sees it")


def test_a_session_that_is_opened_beside_the_mount_is_seen(mounted):
    fill(mounted, {"a": b"alpha"})
    with (mounted.mnt / "s" / "a").open("rb") as file:
        assert mounted.run("open", "s").code == 0
        assert file.read() == b"alpha"
    (mounted.root / "s" / "a").write_bytes(b"written in the root")
    assert (mounted.mnt / "s" / "a").read_bytes() == b"written in the root"


def test_a_file_that_is_open_while_its_session_is_evicted_loses_nothing(mounted):
    fill(mounted, {"a": b"alpha"})
    with (mounted.mnt / "s" / "a").open("rb") as reader:
        assert mounted.run("evict", "s").code == 0
        with (mounted.mnt / "s" / "a").open("ab") as writer:
            writer.write(b" and more")
        reader.read()
    assert (mounted.mnt / "s" / "a").read_bytes() == b"alpha and more"
    with (mounted.mnt / "s" / "a").open("ab") as writer:
        writer.write(b"!")
        writer.flush()
        kept = mounted.run("evict", "s", "--json").json["kept"]
        assert [row["path"] for row in kept] == ["a"]
        writer.write(b"!")
    assert (mounted.mnt / "s" / "a").read_bytes() == b"alpha and more!!"
    assert mounted.run("flush", "s").code == 0
    assert mounted.s3.get_object(Bucket=mounted.bucket, Key="sessions/s/a")["Body"].read() == b"alpha and more!!"


def test_what_is_made_where_a_directory_is_only_in_the_store_stands_in_it(mounted):
    fill(mounted, {"d/e/a": b"alpha"})
    (mounted.mnt / "s" / "d" / "e" / "b").write_bytes(b"beta")
    (mounted.mnt / "s" / "d" / "new").mkdir()
    assert sorted(os.listdir(mounted.mnt / "s" / "d" / "e")) == ["a", "b"]
    assert mounted.run("flush", "s").code == 0
    assert mounted.in_bucket() == {"d/e/a", "d/e/b"}
    assert (mounted.mnt / "s" / "d" / "e" / "a").read_bytes() == b"alpha"


def test_a_directory_that_only_the_store_tells_of_outlives_what_is_in_it(mounted):
    """What other tools stored has no directories: they are told of by the names below them."""
    fill(mounted, {"stays": b"here"})
    for path in ("d/e/a", "d/e/b", "tree/deep/c", "from/f"):
        mounted.s3.put_object(Bucket=mounted.bucket, Key=f"sessions/s/{path}", Body=b"of another tool")
    assert mounted.run("open", "s", "--lazy").code == 0
    session = mounted.mnt / "s"
    (session / "d" / "e" / "a").unlink()
    (session / "d" / "e" / "b").unlink()
    assert os.listdir(session / "d" / "e") == []
    (session / "d" / "e" / "made").write_bytes(b"in a directory that is empty, and there")
    (session / "from" / "f").rename(session / "f")
    assert os.listdir(session / "from") == []
    shutil.rmtree(session / "tree")
    assert sorted(os.listdir(session)) == ["d", "f", "from", "stays"]
    (session / "from").rmdir()
    assert mounted.stored("s")["conflicts"] == []
    assert mounted.in_bucket() == {"stays", "f", "d/e/made"}


def test_removing_a_whole_session_removes_nothing_in_the_store(make_mounted):
    # Longer than the removal of 20 files takes beside other tests: what is older than that counts as deleted (P7).
    mounted = make_mounted().mount(delete_settle="3s")
    fill(mounted, {f"f{n}": b"x" for n in range(20)})
    assert (mounted.mnt / "s" / "f1").read_bytes() == b"x"
    subprocess.run(["rm", "-rf", mounted.mnt / "s"], check=True)
    time.sleep(4.5)
    assert len(mounted.in_bucket()) == 20


def test_a_read_only_mount_changes_nothing(make_mounted):
    host = make_mounted()
    (host.root / "s").mkdir()
    (host.root / "s" / "a").write_bytes(b"alpha")
    host.mount("--read-only")
    assert (host.mnt / "s" / "a").read_bytes() == b"alpha"
    for change in (
        lambda: (host.mnt / "s" / "a").write_bytes(b"x"),
        lambda: (host.mnt / "s" / "b").write_bytes(b"x"),
        lambda: os.unlink(host.mnt / "s" / "a"),
        lambda: os.mkdir(host.mnt / "t"),
    ):
        with pytest.raises(OSError, match="Read-only"):
            change()
    close(host)
    assert (host.mnt / "s" / "a").read_bytes() == b"alpha"  # read, but not brought back to be changed


def test_what_the_daemon_changes_is_seen_at_once(mounted):
    fill(mounted, {"a": b"alpha", "d/b": b"beta"})
    path = mounted.mnt / "s" / "a"
    assert path.read_bytes() == b"alpha"
    slow = "import os, sys, time; os.stat(sys.argv[1]); print(flush=True); time.sleep(60)"
    # The kernel knows it, and goes on knowing it while somebody uses it.
    with subprocess.Popen([sys.executable, "-c", slow, path], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        (mounted.folder / "new").write_bytes(b"longer than before")
        assert mounted.run("put", str(mounted.folder / "new"), "s/a").code == 0
        assert (os.stat(path).st_size, path.read_bytes()) == (18, b"longer than before")
        assert mounted.run("rm", "s/a").code == 0
        assert not path.exists()
        holder.kill()


def test_who_stands_in_a_directory_stays_in_it(mounted):
    fill(mounted, {"d/b": b"beta", "d/c": b"gamma"})
    script = "cd d; for n in 1 2 3 4 5 6; do cat b c; pwd -P; echo; sleep 0.3; done"
    shell = subprocess.Popen(["bash", "-ec", script], cwd=mounted.mnt / "s", stdout=subprocess.PIPE, text=True)
    for verb in ("open", "close", "open"):
        assert mounted.run(verb, "s").code == 0
    out, _ = shell.communicate(timeout=30)
    assert shell.returncode == 0
    assert out.split("\n\n") == [f"betagamma{mounted.mnt}/s/d"] * 6 + [""]
