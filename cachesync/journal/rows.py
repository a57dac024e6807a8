"""Between the journal's rows and the model's values: paths to (dir, name) bytes, columns to Entry."""

from __future__ import annotations

import json
import os
import re
import stat as st
from typing import Any, NamedTuple

from cachesync.journal.database import Row
from cachesync.model.values import Entry, FileStat, Kind, Labels, Rights, Stored, Superseded, Version

ENTRY_COLUMNS = """dir, name, kind, born, generation, absent, synced, resident, size, mtime_ns, ctime_ns, inode, mode,
    target, gone_at, closed, unsettled, etag, version_id, stored_size, stored_mtime_ns, stored_mode, sha256, stored_at,
    puts, created_at, dirty_since, due_at, attempts, tried_at, error, failed, labels, labels IS NOT stored_labels,
    hidden, newer, older, vanished, mount, rights"""

_KINDS = {str(kind): kind for kind in Kind}
"""Asking Kind itself is two calls of Python, for each row."""

_RIGHTS = re.compile("([0-9]{1,10}):([0-9]{1,10})(?::((?:[0-9a-f]{2})*):((?:[0-9a-f]{2})*))?")
_NOBODY = 2**32 - 1
"""To the kernel this number is no user's."""

_STORED = {
    "etag": "etag",
    "version_id": "version_id",
    "stored_size": "size",
    "stored_mtime_ns": "mtime_ns",
    "stored_mode": "mode",
    "sha256": "sha256",
    "stored_at": "stored_at",
}
STORED_TEXT = "json_object(" + ", ".join(f"'{key}', {column}" for column, key in _STORED.items()) + ")"
"""The store's columns as the text that ``newer`` and ``older`` hold."""


def take(source: str) -> str:
    """Assignments that fill the store's columns from the text in the column ``source`` of a file, if there is any."""
    return ", ".join(
        f"{column} = CASE WHEN {source} IS NULL OR kind <> 'file' THEN {column}"
        f" ELSE json_extract({source}, '$.{key}') END"
        for column, key in _STORED.items()
    )


AS_THERE = f"""
    {take("newer")}, older = CASE WHEN newer IS NULL OR kind <> 'file' THEN older ELSE {STORED_TEXT} END,
    mtime_ns = CASE WHEN newer IS NULL OR kind = 'file' THEN mtime_ns ELSE json_extract(newer, '$.mtime_ns') END,
    mode = CASE WHEN newer IS NULL OR kind = 'file' THEN mode ELSE json_extract(newer, '$.mode') END,
    target = CASE WHEN newer IS NULL OR kind = 'file' THEN target
             ELSE CAST(json_extract(newer, '$.target') AS BLOB) END, newer = NULL
"""
"""Assignments for what is not here any more: it is what the store or the manifest has."""

LEAVE = f"""
    resident = 0, gone_at = NULL, absent = 0, synced = generation, failed = 0, error = NULL, {AS_THERE},
    rights = NULL, stood_in = (SELECT directory FROM session WHERE session.id = entry.session)
"""
"""Assignments for what goes with its directory, or is ignored from now on."""

RETURN = f"""
    resident = 1, {take("older")}, older = NULL,
    newer = CASE WHEN older IS NOT NULL AND json_extract(older, '$.etag') IS NOT etag THEN {STORED_TEXT} END
"""
"""Assignments for what stands here as it did before it left."""

DELETED_ELSEWHERE = "(newer IS 'null' AND resident = 1 AND synced = generation)"
"""A file that another host deleted in the store. It is still here, and its bytes are not in the store."""

UNSENT = "resident = 1 AND kind = 'file' AND synced < generation"
"""A change that the store does not have: should its file come back, it must not be taken for clean."""

UNLEARN = "UPDATE session SET learned = 0 WHERE id = ?"
"""For a session in which an unconfirmed change is forgotten. Its upload may have reached the store, so the next use
reads the store's listing."""

AT_OR_BELOW = "((dir = ? AND name = ?) OR dir = ? OR (dir >= ? AND dir < ?))"
"""Matches a directory's entry and all entries below it. The values are ``split(path)`` and ``below(path)``."""

SAME_INODE = """
e.inode = t.inode AND e.inode IS NOT NULL AND e.session = t.session AND e.kind = 'file' AND e.gone_at IS NULL
AND e.resident = 1 AND e.generation > t.synced AND e.mount IS t.mount
"""
"""Matches, for a missing file t, a resident entry e of its session that may be the same file under a new name: it is on
the same file system, has the same inode, and changed after t was last stored. The last condition excludes hard links
that existed before."""

MOVED = f"""
SELECT 1 FROM entry AS e INDEXED BY inode WHERE {SAME_INODE} AND e.size = t.size AND e.mtime_ns = t.mtime_ns
"""
"""As SAME_INODE, and the stats are alike."""

DOUBTED = 2
"""The value of ``unsettled`` for files that a power failure may have reverted after they were stored."""

NEVER_SEEN = "size = NULL, mtime_ns = NULL, ctime_ns = NULL, inode = NULL, mode = NULL"

KNOWN_COLUMNS = """name, kind, size, mtime_ns, ctime_ns, inode, mode, target, resident, gone_at, unsettled,
    synced < generation, dirty_since, stored_at, closed, mount"""

SEEN_COLUMNS = f"""name, CASE WHEN kind = 'file' AND (unsettled = 0 OR synced < generation) THEN mode | {st.S_IFREG}
    WHEN kind = 'dir' AND mount IS NULL THEN mode | {st.S_IFDIR} END, size, mtime_ns, ctime_ns, inode"""
"""The columns that a scan compares with the disk. If they are equal, the scan skips the file. Where it must look closer
(links, mounts, bytes that may have changed without a trace), ``st_mode`` is NULL, so that they are never equal. The
columns are few, because there may be a million rows."""

WORK = "synced < generation AND (kind = 'file' OR etag IS NOT NULL)"
"""The uploader's part of what is dirty. Spelled as the index ``work`` is, or SQLite would not use that."""

SENT = "CASE WHEN gone_at IS NULL AND resident = 1 THEN ifnull(size, 0) ELSE 0 END"
"""How many bytes a transfer of the entry may send."""

WEIGHT = f"({SENT} > 1048576) + ({SENT} > 16777216)"
"""``policy.weigh`` of that, spelled as in the index ``work``."""


def split(path: str) -> tuple[bytes, bytes]:
    """``"a/b/c"`` to ``(b"a/b", b"c")``; a directory's ``"a/b/"`` to ``(b"a", b"b/")``."""
    raw = os.fsencode(path)
    cut = raw.rfind(b"/", 0, len(raw) - 1)
    return (b"", raw) if cut < 0 else (raw[:cut], raw[cut + 1 :])


def join(parent: bytes, name: bytes) -> str:
    """The inverse of ``split``."""
    return os.fsdecode(parent + b"/" + name if parent else name)


def below(directory: str) -> tuple[bytes, bytes, bytes]:
    """Bounds for ``dir = ? OR (dir >= ? AND dir < ?)``: everything under ``directory`` ("" is all of the session)."""
    raw = os.fsencode(directory.rstrip("/"))
    return (raw, raw + b"/", raw + b"0") if raw else (raw, b"", b"\xff")


class Known(NamedTuple):
    """A row as a scan compares it with the disk: plain columns, since a scan makes a million of them."""

    name: bytes
    kind: str
    size: int | None
    mtime_ns: int | None
    ctime_ns: int | None
    inode: int | None
    mode: int | None
    target: bytes | None
    resident: int
    gone_at: float | None
    unsettled: int
    dirty: int
    dirty_since: float
    stored_at: float | None
    closed: int
    mount: str | None


def to_entry(session: str, row: Row) -> Entry:
    """A row of ENTRY_COLUMNS as an Entry."""
    parent, name, kind, born, generation, absent, synced, resident = row[:8]
    size, mtime_ns, ctime_ns, inode, mode, target, gone_at, closed, unsettled = row[8:17]
    etag, version_id, stored_size, stored_mtime_ns, stored_mode, sha256, stored_at, puts, created_at = row[17:26]
    dirty_since, due_at, attempts, tried_at, error, failed, labels, relabelled, hidden, newer, older = row[26:37]
    vanished, mount, rights = row[37:]
    stat = stored = None
    if mtime_ns is not None:
        link = None if target is None else os.fsdecode(target)
        stat = FileStat(_KINDS[kind], size, mtime_ns, ctime_ns, inode, mode, link, mount)
    if etag is not None:
        stored = Stored(
            Version(etag, version_id),
            stored_size or 0,
            sha256,
            stored_mtime_ns or 0,
            stored_mode or 0,
            stored_at or 0.0,
        )
    return Entry(
        session=session,
        path=join(parent, name),
        kind=_KINDS[kind],
        born=born,
        generation=generation,
        absent=absent,
        synced=synced,
        resident=bool(resident),
        stat=stat,
        gone_at=gone_at,
        closed=bool(closed),
        unsettled=bool(unsettled),
        stored=stored,
        puts=puts,
        created_at=created_at,
        dirty_since=dirty_since,
        due_at=due_at,
        attempts=attempts,
        tried_at=tried_at,
        error=error,
        failed=bool(failed),
        labels=None if labels is None else _to_labels(labels),
        relabelled=bool(relabelled),
        hidden=hidden == 1,
        superseded=None if newer is None else _to_superseded(newer),
        older=None if older is None else _to_stored(json.loads(older)),
        vanished=bool(vanished),
        doubted=unsettled == DOUBTED,
        rights=None if resident else to_rights(rights),
    )


def to_columns(stored: Stored) -> Row:
    """A Stored as the columns etag to stored_at."""
    v = stored.version
    return (v.etag, v.version_id, stored.size, stored.mtime_ns, stored.mode, stored.sha256, stored.stored_at)


def superseded_text(superseded: Superseded) -> str:
    """What another host did, as the journal keeps it."""
    if (s := superseded.stored) is not None:
        return json.dumps(dict(zip(_STORED.values(), to_columns(s), strict=True)))
    if (other := superseded.other) is not None:
        return json.dumps({"mtime_ns": other.mtime_ns, "mode": other.mode, "target": other.target, "kind": other.kind})
    return "null"


def _to_superseded(text: str) -> Superseded:
    found = json.loads(text)
    if found is None:
        return Superseded()
    if "kind" not in found:
        return Superseded(_to_stored(found))
    stat = FileStat(Kind(found["kind"]), 0, found["mtime_ns"], 0, 0, found["mode"], found["target"])
    return Superseded(other=stat)


def _to_stored(found: dict[str, Any]) -> Stored:
    version = Version(found.pop("etag"), found.pop("version_id"))
    return Stored(version, **found)


def rights_text(rights: Rights | None) -> str | None:
    """Rights as the journal keeps them; equal ones are the same text."""
    if rights is None:
        return None
    owner = f"{rights.uid}:{rights.gid}"
    if rights.acl is None and rights.default_acl is None:
        return owner
    return f"{owner}:{(rights.acl or b'').hex()}:{(rights.default_acl or b'').hex()}"


def to_rights(text: str | None) -> Rights | None:
    """The inverse of ``rights_text``; None for anything else."""
    found = None if text is None else _RIGHTS.fullmatch(text)
    if found is None or max(uid := int(found[1]), gid := int(found[2])) >= _NOBODY:
        return None
    access, default = bytes.fromhex(found[3] or ""), bytes.fromhex(found[4] or "")
    return Rights(uid, gid, access or None, default or None)


def labels_text(labels: Labels | None) -> str | None:
    """Labels as the journal keeps them; equal ones are the same text."""
    if labels is None:
        return None
    return json.dumps({"content_type": labels.content_type, "metadata": dict(labels.metadata)}, sort_keys=True)


def _to_labels(text: str) -> Labels:
    return Labels(**json.loads(text))
