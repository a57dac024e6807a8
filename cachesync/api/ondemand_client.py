"""What a mount asks, asked of the daemon over its control socket (verbs.OnDemand)."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence

from cachesync.api.http_client import GRACE, STORE_TIMEOUT, Asker, quoted, with_options


class OnDemandClient:
    """Each verb is one request; names are segments of their own, whatever bytes they hold."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker

    def bring(self, session: str, path: str) -> None:
        """See OnDemand."""
        self._do("bring", session, path)

    def make_empty(self, session: str, path: str) -> None:
        """See OnDemand."""
        self._do("empty", session, path)

    def foresee(self, session: str, path: str) -> None:
        """See OnDemand."""
        self._do("foresee", session, path)

    def remove(self, session: str, path: str) -> None:
        """See OnDemand."""
        self._do("remove", session, path)

    def move(self, session: str, path: str, to_session: str, to_path: str) -> None:
        """See OnDemand."""
        self._do("move", session, path, to_session, to_path)

    def store(self, session: str, path: str, *, timeout: float) -> None:
        """See OnDemand."""
        target = with_options(_target("store", session, path), [("timeout", repr(float(timeout)))])
        self._asker.ask("POST", target, _done, timeout + GRACE)

    def notice(self, hints: Mapping[str, Mapping[str, int]]) -> None:
        """See OnDemand."""
        body = json.dumps(hints).encode()
        self._asker.send("/v1/ondemand/notices", io.BytesIO(body), {"Content-Type": "application/json"}, _done)

    def changes(self) -> Iterator[Mapping[str, Sequence[str]]]:
        """See OnDemand. It ends when the daemon does."""
        for told in self._asker.lines("GET", "/v1/ondemand/changes"):
            yield {str(session): [str(path) for path in paths] for session, paths in told.items()}

    def sessions(self) -> list[str]:
        """See OnDemand."""
        return self._asker.ask("GET", "/v1/ondemand/sessions", lambda told: [str(name) for name in told["sessions"]])

    def _do(self, verb: str, *names: str) -> None:
        self._asker.ask("POST", _target(verb, *names), _done, STORE_TIMEOUT)


def _target(verb: str, *names: str) -> str:
    return "/".join([f"/v1/ondemand/{verb}", *map(quoted, names)])


def _done(told: Mapping[str, object]) -> None:
    if told["done"] is not True:
        raise ValueError(told)
