"""P10: what is not stored yet survives everything but the loss of its disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.promises.host import Host, eventually
from tests.promises.line import Line
from tests.servers import SeaweedServer


def test_p10_an_outage_with_restarts_and_file_operations_loses_nothing(wired: Host, line: Line):
    wired.start(drain_timeout="0.5s")
    wired.write("stored.txt", "1")
    wired.stored()
    line.cut()
    for number in range(100):
        wired.write(f"d{number % 4}/f{number}", f"{number}")
    wired.write("stored.txt", "2")
    assert wired.stop() == 4
    wired.path("d0").rename(wired.path("e0"))
    wired.path("d1/f1").unlink()
    wired.start(drain_timeout="0.5s")
    wired.write("d2/f2", "changed during the outage")
    wired.path("d3/f3").rename(wired.path("moved"))
    time.sleep(0.5)
    wired.kill()
    wired.start()
    assert wired.status()["dirty"] >= 99
    assert wired.status()["oldest_dirty_age"] > 0
    line.mend()
    wired.stored()
    assert wired.objects() == wired.local()
    assert wired.status()["dirty"] == 0


@pytest.mark.timeout(90)
def test_p10_a_server_that_dies_and_comes_back_loses_nothing(host: Host):
    """Not the line: the real server, in the middle of the work."""
    assert isinstance(host.server, SeaweedServer)
    host.start()
    for number in range(300):
        host.write(f"f{number}", f"{number}" * 100)
        if number == 150:
            host.server.kill()
    try:
        code, told = host.flush(timeout=1)
        assert code == 4
        assert told["pending"]
    finally:
        host.server.start()
    eventually(lambda: host.keys() == set(host.local()), 30)
    host.stored()
    assert host.objects() == host.local()


def test_p10_local_files_are_never_touched(host: Host):
    host.start()
    for number in range(20):
        host.write(f"f{number}", f"{number}")
    host.foreign_put("f3", b"theirs")
    host.foreign_put("only there", b"theirs")
    host.stored()
    host.foreign_delete("f5")
    host.write("f4", "44")
    host.stored()
    host.stop()
    assert host.local() == {f"f{number}": f"{number}".encode() for number in range(20)} | {"f4": b"44"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = os.geteuid() == 0 and shutil.which("mount")
    if (
        not mounted
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], check=False).returncode
    ):
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_p10_a_full_disk_drops_nothing_and_recovers_by_itself(make_host: Callable[..., Host], small_disk: Path):
    host = make_host(folder=small_disk)
    host.log = small_disk.parent / "daemon.log"
    host.start()
    host.write("a.txt", "before")
    host.stored()
    ballast = small_disk / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
    host.path("a.txt").rename(host.path("b.txt"))
    for number in range(20):
        os.close(os.open(host.path(f"empty{number}"), os.O_CREAT | os.O_WRONLY))
    code, _ = host.flush(timeout=2)
    assert code in (0, 1, 4)
    if code == 0:
        assert host.objects() == host.local()
    assert host.daemon is not None
    assert host.daemon.poll() is None, host.complaints()
    ballast.unlink()
    host.write("after.txt", "after")
    eventually(lambda: host.flush(timeout=5).code == 0, 20)
    assert host.objects() == host.local()
