"""What travels over the control socket: reports and errors as JSON, and back. Pure.

A report travels as its own ``json()``, so a client that rebuilds it and prints ``json()`` prints what the service would
have printed. Fields that this version does not know are ignored; those that are missing take their default.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any, TypeVar

from cachesync.errors import CacheSyncError, ExitCode
from cachesync.model import Conflict, Skipped
from cachesync.reports import (
    DaemonStatus,
    Failure,
    FlushReport,
    Json,
    Pending,
    ReceiptLine,
    SessionStatus,
    StatusReport,
    Story,
)

MAX_FLUSH_TIMEOUT = 86_400.0
"""Seconds. A flush that may wait longer than a day is a mistake in somebody's units."""

DEFAULT_FLUSH_TIMEOUT = 300.0

T = TypeVar("T")


def dumps(value: object) -> bytes:
    """One line of ASCII, so that a name with lone surrogates (bytes that are not UTF-8) travels too."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


def error_json(error: CacheSyncError) -> Json:
    """``{"error": {...}}``, as the socket and ``--json`` show it."""
    return {
        "error": {
            "kind": type(error).__name__,
            "operation": error.operation,
            "path": error.path,
            "cause": str(error.cause),
            "hint": error.hint,
            "exit_code": int(error.exit_code),
        }
    }


def to_error(told: Mapping[str, Any]) -> CacheSyncError:
    """The error that ``error_json`` described; a kind that this version does not know keeps its exit code."""
    kind = _kinds().get(str(told.get("kind")), CacheSyncError)
    words = [str(told.get(name, "")) for name in ("operation", "path", "cause", "hint")]
    error = kind(*words)
    error.exit_code = ExitCode(int(told.get("exit_code", error.exit_code)))
    return error


def to_flush_report(told: Mapping[str, Any]) -> FlushReport:
    """Raises KeyError, TypeError or ValueError for what is not a flush report."""
    if not isinstance(told["stored"], bool):  # the one field that must not be true by accident
        raise TypeError("'stored' is neither true nor false")
    entries = told.get("entries")
    return _made(
        FlushReport,
        told,
        failed=[_made(Failure, item) for item in told["failed"]],
        pending=[_made(Pending, item) for item in told["pending"]],
        conflicts=[_made(Conflict, item) for item in told["conflicts"]],
        skipped=[_made(Skipped, item) for item in told["skipped"]],
        entries=None if entries is None else [_made(ReceiptLine, item) for item in entries],
    )


def to_status_report(told: Mapping[str, Any]) -> StatusReport:
    """Raises KeyError, TypeError or ValueError for what is not a status report."""
    daemon = told["daemon"]
    return _made(
        StatusReport,
        told,
        daemon=None if daemon is None else _made(DaemonStatus, daemon),
        sessions=[
            _made(SessionStatus, item, failures=[_made(Failure, failure) for failure in item.get("failures", ())])
            for item in told["sessions"]
        ],
    )


def to_story(told: Mapping[str, Any]) -> Story:
    """Raises KeyError, TypeError or ValueError for what is not a story."""
    return _made(Story, told)


def _made(kind: type[T], told: Mapping[str, Any], **built: Any) -> T:
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]  # every kind here is a dataclass
    return kind(**({name: value for name, value in told.items() if name in known} | built))


@cache
def _kinds() -> dict[str, type[CacheSyncError]]:
    found: dict[str, type[CacheSyncError]] = {}
    left = [CacheSyncError]
    while left:
        kind = left.pop()
        found[kind.__name__] = kind
        left += kind.__subclasses__()
    return found
