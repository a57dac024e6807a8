"""The verbs: what a person, a program or the control socket may ask of cachesync. Pure.

Two things implement them: the service, in the process that owns the root, and the control client, which asks that
process. Whoever calls them cannot tell which one it has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, Protocol, Self

from cachesync.address import Address
from cachesync.outcomes import (
    Artifact,
    CloseReport,
    EvictReport,
    OnProgress,
    OpenReport,
    PastVersion,
    VerifyReport,
    no_progress,
)
from cachesync.reports import FlushReport, StatusReport, Story


class Reading(Protocol):
    """One version of an artifact, open for reading; whole and verified, or an error (P11).

    ``source`` is where the bytes come from: local, cache or store. ``unverified`` says that the store could not be
    asked whether this is the newest version, as in an outage.
    """

    @property
    def artifact(self) -> Artifact: ...
    @property
    def source(self) -> str: ...
    @property
    def unverified(self) -> bool: ...

    def chunks(self, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The bytes from ``start``, in pieces of at most 4 MiB; a range may go past the end. May be called again.

        Raises IntegrityError, FileChanging, PreconditionFailed (it is another version now) and StoreError.
        """
        ...

    def close(self) -> None:
        """Let it go. Also a context manager."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...


class Artifacts(Protocol):
    """Artifacts by address, on sessions of any host. Blocking, safe to call from many threads."""

    def list(self, address: Address) -> Iterator[Artifact]:
        """Everything under an address, in path order; of "" the sessions there are, as directories.

        Raises NoSuchSession, ObjectNotFound (nothing is there), StoreError.
        """
        ...

    def read(self, address: Address, *, version_id: str | None = None) -> Reading:
        """Open one artifact: the newest version, or a past one. Raises ObjectNotFound, NoSuchSession, StoreError."""
        ...

    def put(
        self,
        address: Address,
        source: BinaryIO,
        *,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Artifact:
        """Store what ``source`` holds, to its end, under an address; returns when the store has it.

        ``metadata`` are the seed's artifact metadata (artifacttype, version...). A file of a session whose directory
        stands here is written there too. Raises Unstorable, PreconditionFailed, StoreError.
        """
        ...

    def remove(self, address: Address) -> None:
        """Delete one artifact, here and in the store. Raises ObjectNotFound, StoreError."""
        ...

    def url(self, address: Address, *, expires: float = 3600.0, version_id: str | None = None) -> str:
        """A link that anybody can read the artifact by, for ``expires`` seconds. Raises ObjectNotFound, UsageError."""
        ...

    def history(self, address: Address) -> Sequence[PastVersion]:
        """Every version there is of one artifact, newest first. Raises ObjectNotFound, StoreError."""
        ...

    def restore(self, address: Address, *, version_id: str | None = None) -> Artifact:
        """Make a past version the newest again: the one named, or the last one before the newest (or its deletion).

        Raises ObjectNotFound, UsageError (the store keeps no versions), StoreError.
        """
        ...


class Lifecycle(Protocol):
    """A session's life. Blocking, safe to call from many threads."""

    def new(
        self,
        session: str | None = None,
        *,
        project: str | None = None,
        workspace: str | None = None,
        templates: Sequence[str] = (),
    ) -> str:
        """Create a session as the seed's SessionService does; returns its name. Raises UsageError (there is one)."""
        ...

    def open(
        self, session: str, *, lazy: bool = False, into: str | None = None, progress: OnProgress = no_progress
    ) -> OpenReport:
        """Bring a session here from the store. ``lazy`` only learns its entries; ``into`` is another directory, which
        is not watched. Raises NoSuchSession, UsageError, StoreError."""
        ...

    def close(self, session: str, *, keep: bool = False, timeout: float, confirm_deletes: bool = False) -> CloseReport:
        """Flush, mark the manifest closed, and drop the local bytes unless ``keep``. Raises NoSuchSession."""
        ...

    def evict(self, session: str) -> EvictReport:
        """Drop the local bytes that the store has. Raises NoSuchSession."""
        ...

    def verify(self, session: str, *, progress: OnProgress = no_progress) -> VerifyReport:
        """Read every object of a session again from the store, and compare. Raises NoSuchSession, StoreError."""
        ...


class Verbs(Protocol):
    """Blocking and safe to call from many threads. Each raises leaves of CacheSyncError and nothing else."""

    @property
    def artifacts(self) -> Artifacts:
        """The verbs of artifacts."""
        ...

    @property
    def lifecycle(self) -> Lifecycle:
        """The verbs of a session's life."""
        ...

    def flush(
        self, session: str, *, timeout: float, confirm_deletes: bool = False, receipt: bool = False
    ) -> FlushReport:
        """Store everything that changed before now, wait at most ``timeout`` seconds, and say what is left.

        ``confirm_deletes`` lets through deletes that the delete guard holds; ``receipt`` asks for the proof of every
        file. Raises NoSuchSession, UsageError, RootHalted and StoreError; running out of time is an answer.
        """
        ...

    def status(self, session: str | None = None) -> StatusReport:
        """Every session, or the one named. Raises NoSuchSession."""
        ...

    def explain(self, session: str, path: str) -> Story:
        """What is known of one path; a directory's ends in "/". Raises NoSuchSession and ObjectNotFound."""
        ...

    def retry(self, session: str | None = None) -> int:
        """Make failed entries due now, of one session or of all; returns how many. Raises NoSuchSession."""
        ...

    def sessions(self) -> list[str]:
        """The names of the sessions, sorted."""
        ...
