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

from cachesync.model.errors import CacheSyncError, ExitCode
from cachesync.model.outcomes import Artifact, CloseReport, EvictReport, OpenReport, PastVersion, Progress, VerifyReport
from cachesync.model.reports import (
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
from cachesync.model.values import Conflict, Skipped

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


def to_strays(told: Mapping[str, Any]) -> list[Skipped]:
    """Parse the result of ``Verbs.strays``. An older daemon returns none."""
    return [_made(Skipped, item) for item in told.get("strays", ())]


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


def artifact_json(artifact: Artifact) -> Json:
    """As ``Artifact.json``, but the address is as it is, so that it can be asked for again."""
    return artifact.json() | {"address": artifact.address}


def etag(artifact: Artifact) -> str:
    """The HTTP entity tag, without its quotes: the store's version, or what tells states of a local file apart."""
    if artifact.version is not None and artifact.state not in ("dirty", "failed"):
        tag = artifact.version.strip('"')
        if tag.isascii() and tag.isprintable() and '"' not in tag:
            return tag
    return f"local-{artifact.size}-{artifact.modified}"


def reading_json(artifact: Artifact, source: str, *, unverified: bool) -> Json:
    """What there is to know of a reading, without its bytes."""
    return {
        "artifact": artifact_json(artifact),
        "source": source,
        "unverified": unverified,
        "etag": etag(artifact),
    }


def to_artifact(told: Mapping[str, Any]) -> Artifact:
    """Raises KeyError, TypeError or ValueError for what is not an artifact."""
    return _made(Artifact, told, address=str(told["address"]))


def to_past_version(told: Mapping[str, Any]) -> PastVersion:
    """Raises KeyError, TypeError or ValueError for what is not a past version."""
    return _made(PastVersion, told)


def to_progress(told: Mapping[str, Any]) -> Progress:
    """Raises TypeError for what is not progress."""
    return _made(Progress, told)


def to_open_report(told: Mapping[str, Any]) -> OpenReport:
    """Raises KeyError, TypeError or ValueError for what is not an open report."""
    return _made(
        OpenReport,
        told,
        failed=[_made(Failure, item) for item in told["failed"]],
        pending=[_made(Pending, item) for item in told["pending"]],
        skipped=[_made(Skipped, item) for item in told["skipped"]],
    )


def to_evict_report(told: Mapping[str, Any]) -> EvictReport:
    """Raises KeyError, TypeError or ValueError for what is not an evict report."""
    return _made(EvictReport, told, kept=[_made(Pending, item) for item in told["kept"]])


def to_close_report(told: Mapping[str, Any]) -> CloseReport:
    """Raises KeyError, TypeError or ValueError for what is not a close report."""
    if not isinstance(told["closed"], bool):
        raise TypeError("'closed' is neither true nor false")
    evicted = told["eviction"]
    return CloseReport(
        flush=to_flush_report(told["flush"]),
        closed=told["closed"],
        evicted=None if evicted is None else to_evict_report(evicted),
    )


def to_verify_report(told: Mapping[str, Any]) -> VerifyReport:
    """Raises KeyError, TypeError or ValueError for what is not a verify report."""
    return _made(
        VerifyReport,
        told,
        differences=[_made(Failure, item) for item in told["differences"]],
        pending=[_made(Pending, item) for item in told["pending"]],
    )


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
