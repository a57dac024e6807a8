"""Asking the daemon over its socket: a request, and its answer as JSON, as lines or as bytes. Standard library only."""

from __future__ import annotations

import errno
import http.client
import json
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote, urlencode

from cachesync.api import wire
from cachesync.api.socket_address import CONNECT_TIMEOUT, connect_trusted, is_served, unavailable
from cachesync.model.errors import DaemonUnavailable, UsageError

READ_TIMEOUT = 30.0
"""Seconds for a short verb, and between two lines of a long one."""

STORE_TIMEOUT = 600.0
"""Seconds without a byte for a verb that waits for the store. A daemon that ends is noticed at once."""

_KEPT = 15.0
"""Seconds that a connection is kept; the daemon keeps it longer."""

GRACE = 3.0
"""Seconds that a flush gets on top of its own timeout, by which the daemon answers unless it hangs."""

PIECE = 1024 * 1024

T = TypeVar("T")
Options = Sequence[tuple[str, object]]


class Asker:
    """One connection for each request that is under way, so it is safe to share between threads. Up to ``kept`` of them
    are kept for the next short one, which saves its opening; not for a process that forks.

    Raises what the daemon raised, rebuilt; DaemonUnavailable when it gives no answer or an odd one; ConfigError when
    neither root nor the caller nor one of ``owners`` serves the socket.
    """

    def __init__(self, path: Path, *, kept: int = 0, owners: Collection[int] = ()) -> None:
        self._path = path
        self._owners = owners
        self._kept = kept
        self._idle: list[tuple[_Connection, float]] = []
        self._heard: dict[int, _Connection] = {}

    def is_serving(self) -> bool:
        """Whether somebody listens. Raises DaemonUnavailable if that cannot be told (no permission, no reaction)."""
        return is_served(self._path, self._owners)

    def ask(self, method: str, target: str, build: Callable[[Mapping[str, Any]], T], timeout: float | None = None) -> T:
        """What ``build`` makes of the JSON answer."""
        timeout = READ_TIMEOUT if timeout is None else timeout
        connection = self._open(timeout)
        try:
            with self._hearing(connection, timeout):
                connection.request(method, target)
                told = json.loads(connection.getresponse().read())
        except BaseException:
            connection.close()
            raise
        self._keep(connection)
        return self.built(build, told)

    def lines(self, method: str, target: str, timeout: float | None = None) -> Iterator[Mapping[str, Any]]:
        """The lines of a streamed answer, which is whole if this ends without an error."""
        timeout = READ_TIMEOUT if timeout is None else timeout
        with self._connection(timeout) as connection:
            with self._hearing(connection, timeout):
                connection.request(method, target)
                response = connection.getresponse()
            left = bytearray()
            while True:
                with self._hearing(connection, timeout):
                    piece = response.read1(PIECE)
                left += piece
                if b"\n" in piece:
                    *whole, rest = left.split(b"\n")
                    for line in whole:
                        with self._hearing(connection, timeout):
                            told = json.loads(line)
                        yield self.built(dict, told)
                    left = rest
                if not piece:
                    return

    def bytes(self, target: str, headers: Mapping[str, str], length: int) -> Iterator[bytes]:
        """The ``length`` bytes of an answer, in pieces. Raises DaemonUnavailable if they stop short."""
        with self._connection(STORE_TIMEOUT) as connection:
            with self._hearing(connection, STORE_TIMEOUT):
                connection.request("GET", target, headers=dict(headers))
                response = connection.getresponse()
                if response.status not in (http.client.OK, http.client.PARTIAL_CONTENT):
                    self.built(dict, json.loads(response.read()))
                    raise self._unavailable(f"its answer is HTTP {response.status} without an error")
                if response.length != length:
                    raise self._unavailable(f"it sends {response.length} bytes instead of {length}")
            while length:
                with self._hearing(connection, STORE_TIMEOUT):
                    piece = response.read1(min(length, PIECE))
                    if not piece:
                        raise self._unavailable(f"the connection broke, {length} bytes before the end")
                length -= len(piece)
                yield piece

    def send(
        self, target: str, source: BinaryIO, headers: Mapping[str, str], build: Callable[[Mapping[str, Any]], T]
    ) -> T:
        """PUT what ``source`` holds, to its end. What reading it raises is raised, and nothing is stored then."""
        with self._connection(STORE_TIMEOUT) as connection:
            with self._hearing(connection, STORE_TIMEOUT):
                connection.putrequest("PUT", target)
                for name, value in (*headers.items(), ("Transfer-Encoding", "chunked")):
                    connection.putheader(name, value)
                connection.endheaders()
            refused = False
            while not refused:
                piece = source.read(PIECE)
                with self._hearing(connection, STORE_TIMEOUT):
                    try:
                        connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
                    except (BrokenPipeError, ConnectionResetError):  # it wants no more: its answer says why
                        refused = True
                if not piece:
                    break
            with self._hearing(connection, STORE_TIMEOUT):
                told = json.loads(connection.getresponse().read())
            return self.built(build, told)

    def _open(self, timeout: float) -> _Connection:
        """A connection that was kept and is still good, or a new one."""
        while self._idle:
            try:
                connection, since = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if connection.quiet and time.monotonic() - since < _KEPT:
                connection.sock.settimeout(timeout)
                return connection
            connection.close()
        return _Connection(self._path, timeout, self._owners)

    def _keep(self, connection: _Connection) -> None:
        if len(self._idle) < self._kept and connection.sock is not None:
            self._idle.append((connection, time.monotonic()))
        else:
            connection.close()

    def close(self) -> None:
        """Let the connections go that are kept."""
        while self._idle:
            self._idle.pop()[0].close()

    @contextmanager
    def _connection(self, timeout: float) -> Iterator[_Connection]:
        connection = _Connection(self._path, timeout, self._owners)
        try:
            yield connection
        finally:
            connection.close()

    @contextmanager
    def _hearing(self, connection: _Connection, timeout: float) -> Iterator[None]:
        thread = threading.get_ident()
        self._heard[thread] = connection
        try:
            yield
        except TimeoutError as error:
            raise self._unavailable(f"no answer within {timeout:.0f} s") from error
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            if connection.broken_off:
                raise InterruptedError(errno.EINTR, "nobody waits for the answer any more") from error
            raise self._unavailable(error) from error
        finally:
            del self._heard[thread]

    def break_off(self, thread: int) -> None:
        """Let a thread that waits for an answer wait no longer: it gets InterruptedError. What it asked for may be done
        all the same."""
        connection = self._heard.get(thread)
        if connection is not None:
            connection.break_off()

    def built(self, build: Callable[[Any], T], told: Any) -> T:
        """What ``build`` makes of something told; an error that is told is raised."""
        try:
            if "error" in told and isinstance(told["error"], dict):
                raise wire.to_error(told["error"])
            return build(told)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            cause = f"its answer is not understood: {error!r}"
            raise DaemonUnavailable("ask the daemon at", str(self._path), cause, "are both of one version?") from error

    def _unavailable(self, cause: object) -> DaemonUnavailable:
        return unavailable(self._path, cause)


class _Connection(http.client.HTTPConnection):
    """HTTP/1.1 over an AF_UNIX socket. ``timeout`` bounds each read once connected."""

    def __init__(self, path: Path, timeout: float, owners: Collection[int]) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path
        self._owners = owners
        self.broken_off = False

    def break_off(self) -> None:
        """End what another thread waits for at this connection."""
        self.broken_off = True
        with suppress(OSError, AttributeError):  # it is not connected yet, or not any more
            self.sock.shutdown(socket.SHUT_RDWR)

    def connect(self) -> None:
        self.sock = connect_trusted(self._path, CONNECT_TIMEOUT, self._owners)
        self.sock.settimeout(self.timeout)

    @property
    def quiet(self) -> bool:
        """Whether it is open at both ends, and nothing that was not asked for has come."""
        watch = select.poll()
        watch.register(self.sock, select.POLLIN)
        return not watch.poll(0)


def quoted(name: str, safe: str = "") -> str:
    """One segment of a target; of several, if "/" is ``safe``. Raises UsageError for what no name can be."""
    try:
        return quote(os.fsencode(name), safe=safe)
    except UnicodeEncodeError:
        raise _no_text(name) from None


def with_options(target: str, options: Options) -> str:
    """A target and its query; what is None is left out. Raises UsageError for what is no text."""
    given = [(name, value) for name, value in options if value is not None]
    try:
        return f"{target}?{urlencode(given, errors='surrogateescape')}" if given else target
    except UnicodeEncodeError:
        raise _no_text(str(given[-1][1])) from None


def _no_text(name: str) -> UsageError:
    return UsageError("ask for", repr(name), "it is no valid Unicode", "give another one")
