"""The verbs: what a person, a program or the control socket may ask of cachesync. Pure.

Two things implement them: the service, in the process that owns the root, and the control client, which asks that
process. Whoever calls them cannot tell which one it has.
"""

from __future__ import annotations

from typing import Protocol

from cachesync.reports import FlushReport, StatusReport, Story


class Verbs(Protocol):
    """Blocking and safe to call from many threads. Each raises leaves of CacheSyncError and nothing else."""

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
