"""The verbs for many calls at once: found by the first, let go by the last."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Protocol

from cachesync.config import Config
from cachesync.model.errors import UsageError
from cachesync.model.reports import FlushReport, StatusReport
from cachesync.model.verbs import Artifacts
from cachesync.programs.artifact_store import ArtifactStore


class AgentVerbs(Protocol):
    """Those of the verbs that the tools need."""

    @property
    def artifacts(self) -> Artifacts:
        """See Verbs."""
        ...

    def flush(self, session: str, *, timeout: float) -> FlushReport:
        """See Verbs."""
        ...

    def status(self, session: str | None = None) -> StatusReport:
        """See Verbs."""
        ...


Connect = Callable[[], AbstractContextManager[AgentVerbs]]


class Shared:
    """Without a daemon only one service can own the root, so calls at the same time share it; between calls nobody
    does, so that a daemon, or another agent's server, can have it."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._users = 0
        self._stack = ExitStack()
        self._verbs: AgentVerbs | None = None

    @contextlib.contextmanager
    def use(self) -> Iterator[AgentVerbs]:
        """The verbs, for the time of the block. Raises CacheSyncError if they cannot be had."""
        with self._lock:
            if self._verbs is None:
                self._verbs = self._stack.enter_context(self._connect())
            verbs = self._verbs
            self._users += 1
        try:
            yield verbs
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._verbs = None
                    self._stack.close()


class StoreOnly:
    """The verbs where this machine has no root: artifacts go to the store and come from there. What a root would hold,
    nobody can tell: it may be a volume that is not mounted."""

    def __init__(self, config: Config, store: ArtifactStore) -> None:
        self._root = str(config.root)
        self.artifacts: Artifacts = store.artifacts

    def flush(self, session: str, *, timeout: float) -> FlushReport:
        """Raises UsageError: there is nothing to flush, and nothing to say that all is stored by."""
        del timeout
        raise self._no_root("flush", session)

    def status(self, session: str | None = None) -> StatusReport:
        """Raises UsageError, as ``flush``."""
        raise self._no_root("tell the status of", session or "")

    def _no_root(self, operation: str, session: str) -> UsageError:
        cause = f"this machine has no sessions directory at {self._root!r}"
        hint = (
            "what write_artifact wrote is stored; if programs wrote files there, tell the user that the directory is"
            " missing: CACHESYNC_ROOT names it"
        )
        return UsageError(operation, session, cause, hint)
