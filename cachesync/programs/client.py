"""The daemon's verbs for Python programs: ``Client``.

    from cachesync.programs.client import Client

    client = Client()
    client.artifacts.put("s1/report.md", b"# Done")
    assert client.flush("s1").stored

Standard library only, safe to share between threads; every call raises leaves of CacheSyncError.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from cachesync.api.client import ControlClient
from cachesync.model.address import parse, parse_whole
from cachesync.model.limits import DEFAULT_EXPIRES, DEFAULT_FLUSH_TIMEOUT
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
from cachesync.model.verbs import Artifacts, Reading

__all__ = ["Client", "ClientArtifacts"]


class Client:
    """Asks the daemon of a root. ``socket`` or ``root`` are found in the configuration like those of every command.

    Raises ConfigError when made; each verb DaemonUnavailable if no daemon serves. See ``cachesync.model.verbs`` for
    what else they raise.
    """

    def __init__(self, socket: str | Path | None = None, root: str | Path | None = None) -> None:
        from cachesync.config import load

        given = (("socket", socket), ("root", root))
        flags = {name: os.fspath(path) for name, path in given if path is not None}
        self._verbs = ControlClient.of(load(flags, os.environ, Path.cwd()))

    @property
    def artifacts(self) -> ClientArtifacts:
        """Artifacts by address: ``SESSION/PATH``, ``projects/P/PATH``, ``templates/PATH``."""
        return ClientArtifacts(self._verbs.artifacts)

    def flush(
        self,
        session: str,
        *,
        timeout: float = DEFAULT_FLUSH_TIMEOUT,
        confirm_deletes: bool = False,
        receipt: bool = False,
    ) -> FlushReport:
        """Store everything that changed before now; ``stored`` of the report says whether it is."""
        return self._verbs.flush(session, timeout=timeout, confirm_deletes=confirm_deletes, receipt=receipt)

    def status(self, session: str | None = None) -> StatusReport:
        """Every session, or the one named."""
        return self._verbs.status(session)

    def explain(self, session: str, path: str) -> Story:
        """What is known of one path."""
        return self._verbs.explain(session, path)

    def retry(self, session: str | None = None) -> int:
        """Make failed entries due now; returns how many."""
        return self._verbs.retry(session)

    def sessions(self) -> list[str]:
        """The names of the sessions, sorted."""
        return self._verbs.sessions()

    def new(
        self,
        session: str | None = None,
        *,
        project: str | None = None,
        workspace: str | None = None,
        templates: Sequence[str] = (),
    ) -> str:
        """Create a session; returns its name."""
        return self._verbs.lifecycle.new(session, project=project, workspace=workspace, templates=templates)

    def open(
        self,
        session: str,
        *,
        lazy: bool = False,
        into: str | None = None,
        timeout: float | None = None,
        progress: OnProgress = no_progress,
    ) -> OpenReport:
        """Bring a session here from the store, in ``timeout`` seconds as far as that goes."""
        return self._verbs.lifecycle.open(session, lazy=lazy, into=into, timeout=timeout, progress=progress)

    def close(
        self,
        session: str,
        *,
        keep: bool = False,
        timeout: float = DEFAULT_FLUSH_TIMEOUT,
        confirm_deletes: bool = False,
        force: bool = False,
    ) -> CloseReport:
        """Flush, mark the manifest closed, and drop the local bytes unless ``keep``. ``force`` as in ``evict``."""
        return self._verbs.lifecycle.close(
            session, keep=keep, timeout=timeout, confirm_deletes=confirm_deletes, force=force
        )

    def evict(self, session: str, *, force: bool = False) -> EvictReport:
        """Drop the local bytes of stored files. With ``force``, a file is evicted even if the kernel cannot tell
        whether a program has it open for writing."""
        return self._verbs.lifecycle.evict(session, force=force)

    def verify(self, session: str, *, repair: bool = False, progress: OnProgress = no_progress) -> VerifyReport:
        """Read every object of a session from the store and compare. ``repair`` stores differing local files again."""
        return self._verbs.lifecycle.verify(session, repair=repair, progress=progress)


class ClientArtifacts:
    """``verbs.Artifacts`` with addresses as text; UsageError for one that is none."""

    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts

    def list(self, address: str = "", *, shallow: bool = False) -> Iterator[Artifact]:
        """Everything under an address, or (``shallow``) what lies directly in it; of "" the sessions there are."""
        return self._artifacts.list(parse_whole(address), shallow=shallow)

    def read(self, address: str, *, version_id: str | None = None) -> Reading:
        """Open one artifact for reading: ``b"".join(reading.chunks())``."""
        return self._artifacts.read(parse(address), version_id=version_id)

    def put(
        self,
        address: str,
        source: BinaryIO | bytes,
        *,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        overwrite: bool = True,
    ) -> Artifact:
        """Store bytes, or what a binary file holds; returns when the store has it. Without ``overwrite`` only where
        there is nothing yet, else ArtifactExists."""
        body = io.BytesIO(source) if isinstance(source, bytes) else source
        return self._artifacts.put(
            parse(address), body, content_type=content_type, metadata=metadata, overwrite=overwrite
        )

    def remove(self, address: str) -> None:
        """Delete one artifact, here and in the store."""
        self._artifacts.remove(parse(address))

    def url(self, address: str, *, expires: float = DEFAULT_EXPIRES, version_id: str | None = None) -> str:
        """A link that anybody can read the artifact by, for ``expires`` seconds."""
        return self._artifacts.url(parse(address), expires=expires, version_id=version_id)

    def history(self, address: str) -> Sequence[PastVersion]:
        """Every version there is of one artifact, newest first."""
        return self._artifacts.history(parse(address))

    def restore(self, address: str, *, version_id: str | None = None) -> Artifact:
        """Make a past version the newest again: the one named, or the last one before the newest."""
        return self._artifacts.restore(parse(address), version_id=version_id)
