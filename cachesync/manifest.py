"""The manifest: a session's committed listing, written last (SPEC section 4).

Plain JSON, one entry a line, so that it can be written and compared without holding a million entries in memory. A
reader that finds it knows what a complete session contains; one that finds none knows that the session died.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any

from cachesync.attributes import format_mtime, parse_mtime
from cachesync.errors import UsageError
from cachesync.keys import check_path, is_reserved
from cachesync.model import Entry, FileStat, Kind, Version
from cachesync.reports import Failure
from cachesync.store.base import ObjectStore

logger = logging.getLogger(__name__)

FORMAT = 1
_DIGEST = re.compile("[0-9a-f]{64}")
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
class ManifestFile:
    """What a manifest says of a file: of its version ``etag``."""

    etag: str
    size: int
    sha256: str | None
    mtime_ns: int
    mode: int


@dataclass(frozen=True, slots=True)
class FoundManifest:
    """A manifest as it stands in the store: its files by path, its links and directories; rows that make sense only."""

    version: Version
    files: dict[str, ManifestFile]
    others: list[tuple[str, FileStat]]


def read(store: ObjectStore, key: str) -> FoundManifest:
    """Read a session's manifest. Raises ObjectNotFound if there is none.

    It is somebody else's bytes: a row that names a path outside the session, or makes no sense, is passed over.
    """
    download = store.get(key)
    files: dict[str, ManifestFile] = {}
    others: list[tuple[str, FileStat]] = []
    for row in _rows(download.chunks, key):
        with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError, OverflowError, UsageError):
            path = _path(row["path"])
            mtime = _mtime(row)
            if row["type"] == Kind.FILE:
                files[path] = ManifestFile(str(row["version"]), _size(row), _sha256(row), mtime, _mode(row))
            elif row["type"] == Kind.LINK:
                others.append((path, FileStat(Kind.LINK, 0, mtime, 0, 0, 0o777, _target(row))))
            elif row["type"] == Kind.DIRECTORY:
                others.append((path + "/", FileStat(Kind.DIRECTORY, 0, mtime, 0, 0, _mode(row))))
    return FoundManifest(download.info.version, files, others)


def _path(path: str) -> str:
    path.encode()
    if is_reserved(check_path(path)):
        raise ValueError(path)
    return path


def _target(row: dict[str, Any]) -> str:
    target: str = row["target"]
    if not target.encode() or "\0" in target:
        raise ValueError(target)
    return target


def _size(row: dict[str, Any]) -> int:
    size: int = row["size"]
    if type(size) is not int or not 0 <= size < 2**63:
        raise ValueError(size)
    return size


def _sha256(row: dict[str, Any]) -> str | None:
    digest: str | None = row["sha256"]
    if digest is not None and not _DIGEST.fullmatch(digest):
        raise ValueError(digest)
    return digest


def _mode(row: dict[str, Any]) -> int:
    mode = int(row["mode"], 8)
    if mode != stat.S_IMODE(mode):
        raise ValueError(mode)
    return mode


def _mtime(row: dict[str, Any]) -> int:
    mtime = parse_mtime(str(row["mtime"]))
    if mtime is None:
        raise ValueError(row["mtime"])
    return mtime


def _rows(chunks: Iterator[bytes], key: str) -> Iterator[dict[str, Any]]:
    """The rows of a manifest: one at a time where it has a line for each, as ours have; else all at once."""
    lines = _lines(chunks)
    head = next(lines, b"")
    if _is_our_head(head):
        for line in lines:
            with contextlib.suppress(ValueError, RecursionError):
                if isinstance(row := json.loads(line.rstrip(b",")), dict):
                    yield row
        return
    data = bytearray(head)
    for line in lines:
        data += b"\n" + line
        if len(data) > _LARGEST:
            break
    if len(data) > _LARGEST:
        logger.warning("the manifest %s has no lines and is larger than %d bytes: passed over", key, _LARGEST)
        return
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
        document = json.loads(data)
        if document["format"] == FORMAT and isinstance(document["entries"], list):
            yield from (row for row in document["entries"] if isinstance(row, dict))


def _is_our_head(line: bytes) -> bool:
    try:
        head = json.loads(line + b"]}")
    except (ValueError, RecursionError):
        return False
    return isinstance(head, dict) and head.get("format") == FORMAT


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Lines without their ends; one that is too long to be a row ends them."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
        if len(rest) > _LARGEST:
            break
    yield rest
