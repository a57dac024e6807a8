"""The manifest: a session's committed listing, written last (SPEC section 4).

Plain JSON, one entry a line, so that it can be written and compared without holding a million entries in memory. A
reader that finds it knows what a complete session contains; one that finds none knows that the session died.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any

from cachesync.attributes import format_mtime, parse_mtime
from cachesync.errors import UsageError
from cachesync.keys import check_path
from cachesync.model import Entry, FileStat, Kind, Version
from cachesync.reports import Failure
from cachesync.store.base import ObjectStore

logger = logging.getLogger(__name__)

FORMAT = 1
_LARGEST = 64 * 1024 * 1024


@dataclass(slots=True)
class Summary:
    """What was written: how many files of how many bytes, and what no manifest can show."""

    files: int = 0
    bytes: int = 0
    failures: list[Failure] | None = None


def write(out: IO[bytes], entries: Iterable[Entry], *, session: str, state: str, host: str, now: float) -> Summary:
    """Write the manifest of what the store has. A name or link target that is not UTF-8 goes to ``failures``."""
    summary = Summary(failures=[])
    written_at = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    head = {"format": FORMAT, "session": session, "state": state, "host": host, "written_at": written_at}
    out.write(json.dumps(head)[:-1].encode() + b', "entries": [')
    separator = b"\n"
    for entry in entries:
        row = _row(entry)
        if row is None:
            continue
        try:
            line = json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            assert summary.failures is not None  # noqa: S101 -- set three lines above
            summary.failures.append(Failure(entry.path, "the name or its target is not UTF-8"))
            continue
        if entry.kind is Kind.FILE:
            summary.files += 1
            summary.bytes += row["size"]
        out.write(separator + line)
        separator = b",\n"
    out.write(b"\n]}\n")
    return summary


def _row(entry: Entry) -> dict[str, Any] | None:
    """An entry as the manifest shows it, or None if the session does not contain it (any more, or yet)."""
    if entry.tombstone:
        return None
    if entry.kind is Kind.FILE:
        s = entry.stored
        if s is None:
            return None
        mtime, mode = s.mtime_ns, s.mode
        if not entry.dirty and entry.resident and entry.stat is not None:  # touched since it was sent: same bytes
            mtime, mode = entry.stat.mtime_ns, entry.stat.mode
        return {
            "path": entry.path,
            "type": "file",
            "size": s.size,
            "mtime": format_mtime(mtime),
            "mode": f"{mode:04o}",
            "sha256": s.sha256,
            "version": s.version.etag,
            "version_id": s.version.version_id,
        }
    if entry.stat is None:
        return None
    row = {"path": entry.path.rstrip("/"), "type": str(entry.kind), "mtime": format_mtime(entry.stat.mtime_ns)}
    if entry.kind is Kind.LINK:
        return row | {"target": entry.stat.target}
    return row | {"mode": f"{entry.stat.mode:04o}"}


@dataclass(frozen=True, slots=True)
class FoundManifest:
    """A manifest as it stands in the store. ``entries`` maps a file's path to its row, as far as rows make sense."""

    version: Version
    files: dict[str, dict[str, Any]]
    others: list[tuple[str, FileStat]]


def read(store: ObjectStore, key: str) -> FoundManifest:
    """Read a session's manifest. Raises ObjectNotFound if there is none.

    It is somebody else's bytes: a row that names a path outside the session, or makes no sense, is passed over.
    """
    download = store.get(key)
    data = bytearray()
    for chunk in download.chunks:
        data += chunk
        if len(data) > _LARGEST:
            logger.warning("the manifest %s is larger than %d bytes: what it says is passed over", key, _LARGEST)
            return FoundManifest(download.info.version, {}, [])
    files: dict[str, dict[str, Any]] = {}
    others: list[tuple[str, FileStat]] = []
    for row in _rows(bytes(data)):
        try:
            path = check_path(str(row["path"]))
            if row["type"] == Kind.FILE:
                files[path] = {"version": str(row["version"]), "sha256": row["sha256"], "mode": int(row["mode"], 8)} | {
                    "mtime_ns": _mtime(row),
                    "size": int(row["size"]),
                }
            elif row["type"] == Kind.LINK:
                others.append((path, FileStat(Kind.LINK, 0, _mtime(row), 0, 0, 0o777, str(row["target"]))))
            elif row["type"] == Kind.DIRECTORY:
                stat = FileStat(Kind.DIRECTORY, 0, _mtime(row), 0, 0, int(row["mode"], 8))
                others.append((path + "/", stat))
        except (KeyError, TypeError, ValueError, UsageError):
            continue
    return FoundManifest(download.info.version, files, others)


def _mtime(row: dict[str, Any]) -> int:
    mtime = parse_mtime(str(row["mtime"]))
    if mtime is None:
        raise ValueError(row["mtime"])
    return mtime


def _rows(data: bytes) -> Iterator[dict[str, Any]]:
    try:
        document = json.loads(data)
        rows = document["entries"] if document["format"] == FORMAT else []
    except (ValueError, KeyError, TypeError, RecursionError):
        return
    if isinstance(rows, list):
        yield from (row for row in rows if isinstance(row, dict))
