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
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import IO, Any

from cachesync.model.attributes import format_mtime, parse_mtime
from cachesync.model.errors import IntegrityError, StoreArchived, UsageError
from cachesync.model.keys import check_path, is_reserved
from cachesync.model.record import record
from cachesync.model.reports import Failure
from cachesync.model.values import Entry, FileStat, Kind, Stored, Version
from cachesync.store.base import ObjectStore

logger = logging.getLogger(__name__)

FORMAT = 1
_encode = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps makes an encoder a row
_DIGEST = re.compile("[0-9a-f]{64}")
_LARGEST = 16 * 1024 * 1024
"""Bytes that are understood at once. What they become takes up to 25 times as much memory, and may be anybody's."""

_LONGEST_ROW = 512 * 1024
"""Bytes of one row in a line of its own: no path and no link's target gets near it."""

_MOST_FLAWS = 100
_FEW = 8


@dataclass(slots=True)
class Summary:
    """What was written: how many files of how many bytes, and what no manifest can show. ``deleted_elsewhere`` counts
    the files that are not listed because another host deleted them in the store."""

    files: int = 0
    bytes: int = 0
    deleted_elsewhere: int = 0
    failures: list[Failure] | None = None


def write(
    out: IO[bytes],
    entries: Iterable[Entry],
    *,
    session: str,
    state: str,
    host: str,
    now: float,
    serial: int = 0,
    mode: int | None = None,
    owner: int | None = None,
) -> Summary:
    """Write the manifest of what the store has. A name or link target that is not UTF-8 goes to ``failures``.

    ``serial`` is the serial of the previous manifest plus one, ``mode`` and ``owner`` the permission bits and the user
    of the session's directory.
    """
    summary = Summary(failures=[])
    written_at = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    head = {"format": FORMAT, "session": session, "state": state, "host": host, "written_at": written_at}
    if mode is not None:
        head["mode"] = f"{mode:04o}"
    if owner is not None:
        head["owner"] = owner
    head["serial"] = serial
    out.write(json.dumps(head)[:-1].encode() + b', "entries": [')
    separator = b"\n"
    for entry in entries:
        row = _row(entry)
        if row is None:
            here = entry.kind is Kind.FILE and entry.resident and not entry.tombstone
            summary.deleted_elsewhere += here and entry.superseded is not None
            continue
        try:
            line = _encode(row).encode()
        except UnicodeEncodeError:
            assert summary.failures is not None  # noqa: S101 -- set three lines above
            summary.failures.append(Failure(entry.path, "the name or its target is not UTF-8"))
            continue
        if "size" in row:
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
        s = entry.current
        if s is None:
            return None
        own = entry.superseded is None and not entry.dirty and entry.resident
        now = entry.stat if own else None
        if now is not None and (now.mtime_ns, now.mode) != (s.mtime_ns, s.mode):
            # Touched since it was sent: same bytes.
            s = replace(s, mtime_ns=now.mtime_ns, mode=now.mode)
        return _file_row(entry.path, s)
    told = entry.stat if entry.superseded is None or entry.dirty else entry.superseded.other
    if told is None:  # another host removed it, and may have stored a file at its path since
        return None if entry.stored is None else _file_row(entry.path, entry.stored)
    row = {"path": entry.path.rstrip("/"), "type": str(entry.kind), "mtime": format_mtime(told.mtime_ns)}
    if entry.kind is Kind.LINK:
        return row | {"target": told.target}
    return row | {"mode": f"{told.mode:04o}"}


def _file_row(path: str, stored: Stored) -> dict[str, Any]:
    return {
        "path": path,
        "type": "file",
        "size": stored.size,
        "mtime": format_mtime(stored.mtime_ns),
        "mode": f"{stored.mode:04o}",
        "sha256": stored.sha256,
        "version": stored.version.etag,
        "version_id": stored.version.version_id,
    }


_SERIAL = re.compile(rb'"serial": (\d{1,18})(, "entries": \[\s*)$')
"""Matches the end of a manifest's first line."""


def _is_about(line: bytes, paths: Container[object]) -> bool:
    with contextlib.suppress(ValueError, RecursionError, TypeError):
        row = json.loads(line)
        return isinstance(row, dict) and row.get("path") in paths
    return False


def amend(chunks: Iterator[bytes], out: IO[bytes], changes: Mapping[str, Stored | None]) -> bool:
    """Copy a manifest with the rows of some paths replaced or left out (None). Its serial is incremented.

    Returns False if nothing changed, or if the manifest is not whole with one row on each line, as ours are. ``out`` is
    not valid then.
    """
    lines = _lines(chunks)
    if not _is_our_head(head := next(lines, b"")):
        return False
    out.write(_SERIAL.sub(lambda found: b'"serial": %d%s' % (int(found[1]) + 1, found[2]), head))
    rows = [_file_row(path, stored) for path, stored in changes.items() if stored is not None]
    quoted = [_encode(path).encode() for path in changes]
    separator, changed = b"\n", bool(rows)
    for line in lines:
        if line == b"]}":
            break
        kept = line.rstrip(b",")
        # Of a few, looking for them is quicker than understanding every row.
        if (len(quoted) > _FEW or any(path in kept for path in quoted)) and _is_about(kept, changes):
            changed = True
            continue
        out.write(separator + kept)
        separator = b",\n"
    else:
        return False
    for row in rows:
        out.write(separator + _encode(row).encode())
        separator = b",\n"
    out.write(b"\n]}\n")
    return changed


@record(frozen=True, slots=True)
class ManifestFile:
    """What a manifest says of a file: of its version ``etag``."""

    etag: str
    size: int
    sha256: str | None
    mtime_ns: int
    mode: int


@record(frozen=True, slots=True)
class FoundManifest:
    """A manifest as it stands in the store: its files by path, its links and directories; rows that make sense only.

    ``flaws`` says, in sentences, what had to be passed over or stands there twice; a hundred of them at most.
    ``serial`` is its number, ``mode`` and ``owner`` the permission bits and the user of the session's directory on the
    host that wrote it; None if another program or version 0.1.0 wrote it.
    """

    version: Version
    files: dict[str, ManifestFile]
    others: list[tuple[str, FileStat]]
    flaws: list[str] = field(default_factory=list)
    serial: int | None = None
    mode: int | None = None
    owner: int | None = None


def read(store: ObjectStore, key: str) -> FoundManifest:
    """Read a session's manifest. Raises ObjectNotFound if there is none.

    Another program may have written it. A row that is not valid or names a path outside the session is skipped. All
    rows are skipped if the bytes are not the stored ones or are archived. Each of these is one of its flaws.
    """
    try:
        download = store.get(key)
    except StoreArchived as error:
        return FoundManifest(store.head(key).version, {}, [], [error.advice])
    files: dict[str, ManifestFile] = {}
    others: list[tuple[str, FileStat]] = []
    flaws: list[str] = []
    paths: set[str] = set()
    head: dict[str, Any] = {}
    try:
        for row in _rows(download.chunks, key, flaws, head):
            try:
                path = _path(row["path"])
                mtime = _mtime(row)
                if row["type"] == Kind.FILE:
                    files[path] = ManifestFile(str(row["version"]), _size(row), _sha256(row), mtime, _mode(row))
                elif row["type"] == Kind.LINK:
                    others.append((path, FileStat(Kind.LINK, 0, mtime, 0, 0, 0o777, _target(row))))
                elif row["type"] == Kind.DIRECTORY:
                    others.append((path + "/", FileStat(Kind.DIRECTORY, 0, mtime, 0, 0, _mode(row))))
                else:
                    _note(flaws, f"a row has the type {row['type']!r:.40}, which is none")
                if path in paths:
                    _note(flaws, f"{path!r} is listed twice")
                paths.add(path)
            except (AttributeError, KeyError, TypeError, ValueError, OverflowError, UsageError):
                _note(flaws, f"a row makes no sense: {row!r:.120}")
    except IntegrityError as error:
        return FoundManifest(download.info.version, {}, [], [error.reason])
    serial, mode, owner = _number(head, "serial"), _own_mode(head, flaws), _number(head, "owner")
    return FoundManifest(download.info.version, files, others, flaws, serial, mode, owner)


def _number(head: dict[str, Any], name: str) -> int | None:
    value = head.get(name)
    return value if type(value) is int else None


def _own_mode(head: dict[str, Any], flaws: list[str]) -> int | None:
    if "mode" in head:
        try:
            return _mode(head)
        except (OverflowError, TypeError, ValueError):
            _note(flaws, f"the session's mode is {head['mode']!r:.40}, which is none")
    return None


def _note(flaws: list[str], sentence: str) -> None:
    if len(flaws) < _MOST_FLAWS:
        flaws.append(sentence)


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


def _rows(chunks: Iterator[bytes], key: str, flaws: list[str], head: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a manifest. They are parsed one at a time if each has its own line, as in ours, else all at
    once. Fills ``head`` with the fields before the rows."""
    lines = _lines(chunks)
    first = next(lines, b"")
    if _is_our_head(first):
        head |= json.loads(first + b"]}")
        yield from _line_rows(lines, flaws)
        return
    data = bytearray(first)
    for line in lines:
        data += b"\n" + line
        if len(data) > _LARGEST:
            break
    if len(data) > _LARGEST:
        logger.warning("the manifest %s has no lines and is larger than %d bytes: passed over", key, _LARGEST)
        _note(flaws, "it is too large for a manifest without lines")
        return
    document: Any = None
    with contextlib.suppress(ValueError, RecursionError):
        document = json.loads(data)
    sound = isinstance(document, dict) and document.get("format") == FORMAT
    if not sound or not isinstance(document.get("entries"), list):
        _note(flaws, f"it is no manifest of format {FORMAT}")
        return
    head |= document
    for row in document["entries"]:
        if isinstance(row, dict):
            yield row
        else:
            _note(flaws, f"a row makes no sense: {row!r:.120}")


def _line_rows(lines: Iterator[bytes], flaws: list[str]) -> Iterator[dict[str, Any]]:
    ended = False
    for line in lines:
        row: object = None
        if len(line) <= _LONGEST_ROW:
            with contextlib.suppress(ValueError, RecursionError):
                row = json.loads(line.rstrip(b","))
        if isinstance(row, dict):
            yield row
        elif line == b"]}":
            ended = True
        elif line:
            _note(flaws, f"a line is no row: {line!r:.120}")
    if not ended:
        _note(flaws, "its end is missing")


def _is_our_head(line: bytes) -> bool:
    if len(line) > _LONGEST_ROW:
        return False
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
