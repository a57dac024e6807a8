"""Artifacts by address (verbs.Artifacts): on sessions of any host, projects and templates."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import quote

from cachesync.artifacts.listing import Listing
from cachesync.artifacts.local import Local, LocalRoot
from cachesync.artifacts.remote import Remote
from cachesync.artifacts.spool import pieces, spooled
from cachesync.model import attributes
from cachesync.model.address import Address
from cachesync.model.errors import CacheSyncError, ObjectNotFound, Unstorable, UsageError
from cachesync.model.limits import DEFAULT_EXPIRES
from cachesync.model.outcomes import Artifact, PastVersion
from cachesync.model.values import ObjectInfo
from cachesync.model.verbs import Reading, check_expires
from cachesync.store.base import Archive, ObjectStore

__all__ = ["Artifacts", "LocalRoot"]

_NO_VERSIONS = "cachesync bucket init --apply turns versioning on; what was replaced before that is gone"


class Opener(Protocol):
    """Who opens artifacts for reading (cachesync.read.reader.Reader)."""

    def read(self, address: Address, *, version_id: str | None = None) -> Reading:
        """See verbs.Artifacts.read."""
        ...

    def note(self, info: ObjectInfo) -> None:
        """An object was just stored past the journal: the next read must see it."""
        ...

    def forget(self, key: str) -> None:
        """An object was just removed past the journal."""
        ...


class Artifacts:
    """The verbs of artifacts over one store, and over the local root that this process owns, if it owns one.

    ``url`` is what a key is appended to for people; ``writer`` goes into the metadata of objects that are stored
    directly; ``scratch`` is a folder for what is too large for memory (None: where temporary files go).
    """

    def __init__(
        self,
        store: ObjectStore,
        reader: Opener,
        *,
        prefix: str,
        url: str,
        writer: str,
        local: LocalRoot | None,
        clock: Callable[[], float],
        scratch: Path | None = None,
    ) -> None:
        self._store = store
        self._reader = reader
        self._remote = Remote(store, prefix=prefix, writer=writer, scratch=scratch, clock=clock)
        self._local = None if local is None else Local(local)
        self._listing = Listing(self._remote, self._local, url)

    def list(self, address: Address, *, shallow: bool = False) -> Iterator[Artifact]:
        """Everything under an address, in path order; of "" the sessions there are, as directories. ``shallow`` is one
        level: what lies deeper is one directory each, whose ``key`` is set if files are in it.

        A session that the journal knows is answered from there, with what the disk says now; any other from the store's
        listing and its manifest. Names that could not be an address are passed over.
        """
        return self._listing.list(address, shallow=shallow)

    def describe(self, address: Address) -> Artifact:
        """One file as the store has it now, content type and all. Raises ObjectNotFound, StoreError."""
        with self._asked("describe", address):
            return self._listing.describe(address)

    def read(self, address: Address, *, version_id: str | None = None) -> Reading:
        """Open one artifact: the newest version, or a past one."""
        with self._asked("read", address):
            return self._reader.read(address, version_id=version_id)

    def put(
        self,
        address: Address,
        source: BinaryIO,
        *,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        overwrite: bool = True,
    ) -> Artifact:
        """Store what ``source`` holds, to its end; returns when the store has it.

        What stands there is replaced, whoever wrote it: the last put wins, and versioning is the undo. Without
        ``overwrite`` nothing is: the store itself (the file system, where the file is written) decides who is first.

        Where the session's directory stands here the file is written there and stored as any other change is: should
        another host have changed that file meanwhile, both are kept (P9). ``content_type`` and ``metadata`` replace
        those of an earlier put; when the file is changed by other means, they stay.

        Raises UsageError, Unstorable, ArtifactExists, PreconditionFailed, FileUnwritable, StoreError.
        """
        labels = attributes.to_labels(content_type, metadata)
        with self._asked("put", address):
            if self._local is not None and self._local.stands(address):
                return self._listing.of_entry(self._local.put(address, pieces(source), labels, overwrite=overwrite))
            address.key(self._remote.prefix)
            self._leave(address)
            with spooled(pieces(source), self._remote.scratch) as body:
                info = self._remote.put(address, body, labels, overwrite=overwrite)
            return self._changed(address, info)

    def remove(self, address: Address) -> None:
        """Delete one artifact, here and in the store, whoever wrote it last; versioning is the undo.

        It was asked for by its name, so neither the delete guard nor the settle time holds it. Where the store keeps
        versions, it first gets what it does not have of the file yet, so that the undo brings that back. Raises
        ObjectNotFound, UsageError (a directory), FileUnwritable, StoreError.
        """
        with self._asked("remove", address):
            key = address.key(self._remote.prefix)
            local, removed = self._local, False
            if local is not None and local.stands(address):
                removed = local.remove(address)
            if not removed:
                self._leave(address)

            def stands() -> bool:
                if local is None:
                    return False
                if local.has_file(address):
                    return True
                local.learn(address, None)  # first: if this process dies, the object must not count as lost
                return False

            # The engine deletes what is its own; another writer's object, or one that was never here, is still there.
            removed = self._remote.remove(address, listed=not removed, stands=stands) or removed
            self._reader.forget(key)
            lost = local is not None and local.learn(address, None)
            if not removed and not lost:
                raise ObjectNotFound("remove", str(address), "there is no such artifact")

    def url(self, address: Address, *, expires: float = DEFAULT_EXPIRES, version_id: str | None = None) -> str:
        """A link to what the store has: signed, for ``expires`` seconds; in a folder on this machine a file:// URL."""
        check_expires(expires)
        with self._asked("link to", address):
            key = address.key(self._remote.prefix)
            archive = self._store.archive
            if version_id is not None:
                self._past(address, version_id)
            elif not (self._local and self._local.owns(address)) and self._remote.find(address) is None:
                hint = "cachesync flush stores what is only here; cachesync ls shows what there is"
                raise ObjectNotFound("link to", str(address), "the store has no such object", hint)
            if archive is not None:
                return archive.url(key, expires=expires, version_id=version_id)
        base = self._store.traits.url
        if base.startswith("file://"):
            return f"file://{quote(base.removeprefix('file://'))}/{quote(key)}"
        raise UsageError("link to", str(address), "this store makes no links", "S3 does, and a file:// store")

    def history(self, address: Address) -> Sequence[PastVersion]:
        """Every version there is, newest first; also of what was deleted."""
        with self._asked("list the versions of", address):
            return self._versions(address)

    def _versions(self, address: Address) -> Sequence[PastVersion]:
        key = address.key(self._remote.prefix)
        found: list[PastVersion] = []
        for past in self._archive(address).history(key):
            if past.key != key:
                break  # the key itself comes first
            etag = None if past.deleted else past.version.etag
            found.append(
                PastVersion(
                    str(address), etag, past.version.version_id, past.size, past.modified, past.latest, past.deleted
                )
            )
        if not found:
            raise ObjectNotFound("find", str(address), "the store never had such an object")
        return found

    def restore(self, address: Address, *, version_id: str | None = None) -> Artifact:
        """Make a past version the newest again; where the session's directory stands here, its file has those bytes.

        Nothing is taken away: what was the newest is a past version afterwards.
        """
        with self._asked("restore", address):
            archive = self._archive(address)
            past = self._before(address) if version_id is None else self._past(address, version_id)
            if past.deleted or past.version_id is None:
                cause = "that version is a deletion" if past.deleted else "that version is the newest"
                raise ObjectNotFound("restore", str(address), cause, "cachesync history lists the versions")
            if self._local is not None and self._local.stands(address):
                download = archive.read(address.key(self._remote.prefix), past.version_id)
                labels, mode = attributes.labels_of(address, download.info), attributes.to_stored(download.info).mode
                return self._listing.of_entry(self._local.put(address, download.chunks, labels, mode=mode))
            self._leave(address)
            info = self._remote.revive(archive, address, past.version_id)
            return self._changed(address, info)

    def together(self) -> contextlib.AbstractContextManager[None]:
        """For a block in which many artifacts are changed, in any thread: what is changed in the store itself is stored
        as ever, and the manifests of its sessions are written once, at the block's end. A process that is killed before
        leaves them as they were: ``verify`` then tells what they miss until the next flush, or change of that file."""
        return self._remote.together()

    def _leave(self, address: Address) -> None:
        """See local.Local.leave."""
        if self._local is not None:
            self._local.leave(address)

    def _changed(self, address: Address, info: ObjectInfo) -> Artifact:
        """The object was changed in the store itself: an evicted entry is that from now on."""
        self._reader.note(info)
        if self._local is not None:
            self._local.learn(address, attributes.to_stored(info))
        return self._listing.of_object(address, info)

    # -- parts ---------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _asked(self, verb: str, address: Address) -> Iterator[None]:
        """Check that it is one artifact, and let what fails on the way be told in the words of whoever asked: the verb,
        not its inner step, and the address, not the object key."""
        if address.whole:
            hint = "give SESSION/PATH, projects/P/PATH or templates/PATH"
            raise UsageError(verb, str(address), "names no single artifact", hint)
        try:
            yield
        except CacheSyncError as error:
            with contextlib.suppress(Unstorable):
                if error.path in (str(address), address.path, address.key(self._remote.prefix)):
                    error.named(verb, str(address))
            raise

    def _archive(self, address: Address) -> Archive:
        archive = self._store.archive
        if archive is None:
            cause = "this store keeps no versions"
            raise UsageError("find past versions of", str(address), cause, "an S3 bucket with versioning does")
        return archive

    def _before(self, address: Address) -> PastVersion:
        """The version to go back to: the last one before the newest, or before the deletion."""
        newest, *past = self._versions(address)
        for version in past:
            if not version.deleted:
                return version
        if newest.deleted or self._store.traits.versioned:
            raise ObjectNotFound("restore", str(address), "there is no version before this one")
        raise UsageError("restore", str(address), "the bucket keeps no versions", _NO_VERSIONS)

    def _past(self, address: Address, version_id: str) -> PastVersion:
        for version in self._versions(address):
            if version.version_id == version_id:
                return version
        hint = "cachesync history lists the versions"
        raise ObjectNotFound("find", str(address), f"there is no version {version_id}", hint)
