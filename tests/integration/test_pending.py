"""What is not stored, path by path: the route that the page lists it from, on a daemon whose store is away."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.conftest import MakeHost
from tests.promises.host import Host, eventually
from tests.promises.line import Line

pytestmark = pytest.mark.s3
ODD = os.fsdecode(b"caf\xe9")


def asked(host: Host, target: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("localhost", timeout=20)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(20)
    connection.sock.connect(str(host.state / "control.sock"))
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def pages(host: Host, query: str = "", limit: int = 7) -> Iterator[dict[str, Any]]:
    """Every story, a few at a time."""
    after, more = "", True
    while more:
        where = f"after={quote(os.fsencode(after), safe='')}&" if after else ""
        status, told = asked(host, f"/v1/pending/s1?{where}limit={limit}{query}")
        assert status == 200, told
        assert len(told["pending"]) <= limit
        yield from told["pending"]
        more = told["more"]
        after = told["pending"][-1]["path"] if more else ""


@pytest.fixture
def away(make_host: MakeHost, line: Line) -> Host:
    """A daemon with 20 files that wait and one that cannot be stored."""
    host = make_host()
    host.env["S3_ENDPOINT"] = line.endpoint
    host.write("stored")
    host.start()
    host.stored()
    (host.root / "s1").joinpath(ODD).write_text("x")
    eventually(lambda: list(pages(host, "&failed=1")), what="it failed")
    line.cut()
    for number in range(10):
        host.write(f"top {number}?&=+%")
        host.write(f"d/e/f/{number}")
    eventually(lambda: len(list(pages(host))) == 21)
    return host


def test_every_path_is_told_once_however_small_the_pages(away: Host):
    expected = {f"top {n}?&=+%" for n in range(10)} | {f"d/e/f/{n}" for n in range(10)} | {ODD}
    for limit in (1, 2, 7, 20, 21, 1000):
        paths = [story["path"] for story in pages(away, limit=limit)]
        assert len(paths) == 21
        assert set(paths) == expected


def test_failed_and_waiting_apart(away: Host):
    (failed,) = pages(away, "&failed=1")
    assert (failed["path"], failed["state"], failed["key"]) == (ODD, "failed", None)
    assert "not UTF-8" in failed["error"]
    waiting = list(pages(away, "&failed=0"))
    assert len(waiting) == 20
    assert {story["state"] for story in waiting} == {"dirty"}
    assert all(story["size"] == 1 and story["dirty_since"] for story in waiting)


def test_what_is_stored_is_not_told_any_more(away: Host, line: Line):
    line.mend()
    (away.root / "s1").joinpath(ODD).unlink()
    away.stored()
    assert list(pages(away)) == []


def test_what_is_wrong_is_refused(away: Host):
    wrong = [
        "limit=0", "limit=1001", "limit=-1", "limit=x", "limit=1e2", "limit=\u0663", "failed=maybe", "after=../x",
        "after=/x", "after=\0", "x=1", "limit=1&limit=2",
    ]  # fmt: skip
    for query in wrong:
        status, told = asked(away, f"/v1/pending/s1?{quote(query, safe='=&%/')}")
        assert (status, told["error"]["kind"]) == (400, "UsageError"), query
    assert asked(away, "/v1/pending/none")[0] == 404
    assert asked(away, "/v1/pending/..%2fs1")[0] == 400


def test_a_file_that_a_flush_could_not_read_counts_once(away: Host, line: Line):
    """The scan lists it, and so does its entry."""
    line.mend()
    assert away.flush(timeout=10).code == 1
    row = away.status()
    assert (row["failed"], row["dirty"], len(row["failures"])) == (1, 1, 1)
