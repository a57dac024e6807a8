"""What travels with an object besides its bytes: content type, metadata, tags (SPEC section 4). Pure.

``mtime`` is named and written as rclone does (seconds with nanoseconds, https://rclone.org/s3/), ``mode`` as s3fs-fuse
does (the decimal st_mode). Metadata values are ASCII, as HTTP headers are.
"""

from __future__ import annotations

import functools
import mimetypes
import re
import stat
import threading
from collections.abc import Mapping
from datetime import UTC, datetime

from cachesync.model.address import Address, Space
from cachesync.model.errors import UsageError
from cachesync.model.values import Attributes, Entry, FileStat, Labels, ObjectInfo, Stored

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

_guessing = threading.Lock()
"""mimetypes reads the system's tables at its first use: in each thread, where several use it first at once."""

_MTIME = re.compile(r"(-?)([0-9]{1,18})(?:\.([0-9]+))?", re.ASCII)
_MODE = re.compile(r"[0-9]{1,7}", re.ASCII)
_VERSION = re.compile(r"[0-9]{1,15}", re.ASCII)
_END_OF_TIME = 2**63
"""Nanoseconds in which a disk, and the journal, count times."""

_LABEL = re.compile(r"[a-z0-9][a-z0-9-]{0,63}", re.ASCII)
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}(\s*;[ -~]{1,127})?", re.ASCII)
_MOST_LABELS = 1024
"""Bytes. S3 takes 2 KB of metadata, https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingMetadata.html; the rest
is for ours."""

ATTEMPT = "attemptid"
"""The metadata that names the put attempt, so that an object is recognized if the response was lost."""

OF_THE_WRITER = frozenset({"writer", ATTEMPT})
"""The metadata that name the writer and the put attempt. They are wrong on a copy that another program makes."""

_FACTS = frozenset({"mtime", "mode", "sha256"}) | OF_THE_WRITER
"""Names of which we make sure ourselves that they are true."""

_OURS = _FACTS | {"sessionid", "projectid", "createdat", "version", "artifacttype"}

_ARTIFACT_NAMES = {"dashboard": "dashboard", "foundation": "foundation"}


def content_type(path: str) -> str:
    """The content type that a name promises."""
    _, dot, suffixes = path.rpartition("/")[2].partition(".")
    return _type_of(dot + suffixes)


@functools.lru_cache(maxsize=1024)
def _type_of(suffixes: str) -> str:
    known = _TYPES.get(suffixes[suffixes.rfind(".") :].lower()) if suffixes else None
    if known is not None:
        return known
    with _guessing:
        return mimetypes.guess_type(f"name{suffixes}", strict=False)[0] or "application/octet-stream"


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


def for_file(entry: Entry, read: FileStat, sha256: str, writer: str, attempt: str) -> Attributes:
    """Return the attributes of a file's object. ``writer`` is the journal's id, ``attempt`` the name of the put attempt
    (see journal/lives.py)."""
    address = Address(Space.SESSIONS, entry.session, entry.path)
    facts = {
        "mtime": format_mtime(read.mtime_ns),
        "mode": str(stat.S_IFREG | read.mode),
        "sha256": sha256,
        "writer": writer,
        ATTEMPT: attempt,
    }
    return _attributes(address, facts, format_time(entry.created_at), entry.puts + 1, entry.labels)


def for_put(
    address: Address, sha256: str, writer: str, attempt: str, *, now: float, replaced: ObjectInfo | None, labels: Labels
) -> Attributes:
    """Return the attributes of an object without a local file. It keeps the mode of the object that it replaces and
    increments its version. ``attempt`` names this put."""
    before: Mapping[str, str] = {} if replaced is None else replaced.metadata
    mode = parse_mode(before.get("mode", ""))
    facts = {
        "mtime": format_mtime(int(now * 1e9)),
        "mode": str(stat.S_IFREG | (0o644 if mode is None else mode)),
        "sha256": sha256,
        "writer": writer,
        ATTEMPT: attempt,
    }
    version = int(number) + 1 if _VERSION.fullmatch(number := before.get("version", "")) else 1
    created = before.get("createdat", "")
    return _attributes(address, facts, created if _is_label(created) else format_time(now), version, labels)


def _attributes(
    address: Address, facts: dict[str, str], created: str, version: int, labels: Labels | None
) -> Attributes:
    """``labels`` go over the design note's metadata, and ``facts`` over all."""
    metadata = {"createdat": created, "version": str(version)}
    if address.name:
        metadata["projectid" if address.space is Space.PROJECTS else "sessionid"] = address.name
    if kind := type_of(address):
        metadata["artifacttype"] = kind
    given = labels or Labels()
    log = address.space is Space.SESSIONS and is_log(address.path)
    return Attributes(
        given.content_type or content_type(address.path),
        metadata | dict(given.metadata) | facts,
        {"kind": "log"} if log else {},
    )


def type_of(address: Address) -> str | None:
    """The design note's artifact type, as far as an address tells."""
    return "template" if address.space is Space.TEMPLATES else artifact_type(address.path)


def to_labels(media_type: str | None, metadata: Mapping[str, str] | None) -> Labels:
    """What a caller gives along with the bytes, checked. Names lose their case, as headers do. Raises UsageError."""
    if media_type is not None and not _MEDIA_TYPE.fullmatch(media_type):
        raise UsageError("store as", media_type, "is no content type", "as text/plain or image/svg+xml")
    given: dict[str, str] = {}
    for written, value in (metadata or {}).items():
        name = written.lower()
        if not _LABEL.fullmatch(name):
            raise UsageError("store metadata", written, "is not a name for metadata", "allowed: a-z, 0-9 and '-'")
        if name in _FACTS:
            raise UsageError(
                "store metadata", written, "is cachesync's own", f"not allowed: {', '.join(sorted(_FACTS))}"
            )
        if not _is_label(value):
            raise UsageError(
                "store metadata", written, "its value cannot be a header", "allowed: visible ASCII, spaces"
            )
        given[name] = value
    if (size := sum(len(name) + len(value) for name, value in given.items())) > _MOST_LABELS:
        raise UsageError("store metadata", "", f"it is {size} bytes long; {_MOST_LABELS} is the limit", "give less")
    return Labels(media_type, given)


def labels_of(address: Address, info: ObjectInfo) -> Labels:
    """The labels of an object that is stored: what neither its name nor its file says."""
    kind = None if info.content_type == content_type(address.path) else info.content_type
    metadata = {name: value for name, value in info.metadata.items() if name not in _OURS and _LABEL.fullmatch(name)}
    if (told := info.metadata.get("artifacttype")) and told != type_of(address):
        metadata["artifacttype"] = told
    return Labels(kind, {name: value for name, value in metadata.items() if _is_label(value)})


def _is_label(value: str) -> bool:
    return bool(value) and value.isascii() and value.isprintable() and value == value.strip()


def format_time(seconds: float) -> str:
    """A time as the design note's metadata have it: ISO 8601, in UTC, to the second."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


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
