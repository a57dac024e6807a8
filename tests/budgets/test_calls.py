"""Calls of Python functions: what a file costs the interpreter, whatever the machine. Threads too: whoever stores,
scans and flushes makes none.

The calls of a file differ a little with the version of Python and of what is imported, so each budget is what was
measured (on 3.11) and ``MARGIN``.
"""

from __future__ import annotations

import pytest

from cachesync.model.address import Address, Space
from tests.budgets.conftest import Counted, MakeCounted, S
from tests.budgets.counting import Done

pytestmark = pytest.mark.s3

FEW, MANY = 10, 30
MARGIN = 1


def a_file(few: Done, many: Done) -> float:
    """What one file more costs: the difference of two runs, so that what comes once is not in it."""
    return (many.python.total() - few.python.total()) / (MANY - FEW)


def shown(few: Done, many: Done) -> str:
    """The functions that one file more calls, most often called first."""
    more = many.python.copy()
    more.subtract(few.python)
    lines = [f"    {count / (MANY - FEW):6.2f} {name}" for name, count in more.most_common() if count > 0]
    return "\n".join([f"a file is {a_file(few, many)} calls:", *lines])


def scanned(counting: Counted, count: int) -> Done:
    counting.write(*(f"f{number}" for number in range(count)))
    counting.settle()
    with counting.counted(calls=True) as done:
        counting.driven.scan(S, recheck=True)
    return done


def noticed(counting: Counted, count: int, mark: str) -> Done:
    counting.write(*(f"{mark}{number}" for number in range(count)))
    with counting.counted(calls=True) as done:
        counting.notice()
    return done


def stored(counting: Counted, count: int, mark: str) -> Done:
    noticed(counting, count, mark)
    with counting.counted(calls=True) as done:
        assert counting.driven.pump() == count
    return done


def flushed(counting: Counted, count: int) -> Done:
    counting.write(*(f"f{number}" for number in range(count)))
    counting.settle()
    counting.write("changed", text=str(count))
    with counting.counted(calls=True) as done:
        counting.flush()
    return done


def read(counting: Counted, count: int) -> Done:
    with counting.counted(calls=True) as done:
        for number in range(count):
            with counting.engine.reader.read(Address(Space.SESSIONS, S, f"f{number}")) as reading:
                assert b"".join(reading.chunks()) == b"text" * 5000
    return done


def test_a_scan_is_no_call_for_a_file_that_is_as_it_was(counting: Counted):
    few, many = scanned(counting, FEW), scanned(counting, MANY)
    assert a_file(few, many) < MARGIN, shown(few, many)
    assert many.threads == []


def test_a_new_file_is_noticed_in_30_calls(counting: Counted):
    few, many = noticed(counting, FEW, "few"), noticed(counting, MANY, "many")
    assert a_file(few, many) <= 30 + MARGIN, shown(few, many)
    assert many.threads == []


def test_a_small_file_is_stored_in_231_calls(counting: Counted):
    stored(counting, 1, "connected")
    few, many = stored(counting, FEW, "few"), stored(counting, MANY, "many")
    assert a_file(few, many) <= 231 + MARGIN, shown(few, many)
    assert many.threads == []


def test_a_flush_of_one_change_is_18_calls_for_each_file_that_stands(counting: Counted):
    few, many = flushed(counting, FEW), flushed(counting, MANY)
    assert a_file(few, many) <= 18 + MARGIN, shown(few, many)
    assert many.threads == []


def test_a_cached_read_is_56_calls_and_no_question_of_the_journal(counting: Counted, make_counted: MakeCounted):
    counting.write(*(f"f{number}" for number in range(MANY)), text="text" * 5000)
    counting.settle()
    other = make_counted("other")
    other.session.rmdir()
    other.engine.lifecycle.open(S, lazy=True)
    read(other, MANY)  # brings them into the cache
    read(other, MANY)  # and into memory where they are in it
    few, many = read(other, FEW), read(other, MANY)
    assert a_file(few, many) <= 56 + MARGIN, shown(few, many)
    assert many.requests == {}
    assert many.statements == []
    assert many.threads == []
