"""A connection under TLS. Apart, since importing ``ssl`` takes longer than a flush of what is stored."""

from __future__ import annotations

import importlib.util
import os
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cachesync.store.s3.connection import Connection

_RECORD = 16 * 1024
"""Bytes that TLS decrypts at once (RFC 8446, 5.1)."""

T = TypeVar("T")


def trusting() -> ssl.SSLContext:
    """A context that trusts whom botocore would. Raises OSError if that cannot be read."""
    bundle = os.environ.get("AWS_CA_BUNDLE") or os.environ.get("REQUESTS_CA_BUNDLE")
    if not bundle:
        for package in ("certifi", "botocore"):
            if (found := importlib.util.find_spec(package)) is not None and found.origin:
                bundle = str(Path(found.origin).with_name("cacert.pem"))
                break
    return ssl.create_default_context(cafile=bundle)


class SecureConnection(Connection):
    """The same over TLS, which may have to read in order to send, so that Python has to wait for the kernel. Where it
    breaks off, that is a ConnectionResetError too."""

    def __init__(self, held: socket.socket, context: ssl.SSLContext, host: str) -> None:
        """Raises OSError if the other end is not who it should be."""
        super().__init__(context.wrap_socket(held, server_hostname=host))

    @property
    def is_quiet(self) -> bool:
        """As far as can be seen: what comes for TLS itself is no answer."""
        if self._got:
            return False
        try:
            self._socket.settimeout(0)
            self._socket.recv(1)
        except ssl.SSLWantReadError:
            return True
        except OSError:
            return False
        return False

    def _receive(self, most: int, deadline: float) -> bytes:
        return self._within(deadline, self._socket.recv, min(most, _RECORD))

    def _within(self, deadline: float, call: Callable[..., T], *args: object) -> T:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)
        try:
            return call(*args)
        except ssl.SSLError as error:
            raise ConnectionResetError(str(error)) from error
