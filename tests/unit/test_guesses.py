"""How many tokens may be tried, and by whom."""

from __future__ import annotations

import pytest

from cachesync.api import guesses
from cachesync.api.guard import Asked, Guard
from cachesync.api.guesses import ALLOWED, REGAINED, SOURCES, TRUSTED, Guesses

STRANGER = "203.0.113.7"


def tried(limits: Guesses, address: str, now: float, count: int = 1000) -> int:
    """How many wrong tokens are looked at."""
    looked = 0
    for _ in range(count):
        if limits.may(address, now):
            looked += 1
            limits.wrong(address, now)
    return looked


def test_after_some_wrong_ones_there_is_one_a_second():
    limits = Guesses()
    assert tried(limits, STRANGER, 0.0) == ALLOWED
    assert sum(tried(limits, STRANGER, second * REGAINED, 50) for second in range(1, 61)) == 60
    assert tried(limits, STRANGER, 10_000.0) == ALLOWED


def test_others_are_not_held_up():
    limits = Guesses()
    tried(limits, STRANGER, 0.0)
    assert limits.may("203.0.113.8", 0.0)
    assert not limits.may(f"::ffff:{STRANGER}", 0.0), "the same address"


def test_a_network_of_ipv6_is_one_source():
    limits = Guesses()
    assert sum(tried(limits, f"2001:db8::{number:x}", 0.0, 1) for number in range(1, 200)) == ALLOWED
    assert limits.may("2001:db8:0:1::1", 0.0)
    assert not limits.may("2001:db8::1%eth0", 0.0)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", ""])
def test_this_machine_cannot_be_locked_out(address):
    limits = Guesses()
    assert tried(limits, address, 0.0, 100) == 100


def test_nor_can_who_had_the_right_one():
    limits = Guesses()
    limits.right(STRANGER, 0.0)
    assert tried(limits, STRANGER, TRUSTED - 1.0, 100) == 100
    assert not limits.may(STRANGER, TRUSTED + 1.0)


def test_memory_is_bounded():
    limits = Guesses()
    for number in range(SOURCES + 500):
        address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        limits.wrong(address, 0.0)
        limits.right(address, 0.0)
    assert len(limits._wrong) == len(limits._right) == SOURCES


def test_the_guard_keeps_to_it(monkeypatch):
    monkeypatch.setattr(guesses, "REGAINED", 1e9)
    guard = Guard("right-0123456789", (), anywhere=True, shown=("/healthz",))

    def asked(token: str | None, path: str = "/v1/status") -> int:
        headers = {"Host": ["10.0.0.1"]} | ({} if token is None else {"Authorization": [f"Bearer {token}"]})
        refused = guard.refusal(Asked("GET", path, lambda name: headers.get(name, []), STRANGER))
        return 200 if refused is None else refused[1]

    assert {asked(None) for _ in range(100)} == {401}, "who sends none does not guess"
    assert asked("right-0123456789") == 200
    guard._guesses._right.clear()
    assert [asked(f"wrong-{number:010}") for number in range(ALLOWED + 2)] == [401] * ALLOWED + [429] * 2
    assert asked("right-0123456789") == 429, "not even looked at"
    assert asked(None) == 401
    assert asked(None, "/healthz") == 200
