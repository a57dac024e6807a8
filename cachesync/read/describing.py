"""What is read, as an Artifact. Pure."""

from __future__ import annotations

from cachesync.model import attributes
from cachesync.model.address import Address
from cachesync.model.outcomes import Artifact
from cachesync.model.values import Entry, FileStat, Kind, ObjectInfo, Stored


def of_object(address: Address, info: ObjectInfo, url: str | None, *, state: str) -> Artifact:
    """An object of the store."""
    return Artifact(
        str(address),
        Kind.FILE,
        state,
        size=info.size,
        modified=attributes.to_stored(info).mtime_ns / 1e9,
        key=info.key,
        version=info.version.etag,
        version_id=info.version.version_id,
        sha256=info.sha256,
        content_type=info.content_type or attributes.content_type(address.path),
        artifact_type=info.metadata.get("artifacttype") or attributes.type_of(address),
        uri=None if url is None else f"{url}/{info.key}",
    )


def of_file(address: Address, stat: FileStat, entry: Entry | None) -> Artifact:
    """A file that stands here. Key, version and digest are the stored object's, if that is the same."""
    same = entry is not None and not entry.dirty and entry.stat == stat
    stored = entry.stored if entry is not None and same else None
    labels = None if entry is None else entry.labels
    failed = entry is not None and entry.failed
    return Artifact(
        str(address),
        Kind.FILE,
        "clean" if same else "failed" if failed else "dirty",
        size=stat.size,
        modified=stat.mtime_ns / 1e9,
        version=None if stored is None else stored.version.etag,
        version_id=None if stored is None else stored.version.version_id,
        sha256=None if stored is None else stored.sha256,
        content_type=(labels and labels.content_type) or attributes.content_type(address.path),
        artifact_type=(labels and labels.metadata.get("artifacttype")) or attributes.type_of(address),
    )


def of_entry(entry: Entry, key: str) -> ObjectInfo | None:
    """The object that the journal knows for an entry, or None if it knows no version."""
    stored = entry.stored
    if stored is None or not stored.version.etag:  # never stored, or the answer to that was lost
        return None
    return of_stored(entry, stored, key)


def of_stored(entry: Entry, stored: Stored, key: str) -> ObjectInfo:
    """The same, of one that knows a version."""
    labels = entry.labels
    metadata = {"mtime": attributes.format_mtime(stored.mtime_ns)} | dict(labels.metadata if labels else {})
    kind = (labels and labels.content_type) or attributes.content_type(entry.path)
    return ObjectInfo(key, stored.size, stored.version, stored.stored_at, stored.sha256, metadata, kind)
