"""The verbs: what a person, a program or the control socket may ask of cachesync. Pure.

Two things implement them: the service, in the process that owns the root, and the control client, which asks that
process. Whoever calls them cannot tell which one it has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, Protocol, Self

from cachesync.model.address import Address
from cachesync.model.errors import UsageError
from cachesync.model.limits import DEFAULT_EXPIRES, MAX_EXPIRES, MIN_EXPIRES
from cachesync.model.outcomes import (
    Artifact,
    CloseReport,
    EvictReport,
    OnProgress,
    OpenReport,
    PastVersion,
    VerifyReport,
    no_progress,
)
from cachesync.model.reports import FlushReport, StatusReport, Story
from cachesync.model.values import Skipped


def check_expires(seconds: float) -> float:
    """How long a link is to live. Raises UsageError for what no link can."""
    if not MIN_EXPIRES <= seconds <= MAX_EXPIRES:
        allowed = f"allowed: {MIN_EXPIRES:.0f} to {MAX_EXPIRES:.0f} seconds"
        raise UsageError("make a link for", f"{seconds:g} s", "no link can last that long or short", allowed)
    return seconds


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

    def list(self, address: Address, *, shallow: bool = False) -> Iterator[Artifact]:
        """Everything under an address, in path order; of "" the sessions there are, as directories. ``shallow`` is one
        level: what lies deeper is one directory each, whose ``key`` is set if files are in it.

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
        overwrite: bool = True,
    ) -> Artifact:
        """Store what ``source`` holds, to its end, under an address; returns when the store has it.

        ``metadata`` are the seed's artifact metadata (artifacttype, version...). A file of a session whose directory
        stands here is written there too. Raises Unstorable, ArtifactExists (not to ``overwrite``), PreconditionFailed,
        StoreError.
        """
        ...

    def remove(self, address: Address) -> None:
        """Delete one artifact, here and in the store. Raises ObjectNotFound, StoreError."""
        ...

    def url(self, address: Address, *, expires: float = DEFAULT_EXPIRES, version_id: str | None = None) -> str:
        """A link that anybody can read the artifact by, for ``expires`` seconds (``check_expires``).

        Raises ObjectNotFound, UsageError.
        """
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
        self,
        session: str,
        *,
        lazy: bool = False,
        into: str | None = None,
        timeout: float | None = None,
        progress: OnProgress = no_progress,
    ) -> OpenReport:
        """Bring a session here from the store. ``lazy`` only learns its entries; ``into`` is another directory, which
        is not watched. A daemon writes there for its own user only. After ``timeout`` seconds what is not here yet is
        pending; open again goes on.

        Raises NoSuchSession, UsageError, StoreError.
        """
        ...

    def close(
        self,
        session: str,
        *,
        keep: bool = False,
        timeout: float,
        confirm_deletes: bool = False,
        force: bool = False,
    ) -> CloseReport:
        """Flush, mark the manifest closed, and drop the local bytes unless ``keep``. ``force`` as in ``evict``. Raises
        NoSuchSession."""
        ...

    def evict(self, session: str, *, force: bool = False) -> EvictReport:
        """Drop the local bytes of stored files. With ``force``, a file is evicted even if the kernel cannot tell
        whether a program has it open for writing. Raises NoSuchSession."""
        ...

    def verify(self, session: str, *, repair: bool = False, progress: OnProgress = no_progress) -> VerifyReport:
        """Read every object of a session from the store and compare. ``repair`` stores differing files again if their
        local bytes are the stored ones, then compares once more. Raises NoSuchSession, StoreError."""
        ...


Noticed = Mapping[str, Mapping[str, int]]
"""Hints of paths, by session; the numbers are ``watch.hints.Hint``s."""


class OnDemand(Protocol):
    """What a mount in front of the root asks. Blocking, safe to call from many threads.

    ``path`` is a path in its session; a directory's ends in "/", and "" is the session's own. What is only in the store
    is an evicted entry of the journal.
    """

    def bring(self, session: str, path: str) -> None:
        """Let an evicted entry stand in the root, whole, with the directories above it; however many ask for one file,
        it is fetched once. What stands there already is left alone.

        Raises ObjectNotFound, NoSuchSession, DiskFull, FileUnwritable, StoreError.
        """
        ...

    def make_empty(self, session: str, path: str) -> None:
        """Let an empty file with its mode stand in the place of an evicted one, which it replaces, unfetched."""
        ...

    def foresee(self, session: str, path: str) -> None:
        """An evicted file is about to be replaced by whatever file is put in its place next: that is no conflict."""
        ...

    def remove(self, session: str, path: str) -> None:
        """Remove an evicted entry: a file as if it had been deleted here, a link, or a directory that nothing is in."""
        ...

    def move(self, session: str, path: str, to_session: str, to_path: str) -> None:
        """Rename an evicted file, or all evicted entries below a directory; the bytes are copied inside the store.

        Raises ObjectNotFound, StoreError, PreconditionFailed.
        """
        ...

    def store(self, session: str, path: str, *, timeout: float) -> None:
        """Wait until the store has what the file at ``path`` holds now. Raises StoreError, Unstorable."""
        ...

    def notice(self, hints: Noticed) -> None:
        """Look at paths."""
        ...

    def changes(self) -> Iterator[Mapping[str, Sequence[str]]]:
        """The paths that this process changes in the root by itself, by session, as it does; every few seconds nothing.

        The session "" means that anything may have changed.
        """
        ...

    def sessions(self) -> list[str]:
        """Every session, here or in the store. If the store gives no answer at once, those that are known."""
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

    @property
    def ondemand(self) -> OnDemand:
        """The verbs of a mount."""
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

    def strays(self) -> Sequence[Skipped]:
        """Return the directories in the root that are not sessions, and why. Nothing in them is stored. Directories
        that the root's ``.cachesyncignore`` lists are left out."""
        ...
