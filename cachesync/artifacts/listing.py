"""What there is: sessions, folders and single artifacts, from the journal where it knows, else from the store."""

from __future__ import annotations

import heapq
import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace

from cachesync.artifacts.local import Local
from cachesync.artifacts.remote import Remote
from cachesync.model import attributes
from cachesync.model.address import Address, Space, from_key
from cachesync.model.errors import NoSuchSession, ObjectNotFound, Unstorable
from cachesync.model.keys import is_session_name, manifest_key
from cachesync.model.outcomes import Artifact
from cachesync.model.values import Entry, FileStat, Kind, ObjectInfo
from cachesync.read import describing
from cachesync.sync import manifest
from cachesync.sync.manifest import FoundManifest


class Listing:
    """Answers ``list``. ``url`` is what a key is appended to for people."""

    def __init__(self, remote: Remote, local: Local | None, url: str) -> None:
        self._remote = remote
        self._local = local
        self._url = url

    def list(self, address: Address, *, shallow: bool) -> Iterator[Artifact]:
        """See Artifacts. Errors are raised before the first artifact, where they can be.

        Raises NoSuchSession, ObjectNotFound, StoreError, RootHalted.
        """
        rows = self._rows(address, shallow=shallow)
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

    def _rows(self, address: Address, *, shallow: bool) -> Iterator[Artifact]:
        if address == Address(Space.SESSIONS):
            return self._sessions()
        local = self._local
        if local is not None and local.knows(address.session):
            rows = self._here(local, address)
            if shallow:
                rows = one_level(address, rows)
            first = next(rows, None)
            if first is not None:
                return itertools.chain((first,), rows)
            if not address.path and local.stands(address):
                return rows
        return one_level(address, self._level(address)) if shallow else self._there(address)

    def _sessions(self) -> Iterator[Artifact]:
        """The sessions, as directories, and what the journal knows of each. One called like another space has no
        address."""
        start = Address(Space.SESSIONS).key(self._remote.prefix)
        found = self._remote.store.list(start, shallow=True)
        stored = {info.key.removeprefix(start).rstrip("/") for info in found if info.key.endswith("/")}
        names = stored if self._local is None else stored | self._local.known()
        for name in sorted(names - set(Space)):
            if not is_session_name(name):
                continue
            row = Artifact(name, Kind.DIRECTORY, "stored" if name in stored else "dirty")
            counts = None if self._local is None else self._local.counts(name)
            if counts is not None:
                row = replace(row, files=counts.files, size=counts.bytes, modified=counts.newest)
            yield row

    # -- sessions that the journal knows -------------------------------------------------------------------------------

    def _here(self, local: Local, address: Address) -> Iterator[Artifact]:
        unverified = not local.look(address)
        session, path = address.name, address.path
        entries = local.root.context.journal.entries
        own = [path] if address.whole else [path, path + "/"]
        for name in filter(None, own):
            if (entry := entries.entry(session, name)) is not None and not entry.tombstone:
                yield replace(self.of_entry(entry), unverified=unverified)
        path = own[-1]
        for entry in entries.under(session, path):
            if not entry.tombstone:
                yield replace(self.of_entry(entry), unverified=unverified)

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

    def _level(self, address: Address) -> Iterator[Artifact]:
        """One level of what is there, by a listing that does not go deeper; not in order."""
        key = address.key(self._remote.prefix)
        if not address.whole:
            if (info := self._remote.find(address)) is not None:
                yield self.of_object(address, info)
            key += "/"
        found = self._manifest(address)
        for info in self._remote.store.list(key, shallow=True):
            # A folder is known by what may lie in it: a project has no address that could be an artifact's.
            place = from_key(self._remote.prefix, f"{info.key}x" if info.key.endswith("/") else info.key)
            if place is not None and info.key.endswith("/"):
                yield Artifact(str(place).removesuffix("/x"), Kind.DIRECTORY, "stored", key=info.key)
            elif place is not None:
                yield self._listed(place, info, found)
        yield from (row for _, row in self._others(address, found))

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


def one_level(address: Address, rows: Iterable[Artifact]) -> Iterator[Artifact]:
    """The address itself, if it is a file, and what lies directly in it, in path order; each directory once."""
    own = str(address)
    level: dict[tuple[str, bool], Artifact] = {}  # a store may hold a file "x" and files below "x/"
    for row in rows:
        if row.address == own:
            yield row
            continue
        name, deeper, rest = row.address.removeprefix(f"{own}/").partition("/")
        if not deeper and row.kind != Kind.DIRECTORY:
            level[name, False] = row
            continue
        known = level.get((name, True))
        folder = known or Artifact(f"{own}/{name}", Kind.DIRECTORY, row.state, unverified=row.unverified)
        key = folder.key or (row.key and row.key.removesuffix(rest))
        level[name, True] = replace(folder if deeper else row, key=key)
    yield from (level[place] for place in sorted(level, key=lambda place: (os.fsencode(place[0]), place[1])))


def _state(entry: Entry) -> str:
    if entry.failed:
        return "failed"
    if entry.dirty:
        return "dirty"
    return "clean" if entry.resident else "evicted"
