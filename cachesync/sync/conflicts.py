"""Conflicts with other writers (P9): recognizes our own put after a lost reply, and keeps another writer's bytes."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from dataclasses import replace
from datetime import UTC, datetime

from cachesync.model import attributes
from cachesync.model.errors import ObjectNotFound, PreconditionFailed, StorePermanent
from cachesync.model.events import What
from cachesync.model.keys import conflict_path
from cachesync.model.policy import Writer
from cachesync.model.values import Attributes, Conflict, Entry, ObjectInfo, Stored, Version
from cachesync.root.open_file import OpenFile
from cachesync.root.snapshot import take
from cachesync.root.staging import translated
from cachesync.store.base import Body, ObjectStore, Resume
from cachesync.sync.context import Context

logger = logging.getLogger(__name__)

_ROUNDS = 5


class Rivals:
    """Settles what to do where the object is not the version that the journal knows."""

    def __init__(self, context: Context) -> None:
        self._c = context

    def contend(
        self, entry: Entry, key: str, body: Body, carried: Attributes, resume: Resume, *, reverted: bool
    ) -> ObjectInfo:
        """Store ``body`` in place of an object that is not the known version.

        Another writer's bytes are kept first. If a power failure may have ``reverted`` the file, our own bytes are kept
        too: an earlier run may have put them, and the journal lost that record.

        Raises PreconditionFailed if other writers change the object in every round, and StoreError.
        """
        for _ in range(_ROUNDS):
            expect: Version | None = None
            try:
                theirs = with_digest(self._c.store, self._c.store.head(key))
            except ObjectNotFound:
                theirs = None
            if theirs is not None:
                same = theirs.sha256 == body.sha256
                if same and not entry.relabelled:
                    return theirs
                if not same and (reverted or not self.is_ours(entry, theirs)):
                    self._keep(entry, key, theirs)
                expect = theirs.version
            try:
                return self._c.store.put(key, body, carried, expect=expect, resume=resume)
            except PreconditionFailed as error:
                last = error
        raise last

    def keep_hidden(self, entry: Entry, key: str, *, ours: bool = False) -> Version | None:
        """Keep the bytes of an object that a file or link replaces whose creator has not seen them.

        Bytes that an earlier attempt of the same entry left there are kept only with ``ours``. Returns the version that
        the caller may replace; None if there is no object. Raises StoreError.
        """
        try:
            theirs = with_digest(self._c.store, self._c.store.head(key))
        except ObjectNotFound:
            return None
        if ours or not self.is_ours(entry, theirs):
            self._keep(entry, key, theirs)
        return theirs.version

    def _keep(self, entry: Entry, key: str, theirs: ObjectInfo) -> None:
        """Copy another writer's bytes to a conflict name in the store, and record that name as an entry.

        The name contains the time of the write, so a second attempt uses the same name.
        """
        stamp = datetime.fromtimestamp(theirs.modified, UTC).strftime("%Y%m%dT%H%M%SZ")
        version = theirs.version.version_id or theirs.version.etag
        path = conflict_path(entry.path, stamp, version)
        target = self._c.key(entry.session, path)
        try:
            copied = duplicate(self._c, key, target, None, source_version=theirs.version, expect=None)
        except PreconditionFailed:
            copied = self._c.store.head(target)  # kept by an earlier attempt if the digest is equal
            if with_digest(self._c.store, copied).sha256 != theirs.sha256:
                raise
        conflict = Conflict(entry.path, path)
        kept = replace(attributes.to_stored(theirs), version=copied.version)
        self._c.journal.sessions.add_conflict(entry.session, conflict, kept, self._c.clock())
        self._c.events.tell(What.CONFLICT, entry.session, entry.path, kept_as=path)
        sentence = "the object holds what was not seen here: its bytes are kept"
        logger.warning(sentence, extra={"session": entry.session, "path": entry.path, "kept_as": path})

    def is_ours(self, entry: Entry, info: ObjectInfo) -> bool:
        """Whether the object at the entry's path holds no other writer's bytes.

        That is so for the version in the journal, if its bytes were on this host, and for the object of an attempt of
        this entry whose response was lost. An older put of ours that reappears was restored or copied by another
        writer.
        """
        known = entry.stored
        if known is not None and known.sha256 is not None and not entry.hidden and is_same(info, known):
            return True
        tried = self._c.journal.lives.tried(entry, info.key, info.metadata.get(attributes.ATTEMPT, ""))
        if tried is None or tried.number < entry.puts:
            return False
        if tried.number == entry.puts and (known is None or info.metadata.get("sha256") != known.sha256):
            return False  # else it is the last confirmed put, whose response had another ETag
        if entry.hidden and tried.generation <= entry.synced:
            return False  # the put stored the file that was evicted
        return info.metadata.get("sha256") == with_digest(self._c.store, info).sha256


def is_same(info: ObjectInfo, known: Stored) -> bool:
    """Whether the object is a known version. Compares ETags only: a listing has no version ids."""
    return info.version.etag == known.version.etag


def duplicate(
    context: Context,
    source: str,
    target: str,
    carried: Attributes | None,
    *,
    source_version: Version,
    expect: Version | None,
) -> ObjectInfo:
    """Copy an object; ``carried`` replaces its attributes. If the store refuses the copy, download the bytes and put
    them; tags that are not in ``carried`` are lost then. Raises StoreError."""
    store = context.store
    try:
        return store.copy(source, target, carried, source_version=source_version, expect=expect)
    except StorePermanent as error:
        logger.info("the store refused a copy: %s; downloading it instead", error.reason, extra={"uri": target})
    download = store.get(source, version=source_version)
    kept = Attributes(download.info.content_type or "application/octet-stream", download.info.metadata)
    with translated("copy", source), tempfile.TemporaryFile(dir=context.scratch) as out:
        for chunk in download.chunks:
            out.write(chunk)
        out.flush()
        with OpenFile(os.dup(out.fileno()), target) as file:
            body = take(file, writer=Writer.CLOSED).body
            return store.put(target, body, carried or kept, expect=expect)


def with_digest(store: ObjectStore, info: ObjectInfo) -> ObjectInfo:
    """Return ``info`` with its SHA-256. If the object carries none, its bytes are downloaded and hashed."""
    if info.sha256 is not None:
        return info
    digest = hashlib.sha256()
    for chunk in store.get(info.key, version=info.version).chunks:
        digest.update(chunk)
    return replace(info, sha256=digest.hexdigest())
