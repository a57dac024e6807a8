"""Credentials whose end comes near: seen before it is there, and said once.

Most of what the AWS chain finds renews itself whenever it is used in its last minutes. An idle daemon uses nothing, so
they are asked here to do as they would; what does not become younger then is not being renewed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cachesync.model.errors import CacheSyncError

if TYPE_CHECKING:
    from cachesync.store.s3.credentials import Found

logger = logging.getLogger(__name__)

LOOK = 30.0
"""Seconds between two looks."""

SOON = 900.0
"""Seconds before their end: botocore begins to renew then."""

_LATE = {"iam-role": 240.0, "container-role": 240.0}
"""Those that others renew for us, and no earlier than five minutes before their end, have so many seconds."""


class Expiry:
    """Lets the credentials of ``ask`` renew themselves first if it is called with true (see
    ``daemon.store_factory.credentials_of``); None: there is nothing to look after. ``clock`` gives seconds since the
    epoch."""

    def __init__(
        self, ask: Callable[[bool], Found | None] | None, clock: Callable[[], float], *, look: float = LOOK
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._look_every = look
        self._stopping = threading.Event()
        self._found: Found | None = None
        self._trouble: CacheSyncError | None = None
        self._warned_of: float | None = None
        self._thread = threading.Thread(target=self._watch, name="expiry", daemon=True)

    def start(self) -> None:
        """Look now and then, in a thread of its own: the chain may ask a server that is slow."""
        if self._ask is not None:
            self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()

    def expire_at(self) -> float | None:
        """When the credentials expire, as last seen; None if they do not, or that is not told."""
        found = self._found
        return None if found is None else found.expires

    def notes(self) -> list[str]:
        """What an operator should see: nothing, or that the credentials end and nobody renews them."""
        found, trouble, now = self._found, self._trouble, self._clock()
        if found is None or found.expires is None or found.expires - now >= _LATE.get(found.method, SOON):
            return []
        until = datetime.fromtimestamp(found.expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        left = found.expires - now
        when = f"expire in {left / 60:.0f} min, at {until}" if left > 0 else f"expired at {until}"
        why = "they are not being renewed" if trouble is None else f"they cannot be renewed: {trouble.reason}"
        return [f"the store's credentials (from {found.method}) {when}, and {why}"]

    def look(self) -> None:
        """Ask the chain, and warn where that is called for. Blocks as long as the chain does."""
        if self._ask is None:
            return
        try:
            found, self._trouble = self._ask(False), None
            if found is not None and found.expires is not None and found.expires - self._clock() < SOON:
                self._found = found
                found = self._ask(True)
            self._found = found
        except CacheSyncError as error:
            self._trouble = error
        notes = self.notes()
        if notes and self._warned_of != self.expire_at():
            self._warned_of = self.expire_at()
            logger.warning("%s", notes[0])

    def _watch(self) -> None:
        while not self._stopping.is_set():
            try:
                self.look()
            except Exception:
                logger.exception("nobody looks after the credentials' end any more")
                return
            self._stopping.wait(self._look_every)
