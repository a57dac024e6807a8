"""The verbs, asked of the daemon over its control socket. Standard library only: every command pays for this import."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Self

from cachesync.api import wire
from cachesync.api.http_client import GRACE, Asker, quoted, with_options
from cachesync.api.socket_address import owners as owners_of
from cachesync.model.reports import FlushReport, StatusReport, Story
from cachesync.model.values import Skipped

if TYPE_CHECKING:
    from cachesync.api.artifact_client import ArtifactClient
    from cachesync.api.lifecycle_client import LifecycleClient
    from cachesync.api.ondemand_client import OnDemandClient
    from cachesync.config import Config


class ControlClient:
    """Verbs over the socket at ``path``; safe to share between threads. ``kept``, ``owners`` and what it raises: see
    Asker."""

    def __init__(self, path: Path, *, kept: int = 0, owners: Collection[int] = ()) -> None:
        self._asker = Asker(path, kept=kept, owners=owners)

    @classmethod
    def of(cls, config: Config) -> Self:
        """The client of the daemon that serves a configuration's root. Raises ConfigError."""
        return cls(config.socket, owners=owners_of(config))

    def is_serving(self) -> bool:
        """Whether somebody listens. Raises DaemonUnavailable if that cannot be told (no permission, no reaction)."""
        return self._asker.is_serving()

    def break_off(self, thread: int) -> None:
        """See Asker."""
        self._asker.break_off(thread)

    @property
    def artifacts(self) -> ArtifactClient:
        """See Verbs."""
        from cachesync.api.artifact_client import ArtifactClient

        return ArtifactClient(self._asker)

    @property
    def lifecycle(self) -> LifecycleClient:
        """See Verbs."""
        from cachesync.api.lifecycle_client import LifecycleClient

        return LifecycleClient(self._asker)

    @property
    def ondemand(self) -> OnDemandClient:
        """See Verbs."""
        from cachesync.api.ondemand_client import OnDemandClient

        return OnDemandClient(self._asker)

    def flush(
        self, session: str, *, timeout: float, confirm_deletes: bool = False, receipt: bool = False
    ) -> FlushReport:
        """See Verbs. Waits GRACE longer than ``timeout`` for the answer, and no more."""
        asked = [
            ("timeout", repr(float(timeout))),
            ("confirm_deletes", int(confirm_deletes)),
            ("receipt", int(receipt)),
        ]
        target = with_options(f"/v1/sessions/{quoted(session)}/flush", asked)
        return self._asker.ask("POST", target, wire.to_flush_report, timeout + GRACE)

    def status(self, session: str | None = None) -> StatusReport:
        """See Verbs."""
        return self._asker.ask("GET", with_options("/v1/status", [("session", session)]), wire.to_status_report)

    def explain(self, session: str, path: str) -> Story:
        """See Verbs."""
        return self._asker.ask("GET", f"/v1/explain/{quoted(session)}/{quoted(path, '/')}", wire.to_story)

    def retry(self, session: str | None = None) -> int:
        """See Verbs."""
        target = with_options("/v1/retry", [("session", session)])
        return self._asker.ask("POST", target, lambda told: int(told["retried"]))

    def sessions(self) -> list[str]:
        """See Verbs."""
        return self._asker.ask("GET", "/v1/sessions", lambda told: [str(name) for name in told["sessions"]])

    def strays(self) -> list[Skipped]:
        """See Verbs."""
        return self._asker.ask("GET", "/v1/sessions", wire.to_strays)
