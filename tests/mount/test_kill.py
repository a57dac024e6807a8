"""Servers and daemons that die, mounts that end, and places where there can be none."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from cachesync import fuse
from tests.mount.mounted import MountedHost
from tests.promises.host import eventually

pytestmark = [pytest.mark.s3, pytest.mark.timeout(180)]


def test_a_dead_server_is_an_error_and_never_zeros(mounted):
    (mounted.mnt / "s").mkdir()
    (mounted.mnt / "s" / "a").write_bytes(b"alpha")
    mounted.freeze()  # the supervisor does not mount again now
    server = mounted.children()["server"]
    os.kill(server, signal.SIGKILL)
    eventually(lambda: not _reads(mounted.mnt / "s" / "a"), 5)
    with pytest.raises(OSError, match="not connected") as caught:
        (mounted.mnt / "s" / "a").read_bytes()
    assert caught.value.errno == errno.ENOTCONN
    mounted.thaw()
    eventually(lambda: _reads(mounted.mnt / "s" / "a"), 30)
    assert (mounted.mnt / "s" / "a").read_bytes() == b"alpha"


def _reads(path: Path) -> bool:
    try:
        return bool(path.read_bytes())
    except OSError:
        return False


def test_a_stale_mount_point_is_taken_over(mounted):
    (mounted.mnt / "s").mkdir()
    (mounted.mnt / "s" / "a").write_bytes(b"alpha")
    children = mounted.children()
    assert mounted.daemon is not None
    mounted.kill()  # the supervisor; its children end with it
    for pid in children.values():
        eventually(partial(_is_gone, pid), 30)
    with pytest.raises(OSError, match="not connected"):
        os.listdir(mounted.mnt)
    mounted.mount()
    assert (mounted.mnt / "s" / "a").read_bytes() == b"alpha"


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def test_reading_during_a_kill_of_the_daemon_is_whole_or_an_error(mounted):
    folder = mounted.mnt / "s"
    folder.mkdir()
    data = {f"f{n}": os.urandom(200_000) for n in range(40)}
    for name, content in data.items():
        (folder / name).write_bytes(content)
    assert mounted.run("close", "s").code == 0
    killed = False
    for number, (name, content) in enumerate(data.items()):
        if number == 10:
            mounted.kill_child("daemon")
            killed = True
        deadline = time.monotonic() + 60
        while True:
            try:
                found = (folder / name).read_bytes()
                break
            except OSError as error:
                if error.errno != errno.EIO or not killed or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        assert found == content
    assert mounted.run("flush", "s").code == 0


def test_a_signal_unmounts_and_drains(mounted):
    (mounted.mnt / "s").mkdir()
    for number in range(200):
        (mounted.mnt / "s" / f"f{number}").write_bytes(b"x" * 1000)
    assert mounted.stop() == 0
    assert fuse.mounted(str(mounted.mnt)) is None
    assert len(mounted.in_bucket()) == 200


def test_umount_stores_everything_and_ends_it(mounted):
    (mounted.mnt / "s").mkdir()
    (mounted.mnt / "s" / "a").write_bytes(b"alpha")
    with (mounted.mnt / "s" / "a").open("rb"):
        busy = mounted.run("umount", str(mounted.mnt))
        assert busy.code == 1
        assert "in use by" in busy.err
    done = mounted.run("umount", str(mounted.mnt))
    assert (done.code, fuse.mounted(str(mounted.mnt))) == (0, None)
    assert "everything is stored" in done.out
    assert mounted.ended() == 0
    assert mounted.in_bucket() == {"a"}
    again = mounted.run("umount", str(mounted.mnt))
    assert again.code == 2


@pytest.mark.parametrize("where", ["the root", "in the root", "above the root", "full", "missing", "taken"])
def test_where_nothing_can_be_mounted_it_says_so(make_mounted, where):
    host: MountedHost = make_mounted()
    places = {"the root": host.root, "in the root": host.root / "s", "above the root": host.folder}
    target = places.get(where, host.mnt)
    (host.root / "s").mkdir()
    if where == "full":
        (host.mnt / "file").touch()
    if where == "missing":
        target = host.folder / "nowhere"
    if where == "taken":
        host.mount()
    done = host.run("mount", str(target), timeout=60)
    assert done.code == 2
    assert "mount" in done.err
    if where == "taken":
        assert host.alive()


def test_between_a_dead_server_and_the_next_nothing_is_written_beside_the_mount(mounted):
    (mounted.mnt / "s").mkdir()
    loop = (
        "import os, sys, time\n"
        "n = 0\n"
        "while True:\n"
        "    try:\n"
        "        os.makedirs(sys.argv[1], exist_ok=True)\n"
        "        open(f'{sys.argv[1]}/{n}', 'w').write('x')\n"
        "        print(n, flush=True)\n"
        "    except OSError: pass\n"
        "    n += 1\n"
        "    time.sleep(0.01)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", loop, mounted.mnt / "s" / "w"], stdout=subprocess.PIPE, text=True
    ) as writer:
        try:
            for _ in range(3):
                time.sleep(0.5)
                mounted.kill_child("server")
                mounted.again()
            time.sleep(0.5)
        finally:
            writer.kill()
        assert writer.stdout is not None
        told = {line.strip() for line in writer.stdout}
    assert told <= set(os.listdir(mounted.mnt / "s" / "w"))
    assert mounted.run("umount", str(mounted.mnt)).code == 0
    assert os.listdir(mounted.mnt) == []  # and what dead servers left is gone too
    assert mounted.in_bucket() >= {f"w/{n}" for n in told}
