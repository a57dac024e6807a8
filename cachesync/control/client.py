"""The verbs, asked of the daemon over its control socket. Standard library only: every command pays for this import."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from cachesync.control import wire
from cachesync.control.address import connect
from cachesync.errors import DaemonUnavailable
from cachesync.reports import FlushReport, StatusReport, Story

CONNECT_TIMEOUT = 2.0
READ_TIMEOUT = 30.0
"""Seconds for a short verb."""

GRACE = 3.0
"""Seconds that a flush gets on top of its own timeout, by which the daemon answers unless it hangs."""

T = TypeVar("T")


class ControlClient:
    """Verbs over the socket at ``path``; one connection a call, so it is safe to share between threads.

    Raises what the daemon raised, rebuilt, and DaemonUnavailable when it gives no answer or an odd one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def is_serving(self) -> bool:
        """Whether somebody listens. Raises DaemonUnavailable if that cannot be told (no permission, no reaction)."""
        try:
            connect(self._path, CONNECT_TIMEOUT).close()
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            return False
        except OSError as error:
            raise self._unavailable(error) from error
        return True

    def flush(
        self, session: str, *, timeout: float, confirm_deletes: bool = False, receipt: bool = False
    ) -> FlushReport:
        """See Verbs. Waits GRACE longer than ``timeout`` for the answer, and no more."""
        asked = {"timeout": repr(float(timeout)), "confirm_deletes": int(confirm_deletes), "receipt": int(receipt)}
        target = f"/v1/sessions/{_quoted(session)}/flush?{urlencode(asked)}"
        return self._ask("POST", target, wire.to_flush_report, timeout + GRACE)

    def status(self, session: str | None = None) -> StatusReport:
        """See Verbs."""
        return self._ask("GET", "/v1/status" + _of(session), wire.to_status_report)

    def explain(self, session: str, path: str) -> Story:
        """See Verbs."""
        return self._ask("GET", f"/v1/explain/{_quoted(session)}/{quote(os.fsencode(path))}", wire.to_story)

    def retry(self, session: str | None = None) -> int:
        """See Verbs."""
        return self._ask("POST", "/v1/retry" + _of(session), lambda told: int(told["retried"]))

    def sessions(self) -> list[str]:
        """See Verbs."""
        return self._ask("GET", "/v1/sessions", lambda told: [str(name) for name in told["sessions"]])

    def _ask(
        self, method: str, target: str, build: Callable[[Mapping[str, Any]], T], timeout: float = READ_TIMEOUT
    ) -> T:
        connection = _Connection(self._path, timeout)
        try:
            connection.request(method, target)
            told = json.loads(connection.getresponse().read())
        except TimeoutError as error:
            raise self._unavailable(f"no answer within {timeout:.0f} s") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._unavailable(error) from error
        finally:
            connection.close()
        try:
            if "error" in told and isinstance(told["error"], dict):
                raise wire.to_error(told["error"])
            return build(told)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            cause = f"its answer is not understood: {error!r}"
            raise DaemonUnavailable("ask the daemon at", str(self._path), cause, "are both of one version?") from error

    def _unavailable(self, cause: object) -> DaemonUnavailable:
        hint = ""
        if isinstance(cause, PermissionError):
            hint = "only its owner may use it, or the group that the setting socket_group names"
        if isinstance(cause, OSError):
            cause = cause.strerror or type(cause).__name__
        return DaemonUnavailable("ask the daemon at", str(self._path), cause or type(cause).__name__, hint)


class _Connection(http.client.HTTPConnection):
    """HTTP/1.1 over an AF_UNIX socket. ``timeout`` bounds each read once connected."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = connect(self._path, CONNECT_TIMEOUT)
        self.sock.settimeout(self.timeout)


def _quoted(name: str) -> str:
    return quote(os.fsencode(name), safe="")


def _of(session: str | None) -> str:
    return "" if session is None else f"?session={_quoted(session)}"
