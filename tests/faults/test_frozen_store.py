"""A server that takes connections and answers nothing: SIGSTOP, the real thing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.faults.harness import Bench, until

pytestmark = pytest.mark.timeout(120)


@contextlib.contextmanager
def frozen(bench: Bench) -> Iterator[None]:
    """The server stands still inside."""
    pid = bench.bucket.server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_frozen_store_is_told_of_and_what_waits_for_it_ends(bench: Bench) -> None:
    bench.start()
    for name in ("here", "there"):
        bench.write(name, "f", b"bytes")
        assert bench.flush(name).stored
    assert bench.client.lifecycle.close("there", timeout=20).closed
    assert bench.client.status().store_silent_for is None

    with frozen(bench):
        bench.write("here", "new", b"more")
        begun = time.monotonic()
        until(lambda: any("not answered since" in note for note in bench.client.status().notes), "status", within=6)
        silent = bench.client.status().store_silent_for
        assert silent is not None
        assert 2 <= silent <= time.monotonic() - begun + 0.5
        told = bench.cli("status")
        assert "the store has not answered since" in told.stdout

        begun = time.monotonic()
        opened = bench.cli("open", "there", "--timeout", "3", "--json")
        assert opened.returncode == 4, opened
        assert time.monotonic() - begun < 6
        assert opened.stderr.count("waiting for the store, which has not answered for") == 1
        report = json.loads(opened.stdout)
        assert report["pending"] == [{"path": ".", "reason": "the store has not answered in time"}]
        assert (report["files"], report["fetched"]) == (0, 0)

        begun = time.monotonic()
        link = bench.cli("url", "here/f")
        assert link.returncode == 0, link
        assert time.monotonic() - begun < 2, "a link to what this host stored needs no answer"

    until(lambda: bench.client.status().store_silent_for is None, "it answers again")
    opened = bench.cli("open", "there")
    assert opened.returncode == 0, opened
    assert (bench.root / "there" / "f").read_bytes() == b"bytes"
    assert bench.flush("here").stored
    assert bench.stop() == 0


def test_an_open_that_is_interrupted_says_how_far_it_is(bench: Bench) -> None:
    bench.start()
    bench.write("there", "f", b"bytes")
    assert bench.flush("there").stored
    assert bench.client.lifecycle.close("there", timeout=20).closed
    assert bench.stop() == 0  # the command opens it itself, and its threads hang in the store
    with frozen(bench), bench.popen("open", "there") as command:
        assert command.stderr is not None
        assert "waiting for the store" in command.stderr.readline()
        begun = time.monotonic()
        command.send_signal(signal.SIGINT)
        _, said = command.communicate(timeout=20)
    assert time.monotonic() - begun < 5
    assert said == "there: interrupted, nothing was brought yet; cachesync open there goes on from there\n"
    assert command.returncode == 130
