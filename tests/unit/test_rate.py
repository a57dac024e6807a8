"""The rate that status shows."""

from __future__ import annotations

import pytest

from cachesync.api.service import Rate


def sampled(*samples: tuple[float, int]) -> Rate:
    rate = Rate()
    for at, count in samples:
        rate.sample(at, count)
    return rate


def test_there_is_no_rate_before_some_seconds_of_sending():
    assert sampled((100, 0), (101, 5_000_000), (102, 9_000_000)).now() is None
    assert sampled((100, 0), (101, 1000), (102, 2000), (103, 3000)).now() == 1000


def test_the_time_before_it_began_to_send_does_not_count():
    idle = [(float(second), 700) for second in range(8)]
    assert sampled(*idle, (8, 1700)).now() is None
    assert sampled(*idle, (8, 1700), (9, 2700), (10, 3700)).now() == 1000


def test_it_is_that_of_the_last_seconds():
    fast = [(float(second), second * 1_000_000) for second in range(5)]
    slow = [(5.0 + second, 4_000_000 + second * 10) for second in range(20)]
    assert sampled(*fast, *slow).now() == pytest.approx(10)


def test_who_sends_nothing_has_a_rate_of_nothing():
    assert Rate().now() == 0
    assert sampled((0, 7), (100, 7)).now() == 0
