"""``cachesync-probe [ROUTE]``: asks the daemon of this container how it is, for HEALTHCHECK and Kubernetes' probes.

ROUTE is /healthz (its threads live; what is asked if nothing is named) or /readyz (it takes work). Exit code 0 if the
daemon says yes, else 1 and one line. It asks the control socket that the configuration names, and never the store.
"""

from __future__ import annotations

import http.client
import os
import socket
import sys
from pathlib import Path

from cachesync.config import load
from cachesync.model.errors import CacheSyncError

_PATIENCE = 4.0
"""Seconds: less than any probe's timeout, so that the line below is what is logged."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_PATIENCE)
        self._path = path

    def connect(self) -> None:
        """Over the socket in the file system."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.fspath(self._path))


def main(words: list[str]) -> int:
    """Ask once."""
    route = words[0] if words else "/healthz"
    try:
        connection = _Connection(load({}, os.environ, Path.cwd()).socket)
        connection.request("GET", route)
        answer = connection.getresponse()
        said = answer.read().decode(errors="replace").strip()
    except (OSError, http.client.HTTPException, CacheSyncError) as error:
        print(f"cachesync-probe: {route}: {error}", file=sys.stderr)
        return 1
    print(said)
    return 0 if answer.status == http.HTTPStatus.OK else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
