"""The S3 server on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cachesync.model.errors import CacheSyncError, StoreTransient
from cachesync.store.devserver import DevServer
from cachesync.store.s3.store import S3Store
from tests.bodies import PLAIN, Bytes
from tests.servers import SeaweedServer

pytestmark = pytest.mark.s3


def test_it_keeps_data_credentials_and_ports(tmp_path: Path) -> None:
    server = SeaweedServer(tmp_path / "s3")
    server.start()
    try:
        first = (server.endpoint, server.key, server.secret)
        assert (tmp_path / "s3/credentials.json").stat().st_mode & 0o777 == 0o600
        server.make_bucket("artifacts")
        server.make_bucket("artifacts")
        store = S3Store(server.settings("artifacts"))
        stored = store.put("k", Bytes(b"data"), PLAIN, expect=None)
        with pytest.raises(CacheSyncError, match="another"):
            DevServer(tmp_path / "s3").start()
        server.kill()
        assert not server.running
        server = SeaweedServer(tmp_path / "s3")
        server.start()
        assert (server.endpoint, server.key, server.secret) == first
        assert store.head("k").version == stored.version
        server.restart()
        assert read_back(store, "k") == b"data"
        store.close()
    finally:
        server.stop()


def read_back(store: S3Store, key: str) -> bytes:
    """The object. A server that just began may know the key before it finds the bytes; the product asks again then."""
    deadline = time.monotonic() + 15
    while True:
        try:
            return b"".join(store.get(key).chunks)
        except StoreTransient:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_it_listens_on_loopback_only(seaweed: SeaweedServer) -> None:
    listening = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout.splitlines()
    ours = [line.split()[3] for line in listening if f"pid={seaweed.pid}," in line]
    assert len(ours) > 7
    assert all(address.startswith("127.0.0.1:") for address in ours)


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom cachesync.store.devserver import DevServer\n"
        f"server = DevServer(Path({str(tmp_path / 's3')!r}))\nserver.start()\nprint(server.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and Path(f"/proc/{pid}/stat").exists():
        if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{pid}").exists()


def test_a_server_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "weed"
    program.write_text("#!/bin/sh\necho no such luck\nexit 1\n")
    os.chmod(program, 0o755)
    monkeypatch.setattr("cachesync.store.devserver.find_weed", lambda: str(program))
    with pytest.raises(CacheSyncError, match="no such luck"):
        DevServer(tmp_path / "s3").start()
