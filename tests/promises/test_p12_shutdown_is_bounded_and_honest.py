"""P12: a shutdown drains, ends in time, and says by its exit code and its log what is left."""

from __future__ import annotations

import os
import signal
import sys
import time
from functools import partial

import pytest

from tests.conftest import MakeHost
from tests.promises.host import Host, eventually
from tests.promises.line import Line


def holds(host: Host, session: str, name: str) -> bool:
    return name in host.keys(session)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_p12_a_shutdown_stores_everything_and_writes_the_manifests(host: Host, number: int):
    host.start()
    for n in range(300):
        host.write(f"f{n}", f"{n}")
    host.write("other.txt", "1", "s2")
    (host.root / "s3").mkdir()
    (host.root / "s3" / "link").symlink_to("nowhere")
    assert host.stop(number=number) == 0
    for session in ("s1", "s2"):
        assert host.objects(session) == host.local(session)
        assert set(host.listed(session)) == set(host.local(session))
    assert set(host.listed("s3")) == {"link"}
    assert not (host.state / "control.sock").exists()


@pytest.mark.parametrize("outage", ["cut", "mute"])
def test_p12_a_shutdown_without_a_store_ends_in_time_and_says_what_is_left(wired: Host, line: Line, outage: str):
    wired.start(drain_timeout="2s")
    wired.write("stored.txt", "1")
    wired.stored()
    getattr(line, outage)()
    wired.write("left/a.txt", "1")
    wired.write("left/b.txt", "2", "s2")
    begun = time.monotonic()
    assert wired.stop() == 4
    assert time.monotonic() - begun < 2 + 3
    left = [row for row in wired.said().splitlines() if '"left' in row]
    assert any("left/a.txt" in row and '"s1"' in row for row in left), wired.complaints()
    assert any("left/b.txt" in row and '"s2"' in row for row in left)
    assert not any("stored.txt" in row for row in left)
    line.mend()
    wired.start()
    eventually(lambda: wired.objects() == wired.local(), 15)
    eventually(lambda: wired.objects("s2") == wired.local("s2"), 15)


def test_p12_a_shutdown_with_only_a_manifest_left_ends_in_time(wired: Host, line: Line):
    wired.start(drain_timeout="1s")
    wired.write("a.txt", "1")
    wired.stored()
    line.mute()
    wired.path("link").symlink_to("a.txt")
    eventually(lambda: wired.status()["dirty"] > 0, 5)
    begun = time.monotonic()
    assert wired.stop() == 4
    assert time.monotonic() - begun < 1 + 3


def test_p12_many_sessions_and_a_dead_store_end_in_time(wired: Host, line: Line):
    line.mute()
    wired.start(drain_timeout="1s")
    for number in range(40):
        wired.write("a.txt", "1", f"s{number}")
    begun = time.monotonic()
    assert wired.stop() == 4
    assert time.monotonic() - begun < 1 + 3


def test_p12_a_second_signal_ends_it_now(wired: Host, line: Line):
    wired.start(drain_timeout="60s")
    line.mute()
    wired.write("a.txt", "1")
    time.sleep(0.3)
    assert wired.daemon is not None
    wired.daemon.send_signal(signal.SIGTERM)
    time.sleep(0.7)
    assert wired.daemon.poll() is None, "it drains"
    begun = time.monotonic()
    assert wired.stop() == 4
    assert time.monotonic() - begun < 1
    line.mend()
    wired.stored()
    assert wired.objects() == {"a.txt": b"1"}


def test_p12_the_store_comes_back_during_the_drain(wired: Host, line: Line):
    wired.start(drain_timeout="20s")
    line.cut()
    for number in range(20):
        wired.write(f"f{number}", "1")
    assert wired.daemon is not None
    wired.daemon.send_signal(signal.SIGTERM)
    time.sleep(1)
    line.mend()
    assert wired.ended() == 0
    assert wired.objects() == wired.local()
    assert wired.manifest() is not None


def test_p12_small_files_go_first(host: Host):
    """There is time for the small ones only, and the large one is not among what must wait for nothing."""
    host.start(bandwidth="1MiB", drain_timeout="3s", settle="2s", max_dirty_age="5s")
    host.write("a-large.bin", b"x" * (12 << 20))
    for number in range(50):
        host.write(f"small{number}", "1")
    assert host.stop() == 4
    assert host.keys() >= {f"small{number}" for number in range(50)}


def test_p12_changes_of_the_last_moment_are_stored(host: Host):
    host.start(settle="5s", max_dirty_age="5s")
    host.write("a.txt", "1")
    with open(host.path("open.jsonl"), "wb", buffering=0) as file:
        file.write(b"no line end")
        assert host.stop() == 0
    assert host.objects() == host.local() == {"a.txt": b"1", "open.jsonl": b"no line end"}


def test_p12_what_cannot_be_stored_is_left_with_its_cause(humble: Host):
    humble.start(drain_timeout="5s")
    humble.write("fine.txt", "1")
    humble.write("locked.txt", "1").chmod(0)
    begun = time.monotonic()
    assert humble.stop() == 4
    assert time.monotonic() - begun < 8
    left = [row for row in humble.said().splitlines() if "not stored: " in row]
    assert any("locked.txt" in row and "ermission" in row for row in left)
    assert humble.keys() == {"fine.txt"}


def test_p12_systemd_is_told(host: Host):
    host.start(drain_timeout="3s")
    assert any(notice.startswith("STATUS=") for notice in host.heard())
    host.stop()
    assert "STOPPING=1" in host.heard()
    extended = [notice for notice in host.heard() if notice.startswith("EXTEND_TIMEOUT_USEC=")]
    assert extended
    assert int(extended[0].partition("=")[2]) >= 3_000_000


def test_p12_a_second_daemon_is_refused_and_names_the_first(host: Host):
    host.start()
    assert host.daemon is not None
    done = host.run("run")
    assert done.code == 2
    assert str(host.daemon.pid) in done.err
    host.write("a.txt", "1")
    assert host.stored()["files"] == 1


def test_p12_a_session_that_is_flushed_costs_no_request(wired: Host, line: Line):
    wired.start()
    for number in range(30):
        wired.write("a.txt", "1", f"s{number}")
    assert wired.run("flush", "--all").code == 0
    before = line.requests
    assert wired.stop() == 0
    assert line.requests == before


def test_p12_manifests_that_are_left_are_no_files_that_are_left(wired: Host, line: Line):
    wired.start(drain_timeout="2s")
    for number in range(5):
        wired.write("a.txt", "1", f"s{number}")
    for number in range(5):
        eventually(partial(holds, wired, f"s{number}", "a.txt"))
    eventually(lambda: all(row["safe_to_kill"] for row in wired.run("status", "--json").json["sessions"]))
    line.stall = b"manifest.json"
    assert wired.stop() == 4
    said = wired.said()
    assert "5 manifests are not written" in said
    assert "are not stored" not in said
    line.stall = None
    assert wired.run("flush", "--all").code == 0


def test_p12_one_file_that_hangs_costs_no_other_session_its_manifest(wired: Host, line: Line):
    wired.start(drain_timeout="8s")
    for number in range(5):
        wired.write("a.txt", "1", f"s{number}")
    line.stall = b"hangs.bin"
    wired.write("hangs.bin", "1", "stuck")
    for number in range(5):
        eventually(partial(holds, wired, f"s{number}", "a.txt"))
    assert wired.stop() == 4
    assert all(set(wired.listed(f"s{number}")) == {"a.txt"} for number in range(5))
    assert "1 paths are not stored" in wired.said()
    assert "manifests are not written" not in wired.said()


def test_p12_what_no_event_told_of_is_stored(host: Host):
    host.start()
    outside = host.folder / "outside"
    os.link(host.write("linked", "before"), outside)
    host.stored()
    outside.write_text("after.")
    assert host.stop() == 0
    assert host.object("linked") == b"after."


STUCK = """
import runpy, sys, threading
threading.Thread(target=threading.Event().wait).start()
del sys.argv[:3]
runpy.run_module("cachesync", run_name="__main__", alter_sys=True)
"""
"""Runs a command in a process with a thread that never ends, as one does that waits for a file system."""


def test_p12_a_thread_that_never_ends_does_not_keep_the_daemon_up(make_host: MakeHost):
    host = make_host(wrap=[sys.executable, "-c", STUCK], cold=True)
    host.start(drain_timeout="2s")
    assert host.daemon is not None
    begun = time.monotonic()
    host.daemon.send_signal(signal.SIGTERM)
    assert host.daemon.wait(30) == 4
    assert time.monotonic() - begun < 2 + 5 + 5
