"""Addresses of AF_UNIX sockets, which the kernel limits to 107 bytes.

A longer path is reached through ``/proc/self/fd/N/name``, N being its opened directory: the same trick serves bind,
connect and every call on the name, without changing the working directory of a process that has threads.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cachesync.errors import DaemonUnavailable

MAX_ADDRESS_BYTES = 107
CONNECT_TIMEOUT = 2.0


@contextmanager
def short_address(path: Path) -> Iterator[str]:
    """An address for ``path`` that fits, good inside the block only. Raises OSError for an unusable directory."""
    if len(os.fsencode(path)) <= MAX_ADDRESS_BYTES:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def connect(path: Path, timeout: float) -> socket.socket:
    """A connected stream socket with ``timeout`` seconds set. Raises OSError; TimeoutError if the queue stays full."""
    until = time.monotonic() + timeout
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout)
    try:
        with short_address(path) as address:
            while True:
                try:
                    connection.connect(address)
                    return connection
                except BlockingIOError:  # EAGAIN: the queue of connections is full, and AF_UNIX does not wait for it
                    if time.monotonic() > until:
                        raise TimeoutError(errno.ETIMEDOUT, "its queue of connections is full") from None
                    time.sleep(0.01)
    except BaseException:
        connection.close()
        raise


def is_served(path: Path) -> bool:
    """Whether somebody listens. Raises DaemonUnavailable if that cannot be told (no permission, no reaction)."""
    try:
        connect(path, CONNECT_TIMEOUT).close()
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        return False
    except OSError as error:
        raise unavailable(path, error) from error
    return True


def unavailable(path: Path, cause: object) -> DaemonUnavailable:
    """What to raise where the daemon at ``path`` gives no answer, or none that is understood."""
    hint = ""
    if isinstance(cause, PermissionError):
        hint = "only its owner may use it, or the group that the setting socket_group names"
    if isinstance(cause, OSError):
        cause = cause.strerror or type(cause).__name__
    return DaemonUnavailable("ask the daemon at", str(path), cause or type(cause).__name__, hint)
