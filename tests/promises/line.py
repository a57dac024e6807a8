"""A line between a daemon and its S3 server that can be cut, mended or muted, and that loses or spoils what it has."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from urllib.parse import urlsplit


class Line:
    """A TCP proxy on a port of its own. Everything may be called from the test's thread at any time."""

    def __init__(self, endpoint: str) -> None:
        parts = urlsplit(endpoint)
        self._target = (parts.hostname, parts.port)
        self._lock = threading.Lock()
        self._ends: set[socket.socket] = set()
        self._mute = threading.Event()
        self._listener: socket.socket | None = None
        self._port = 0
        self.requests = 0
        self.answered = 0
        """Bytes that the server sent."""
        self.lost = 0
        self.lose_reply_to: bytes | None = None
        """The answer to the next request that holds these bytes never arrives; the request does."""
        self.stall: bytes | None = None
        """Every request that holds these bytes waits for ever."""
        self.spoil: Callable[[bytes], bytes] = lambda data: data
        """What becomes of the bytes on their way to the server."""
        self.mend()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def mend(self) -> None:
        """Everything works again."""
        self._mute.clear()
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self._port), backlog=128, reuse_port=False)
            self._port = self._listener.getsockname()[1]
            threading.Thread(target=self._take, args=(self._listener,), daemon=True).start()
        else:
            self._drop()

    def cut(self) -> None:
        """Nobody listens any more, and every connection ends: a server that is down."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self._drop()

    def mute(self) -> None:
        """Connections are taken, and nothing is ever said: a server that hangs, a network that drops packets."""
        self._mute.set()

    def close(self) -> None:
        self.cut()

    def _drop(self) -> None:
        with self._lock:
            ends, self._ends = self._ends, set()
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _take(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._target)
            except OSError:
                near.close()
                continue
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                if self._listener is not listener:  # it was cut while this connection was on its way
                    near.close()
                    far.close()
                    return
                self._ends |= {near, far}
            losing = threading.Event()
            threading.Thread(target=self._up, args=(near, far, losing), daemon=True).start()
            threading.Thread(target=self._down, args=(far, near, losing), daemon=True).start()

    def _up(self, near: socket.socket, far: socket.socket, losing: threading.Event) -> None:
        tail = b""
        with contextlib.suppress(OSError):
            while data := near.recv(256 * 1024):
                if self._mute.is_set():
                    continue
                seen = tail + data
                if self.stall and self.stall in seen:
                    continue
                self.requests += 1
                if self.lose_reply_to and self.lose_reply_to in seen:
                    self.lose_reply_to = None
                    losing.set()
                far.sendall(self.spoil(data))
                tail = data[-256:]
        _shut(far)

    def _down(self, far: socket.socket, near: socket.socket, losing: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := far.recv(256 * 1024):
                if self._mute.is_set():
                    continue
                if losing.is_set():
                    self.lost += 1
                    break
                self.answered += len(data)
                near.sendall(data)
        _shut(near)
        _shut(far)
        near.close()
        far.close()


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
