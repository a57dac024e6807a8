"""P13: what cannot be stored is listed with path and cause, tried again, and holds up nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.promises.host import Host, eventually, wire
from tests.promises.line import Line
from tests.servers import MotoServer


def _failure(told: Any, path: str) -> str:
    (error,) = (str(item["error"]) for item in told["failed"] if item["path"] == path)
    return error


def test_p13_an_unreadable_file_is_listed_and_the_others_are_stored(humble: Host):
    humble.start()
    for number in range(20):
        humble.write(f"f{number}", f"{number}")
    humble.write("d/locked.txt", "secret").chmod(0)
    done = humble.flush(timeout=10)
    assert done.code == 1
    assert done.seconds < 8, "an error is no reason to wait for the timeout"
    assert "ermission" in _failure(done.json, "d/locked.txt")
    assert len(done.json["failed"]) == 1
    assert humble.keys() == {f"f{number}" for number in range(20)}
    row = humble.status()
    assert row["failed"] == 1
    assert row["failures"][0]["path"] == "d/locked.txt"
    assert "ermission" in row["failures"][0]["error"]
    assert row["safe_to_kill"] is False
    assert "ermission" in humble.run("explain", "s1/d/locked.txt").out
    plain = humble.run("flush", "s1", "--timeout", "10")
    assert plain.code == 1
    assert "d/locked.txt" in plain.out
    assert "d/locked.txt" in humble.said()
    humble.path("d/locked.txt").chmod(0o644)
    assert humble.run("retry", "s1").code == 0
    eventually(lambda: humble.object("d/locked.txt") == b"secret")
    humble.stored()
    assert humble.status()["failed"] == 0


def test_p13_a_file_that_becomes_readable_is_stored_unasked(humble: Host):
    humble.start()
    path = humble.write("locked.txt", "secret")
    path.chmod(0)
    assert humble.flush(timeout=10).code == 1
    path.chmod(0o644)
    eventually(lambda: humble.object("locked.txt") == b"secret", 10)


def test_p13_a_key_that_is_too_long_is_listed_and_the_others_are_stored(host: Host):
    host.start()
    deep = "/".join(["d" * 200] * 5 + ["file.txt"])
    host.write(deep, "x")
    host.write("short.txt", "y")
    done = host.flush(timeout=10)
    assert done.code == 1
    assert done.seconds < 8
    assert "1024" in _failure(done.json, deep)
    assert host.keys() == {"short.txt"}
    assert host.status()["failures"][0]["path"] == deep
    host.path(deep).rename(host.path("mended.txt"))
    host.stored()
    assert host.objects() == {"short.txt": b"y", "mended.txt": b"x"}


@pytest.mark.parametrize("daemon", [True, False], ids=["daemon", "alone"])
@pytest.mark.parametrize("wrong", ["key", "secret"])
def test_p13_wrong_credentials_are_said_and_nothing_is_lost(make_host: Callable[..., Host], daemon: bool, wrong: str):  # noqa: FBT001
    host = make_host()
    right = dict(host.env)
    host.env["AWS_ACCESS_KEY_ID" if wrong == "key" else "AWS_SECRET_ACCESS_KEY"] = "AKIAWRONGWRONGWRONG1"
    if daemon:
        host.start(drain_timeout="1s")
    host.write("a.txt", "1")
    done = host.flush(timeout=8)
    assert done.code == 1, done.out + done.err
    assert done.seconds < 12
    text = done.out + done.err
    assert "credentials" in text.lower() or "access key" in text.lower() or "signature" in text.lower(), text
    assert right["AWS_SECRET_ACCESS_KEY"] not in text
    if daemon:
        assert host.stop() == 4
    host.env = right
    host.stored()
    assert host.objects() == {"a.txt": b"1"}


@pytest.mark.parametrize("daemon", [True, False], ids=["daemon", "alone"])
def test_p13_a_bucket_that_does_not_exist_is_said_and_nothing_is_lost(host: Host, daemon: bool):  # noqa: FBT001
    host.env["CACHESYNC_STORE"] = f"s3://{host.bucket}-not-there"
    if daemon:
        host.start(drain_timeout="1s")
    host.write("a.txt", "1")
    done = host.flush(timeout=8)
    assert done.code in (1, 3), done.out + done.err
    assert "bucket" in done.out + done.err
    assert done.seconds < 12
    if daemon:
        assert host.status()["failed"] == 1
        host.server.make_bucket(f"{host.bucket}-not-there")
        host.run("retry")
        host.stored()
        answer = host.s3.get_object(Bucket=f"{host.bucket}-not-there", Key=host.key("a.txt"))
        assert answer["Body"].read() == b"1"


def test_p13_a_bucket_that_does_not_exist_on_another_server(tmp_path, moto: MotoServer, bucket: str):
    host = Host(tmp_path / "host", moto, bucket)
    try:
        host.start(drain_timeout="1s")
        host.write("a.txt", "1")
        done = host.flush(timeout=8)
        assert done.code in (1, 3)
        assert "bucket" in done.out
        moto.make_bucket(bucket)
        host.run("retry")
        host.stored()
        assert host.objects() == {"a.txt": b"1"}
    finally:
        host.close()


def test_p13_a_bucket_that_vanishes_is_said(make_host: Callable[..., Host]):
    host = make_host()
    host.start(drain_timeout="1s")
    host.write("a.txt", "1")
    host.stored()
    host.s3.delete_object(Bucket=host.bucket, Key=host.key("a.txt"))
    host.s3.delete_object(Bucket=host.bucket, Key=host.key(".cachesync/manifest.json"))
    for page in host.s3.get_paginator("list_objects_v2").paginate(Bucket=host.bucket):
        for entry in page.get("Contents", ()):
            host.s3.delete_object(Bucket=host.bucket, Key=entry["Key"])
    host.s3.delete_bucket(Bucket=host.bucket)
    host.write("b.txt", "2")
    done = host.flush(timeout=5)
    assert done.code in (1, 3)
    assert done.json.get("stored") is not True
    assert "bucket" in done.out.lower()


def test_p13_one_transfer_that_hangs_holds_up_no_other(wired: Host, line: Line):
    wired.start()
    wired.write("warm.txt")
    wired.stored()
    line.stall = b"PUT /" + wired.bucket.encode() + b"/" + wire(wired.key("stuck.txt"))
    wired.write("stuck.txt", "1")
    time.sleep(0.3)
    for number in range(100):
        wired.write(f"f{number}", f"{number}")
    wired.write("other session.txt", "1", "s2")
    eventually(lambda: len(wired.keys()) == 101, 10)
    wired.stored("s2")
    code, told = wired.flush(timeout=1)
    assert code == 4
    assert [item["path"] for item in told["pending"]] == ["stuck.txt"]
    assert wired.status()["in_flight"] == 1
    line.stall = None
    line.mend()
    wired.stored()
    assert wired.objects() == wired.local()


def test_p13_large_files_do_not_hold_up_small_ones(host: Host):
    host.start(transfers="4")
    for number in range(6):
        host.write(f"large{number}", bytes([number]) * (24 << 20))
    time.sleep(0.2)
    begun = time.monotonic()
    host.write("small.txt", "1")
    eventually(lambda: host.object("small.txt"), 20)
    took = time.monotonic() - begun
    left = {f"large{number}" for number in range(6)} - host.keys()
    assert left or took < 2, "it waited for all of them"


def test_p13_status_says_why_and_explain_tells_the_story(wired: Host, line: Line):
    wired.start()
    wired.write("a.txt", "1")
    wired.stored()
    line.cut()
    wired.write("a.txt", "22")
    eventually(lambda: wired.run("explain", "s1/a.txt", "--json").json["attempts"] > 0, 10)
    story = wired.run("explain", "s1/a.txt", "--json").json
    assert story["state"] == "dirty"
    assert story["generation"] > story["synced"] > 0
    assert story["error"]
    assert story["size"] == 2
    assert story["key"] == wired.key("a.txt")
    assert "NO" in wired.run("status").out
    assert wired.run("explain", "s1/never").code == 3
    assert wired.run("explain", "unknown/a.txt").code == 3
