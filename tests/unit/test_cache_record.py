"""What the cache remembers of an object is what was put there, or nothing; and what its errors mean."""

import errno
import json
import sqlite3
from typing import Any

import diskcache
import pytest

from cachesync.model.values import ObjectInfo, Version
from cachesync.read.cache import record
from cachesync.read.cache.database import Fault, judge

INFO = ObjectInfo("s/é ☃", 5, Version('"e', "id"), 1.5, "ab" * 32, {"mtime": "1", "ü": "☃"}, "text/plain")
BARE = ObjectInfo("k", 0, Version(""), 0.0)


@pytest.mark.parametrize("info", [INFO, BARE])
def test_a_record_comes_back_the_same(info):
    assert record.decode("name", record.encode("name", info, 7.25)) == (info, 7.25)


def test_a_record_of_another_name_is_none():
    assert record.decode("other", record.encode("name", INFO, 1.0)) is None


HOSTILE: dict[str, list[Any]] = {
    "size": [-1, "5", 5.0, True, None, 2**63, [], {}],
    "etag": [None, 1, [], {}],
    "version_id": [1, [], True],
    "sha256": ["", "AB" * 32, "ab" * 31, 1, [], "ab" * 32 + "\n"],
    "modified": ["1", None, float("nan"), float("inf"), 1e300, True, []],
    "checked_at": ["1", None, float("nan"), float("-inf"), 10**30],
    "metadata": [None, [], "a", {"a": 1}, {"a": None}, {"a": []}],
    "content_type": [1, [], {}],
    "key": [None, 1, []],
    "name": [None, 1, "other"],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in HOSTILE.items() for value in values])
def test_a_hostile_field_makes_no_record(field, value):
    row = json.loads(record.encode("name", INFO, 1.0))
    assert record.decode("name", json.dumps(row | {field: value}).encode()) is None


@pytest.mark.parametrize(
    "data",
    [b"", b"null", b"[]", b"{}", b"\xff\xfe", b"1" * 5000, b"[" * 100_000, b'"name"', b"{"],
    ids=range(9),
)
def test_what_is_no_record_is_none(data):
    assert record.decode("name", data) is None


@pytest.mark.parametrize("change", [{"more": 1}, None])
def test_a_record_has_these_fields_and_no_others(change):
    row = json.loads(record.encode("name", INFO, 1.0))
    row = row | change if change else {name: row[name] for name in row if name != "size"}
    assert record.decode("name", json.dumps(row).encode()) is None


def sqlite_error(code):
    error = sqlite3.OperationalError("x")
    error.sqlite_errorcode = code
    return error


def timeout(cause):
    try:
        try:
            raise cause
        except sqlite3.Error:
            raise diskcache.Timeout from None
    except diskcache.Timeout as error:
        return error


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (sqlite_error(sqlite3.SQLITE_BUSY), Fault.BUSY),
        (sqlite_error(sqlite3.SQLITE_BUSY_SNAPSHOT), Fault.BUSY),
        (timeout(sqlite_error(sqlite3.SQLITE_BUSY)), Fault.BUSY),
        (timeout(sqlite_error(sqlite3.SQLITE_CORRUPT)), Fault.DAMAGED),
        (timeout(sqlite_error(sqlite3.SQLITE_FULL)), Fault.FULL),
        (sqlite_error(sqlite3.SQLITE_FULL), Fault.FULL),
        (OSError(errno.ENOSPC, "x"), Fault.FULL),
        (OSError(errno.EDQUOT, "x"), Fault.FULL),
        (OSError(errno.EMFILE, "x"), Fault.UNUSABLE),
        (PermissionError(errno.EACCES, "x"), Fault.UNUSABLE),
        (OSError(errno.EIO, "x"), Fault.UNUSABLE),
        (MemoryError(), Fault.UNUSABLE),
        (sqlite_error(sqlite3.SQLITE_CANTOPEN), Fault.UNUSABLE),
        (sqlite_error(sqlite3.SQLITE_IOERR_WRITE), Fault.UNUSABLE),
        (sqlite_error(sqlite3.SQLITE_IOERR_SHORT_READ), Fault.DAMAGED),
        (FileNotFoundError(errno.ENOENT, "x"), Fault.DAMAGED),
        (sqlite_error(sqlite3.SQLITE_NOTADB), Fault.DAMAGED),
        (sqlite_error(sqlite3.SQLITE_ERROR), Fault.DAMAGED),
        (TypeError(), Fault.DAMAGED),
    ],
)
def test_what_an_error_means(error, fault):
    """Running out of descriptors, say, must not cost the cache."""
    assert judge(error) is fault
