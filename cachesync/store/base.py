"""What a store is: eight verbs. Adapters classify errors (cachesync.model.errors); they never retry and never log.

Every write says what it expects to replace: a ``Version``, or ``None`` for "there is nothing yet". There is no way to
ask for an unconditional write.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

from cachesync.model.record import record
from cachesync.model.values import Attributes, Multipart, ObjectInfo, PastObject, Tail, Version


class Body(Protocol):
    """Bytes to store, readable again at any offset.

    ``sha256`` is of the whole; ``part_sha256`` has one digest for each ``part_size`` bytes and is empty for a body that
    goes up in one piece. ``read`` returns exactly ``length`` bytes or raises FileChanging. Each part is read at least
    once: a body may need that to know that all of its bytes were there at one moment.
    """

    @property
    def size(self) -> int: ...
    @property
    def sha256(self) -> str: ...
    @property
    def part_size(self) -> int: ...
    @property
    def part_sha256(self) -> Sequence[str]: ...
    def read(self, offset: int, length: int) -> bytes: ...


class Resume(Protocol):
    """Where a multipart upload remembers how far it is. Each call is durable when it returns."""

    @property
    def session(self) -> str:
        """Whose share of the parts in flight the upload takes."""
        ...

    def load(self) -> Multipart | None:
        """The upload under way for this path, if there is one."""

    def started(self, upload: Multipart) -> None: ...
    def part(self, number: int, etag: str) -> None: ...
    def finished(self) -> None: ...


@record(frozen=True, slots=True)
class Traits:
    """The properties of a store, for status and doctor. ``conditional`` is None before the probe, and if the store
    denied the probe; ``denied`` then holds the store's error and the fix."""

    url: str
    conditional: bool | None
    versioned: bool | None
    denied: str = ""


@record(frozen=True, slots=True)
class Download:
    """One version's bytes as they arrive, in pieces of at most 1 MiB.

    Iterating raises IntegrityError at the end if a whole object's SHA-256 is known and differs, StoreTransient if the
    bytes stop short. ``info.size`` is the whole object's size also when a range was asked for.
    """

    info: ObjectInfo
    chunks: Iterator[bytes]


def folder_info(key: str) -> ObjectInfo:
    """A folder, as a shallow listing shows it; ``key`` ends in "/"."""
    return ObjectInfo(key, 0, Version(""), 0.0)


class Archive(Protocol):
    """What a store with versions and links can do besides. Raises like ObjectStore."""

    def history(self, prefix: str) -> Iterator[PastObject]:
        """Every version of every object under ``prefix``, in key order, the newest of a key first."""

    def read(self, key: str, version_id: str) -> Download:
        """Read a past version; ObjectNotFound if there is none, or if it is a deletion."""

    def revive(self, key: str, version_id: str, *, expect: Version | None, without: Collection[str] = ()) -> ObjectInfo:
        """Copy a past version to the newest, with its attributes except the metadata named in ``without``."""

    def url(self, key: str, *, expires: float, version_id: str | None = None) -> str:
        """A link by which anybody can read the object for ``expires`` seconds. No request: it may lead nowhere."""


class ObjectStore(Protocol):
    """Objects by key. Safe to call from many threads at once.

    Every verb raises a StoreError: ObjectNotFound only when the store answered so, NoSuchBucket, PreconditionFailed,
    StoreTransient and its kinds, StoreCredentials, StorePermanent and its kinds.
    """

    @property
    def traits(self) -> Traits: ...

    @property
    def largest(self) -> int | None:
        """The size in bytes of the largest object that it takes, if that is known. Asks nothing."""

    @property
    def silent_for(self) -> float | None:
        """Seconds that the store has left unanswered what it was asked; None if it answers. Asks nothing itself."""

    @property
    def archive(self) -> Archive | None:
        """What it can do with past versions and links; None for a store that has neither."""

    def head(self, key: str) -> ObjectInfo:
        """Describe the newest version."""

    def get(self, key: str, *, version: Version | None = None, start: int = 0, length: int | None = None) -> Download:
        """Read one version: PreconditionFailed if ``version`` is given and is no longer the newest."""

    def put(
        self,
        key: str,
        body: Body,
        attributes: Attributes,
        *,
        expect: Version | None,
        resume: Resume | None = None,
        tail: Tail | None = None,
    ) -> ObjectInfo:
        """Store ``body``, checked by SHA-256 on the way; in parts if it has them, going on from ``resume``.

        With a ``tail``, ``expect`` holds what comes before it: a store that can put the two together reads only that.
        """

    def copy(
        self,
        source: str,
        target: str,
        attributes: Attributes | None = None,
        *,
        source_version: Version,
        expect: Version | None,
    ) -> ObjectInfo:
        """Copy inside the store; ``attributes`` replace the source's, None keeps them.

        PreconditionFailed if the source is not ``source_version``, or the target is not what was expected or is gone.
        ObjectNotFound if there is no source.
        StorePermanent if the store cannot copy, or not this object (it is archived); the caller may send the bytes.
        """

    def delete(self, key: str, *, expect: Version) -> None:
        """Delete the object if it is still ``expect``. An object that is not there is deleted."""

    def list(self, prefix: str, *, shallow: bool = False) -> Iterator[ObjectInfo]:
        """Every object under ``prefix`` in key order, as a stream.

        ``shallow`` stops at the next "/": what lies deeper is one item each folder, whose key ends in "/" (SeaweedFS
        shows one for a while after it was emptied).
        """

    def discard(self, upload: Multipart) -> None:
        """Give up a multipart upload and free its parts. One that is gone already is fine."""

    def close(self) -> None:
        """Let connections go."""
