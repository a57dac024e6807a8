"""M4: a process of the daemon's user reads neither its environment nor its memory, and cannot trace it."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cachesync.cli import first_process
from tests.promises.host import eventually

RIGHTS = {"run": "-sys_ptrace,-sys_admin,-perfmon", "mount": "-sys_ptrace"}
"""Root reads every process; so both sides go without that right, if they are root. To mount takes CAP_SYS_ADMIN, which
also reads environments."""

READ = "import sys; open(f'/proc/{sys.argv[1]}/{sys.argv[2]}', 'rb').read(1)"


@pytest.mark.skipif(os.geteuid() == 0 and shutil.which("setpriv") is None, reason="root, and no setpriv")
@pytest.mark.parametrize("verb", ["run", "mount"])
def test_a_process_of_the_same_user_reads_no_key(tmp_path: Path, verb: str):
    if verb == "mount" and not os.path.exists("/dev/fuse"):
        pytest.skip("no /dev/fuse")
    wrap = ["setpriv", f"--bounding-set={RIGHTS[verb]}"] if os.geteuid() == 0 else []
    environ = {
        "CACHESYNC_ROOT": str(tmp_path / "root"), "CACHESYNC_STORE": f"file://{tmp_path}/store",
        "AWS_SECRET_ACCESS_KEY": "a secret", "CACHESYNC_SOCKET": str(tmp_path / "s"),
    }  # fmt: skip
    words = ["run"] if verb == "run" else ["mount", str(tmp_path / "mnt")]
    (tmp_path / "mnt").mkdir()
    log = (tmp_path / "log").open("wb")
    daemon = subprocess.Popen(
        [*wrap, sys.executable, "-m", "cachesync", *words], env=os.environ | environ, stderr=log, cwd="/"
    )
    try:
        eventually((tmp_path / "s").exists, 30)
        for what in ("mem", "environ") if verb == "run" else ("mem",):
            command = [*wrap, sys.executable, "-c", READ, str(daemon.pid), what]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
            assert f"PermissionError: [Errno 13] Permission denied: '/proc/{daemon.pid}/{what}'" in done.stderr
    finally:
        daemon.terminate()
        daemon.wait(40)
        log.close()


def test_process_1_of_a_container_shows_it_neither(monkeypatch: pytest.MonkeyPatch):
    dumpable = []

    def fork() -> int:
        dumpable.append(libc.prctl(3, 0, 0, 0, 0))
        return 0

    libc = ctypes.CDLL(None)
    before = libc.prctl(3, 0, 0, 0, 0)
    monkeypatch.setattr(os, "fork", fork)
    try:
        assert first_process.stand_in() is None
    finally:
        libc.prctl(4, before, 0, 0, 0)
    assert dumpable == [0]
