"""Who serves a socket is asked of the kernel before an answer is believed (SO_PEERCRED)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from cachesync.api.client import ControlClient
from cachesync.api.socket_address import is_served, owners
from cachesync.config import Config, load
from cachesync.model.errors import ConfigError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="takes the place of another user")
STRANGER = 12345
LIE = """
import http.server, json, os, socketserver, sys

class Liar(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        session = self.path.split("/")[3]
        body = json.dumps({"session": session, "stored": True, "files": 1, "bytes": 1, "uploaded": 0, "deleted": 0,
            "failed": [], "pending": [], "conflicts": [], "skipped": [], "manifest": "m", "seconds": 0.1}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
    def address_string(self): return ""

os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
with socketserver.ThreadingUnixStreamServer(sys.argv[1], Liar) as server:
    print("listening", flush=True)
    server.serve_forever()
"""


@contextmanager
def lying(folder: Path, user: int) -> Iterator[Path]:
    """A socket that says "stored" to whatever is asked."""
    folder.mkdir(exist_ok=True)
    os.chown(folder, user, user)
    path = folder / "s"
    process = subprocess.Popen([sys.executable, "-c", LIE, path, str(user)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "listening\n"
        yield path
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A folder that other users reach, which pytest's own is not."""
    folder = Path(tempfile.mkdtemp(prefix="cachesync-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def command(*words: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cachesync", *words], cwd="/", capture_output=True, text=True, timeout=60, check=False,
        env={"HOME": str(folder), "CACHESYNC_ROOT": str(folder / "root"), "CACHESYNC_STORE": f"file://{folder}/store"}
        | environ,
    )  # fmt: skip


def test_a_strangers_socket_makes_no_flush_stored(open_path: Path):
    (open_path / "root/s1").mkdir(parents=True)
    (open_path / "root/s1/a").write_text("not stored")
    with lying(open_path / "run", STRANGER) as path:
        done = command("flush", "s1", folder=open_path, CACHESYNC_SOCKET=str(path))
        assert done.returncode == 2
        assert f"user {STRANGER} serves it" in done.stderr
        assert done.stdout == ""
        named = command("flush", "s1", folder=open_path, CACHESYNC_SOCKET=str(path), CACHESYNC_DAEMON_USER="12345")
        assert (named.returncode, named.stderr) == (0, ""), "the operator said that this is the daemon"


def test_every_client_asks_the_kernel(open_path: Path):
    with lying(open_path / "run", STRANGER) as path:
        for client in (ControlClient(path), ControlClient(path, owners=[STRANGER + 1])):
            for ask in (client.is_serving, lambda client=client: client.flush("s1", timeout=1.0)):
                with pytest.raises(ConfigError, match=f"user {STRANGER} serves it"):
                    ask()
        assert is_served(path, [STRANGER])
        assert ControlClient(path, owners=[STRANGER]).flush("s1", timeout=1.0).stored


def config(folder: Path, **flags: str) -> Config:
    return load(flags, {"HOME": "/nowhere", "CACHESYNC_ROOT": str(folder / "root")}, folder, system_file=folder / "no")


def test_the_owner_of_the_state_folder_is_believed(tmp_path: Path):
    here = config(tmp_path)
    assert owners(here) == frozenset()
    here.state.mkdir(parents=True)
    os.chown(here.state, STRANGER, STRANGER)
    assert owners(here) == {STRANGER}
    here.state.rmdir()
    (tmp_path / "theirs").mkdir()
    here.state.symlink_to(tmp_path / "theirs")
    assert owners(here) == frozenset(), "a link may lead to anybody's"
    assert owners(config(tmp_path, daemon_user="77")) == {77}
    assert owners(config(tmp_path, daemon_user="root")) == {0}
    with pytest.raises(ConfigError, match="there is no user nobody-of-that-name"):
        owners(config(tmp_path, daemon_user="nobody-of-that-name"))
    assert owners(replace(here, state=tmp_path / "none")) == frozenset()
