"""Many sessions at once, through a store that fails now and then, with many clients asking: all gets there, and nothing
grows (P2, P3, P13).

``CACHESYNC_LOAD_MINUTES=10`` makes it long; the default is some seconds.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cachesync.model.errors import CacheSyncError
from tests.faults.conftest import Recorder
from tests.faults.harness import REPOSITORY, Bench, until
from tests.faults.proxy import Chance, Proxy
from tests.faults.test_crash import final_state

SECONDS = 60 * float(os.environ.get("CACHESYNC_LOAD_MINUTES", "0.2"))
SESSIONS = [f"session-{number}" for number in range(200)]
CLIENTS = 100
SHARE = 0.05

FDS = 40
"""Connections to the store and of clients come and go."""
THREADS = 40
GROWTH = 1.25
"""Of resident memory, from the second third of the time to the last."""

pytestmark = pytest.mark.timeout(180 + 3 * SECONDS)


class Footprint:
    """What a process uses, over time."""

    def __init__(self, pid: int) -> None:
        self._proc = Path(f"/proc/{pid}")
        self.samples: list[tuple[int, int, int]] = []

    def take(self) -> None:
        """Resident KiB, descriptors, threads."""
        status = dict(line.split(":", 1) for line in (self._proc / "status").read_text().splitlines())
        descriptors = len(os.listdir(self._proc / "fd"))
        self.samples.append((int(status["VmRSS"].split()[0]), descriptors, int(status["Threads"])))

    def most(self) -> list[tuple[int, ...]]:
        """The most of each in the first, the second and the last third of the time."""
        third = len(self.samples) // 3
        parts = self.samples[:third], self.samples[third : 2 * third], self.samples[2 * third :]
        return [tuple(map(max, zip(*rows, strict=True))) for rows in parts]

    def check_flat(self) -> None:
        """The last third is no more than the second."""
        _, middle, last = self.most()
        for index, allowed in ((0, 0), (1, FDS), (2, THREADS)):
            before, after = middle[index], last[index]
            limit = before * GROWTH if index == 0 else before + allowed
            assert after <= limit, f"{('KiB', 'descriptors', 'threads')[index]}: {before}, then {after}"


@contextmanager
def clients(bench: Bench, count: int) -> Iterator[list[str]]:
    """Threads that ask the daemon without pause; what they complain of."""
    wrong: list[str] = []
    asked = [0] * count
    done = threading.Event()

    def ask(number: int) -> None:
        chance = random.Random(number)
        client = bench.client
        while not done.wait(chance.uniform(0, 0.5)):
            name = chance.choice(SESSIONS)
            try:
                answer = client.status(name)
                if [session.session for session in answer.sessions] != [name]:
                    wrong.append(f"asked for {name}: {answer}")
            except CacheSyncError as error:
                wrong.append(f"{name}: {error}")
            asked[number] += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield wrong
    finally:
        done.set()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads), "a client hangs"
    assert all(asked), "some client never got an answer"


def test_p02_two_hundred_sessions_through_a_store_that_fails(
    remote: Bench, proxy: Proxy, tmp_path: Path, record_property: Recorder
) -> None:
    for name in SESSIONS:
        (remote.root / name).mkdir()
    remote.start()
    assert remote.pid is not None
    proxy.chance = Chance(int.from_bytes(os.urandom(4), "little"), SHARE)
    footprint = Footprint(remote.pid)
    log = tmp_path / "writer.log"
    command = [sys.executable, "-m", "tests.faults.writing", str(remote.root), str(log), "1", *SESSIONS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=REPOSITORY) as writer, clients(remote, CLIENTS) as wrong:
        try:
            end = time.monotonic() + SECONDS
            while (left := end - time.monotonic()) > 0:
                time.sleep(min(left, SECONDS / 30))
                footprint.take()
        finally:
            assert writer.stdin is not None
            writer.stdin.close()
            assert writer.wait(60) == 0
    assert wrong == []
    footprint.check_flat()
    assert proxy.chance.hits > 10
    ended = time.monotonic()
    until(lambda: not any(s.dirty for s in remote.client.status().sessions), "all is stored, faults or not", 120, 0.2)
    used = "; ".join(f"{kib // 1024} MiB, {fds} fds, {threads} threads" for kib, fds, threads in footprint.most())
    counts = (
        f"load: {len(log.read_bytes().splitlines())} changes in {SECONDS:.0f} s, {len(proxy.records)} requests,"
        f" {proxy.chance.hits} spoiled, all stored {time.monotonic() - ended:.1f} s later; by thirds: {used}"
    )
    record_property("counts", counts)
    proxy.clear()
    for name, files in final_state(log).items():
        assert remote.local(name) == files, "the test's program lost track"
        report = remote.flush(name)
        assert (report.stored, report.conflicts) == (True, []), remote.tail()
        assert remote.differences(name) == [], remote.tail()
