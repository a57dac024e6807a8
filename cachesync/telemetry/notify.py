"""Telling systemd how we are: sd_notify(3), without its library."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping


class Notifier:
    """Sends states to ``$NOTIFY_SOCKET``; says nothing where there is none."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environ.get("WATCHDOG_USEC", "")
        self.watchdog = int(microseconds) / 1e6 if ours and microseconds.isdecimal() else None

    def send(self, *states: str) -> None:
        """Send lines such as ``READY=1``. A manager that does not listen is not our trouble."""
        if not self._address:
            return
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out,
        ):
            out.sendto("\n".join(states).encode(), self._address)

    def extend(self, seconds: float) -> None:
        """Ask for ``seconds`` more before a stop is taken for a hang."""
        self.send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")
