"""How often a source may send a wrong token. Pure: the time, in seconds, comes with each call."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from typing import Any

ALLOWED = 20
"""Wrong tokens in a row."""

REGAINED = 1.0
"""Seconds after which there may be one more."""

TRUSTED = 600.0
"""Seconds after the right token in which a source is not limited: a stranger behind the same address cannot lock its
user out then."""

SOURCES = 4096
"""Sources that are remembered; the oldest are forgotten."""

_NETWORK = 64
"""Bits of an IPv6 address that are a source: the others anybody in that network can choose."""


class Guesses:
    """The wrong tokens of each source, which is an address, or a network of IPv6.

    This machine itself is not limited: whoever shares it with the user could lock the user out, and no number of
    guesses finds a token of the least length.
    """

    def __init__(self) -> None:
        self._wrong: dict[object, tuple[float, float]] = {}  # how many are not regained yet, and when that was
        self._right: dict[object, float] = {}

    def may(self, address: str, now: float) -> bool:
        """Whether a token from ``address`` is looked at."""
        source = _source(address)
        if source is None or now - self._right.get(source, float("-inf")) < TRUSTED:
            return True
        return self._left(source, now) + 1 <= ALLOWED

    def wrong(self, address: str, now: float) -> None:
        """A token from ``address`` was wrong."""
        if (source := _source(address)) is not None:
            count = self._left(source, now) + 1
            self._wrong.pop(source, None)
            self._wrong[source] = count, now
            _bound(self._wrong)

    def right(self, address: str, now: float) -> None:
        """A token from ``address`` was right."""
        if (source := _source(address)) is not None:
            self._right.pop(source, None)
            self._right[source] = now
            _bound(self._right)

    def _left(self, source: object, now: float) -> float:
        count, since = self._wrong.get(source, (0.0, now))
        return max(0.0, count - (now - since) / REGAINED)


def _bound(known: dict[object, Any]) -> None:
    if len(known) > SOURCES:
        del known[next(iter(known))]


def _source(address: str) -> object | None:
    """What an address counts as; None for this machine, and for what is no address."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    if found.is_loopback:
        return None
    return int(found) >> _NETWORK if isinstance(found, IPv6Address) else found
