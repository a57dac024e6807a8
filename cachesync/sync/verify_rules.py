"""What is wrong with an object that was read back, if anything. Pure.

Two tell what it should be: the manifest, and this host's journal of what it has stored. Of a version that one of them
names, size and digest must be as they say. A version that none names is a difference, unless this host is just storing
it, or has since the manifest was written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from cachesync.model.record import record
from cachesync.model.values import Entry, Kind, Session
from cachesync.sync.manifest import FoundManifest, ManifestFile

_CONFLICT_COPY = re.compile(r"\.conflict-[0-9]{8}T[0-9]{6}Z-[A-Za-z0-9]{1,12}$")
"""As keys.conflict_path makes it: another writer's bytes, which the next flush lists."""


@record(frozen=True, slots=True)
class Found:
    """An object that was read: its ETag, and the size and SHA-256 of the received bytes. ``ours`` says that it is this
    host's latest put of its path, confirmed or not."""

    etag: str
    size: int
    sha256: str
    ours: bool = False


@record(frozen=True, slots=True)
class Known:
    """What there is to compare the objects of a session with: its manifest, and the journal's row for it.

    Without a ``manifest`` its absence is one difference, and not one for each object.
    """

    manifest: FoundManifest | None
    session: Session | None

    @property
    def flushed(self) -> bool:
        """Whether the manifest is one that this journal wrote, not one that it learned."""
        return self.session is not None and self.session.manifest_revision >= 0

    @property
    def settled(self) -> bool:
        """Whether the manifest that this journal wrote shows all that it knows now."""
        session = self.session
        return session is not None and self.flushed and session.manifest_revision == session.revision

    @property
    def overtaken(self) -> bool:
        """Whether another host has written a manifest since this journal last heard of one."""
        if self.manifest is None or self.session is None or self.session.manifest is None:
            return False
        return self.manifest.version.etag != self.session.manifest.etag


def difference(path: str, found: Found | None, entry: Entry | None, known: Known) -> str | None:
    """What is wrong with the object at ``path`` (None: there is none), in one sentence; None if it is as it should be.

    ``entry`` is the journal's, if it has one, read after the object was.
    """
    row = known.manifest.files.get(path) if known.manifest is not None else None
    if entry is not None and (entry.kind is not Kind.FILE or entry.tombstone):
        return None  # its deletion is under way
    if found is None:
        return _absent(row, entry, known)
    for who, size, sha256 in _naming(found.etag, row, entry):
        if size != found.size:
            return f"it has {found.size} bytes; {who} says {size}"
        if sha256 not in {None, found.sha256}:
            return f"it has other bytes: SHA-256 {found.sha256}; {who} says {sha256}"
    if (row is not None and row.etag == found.etag) or _just_stored(found, row, entry, known):
        return None
    return _unnamed(path, found, row, entry, known)


def _naming(etag: str, row: ManifestFile | None, entry: Entry | None) -> Iterator[tuple[str, int, str | None]]:
    """Who names this very version, and the size and digest that they give it."""
    if row is not None and row.etag == etag:
        yield "the manifest", row.size, row.sha256
    if entry is not None and entry.stored is not None and entry.stored.version.etag == etag:
        yield "this host's journal", entry.stored.size, entry.stored.sha256


def _absent(row: ManifestFile | None, entry: Entry | None, known: Known) -> str | None:
    if row is None and entry is not None and not entry.resident and known.overtaken:
        return None  # this host only read of it, and whoever flushed since does not list it any more
    if entry is not None and entry.current is not None:
        return "there is no such object; this host's journal knows that it was stored"
    if row is None or (entry is None and known.flushed and not known.settled):
        return None  # not stored yet, or deleted by this host since the manifest was written
    return "there is no such object; the manifest lists it"


def _just_stored(found: Found, row: ManifestFile | None, entry: Entry | None, known: Known) -> bool:
    """Whether the object is one that this host is storing, or has stored since the manifest was written."""
    if entry is None:
        return False
    confirmed = _confirmed(entry)
    if confirmed == found.etag:
        return not known.settled and (known.flushed or found.ours)
    return entry.dirty and (found.ours or (row is None and confirmed is None))


def _unnamed(path: str, found: Found, row: ManifestFile | None, entry: Entry | None, known: Known) -> str | None:
    """What to say of a version that nobody names."""
    if row is not None:
        return f"it is version {found.etag}, which the manifest does not name (it names {row.etag})"
    confirmed = None if entry is None else _confirmed(entry)
    if confirmed not in {None, found.etag}:
        return f"it is version {found.etag}, not {confirmed}, which this host has stored"
    if known.manifest is None or _CONFLICT_COPY.search(path):
        return None
    return "no manifest lists this object"


def _confirmed(entry: Entry) -> str | None:
    """The version that this host has stored itself, or read; what a listing told it, it has no digest of."""
    stored = entry.current
    return None if stored is None or stored.sha256 is None else stored.version.etag
