"""What a store costs: the design note's example, and the arithmetic around it."""

from __future__ import annotations

from datetime import date

import pytest

from cachesync.model.values import PastObject, Version
from cachesync.ops.cost.estimate import MONTH, Class, Use, cost, counted, given, prices
from cachesync.ops.migrate import tally

STANDARD, INFREQUENT = prices().classes
NOW = 1_800_000_000.0
NOTE = given(sessions=1000, artifacts=10, size=50_000, writes=1, reads=5)
MIB = 2**20


def test_the_design_notes_example_comes_out():
    found = cost(NOTE, STANDARD)
    assert (NOTE.objects, NOTE.bytes, NOTE.puts, NOTE.gets) == (10_000, 500_000_000, 10_000, 50_000)
    assert [f"{part:.2f}" for part in (found.storage, found.puts, found.gets, found.total)] == [
        "0.01", "0.05", "0.02", "0.08",
    ]  # fmt: skip


def test_small_objects_are_dearer_in_infrequent_access():
    found = cost(NOTE, INFREQUENT)
    assert found.storage == pytest.approx(10_000 * 131_072 * 0.0125 / 1e9)
    assert found.total > cost(NOTE, STANDARD).total


def test_large_objects_that_nobody_reads_are_cheaper_there():
    use = given(sessions=10, artifacts=1, size=10**9, writes=1, reads=0)
    assert cost(use, INFREQUENT).total < cost(use, STANDARD).total


def test_a_large_object_takes_a_request_for_each_part():
    use = given(sessions=1, artifacts=1, size=100 * MIB, writes=3, reads=1)
    assert use.puts == 3 * tally.put_requests(100 * MIB) > 9
    assert use.gets == 1


def test_nothing_costs_nothing():
    assert cost(given(sessions=0, artifacts=10, size=5, writes=1, reads=1), INFREQUENT).total == 0
    assert counted([], NOW) == Use(0, 0, 0, 0, None)


def version(size: int, *, age: float = 0.0, latest: bool = True, deleted: bool = False) -> PastObject:
    return PastObject("k", size, Version("e", "v"), NOW - age, latest, deleted)


def test_past_versions_are_kept_and_paid_but_are_no_objects():
    found = counted([version(10), version(7, latest=False), version(0, latest=False, deleted=True)], NOW)
    assert found == Use(objects=1, stored=2, bytes=17, puts=2, gets=None)
    assert cost(found, STANDARD).gets == 0


def test_only_the_last_thirty_days_took_requests():
    found = counted([version(10, age=MONTH - 1), version(10, age=MONTH + 1, latest=False)], NOW)
    assert (found.stored, found.puts) == (2, 1)


def test_the_prices_have_a_date_and_a_place():
    known = prices()
    assert date.fromisoformat(known.written)
    assert known.region == "us-east-1"
    assert known.source.startswith("https://")
    assert all(isinstance(one, Class) and min(one.gb_month, one.put_1000, one.get_1000) > 0 for one in known.classes)


def test_migrate_counts_with_the_same_prices():
    assert pytest.approx(STANDARD.put_1000 / 1000) == tally.PUT_DOLLARS
    assert pytest.approx(STANDARD.gb_month / 1e9) == tally.MONTH_DOLLARS


def test_a_cost_as_json():
    assert cost(NOTE, STANDARD).json() == {
        "class": "S3 Standard", "storage": pytest.approx(0.0115), "puts": pytest.approx(0.05),
        "gets": pytest.approx(0.02), "total": pytest.approx(0.0815),
    }  # fmt: skip
