"""Random operations on a tree, as fast as they go: afterwards the watcher knows every file, and hears every folder."""

import os
import random
import subprocess
import sys
import time

import pytest

from tests.watching import Bench

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify")

SECONDS = 6.0

OPERATIONS = """
import os, random, shutil, sys, time
seed, seconds, root, out = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4]
random.seed(seed)
end, number = time.time() + seconds, 0
def folders(): return [top for top, below, _ in os.walk(root) if not (top == root and below.remove(".cachesync"))]
every = folders()
while time.time() < end:
    number += 1
    if number % 40 == 0: every = folders(); time.sleep(0.004)
    here, kind = random.choice(every), random.random()
    try:
        if kind < .42:
            with open(os.path.join(here, f"f{random.randrange(6)}"), "w") as file: file.write(str(number))
        elif kind < .45: os.unlink(os.path.join(here, f"f{random.randrange(6)}"))
        elif kind < .60: os.makedirs(os.path.join(here, f"d{random.randrange(4)}", f"e{random.randrange(3)}"))
        elif kind < .70 and (moved := random.choice(every)) != root:
            os.rename(moved, os.path.join(here, f"m{random.randrange(4)}"))
        elif kind < .78 and here != root: os.rename(here, os.path.join(out, f"o{number}"))
        elif kind < .86 and (left := os.listdir(out)):
            os.rename(os.path.join(out, random.choice(left)), os.path.join(here, f"i{random.randrange(4)}"))
        elif kind < .93 and here != root: shutil.rmtree(here)
        else:
            name = os.path.join(here, f"t{random.randrange(3)}")
            with open(name + ".tmp", "w") as file: file.write("x")
            os.replace(name + ".tmp", name)
    except OSError: pass
    if len(every) > 200: shutil.rmtree(random.choice(every[1:]), ignore_errors=True); every = folders()
print(number)
"""


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_lost_in_random_operations(tmp_path, seed):
    bench = Bench(str(tmp_path))
    bench.watcher.start()
    reader = bench.watcher._tree._reader  # type: ignore[union-attr]
    command = [sys.executable, "-c", OPERATIONS, str(seed), str(SECONDS), bench.root, bench.out]
    tended = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        while child.poll() is None:
            bench.follow(random.choice((0, 0.001, 0.05)))
            if time.monotonic() > tended + 0.7:
                tended = time.monotonic()
                bench.watcher.tend()
        assert child.stdout is not None
        assert child.returncode == 0
        assert int(child.stdout.read()) > 1000
    bench.fence()
    assert not bench.watcher.uncovered()
    if not bench.rescan:  # after a rescan only the scan knows
        assert bench.known == bench.on_disk()

    bench.now += 5
    bench.watcher.tend()
    folders = {"."} | {name for name in bench.on_disk() if os.path.isdir(f"{bench.root}/{name}")}
    probes = {os.path.normpath(f"{folder}/probe") for folder in folders}
    for probe in probes:
        with open(f"{bench.root}/{probe}", "w"):
            pass
    assert set(bench.fence().paths) == probes
    assert bench.watcher.healthy()
    assert bench.watcher._tree._reader is reader  # type: ignore[union-attr]
    assert len(bench.watcher._tree._table) == len(folders)  # type: ignore[union-attr]
    bench.watcher.stop()
