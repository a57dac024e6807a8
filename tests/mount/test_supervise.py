"""Who watches over the two processes: what it takes for a death, and what for the wish of a person."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from cachesync import fuse
from tests.mount.conftest import MakeMounted
from tests.mount.mounted import MountedHost
from tests.promises.host import eventually

pytestmark = [pytest.mark.s3, pytest.mark.timeout(120)]


@pytest.mark.parametrize("died", [0, 1], ids=["first", "second"])
def test_whoever_unmounts_ends_it(mounted: MountedHost, died: int) -> None:
    (mounted.mnt / "s").mkdir()
    (mounted.mnt / "s" / "a").write_bytes(b"alpha")
    for _ in range(died):
        mounted.kill_child("server")
        mounted.again()
    # The uppermost: with a server that died there is another one below it.
    subprocess.run(["umount", mounted.mnt], check=True)
    assert mounted.ended() == 0
    assert fuse.mounted(str(mounted.mnt)) is None
    assert mounted.in_bucket() == {"a"}


def test_a_connection_that_is_cut_is_no_wish(mounted: MountedHost) -> None:
    (mounted.mnt / "s").mkdir()
    device = os.minor(os.stat(mounted.mnt).st_dev)
    control = f"/sys/fs/fuse/connections/{device}"
    if not os.path.exists(control):
        subprocess.run(["mount", "-t", "fusectl", "fusectl", "/sys/fs/fuse/connections"], check=True)
    server = mounted.children()["server"]
    with open(f"{control}/abort", "w") as file:
        file.write("1")
    eventually(lambda: mounted.children().get("server", server) != server, 30, "another server")
    mounted.again()
    assert os.listdir(mounted.mnt) == ["s"]


def test_a_server_that_does_not_get_ready_holds_nobody_up(make_mounted: MakeMounted) -> None:
    host = make_mounted().mount(wait=False)
    assert host.daemon is not None
    server = eventually(lambda: host.children().get("server"), 30, "the server")
    assert server is not None
    os.kill(server, signal.SIGSTOP)
    host.stop(20)
    assert fuse.mounted(str(host.mnt)) is None
    eventually(lambda: not os.path.exists(f"/proc/{server}"), 10, "it is gone too")


def test_who_stores_stands_back_and_not_who_serves_programs(mounted: MountedHost) -> None:
    standing = {
        name: (os.sched_getscheduler(pid), os.getpriority(os.PRIO_PROCESS, pid))
        for name, pid in mounted.children().items()
    }
    assert standing == {"daemon": (os.SCHED_BATCH, 10), "server": (os.SCHED_OTHER, 0)}
