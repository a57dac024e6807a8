"""What the mount's server holds, and for whom."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.conftest import MakeMounted
from tests.mount.mounted import MountedHost, sh

pytestmark = [pytest.mark.s3, pytest.mark.timeout(120)]

GREEDY = """
import errno, os, sys, time
held, made = [], 0
while True:
    path = f"{sys.argv[1]}/f{os.getpid()}-{made}"
    try:
        held.append(os.open(path, os.O_RDWR | os.O_CREAT))
    except OSError as error:
        print(errno.errorcode[error.errno], len(held), flush=True)
        break
    made += 1
sys.stdin.readline()
for file in held:
    os.close(file)
for _ in range(100):
    try:
        os.close(os.open(f"{sys.argv[1]}/again", os.O_RDWR | os.O_CREAT))
    except OSError:
        time.sleep(0.1)  # the kernel tells of a close a moment later
    else:
        print("opens again", flush=True)
        break
"""


def test_the_server_may_open_more_files_than_a_program(mounted: MountedHost):
    own = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    soft = resource.prlimit(mounted.children()["server"], resource.RLIMIT_NOFILE)[0]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (own, own + 1))
    except ValueError:  # who may not raise it has what it has
        assert soft == own
    else:
        resource.setrlimit(resource.RLIMIT_NOFILE, (own, own))
        assert soft >= max(own, min(1 << 20, int(Path("/proc/sys/fs/nr_open").read_text())))


def test_who_opens_too_many_files_is_refused_and_nobody_else(mounted: MountedHost):
    (mounted.mnt / "s").mkdir()
    (mounted.mnt / "s" / "there").write_bytes(b"content")
    server = mounted.children()["server"]
    resource.prlimit(server, resource.RLIMIT_NOFILE, (600, resource.prlimit(server, resource.RLIMIT_NOFILE)[1]))
    command = [sys.executable, "-c", GREEDY, str(mounted.mnt / "s")]
    greedy = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for process in greedy:
        assert process.stdout is not None
        assert process.stdout.readline().split()[0] == "EMFILE"
    work = (
        "ls -l; cat there; for n in $(seq 20); do echo new > new$n; done; cat new7; mkdir d; mv new8 d; exec 5< there"
    )
    assert "new" in sh(work, mounted.mnt / "s")
    with (mounted.mnt / "s" / "there").open("rb") as file:
        assert file.read() == b"content"
    for process in greedy:
        out, _ = process.communicate("\n", timeout=30)
        assert out == "opens again\n"
    assert mounted.stored("s")


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """A file system that has nothing to do with the root."""
    path = tmp_path / "device"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", path], check=True)
    yield path
    subprocess.run(["umount", path], check=True)


def test_the_server_keeps_no_other_file_system_alive(make_mounted: MakeMounted, device: Path):
    host = make_mounted()
    volume = host.root / "volume"
    volume.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", volume], check=True)
    try:
        host.mount()
        (host.mnt / "volume" / "f").write_bytes(b"on a volume of its own")
        assert (volume / "f").read_bytes() == b"on a volume of its own"
        lines = Path(f"/proc/{host.children()['server']}/mountinfo").read_text().splitlines()
        seen = {line.split()[4] for line in lines}
        assert str(volume) in seen
        assert not {str(device), str(host.mnt), "/dev/shm", "/sys"} & seen
        host.kill_child("server")
        host.again()
        assert os.listdir(host.mnt / "volume") == ["f"]
        host.stop()
    finally:
        subprocess.run(["umount", "-l", volume], check=True)
