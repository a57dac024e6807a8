"""The JSON of SPEC section 6: its keys are a contract with everybody's scripts."""

import json
from typing import Any

import pytest

from cachesync.model.errors import ExitCode
from cachesync.model.reports import (
    DaemonStatus,
    Failure,
    FlushReport,
    Pending,
    ReceiptLine,
    SessionStatus,
    StatusReport,
    Story,
)
from cachesync.model.values import Conflict, Skipped

ODD = "bad\udcff\n"
SHOWN = "bad\\xff\n"


def keys(text):
    return set(text.replace('"', "").replace(",", " ").split())


def session(**changes):
    plain: dict[str, Any] = {
        "session": "s",
        "state": "open",
        "files": 2,
        "bytes": 10,
        "dirty": 0,
        "dirty_bytes": 0,
        "in_flight": 0,
        "failed": 0,
        "evicted": 0,
        "conflicts": 0,
        "oldest_dirty_age": None,
    }
    return SessionStatus(**plain | changes)


def test_flush():
    report = FlushReport(
        "s",
        stored=False,
        failed=[Failure(ODD, "denied")],
        pending=[Pending(ODD, "under way")],
        conflicts=[Conflict(ODD, f"{ODD}.conflict-x")],
        skipped=[Skipped(ODD, "a pipe")],
        seconds=1.23456,
    ).json()
    contract = "session stored files bytes uploaded deleted expired failed pending conflicts skipped manifest seconds"
    assert report.keys() == keys(f"{contract} vanished on_this_machine")
    assert report["failed"] == [{"path": SHOWN, "error": "denied"}]
    assert report["pending"] == [{"path": SHOWN, "reason": "under way"}]
    assert report["conflicts"] == [{"path": SHOWN, "kept_as": f"{SHOWN}.conflict-x"}]
    assert report["skipped"] == [{"path": SHOWN, "reason": "a pipe"}]
    assert report["seconds"] == 1.235
    assert report["manifest"] is None
    json.dumps(report).encode()


def test_a_receipt():
    line = ReceiptLine("a", "sessions/s/a", 1, "ab", "v", None)
    report = FlushReport("s", stored=True, entries=[line]).json()
    assert report["entries"] == [
        {"path": "a", "key": "sessions/s/a", "size": 1, "sha256": "ab", "version": "v", "version_id": None}
    ]
    assert FlushReport("s", stored=True, entries=[]).json()["entries"] == []
    assert "entries" not in FlushReport("s", stored=True).json()


@pytest.mark.parametrize(
    ("report", "code"),
    [
        (FlushReport("s", stored=True), ExitCode.DONE),
        (FlushReport("s", stored=False), ExitCode.UNFINISHED),
        (FlushReport("s", stored=False, pending=[Pending("a", "")]), ExitCode.UNFINISHED),
        (FlushReport("s", stored=False, failed=[Failure("a", "")]), ExitCode.FAILED),
        (FlushReport("s", stored=False, failed=[Failure("a", "")], pending=[Pending("b", "")]), ExitCode.FAILED),
    ],
)
def test_the_exit_code_of_a_flush(report, code):
    assert report.exit_code is code


def test_status():
    whole = StatusReport("/root", "s3://b", DaemonStatus(5, "1.0", 1.26), [session(oldest_dirty_age=1.23456)])
    found = whole.json()
    assert keys("root store daemon sessions") <= found.keys()
    assert found["daemon"] == {"pid": 5, "version": "1.0", "uptime": 1.3}
    (row,) = found["sessions"]
    contract = keys("session state files bytes dirty in_flight failed evicted oldest_dirty_age safe_to_kill")
    assert contract <= row.keys()
    assert row["oldest_dirty_age"] == 1.235
    assert StatusReport("/root", "s3://b", None).json()["daemon"] is None
    json.dumps(found).encode()


def test_safe_to_kill_is_nothing_dirty_and_nothing_in_flight():
    assert session().safe_to_kill
    assert not session(dirty=1).safe_to_kill
    assert not session(in_flight=1).safe_to_kill


def test_a_story():
    values: dict[str, Any] = dict.fromkeys(Story.__slots__) | {"session": "s", "path": ODD, "state": "dirty"}
    found = Story(**values).json()
    assert found.keys() == set(Story.__slots__)
    assert found["path"] == SHOWN
    json.dumps(found).encode()
