"""What there is: sessions, folders and single artifacts, from the journal where it knows, else from the store."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace

from cachesync import attributes, manifest
from cachesync.address import Address, Space, from_key
from cachesync.artifacts.local import Local
from cachesync.artifacts.remote import Remote
from cachesync.errors import NoSuchSession, ObjectNotFound, Unstorable
from cachesync.keys import is_session_name, manifest_key
from cachesync.manifest import FoundManifest
from cachesync.model import Entry, FileStat, Kind, ObjectInfo
from cachesync.outcomes import Artifact
from cachesync.reader import describing


class Listing:
    """Answers ``list``. ``url`` is what a key is appended to for people."""

    def __init__(self, remote: Remote, local: Local | None, url: str) -> None:
        self._remote = remote
        self._local = local
        self._url = url

    def list(self, address: Address) -> Iterator[Artifact]:
        """Everything under an address, in path order. Errors are raised before the first artifact, where they can be.

        Raises NoSuchSession, ObjectNotFound, StoreError, RootHalted.
        """
        rows = self._rows(address)
        first = next(rows, None)
        if first is not None:
            return itertools.chain((first,), rows)
        local = self._local
        if (not address.name and address.whole) or (not address.path and local is not None and local.stands(address)):
            return iter(())  # an empty space, or a session that stands and is empty
        if address.session is not None and not address.path:
            raise NoSuchSession("list", address.session, "there is no such session", "cachesync ls lists the sessions")
        raise ObjectNotFound("list", str(address), "nothing is there")

    def describe(self, address: Address) -> Artifact:
        """One file as the store has it. Raises ObjectNotFound, StoreError."""
        return self.of_object(address, self._remote.store.head(address.key(self._remote.prefix)))

    def _rows(self, address: Address) -> Iterator[Artifact]:
        if address == Address(Space.SESSIONS):
            return self._sessions()
        local = self._local
        if local is not None and local.knows(address.session):
            rows = self._here(local, address)
            first = next(rows, None)
            if first is not None:
                return itertools.chain((first,), rows)
            if not address.path and local.stands(address):
                return rows
        return self._there(address)

    def _sessions(self) -> Iterator[Artifact]:
        """The sessions, as directories. One called like another space has no address."""
        start = Address(Space.SESSIONS).key(self._remote.prefix)
        found = self._remote.store.list(start, shallow=True)
        stored = {info.key.removeprefix(start).rstrip("/") for info in found if info.key.endswith("/")}
        names = stored if self._local is None else stored | self._local.known()
        for name in sorted(names - set(Space)):
            if is_session_name(name):
                yield Artifact(name, Kind.DIRECTORY, "stored" if name in stored else "dirty")

    # -- sessions that the journal knows -------------------------------------------------------------------------------

    def _here(self, local: Local, address: Address) -> Iterator[Artifact]:
        local.look(address)
        session, path = address.name, address.path
        entries = local.root.context.journal.entries
        own = [path] if address.whole else [path, path + "/"]
        for name in filter(None, own):
            if (entry := entries.entry(session, name)) is not None and not entry.tombstone:
                yield self.of_entry(entry)
        path = own[-1]
        yield from (self.of_entry(entry) for entry in entries.under(session, path) if not entry.tombstone)

    # -- everything else -----------------------------------------------------------------------------------------------

    def _there(self, address: Address) -> Iterator[Artifact]:
        key = address.key(self._remote.prefix)
        if not address.whole:
            if (info := self._remote.find(address)) is not None:
                yield self.of_object(address, info)
            key += "/"
        found = self._manifest(address)
        objects = (
            (place, self._listed(place, info, found))
            for info in self._remote.store.list(key)
            if (place := from_key(self._remote.prefix, info.key)) is not None
        )
        rows = heapq.merge(objects, self._others(address, found), key=lambda row: (row[0].name, row[0].path.encode()))
        yield from (row for _, row in rows)

    def _manifest(self, address: Address) -> FoundManifest | None:
        if address.session is None:
            return None
        try:
            return manifest.read(self._remote.store, manifest_key(self._remote.prefix, address.session))
        except ObjectNotFound:
            return None

    def _others(self, address: Address, found: FoundManifest | None) -> Iterable[tuple[Address, Artifact]]:
        """The links and directories that a manifest lists under an address."""
        rows = []
        for path, stat in found.others if found is not None else ():
            inside = path.startswith(address.path) if address.whole else path.startswith(address.path + "/")
            if inside or path == address.path:
                place = Address(Space.SESSIONS, address.name, path)
                rows.append((place, self._unstored(place, stat, "stored")))
        return sorted(rows, key=lambda row: row[0].path.encode())

    def _listed(self, address: Address, info: ObjectInfo, found: FoundManifest | None) -> Artifact:
        """A listed object, with what the manifest knows of that very version."""
        row = found.files.get(address.path) if found is not None else None
        if row is not None and (row.etag, row.size) == (info.version.etag, info.size):
            info = replace(info, sha256=row.sha256, metadata={"mtime": attributes.format_mtime(row.mtime_ns)})
        return self.of_object(address, info)

    # -- one artifact --------------------------------------------------------------------------------------------------

    def of_object(self, address: Address, info: ObjectInfo) -> Artifact:
        """An object, as the store describes it."""
        return describing.of_object(address, info, self._url, state="stored")

    def of_entry(self, entry: Entry) -> Artifact:
        """An entry of the journal; what is local counts, also where the store has something older."""
        address = Address(Space.SESSIONS, entry.session, entry.path)
        state = _state(entry)
        if entry.kind is not Kind.FILE:
            return self._unstored(address, entry.stat or FileStat(entry.kind, 0, 0, 0, 0, 0), state)
        try:
            key = address.key(self._remote.prefix)
        except Unstorable:
            key = None
        info = describing.of_entry(entry, key or "")
        if info is not None and not entry.resident:
            return describing.of_object(address, info, self._url, state=state)
        if entry.stat is None:
            return Artifact(str(address), Kind.FILE, state, key=key)
        artifact = describing.of_file(address, entry.stat, entry)
        return replace(artifact, state=state, key=key, uri=None if key is None else f"{self._url}/{key}")

    def _unstored(self, address: Address, stat: FileStat, state: str) -> Artifact:
        """A link or a directory: the manifest has it, and no object."""
        return Artifact(str(address), stat.kind, state, modified=stat.mtime_ns / 1e9, target=stat.target)


def _state(entry: Entry) -> str:
    if entry.failed:
        return "failed"
    if entry.dirty:
        return "dirty"
    return "clean" if entry.resident else "evicted"
