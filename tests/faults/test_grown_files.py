"""A file that only grows sends what it grew by, whatever goes wrong on the way (SPEC section 7)."""

from __future__ import annotations

import os
import re

import pytest

from cachesync.model.errors import ExitCode
from tests.faults import proxy as faults
from tests.faults.harness import Bench, until
from tests.faults.proxy import Proxy

MIB = 1024 * 1024
FIRST = os.urandom(MIB) * 6
LATER = os.urandom(MIB) * 20  # in parts, when it is sent whole


def check_flushed(bench: Bench) -> None:
    report = bench.flush("s")
    assert report.exit_code == ExitCode.DONE, (report, bench.tail())
    assert report.conflicts == []
    assert bench.differences("s") == [], bench.tail()


def grow(bench: Bench, data: bytes) -> None:
    with open(bench.root / "s/log.jsonl", "ab") as file:
        file.write(data)


def sent(proxy: Proxy) -> int:
    """Bytes of the file that were sent since the records were cleared."""
    return sum(record.size for record in proxy.records if record.key.endswith("log.jsonl"))


@pytest.fixture(params=[FIRST, LATER], ids=["small", "in parts"])
def begun(request: pytest.FixtureRequest, remote: Bench, proxy: Proxy) -> Bench:
    """A daemon that has stored a log."""
    remote.start()
    remote.write("s", "log.jsonl", request.param)
    check_flushed(remote)
    proxy.records.clear()
    return remote


def test_only_what_was_appended_is_sent(begun: Bench, proxy: Proxy) -> None:
    for number in range(5):
        line = b"%d %s\n" % (number, b"x" * 1000)
        proxy.records.clear()
        grow(begun, line)
        check_flushed(begun)
        assert len(line) <= sent(proxy) < len(line) + 2000  # and what the requests are written in


def test_what_is_rewritten_and_longer_is_sent_whole(begun: Bench, proxy: Proxy) -> None:
    begun.write("s", "log.jsonl", b"!" + LATER)
    check_flushed(begun)
    assert sent(proxy) > len(LATER)


@pytest.mark.parametrize("how", [faults.lost_reply, faults.reset, faults.truncate], ids=lambda action: action.__name__)
@pytest.mark.parametrize("where", ["CreateMultipartUpload", "UploadPartCopy", "UploadPart", "CompleteMultipartUpload"])
def test_p06_an_append_that_breaks_off_is_done_again(remote: Bench, proxy: Proxy, how, where: str) -> None:
    remote.start()
    remote.write("s", "log.jsonl", FIRST)
    check_flushed(remote)
    rule = proxy.add(how, where, ".*log.jsonl", times=1)
    grow(remote, b"a line\n")
    check_flushed(remote)
    assert rule.hits == 1
    grow(remote, b"another line\n")
    check_flushed(remote)


@pytest.mark.parametrize("point", ["multipart.create.after", "multipart.complete.before", "multipart.complete.after"])
def test_p06_killed_in_an_append(remote: Bench, proxy: Proxy, point: str) -> None:
    remote.start()
    remote.write("s", "log.jsonl", FIRST)
    check_flushed(remote)
    remote.kill()
    grow(remote, b"a line\n")
    remote.start(point)
    until(lambda: not remote.alive(), remote.tail())
    remote.ended()
    grow(remote, b"another line\n")
    remote.start()
    check_flushed(remote)


def test_p09_another_writer_of_a_log_keeps_its_bytes(begun: Bench, proxy: Proxy) -> None:
    key = begun.bucket.session("s") + "log.jsonl"
    begun.bucket.put(key, b"theirs" * MIB)
    grow(begun, b"ours\n")
    report = begun.flush("s")
    assert report.exit_code == ExitCode.DONE, begun.tail()
    assert len(report.conflicts) == 1
    assert begun.bucket.s3.get_object(Bucket=begun.bucket.name, Key=key)["Body"].read().endswith(b"ours\n")
    kept = [name for name in begun.bucket.objects(begun.bucket.session("s")) if re.search("conflict", name)]
    assert begun.bucket.s3.get_object(Bucket=begun.bucket.name, Key=kept[0])["Body"].read() == b"theirs" * MIB
