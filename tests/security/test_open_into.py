"""H3: what ``open --into`` writes, it writes as the caller: never as a daemon that is somebody else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.security.test_agent_socket import ANN, ROOT_ONLY, WITH_STORE
from tests.security.test_agent_socket import Host as Agents
from tests.security.test_agent_socket import folder as folder  # noqa: PLC0414  # a fixture

pytestmark = ROOT_ONLY
TARGET = "/v1/sessions/{}/open?into={}"


@pytest.fixture
def host(folder: Path) -> Iterator[Agents]:
    """The operator's socket is open to the group, as ``socket_group`` allows."""
    place = folder / "operator" / "control.sock"
    with Agents(folder, socket=str(place), socket_group="12100").serving() as host:
        yield host


def test_a_member_of_the_group_makes_the_daemon_write_nothing(host: Agents):
    place = host.folder / "operator/control.sock"
    assert host.run(ANN, "flush", "ann").returncode == 0
    for into in (host.folder / "stolen", host.folder / "open-to-all"):
        if into.name == "open-to-all":
            into.mkdir()
            into.chmod(0o777)
        code, told = host.ask(ANN, "POST", TARGET.format("ann", into), place)
        assert code == 400, told
        assert "for its own user only" in told["error"]["cause"]
        assert not into.exists() or not any(into.iterdir())
    assert host.ask(0, "POST", TARGET.format("ann", host.folder / "own"), place)[0] == 200
    assert (host.folder / "own/notes.txt").read_text() == "ann's\n"


def test_a_process_that_sees_other_files_is_another_user(host: Agents):
    """Root of a container has the number of the daemon's user, and not its files."""
    place = host.folder / "operator/control.sock"
    assert host.run(ANN, "flush", "ann").returncode == 0
    target = TARGET.format("ann", host.folder / "out")
    script = f"""
import socket
with socket.socket(socket.AF_UNIX) as s:
    s.connect({os.fspath(place)!r})
    s.sendall(b"POST {target} HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
    print(s.recv(65536).decode())
"""
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.startswith("HTTP/1.1 400")
    assert not (host.folder / "out").exists()


def test_the_command_writes_as_the_caller(host: Agents):
    assert host.run(ANN, "flush", "ann").returncode == 0
    subprocess.run(["chmod", "-R", "a+rX", host.folder / "store"], check=True)
    home = host.folder / "home of ann"
    home.mkdir()
    os.chown(home, ANN, ANN)
    socket = {
        "CACHESYNC_SOCKET": str(host.folder / "operator/control.sock"),
        "TMPDIR": str(home),
        "PRELOAD": WITH_STORE,
    }
    stored = socket | {"CACHESYNC_STORE": f"file://{host.folder}/store"}
    done = host.run(ANN, "open", "ann", "--into", str(home / "copy"), **stored)
    assert done.returncode == 0, done.stderr
    assert (home / "copy/notes.txt").read_text() == "ann's\n"
    assert (home / "copy/notes.txt").stat().st_uid == ANN
    assert [one.name for one in home.iterdir()] == ["copy"], "nothing else is left"
    for into in (host.folder / "not-hers", host.root / "ann/below"):
        done = host.run(ANN, "open", "ann", "--into", str(into), **stored)
        assert done.returncode in (1, 2), done.stderr
        assert not into.exists()
    done = host.run(ANN, "open", "ann", "--into", str(home / "other"), **socket)
    assert done.returncode == 2
    assert "you need access to its store" in done.stderr
