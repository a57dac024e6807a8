"""What travels with an object besides its bytes: content type, metadata, tags (SPEC section 4). Pure.

``mtime`` is named and written as rclone does (seconds with nanoseconds, https://rclone.org/s3/), ``mode`` as s3fs-fuse
does (the decimal st_mode). Metadata values are ASCII, as HTTP headers are.
"""

from __future__ import annotations

import mimetypes
import re
import stat
from datetime import UTC, datetime

from cachesync.model import Attributes, Entry, FileStat, ObjectInfo, Stored

_TYPES = {
    ".tf": "text/plain",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".md": "text/markdown",
    ".json": "application/json",
    ".jsonl": "application/x-ndjson",
    ".html": "text/html",
}
"""The design note's own list; it wins over mimetypes."""

_MTIME = re.compile(r"(-?)([0-9]{1,18})(?:\.([0-9]+))?", re.ASCII)
_MODE = re.compile(r"[0-9]{1,7}", re.ASCII)
_END_OF_TIME = 2**63
"""Nanoseconds in which a disk, and the journal, count times."""

_ARTIFACT_NAMES = {"dashboard": "dashboard", "foundation": "foundation"}


def content_type(path: str) -> str:
    """The content type that a name promises."""
    name = path.rpartition("/")[2]
    suffix = name[name.rfind(".") :].lower() if "." in name else ""
    return _TYPES.get(suffix) or mimetypes.guess_type(name, strict=False)[0] or "application/octet-stream"


def artifact_type(path: str) -> str | None:
    """The design note's artifact type, where the path tells: terraform, dashboard, foundation, template, log."""
    if is_log(path):
        return "log"
    if path.startswith("templates/"):
        return "template"
    name = path.rpartition("/")[2]
    if name.endswith((".tf", ".tfvars")):
        return "terraform"
    return _ARTIFACT_NAMES.get(name.split(".", 1)[0])


def is_log(path: str) -> bool:
    """Whether a path is one of its session's logs."""
    return path.startswith("logs/")


def for_file(entry: Entry, read: FileStat, sha256: str, writer: str) -> Attributes:
    """The attributes of the object for a file; ``writer`` is the journal's id, by which we know our own objects."""
    created = datetime.fromtimestamp(entry.created_at, UTC).isoformat(timespec="seconds")
    metadata = {
        "mtime": format_mtime(read.mtime_ns),
        "mode": str(stat.S_IFREG | read.mode),
        "sha256": sha256,
        "writer": writer,
        "sessionid": entry.session,
        "createdat": created.replace("+00:00", "Z"),
        "version": str(entry.puts + 1),
    }
    if kind := artifact_type(entry.path):
        metadata["artifacttype"] = kind
    return Attributes(content_type(entry.path), metadata, {"kind": "log"} if is_log(entry.path) else {})


def format_mtime(mtime_ns: int) -> str:
    """Nanoseconds since the epoch as decimal seconds, without a float's rounding."""
    seconds, nanoseconds = divmod(abs(mtime_ns), 1_000_000_000)
    return f"{'-' if mtime_ns < 0 else ''}{seconds}.{nanoseconds:09d}"


def parse_mtime(text: str) -> int | None:
    """The inverse of ``format_mtime``; also whole seconds. None for anything else, or a time that no disk can have."""
    match = _MTIME.fullmatch(text)
    if match is None:
        return None
    sign, seconds, fraction = match.groups()
    mtime = int(seconds) * 1_000_000_000 + int(((fraction or "") + "0" * 9)[:9])
    return (-mtime if sign else mtime) if mtime < _END_OF_TIME else None


def parse_mode(text: str) -> int | None:
    """The permission bits of a decimal st_mode, as s3fs-fuse writes it; None for anything else."""
    return stat.S_IMODE(int(text)) if _MODE.fullmatch(text) else None


def to_stored(info: ObjectInfo, *, fallback_mode: int = 0o644) -> Stored:
    """An object as the journal keeps it; what its metadata does not say, or says in no way that makes sense, is taken
    from the store's own facts."""
    mtime = parse_mtime(info.metadata.get("mtime", ""))
    mode = parse_mode(info.metadata.get("mode", ""))
    return Stored(
        version=info.version,
        size=info.size,
        sha256=info.sha256,
        mtime_ns=int(info.modified * 1e9) if mtime is None else mtime,
        mode=fallback_mode if mode is None else mode,
        stored_at=info.modified,
    )
