"""A process that has imported what ``cachesync`` needs, and forks one of it for each order: no test waits for imports.

What it forks is the program in all else: its own process, environment, folder, streams and signals, and an end through
the interpreter's own. ``python -m tests.warm FD`` takes orders over a socket; ``launch`` gives them. With
CACHESYNC_TEST_COLD=1 every command is executed.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

REPOSITORY = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, "-m", "cachesync"]

_INTERPRETER = ("PYTHON", "LANG", "LC_", "LD_")
_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None, use_errno=True).prctl


def warm() -> None:
    """Import and parse all that the program needs, without starting a thread."""
    import aiohttp.web  # noqa: F401

    import cachesync.api.server
    import cachesync.cli.entry
    import cachesync.daemon.engine
    import cachesync.daemon.process
    import cachesync.ops.migrate
    import cachesync.store.s3.store  # noqa: F401
    from cachesync.store.s3.library import descriptions

    loader = descriptions()
    for kind in ("service-2", "paginators-1", "waiters-2", "endpoint-rule-set-1"):
        with contextlib.suppress(Exception):
            loader.load_service_model("s3", kind)
    for data in ("endpoints", "partitions", "sdk-default-configuration", "_retry"):
        with contextlib.suppress(Exception):
            loader.load_data(data)
    assert threading.active_count() == 1, "a fork copies one thread only"
    gc.freeze()  # what is shared stays shared


class Forked:
    """A process of the warm one's, as far as subprocess.Popen goes here."""

    def __init__(self, news: socket.socket) -> None:
        self._news = news
        self._lock = threading.Lock()
        self.pid = int(self._hear(30) or 0)
        assert self.pid, "the warm process is gone"
        self.returncode: int | None = None

    def _hear(self, timeout: float) -> bytes:
        self._news.settimeout(timeout)
        return self._news.recv(64)

    def poll(self) -> int | None:
        """The exit code, or minus the signal, once it has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises subprocess.TimeoutExpired."""
        with self._lock:
            if self.returncode is None:
                ready, _, _ = select.select([self._news], [], [], timeout)
                if not ready:
                    raise subprocess.TimeoutExpired("cachesync", timeout or 0)
                self.returncode = int(self._hear(1) or -signal.SIGKILL)
                self._news.close()
            return self.returncode

    def send_signal(self, number: int) -> None:
        """Nothing if it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


Process = subprocess.Popen[bytes] | Forked


def launch(
    words: Sequence[str | bytes],
    *,
    env: Mapping[str, str],
    cwd: Path,
    stdout: IO[bytes],
    stderr: IO[bytes],
    wrap: Sequence[str] = (),
    cold: bool = False,
) -> Process:
    """Start ``cachesync WORDS``. It dies with the thread, or the process, that started it.

    It is executed if it is to be ``cold``, or runs in something else, or is given other settings of the interpreter.
    """
    other = any(value != os.environ.get(name) for name, value in env.items() if name.startswith(_INTERPRETER))
    if cold or wrap or other or "CACHESYNC_TEST_COLD" in os.environ:
        return subprocess.Popen(
            [*wrap, *COMMAND, *words],
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            preexec_fn=lambda: _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509 - not to outlive us
        )
    order = {"words": [os.fsdecode(word) for word in words], "env": dict(env), "cwd": str(cwd)}
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with far:
        socket.send_fds(_orders(), [json.dumps(order).encode()], [stdout.fileno(), stderr.fileno(), far.fileno()])
    return Forked(near)


@functools.cache
def _orders() -> socket.socket:
    """Where the warm process of this one takes orders. It ends when this end of the socket does."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG") if name in os.environ}
    with far:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.warm", str(far.fileno())],
            env=kept | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *filter(None, [kept.get("PYTHONPATH")])])},
            cwd="/",
            pass_fds=[far.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    def close() -> None:
        near.close()
        process.wait()

    atexit.register(close)
    return near


class Server:
    """Forks a process for each order that comes over ``orders``, and tells of its pid and its end."""

    def __init__(self, orders: socket.socket) -> None:
        self._orders = orders
        self._news: dict[int, socket.socket] = {}
        self._parent = os.getpid()
        self._hears, self._rings = os.pipe()
        os.set_blocking(self._rings, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._rings, warn_on_full_buffer=False)

    def serve(self) -> dict[str, Any] | None:
        """Returns None when nobody is left to give orders, and the order in the process that was forked for it."""
        while True:
            ready, _, _ = select.select([self._orders.fileno(), self._hears], [], [])
            if self._hears in ready:
                os.read(self._hears, 4096)
                self._reap()
            if self._orders.fileno() in ready:
                data, descriptors, _, _ = socket.recv_fds(self._orders, 1 << 20, 3)
                if not data:
                    return None
                pid = os.fork()
                if pid == 0:
                    self._leave(descriptors)
                    order: dict[str, Any] = json.loads(data)
                    return order
                for descriptor in descriptors[:2]:
                    os.close(descriptor)
                self._news[pid] = socket.socket(fileno=descriptors[2])
                self._news[pid].send(b"%d" % pid)

    def _reap(self) -> None:
        while self._news:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            with self._news.pop(pid) as ended, contextlib.suppress(OSError):
                ended.send(b"%d" % os.waitstatus_to_exitcode(status))

    def _leave(self, descriptors: list[int]) -> None:
        """In the forked process: keep nothing of the warm one's."""
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self._parent:
            os._exit(70)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number, descriptor in enumerate(descriptors[:2], 1):
            os.dup2(descriptor, number)
        for descriptor in (self._hears, self._rings, *descriptors):
            os.close(descriptor)
        for other in (self._orders, *self._news.values()):
            other.close()


def main() -> None:
    """Serve; in a forked process, be ``python -m cachesync``."""
    warm()
    order = Server(socket.socket(fileno=int(sys.argv[1]))).serve()
    if order is not None:
        os.environ.clear()
        os.environ.update(order["env"])
        os.chdir(order["cwd"])
        sys.argv[1:] = order["words"]
        runpy.run_module("cachesync", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
