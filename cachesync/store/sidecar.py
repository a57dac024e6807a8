"""What a store without metadata of its own must remember of an object, beside it. Pure.

An object's record names the state of the file it belongs to by a *stamp* (size, times, inode: whatever the file system
tells). A record whose stamp is not the file's says nothing: someone else has written the file, and its version is then
the stamp itself. The next record is written before the file takes its place, together with the one before, so whichever
of the two files a crash leaves there has its record.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, field

from cachesync.model.record import record
from cachesync.model.values import Attributes, ObjectInfo, Version

FOLDER = ".cachesync-meta"
"""Where records, locks and temporary files are, beside the objects."""


@record(frozen=True, slots=True)
class Stat:
    """A file as its file system describes it: ``stamp`` changes with each write, ``modified`` is seconds."""

    stamp: str
    size: int
    modified: float


@record(frozen=True, slots=True)
class Record:
    """What is remembered of one write."""

    stamp: str
    etag: str
    sha256: str
    content_type: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


def record_path(key: str) -> str:
    """Where the records of ``key`` are, relative to the base. Hashed: any key gives a short name, and no two clash."""
    name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{FOLDER}/{name[:2]}/{name[2:]}.json"


def new_record(stamp: str, sha256: str, attributes: Attributes) -> Record:
    """A record with an ETag that no other write has."""
    return Record(
        stamp=stamp,
        etag=secrets.token_hex(16),
        sha256=sha256,
        content_type=attributes.content_type,
        metadata={name.lower(): value for name, value in attributes.metadata.items()},
        tags=dict(attributes.tags),
    )


def encode(key: str, records: tuple[Record, ...]) -> bytes:
    """The bytes of a record file."""
    return json.dumps({"key": key, "records": [asdict(record) for record in records]}).encode()


def decode(key: str, data: bytes | None) -> tuple[Record, ...]:
    """The records in a record file. One that is damaged or of another key is as good as none."""
    try:
        content = json.loads(data) if data else {}
        if content.get("key") != key:
            return ()
        return tuple(Record(**record) for record in content["records"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return ()


def matching(records: tuple[Record, ...], stat: Stat) -> Record | None:
    """The record of the file as it is now."""
    return next((record for record in records if record.stamp == stat.stamp), None)


def describe(key: str, stat: Stat, record: Record | None) -> ObjectInfo:
    """An object with the record that matches it, or one that a stranger wrote."""
    if record is None:
        etag = "f" + hashlib.sha256(stat.stamp.encode()).hexdigest()[:31]
        return ObjectInfo(key, stat.size, Version(etag), stat.modified)
    return ObjectInfo(
        key=key,
        size=stat.size,
        version=Version(record.etag),
        modified=stat.modified,
        sha256=record.sha256,
        metadata=dict(record.metadata),
        content_type=record.content_type,
    )
