"""Addresses of AF_UNIX sockets, which the kernel limits to 107 bytes, and who serves one.

A longer path is reached through ``/proc/self/fd/N/name``, N being its opened directory: the same trick serves bind,
connect and every call on the name, without changing the working directory of a process that has threads.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cachesync.model.errors import ConfigError, DaemonUnavailable

if TYPE_CHECKING:
    from cachesync.config import Config

MAX_ADDRESS_BYTES = 107
CONNECT_TIMEOUT = 2.0
CREDENTIALS = struct.Struct("3i")
"""``struct ucred`` of unix(7): process, user and group."""


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


def connect_trusted(path: Path, timeout: float, owners: Collection[int]) -> socket.socket:
    """As ``connect``. Raises ConfigError unless root, the caller or one of ``owners`` serves the socket: anybody else's
    answers prove nothing."""
    connection = connect(path, timeout)
    user = peer_user(connection)
    if user is None or user in (0, os.geteuid(), *owners):
        return connection
    connection.close()
    cause = f"user {user} serves it, who is neither root nor you nor the owner of the state folder"
    hint = "check CACHESYNC_SOCKET and --root; set daemon_user if the daemon runs as that user"
    raise ConfigError("use the socket", str(path), cause, hint)


def serving_user(path: Path) -> int | None:
    """The user who serves a socket; None where the system does not tell. Raises DaemonUnavailable."""
    try:
        with connect(path, CONNECT_TIMEOUT) as connection:
            return peer_user(connection)
    except OSError as error:
        raise unavailable(path, error) from error


def peer_user(connection: socket.socket) -> int | None:
    """The user at the other end of an AF_UNIX connection; None where the system does not tell."""
    if not sys.platform.startswith("linux"):
        return None
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    return int(CREDENTIALS.unpack(told)[1])


def owners(config: Config) -> frozenset[int]:
    """The users, besides root and the caller, whose daemon may serve a root: the setting's, else the owner of the state
    folder. Raises ConfigError for a user that does not exist."""
    name = config.daemon_user
    if name is not None:
        import pwd  # not on every system, and needed for such a setting only

        try:
            return frozenset({int(name) if name.isdigit() else pwd.getpwnam(name).pw_uid})
        except KeyError:
            raise ConfigError("setting", "daemon_user", f"there is no user {name}") from None
    try:
        found = os.lstat(config.state)
    except OSError:
        return frozenset()
    return frozenset({found.st_uid} if stat.S_ISDIR(found.st_mode) else ())


def is_served(path: Path, owners: Collection[int] = ()) -> bool:
    """Whether a daemon of root, the caller or one of ``owners`` listens. Raises ConfigError if another user does,
    DaemonUnavailable if that cannot be told (no permission, no reaction)."""
    try:
        connect_trusted(path, CONNECT_TIMEOUT, owners).close()
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
