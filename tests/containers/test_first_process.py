"""The command as process 1 of a container: no signal is dropped, no orphan stays, the exit code is the command's."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.promises.host import eventually

AS_FIRST = ["unshare", *([] if os.geteuid() == 0 else ["-r"]), "--pid", "--fork", "--mount-proc", "--kill-child"]
STAND_IN = "import os, signal, subprocess, sys, time; from cachesync.cli.first_process import stand_in\n"
HERE = "code = stand_in()\nif code is not None: sys.exit(code)\n"

Begin = Callable[..., subprocess.Popen[str]]


def can_unshare() -> bool:
    try:
        return subprocess.run([*AS_FIRST, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


pytestmark = pytest.mark.skipif(
    os.environ.get("CONTAINER_TESTS") != "required" and not can_unshare(), reason="no process namespaces here"
)


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Starts a command as process 1 of its own namespace; what is returned is ``unshare``, whose exit code is its."""
    with contextlib.ExitStack() as stack:

        def begin(*command: str, **environ: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [*AS_FIRST, sys.executable, *command],
                env=os.environ | {"HOME": str(tmp_path)} | environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            stack.callback(process.stdout.close)  # type: ignore[union-attr]
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        yield begin


def first(process: subprocess.Popen[str]) -> int:
    """The number that process 1 has out here."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return int(eventually(lambda: children.read_text().split())[0])


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize(
    ("last", "code"), [("sys.exit(7)", 7), ("os.kill(os.getpid(), signal.SIGKILL)", 137), ("print(os.getpid())", 0)]
)
def test_the_exit_code_is_the_commands(begin: Begin, last: str, code: int):
    process = begin("-c", STAND_IN + HERE + last)
    assert process.wait(20) == code


def test_orphans_are_buried(begin: Begin):
    script = """
subprocess.run(["sh", "-c", "for i in 1 2 3; do (exec sleep 0.05 &) ; done"], check=True)
deadline = time.monotonic() + 15
children = lambda: open("/proc/1/task/1/children").read().split()
print("orphans", len(children()) > 1, flush=True)
while children() != [str(os.getpid())] and time.monotonic() < deadline: time.sleep(0.01)
print(children() == [str(os.getpid())])
"""
    process = begin("-c", STAND_IN + HERE + script)
    assert line(process) == "orphans True"
    assert line(process) == "True"
    assert process.wait(20) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_reaches_the_command(begin: Begin, number: signal.Signals):
    handle = f"signal.signal({int(number)}, lambda *_: sys.exit(5))\n"
    # Short sleeps: Python sleeps on if a signal comes after it has looked for one and before it asks the kernel.
    sleep = "print('up', flush=True)\nfor _ in range(600): time.sleep(0.05)"
    process = begin("-c", STAND_IN + HERE + handle + sleep)
    assert line(process) == "up"
    os.kill(first(process), number)
    assert process.wait(20) == 5


def test_sigterm_ends_a_command_that_has_no_handler_yet(begin: Begin):
    process = begin("-c", STAND_IN + HERE + "print('up', flush=True); time.sleep(30); sys.exit(6)")
    assert line(process) == "up"
    os.kill(first(process), signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM


def daemon(begin: Begin, root: Path, **environ: str) -> subprocess.Popen[str]:
    """``cachesync run`` as process 1, on a folder store; it serves."""
    store = f"file://{root.parent}/store"
    process = begin("-m", "cachesync", "run", CACHESYNC_ROOT=str(root), CACHESYNC_STORE=store, **environ)
    eventually(lambda: line(process).startswith("watching"))
    return process


def test_sigterm_drains_the_daemon_and_the_exit_code_says_so(begin: Begin, tmp_path: Path):
    root = tmp_path / "root"
    process = daemon(begin, root, CACHESYNC_SETTLE="5s")
    (root / "s").mkdir()
    (root / "s/a").write_text("written just before the end")
    os.kill(first(process), signal.SIGTERM)
    assert process.wait(30) == 0
    assert (tmp_path / "store/sessions/s/a").read_text() == "written just before the end"


def test_the_end_of_the_daemon_is_the_end_of_the_container(begin: Begin, tmp_path: Path):
    process = daemon(begin, tmp_path / "root")
    init = first(process)
    (child,) = Path(f"/proc/{init}/task/{init}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)
    assert process.wait(30) == 128 + signal.SIGKILL
