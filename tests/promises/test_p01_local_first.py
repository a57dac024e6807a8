"""P1: writing under the root never waits for the network and never fails because the store is down."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.promises.host import Host, eventually
from tests.promises.line import Line

FILES = 200


def _work(host: Host) -> float:
    """What agents do to files, and the longest time that one step took."""
    slowest = 0.0

    def step(action: Callable[[], object]) -> None:
        nonlocal slowest
        begun = time.perf_counter()
        action()
        slowest = max(slowest, time.perf_counter() - begun)

    for number in range(FILES):
        name = f"d{number % 7}/f{number}.txt"
        step(partial(host.write, name, f"content {number}"))
    step(lambda: host.write("big.bin", os.urandom(4 << 20)))
    step(lambda: host.path("d0/f0.txt").rename(host.path("d1/moved.txt")))
    step(lambda: host.path("d2/f2.txt").unlink())
    step(lambda: host.path("d3").rename(host.path("e3")))
    step(lambda: os.truncate(host.path("big.bin"), 100))
    return slowest


@pytest.mark.parametrize("outage", ["cut", "mute"])
def test_p01_writes_succeed_at_once_while_the_store_is_down(wired: Host, line: Line, outage: str):
    getattr(line, outage)()
    wired.start()
    begun = time.perf_counter()
    slowest = _work(wired)
    took = time.perf_counter() - begun
    assert took < 5
    assert slowest < 1
    assert wired.keys() == set()
    code, told = wired.flush(timeout=1)
    assert code == 4
    assert told["stored"] is False
    assert len(told["pending"]) >= FILES - 1
    line.mend()
    wired.stored()
    assert wired.objects() == wired.local()


@pytest.mark.parametrize("outage", ["cut", "mute"])
def test_p01_the_store_fails_under_a_running_daemon_and_comes_back_unasked(wired: Host, line: Line, outage: str):
    wired.start(transfer_timeout="2s")
    wired.write("before.txt")
    eventually(lambda: wired.keys() == {"before.txt"})
    getattr(line, outage)()
    assert _work(wired) < 1
    time.sleep(1)
    assert wired.status()["safe_to_kill"] is False
    line.mend()
    eventually(lambda: wired.objects() == wired.local(), 30)
    eventually(lambda: wired.status()["safe_to_kill"])


def test_p01_status_says_that_the_store_is_down(wired: Host, line: Line):
    wired.start()
    line.cut()
    wired.write("a.txt")
    eventually(lambda: [note for note in wired.run("status", "--json").json["notes"] if "store" in note], 10)
    code, told = wired.flush(timeout=0.5)
    assert code == 4
    assert told["pending"][0]["path"] == "a.txt"
    assert "connect" in told["pending"][0]["reason"].lower()


@pytest.mark.parametrize("flags", [0, os.O_NONBLOCK], ids=["plain", "nonblocking"])
def test_p01_a_writer_never_waits_for_a_lease_of_ours(host: Host, flags: int):
    """Asking the kernel for writers takes a lease for some microseconds. An open that meets it waits that long; one
    with O_NONBLOCK is refused, as the README says: that must stay as rare as the question."""
    host.start()
    path = host.write("hot.txt", "0")
    slowest, opened, refused = 0.0, 0, 0
    until = time.monotonic() + 3
    while time.monotonic() < until:
        begun = time.perf_counter()
        try:
            descriptor = os.open(path, os.O_WRONLY | flags)
        except BlockingIOError:
            assert flags, "only a non-blocking open may be refused"
            refused += 1
            continue
        os.write(descriptor, b"1")
        os.close(descriptor)
        opened += 1
        slowest = max(slowest, time.perf_counter() - begun)
    assert refused <= 10 + opened // 1000
    assert slowest < 1


def _standing(pid: int) -> set[tuple[int, int]]:
    """How the threads of a process are scheduled, and how nice they are."""
    tasks = [int(task) for task in os.listdir(f"/proc/{pid}/task")]
    return {(os.sched_getscheduler(task), os.getpriority(os.PRIO_PROCESS, task)) for task in tasks}


def _started(host: Host, *wrap: str) -> int:
    host.wrap = wrap
    host.start()
    assert host.daemon is not None
    return host.daemon.pid


def test_p01_who_writes_goes_first_on_a_busy_processor(host: Host):
    pid = _started(host)
    host.write("a.txt")
    host.stored()  # so that there are threads that transfer
    assert _standing(pid) == {(os.SCHED_BATCH, 10), (os.SCHED_BATCH, 15)}
    host.stop()
    assert _standing(_started(host, "nice", "-n", "3")) == {(os.SCHED_BATCH, 3), (os.SCHED_BATCH, 15)}


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="this kernel groups no sessions")
def test_p01_also_before_a_daemon_of_another_session(host: Host):
    def steps_back(*wrap: str) -> bool:
        group = Path(f"/proc/{_started(host, 'setsid', *wrap)}/autogroup").read_text()
        host.stop()
        return group.endswith("nice 10\n")

    assert steps_back()
    assert not steps_back("nice", "-n", "3")
    before = Path("/proc/self/autogroup").read_text()
    _started(host)  # in our session: we are not to step back with it
    assert Path("/proc/self/autogroup").read_text() == before
