"""P24 and P16: agents who attack read, change and delete nothing of another session, and hold up nobody.

Some seconds of ``python -m tests.tenants``, which makes it long. Timings are printed, not asserted.
"""

from __future__ import annotations

import os
import random

import pytest

from tests.tenants.__main__ import play
from tests.tenants.attacks import ATTACKS, order
from tests.tenants.campaign import Campaign

SECONDS = 5.0
MOUNTS = os.path.exists("/dev/fuse")

pytestmark = [
    pytest.mark.s3,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="takes the place of other users"),
]


@pytest.mark.parametrize("place", ["mount", "root"] if MOUNTS else ["root"])
def test_p24_nothing_of_another_session_is_read_or_changed(place: str):
    result = play(SECONDS, random.SystemRandom().randrange(1 << 31), mounted=place == "mount")
    told = "\n".join(result.table())
    assert not result.wrong, told
    assert all(result.done[what] for what in ("writes", "reads")), told
    assert sum(bool(count.attacks) for count in result.counts.values()) >= len(ATTACKS) // 2, told


def test_a_session_that_is_open_to_all_is_noticed(monkeypatch: pytest.MonkeyPatch):
    """The campaign itself: where an attacker gets in, it says so."""
    prepared = Campaign._prepare

    def careless(campaign: Campaign) -> None:
        prepared(campaign)
        for place in ("vault", "vault/secret.txt"):
            (campaign.host.root / place).chmod(0o777)

    monkeypatch.setattr(Campaign, "_prepare", careless)
    result = play(6, 1, mounted=False)
    assert any("succeeded" in line for line in result.wrong), result.wrong
    assert any("vault" in line and " was " in line for line in result.wrong), result.wrong


def test_a_seed_is_an_order():
    assert order("7/1", list(ATTACKS), 3) == order("7/1", list(ATTACKS), 3)
    assert order("7/1", list(ATTACKS), 3) != order("8/1", list(ATTACKS), 3)
    assert set(order("7/1", list(ATTACKS), 1)) == set(ATTACKS)
