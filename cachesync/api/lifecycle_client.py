"""A session's life, asked of the daemon over its control socket (verbs.Lifecycle)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from cachesync.api import wire
from cachesync.api.http_client import STORE_TIMEOUT, Asker, Options, quoted, with_options
from cachesync.model.errors import DaemonUnavailable
from cachesync.model.outcomes import CloseReport, EvictReport, OnProgress, OpenReport, VerifyReport, no_progress

T = TypeVar("T")


class LifecycleClient:
    """Each verb is one request; open and verify tell how far they are."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker

    def new(
        self,
        session: str | None = None,
        *,
        project: str | None = None,
        workspace: str | None = None,
        templates: Sequence[str] = (),
    ) -> str:
        """See Lifecycle."""
        asked: list[tuple[str, object]] = [("session", session), ("project", project), ("workspace", workspace)]
        target = with_options("/v1/sessions", [*asked, *(("template", template) for template in templates)])
        return self._asker.ask("POST", target, lambda told: str(told["session"]), STORE_TIMEOUT)

    def open(
        self,
        session: str,
        *,
        lazy: bool = False,
        into: str | None = None,
        timeout: float | None = None,
        progress: OnProgress = no_progress,
    ) -> OpenReport:
        """See Lifecycle. It goes on in the daemon when this client goes away."""
        place = None if into is None else os.path.abspath(into)
        limit = None if timeout is None else repr(float(timeout))
        target = _target(session, "open", [("lazy", int(lazy)), ("into", place), ("timeout", limit)])
        return self._watch(target, progress, wire.to_open_report)

    def close(
        self,
        session: str,
        *,
        keep: bool = False,
        timeout: float,
        confirm_deletes: bool = False,
        force: bool = False,
    ) -> CloseReport:
        """See Lifecycle."""
        asked: list[tuple[str, object]] = [("keep", int(keep)), ("timeout", repr(float(timeout)))]
        asked += [("confirm_deletes", int(confirm_deletes)), *_forced(force)]
        target = _target(session, "close", asked)
        return self._asker.ask("POST", target, wire.to_close_report, timeout + STORE_TIMEOUT)

    def evict(self, session: str, *, force: bool = False) -> EvictReport:
        """See Lifecycle."""
        return self._asker.ask("POST", _target(session, "evict", _forced(force)), wire.to_evict_report, STORE_TIMEOUT)

    def verify(self, session: str, *, repair: bool = False, progress: OnProgress = no_progress) -> VerifyReport:
        """See Lifecycle."""
        asked = [("repair", 1)] if repair else []
        return self._watch(_target(session, "verify", asked), progress, wire.to_verify_report)

    def _watch(self, target: str, progress: OnProgress, build: Callable[[Mapping[str, Any]], T]) -> T:
        for told in self._asker.lines("POST", target):
            if "report" in told:
                return self._asker.built(build, told["report"])
            progress(self._asker.built(wire.to_progress, told.get("progress")))
        raise DaemonUnavailable("ask the daemon to", target, "it said neither a report nor an error")


def _forced(force: bool) -> list[tuple[str, object]]:  # noqa: FBT001 -- an option of the request
    """Return the option only if it is set, because a daemon of version 0.1.0 refuses it."""
    return [("force", 1)] if force else []


def _target(session: str, verb: str, options: Options = ()) -> str:
    return with_options(f"/v1/sessions/{quoted(session)}/{verb}", options)
