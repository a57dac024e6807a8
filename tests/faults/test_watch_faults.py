"""P2: events are only hints. What no event told of is stored all the same, later."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.harness import Bench, Bucket, Zygote, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify")

FILES = int(os.environ.get("CACHESYNC_OVERFLOW_FILES", "800"))


def stored(bench: Bench, session: str = "s") -> set[str]:
    prefix = bench.bucket.session(session)
    return {key.removeprefix(prefix) for key in bench.bucket.objects(prefix)} - {".cachesync/manifest.json"}


def signalled(bench: Bench, number: signal.Signals) -> None:
    assert bench.pid is not None
    os.kill(bench.pid, number)


@pytest.mark.timeout(120)
def test_p02_the_kernel_drops_events(bench: Bench) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    for number in range(20):
        (bench.root / f"s/d{number}").mkdir(parents=True)
    bench.write("s", "first", b"first")
    bench.start()
    assert bench.flush("s").stored
    signalled(bench, signal.SIGSTOP)
    rounds = limit // (2 * FILES) + 2  # at least two events a writing
    for turn in range(rounds):
        for number in range(FILES):
            bench.write("s", f"d{number % 20}/f{number}", b"%d %d" % (turn, number))
    signalled(bench, signal.SIGCONT)
    until(lambda: len(stored(bench)) == FILES + 1, f"all are stored unasked: {bench.tail(3)}", within=90, pause=0.2)
    assert "(overflow)" in bench.log.read_text(), "the queue did overflow"
    assert bench.flush("s").stored
    assert bench.differences("s") == []


@pytest.mark.parametrize("how", [signal.SIGUSR1, signal.SIGUSR2], ids=["dead", "deaf"])
def test_p02_the_watcher_dies(bench: Bench, how: signal.Signals) -> None:
    bench.write("s", "first", b"first")
    bench.start()
    assert bench.flush("s").stored
    signalled(bench, how)
    for number in range(30):
        bench.write("s", f"d{number % 3}/f{number}", b"%d" % number)
    until(lambda: len(stored(bench)) == 31, f"all are stored unasked: {bench.tail(3)}", within=25, pause=0.05)
    until(lambda: "watching again" in bench.log.read_text(), "the watcher is mended", within=15)
    bench.write("s", "after", b"heard again")
    until(lambda: "after" in stored(bench), "the new watcher hears", within=3, pause=0.02)
    assert bench.flush("s").stored
    assert bench.differences("s") == []


def can_unshare() -> bool:
    limit = "echo 5 > /proc/sys/user/max_inotify_watches"
    return subprocess.run(["unshare", "-U", "-r", "sh", "-c", limit], capture_output=True, check=False).returncode == 0


@pytest.fixture
def few_watches(tmp_path: Path, zygote: Zygote, objects: Bucket) -> Iterator[Bench]:
    """A daemon in a user namespace that may have five watches."""
    if not can_unshare():
        pytest.skip("no user namespace with a watch limit is to be had here")
    bench = Bench(tmp_path, zygote, objects)
    command = 'echo 5 > /proc/sys/user/max_inotify_watches && exec "$0" -m cachesync run'
    with (
        open(bench.log, "ab") as log,
        subprocess.Popen(
            ["unshare", "-U", "-r", "sh", "-c", command, sys.executable],
            env=os.environ | bench.environ, cwd=tmp_path, stdout=log, stderr=log,
        ) as daemon,
    ):  # fmt: skip
        until(lambda: daemon.poll() is not None or bench.client.is_serving(), bench.tail())
        assert daemon.poll() is None, bench.tail()
        yield bench
        daemon.terminate()
        assert daemon.wait(30) == 0, bench.tail()


def test_p02_no_watches_are_left(few_watches: Bench) -> None:
    bench = few_watches
    for number in range(60):
        bench.write("s", f"a/d{number % 12}/deep/f{number}", b"%d" % number)
    until(lambda: len(stored(bench)) == 60, f"polled: {bench.tail(3)}", within=15, pause=0.05)
    for number in range(0, 60, 5):
        bench.write("s", f"a/d{number % 12}/deep/f{number}", b"again %d" % number)
    (bench.root / "s/a/d1/deep/f1").unlink()
    until(lambda: len(stored(bench)) == 59, f"a delete is polled: {bench.tail(3)}", within=15, pause=0.05)
    assert any("cannot be watched" in note for note in bench.client.status().notes)
    assert bench.flush("s").stored
    assert bench.differences("s") == []
