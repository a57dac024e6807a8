"""Other writers of our objects (P9): what is ours after a lost reply is ours, another's bytes are kept beside it."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from datetime import UTC, datetime

from cachesync import attributes
from cachesync.context import Context
from cachesync.errors import ObjectNotFound, PreconditionFailed
from cachesync.events import What
from cachesync.keys import conflict_path
from cachesync.model import Attributes, Conflict, Entry, ObjectInfo, Version
from cachesync.store.base import Body, ObjectStore, Resume

logger = logging.getLogger(__name__)

_ROUNDS = 5


class Rivals:
    """Settles what to do where the object is not the version that the journal knows."""

    def __init__(self, context: Context) -> None:
        self._c = context

    def contend(
        self, entry: Entry, key: str, body: Body, carried: Attributes, resume: Resume, *, reverted: bool
    ) -> ObjectInfo:
        """Store ``body`` although the object is not what we last knew; another's bytes are kept first, and ours if the
        file may be ``reverted``: an older life's put that the journal lost with the power.

        Raises PreconditionFailed if others write faster than we do, and StoreError.
        """
        for _ in range(_ROUNDS):
            expect: Version | None = None
            try:
                theirs = with_digest(self._c.store, self._c.store.head(key))
            except ObjectNotFound:
                theirs = None
            if theirs is not None:
                if theirs.sha256 == body.sha256:
                    return theirs
                if reverted or not self.is_ours(theirs):
                    self._keep(entry, key, theirs)
                expect = theirs.version
            try:
                return self._c.store.put(key, body, carried, expect=expect, resume=resume)
            except PreconditionFailed as error:
                last = error
        raise last

    def keep_hidden(self, entry: Entry, key: str) -> Version | None:
        """A file or a link was made where only the store had bytes: keep those beside it, whoever wrote them. Returns
        the version that may be replaced then. Raises StoreError."""
        try:
            theirs = with_digest(self._c.store, self._c.store.head(key))
        except ObjectNotFound:
            return None
        self._keep(entry, key, theirs)
        return theirs.version

    def _keep(self, entry: Entry, key: str, theirs: ObjectInfo) -> None:
        """Keep another writer's bytes beside the file, in the store, as an entry of the session.

        Their name tells when they were written, so a second try gives them the same one.
        """
        stamp = datetime.fromtimestamp(theirs.modified, UTC).strftime("%Y%m%dT%H%M%SZ")
        version = theirs.version.version_id or theirs.version.etag
        path = conflict_path(entry.path, stamp, version)
        target = self._c.key(entry.session, path)
        try:
            copied = self._c.store.copy(key, target, None, source_version=theirs.version, expect=None)
        except PreconditionFailed:
            copied = self._c.store.head(target)  # a try before this one kept them, if the digest says so
            if with_digest(self._c.store, copied).sha256 != theirs.sha256:
                raise
        conflict = Conflict(entry.path, path)
        kept = replace(attributes.to_stored(theirs), version=copied.version)
        self._c.journal.sessions.add_conflict(entry.session, conflict, kept, self._c.clock())
        self._c.events.tell(What.CONFLICT, entry.session, entry.path, kept_as=path)
        sentence = "the object holds what was not seen here: its bytes are kept"
        logger.warning(sentence, extra={"session": entry.session, "path": entry.path, "kept_as": path})

    def is_ours(self, info: ObjectInfo) -> bool:
        """Whether this journal stored the object: its metadata name us, and are of these very bytes."""
        ours = info.metadata.get("writer") == self._c.journal.id
        return ours and info.metadata.get("sha256") == with_digest(self._c.store, info).sha256


def with_digest(store: ObjectStore, info: ObjectInfo) -> ObjectInfo:
    """An object with its SHA-256. One that other tools stored may carry none: then its bytes are read."""
    if info.sha256 is not None:
        return info
    digest = hashlib.sha256()
    for chunk in store.get(info.key, version=info.version).chunks:
        digest.update(chunk)
    return replace(info, sha256=digest.hexdigest())
