"""What goes wrong with watching, and how it is noticed and healed."""

import errno
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from watchdog.observers.inotify_c import inotify_rm_watch

from cachesync.watch.hints import OVERFLOW, RESTART, ROOT_REPLACED
from cachesync.watch.inotify import Tree
from cachesync.watch.reader import Reader
from tests.watching import DEADLINE, Bench, write

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify")


@pytest.fixture
def bench(tmp_path) -> Iterator[Bench]:
    bench = Bench(str(tmp_path))
    bench.watcher.start()
    yield bench
    bench.watcher.stop()


def until(condition: Callable[[], object], act: Callable[[], object] = lambda: None) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        act()
        time.sleep(0.002)


def tree_of(bench: Bench) -> Tree:
    assert isinstance(bench.watcher._tree, Tree)
    return bench.watcher._tree


def hears(bench: Bench, *folders: str) -> None:
    """Each folder's changes are hinted, under its own name."""
    bench.fence()  # they are watched: of one that is not yet, the hint is about the folder
    names = {os.path.normpath(f"{folder}/probe") for folder in folders}
    for name in names:
        write(f"{bench.root}/{name}")
    assert {name for name in bench.fence().paths if name.endswith("probe")} == names


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


DANCES = [
    ["mv p ../out/p", "mkdir p", "rm -r p", "rm -r ../out/p"],
    ["mv p ../out/p", "rm -r ../out/p"],
    ["mv p ../out/p", "mkdir p", "rm -r ../out/p"],
    ["mv p ../out/p", "mkdir p", "mv p q", "rm -r ../out/p"],
    ["mkdir q", "mv -T q p"],
    ["mkdir q", "mv -T q p", "rm -r p"],
    ["mv p t", "mkdir p", "rm -r t", "rm -r p"],
]


@pytest.mark.parametrize("steps", DANCES, ids=range(len(DANCES)))
@pytest.mark.parametrize("slowly", [False, True])
def test_the_dance_that_deafens_watchdog_does_not_deafen_us(bench, steps, slowly):
    os.mkdir(f"{bench.root}/p")
    bench.forget()
    reader = tree_of(bench)._reader
    for step in steps:
        subprocess.run(["sh", "-c", step], cwd=bench.root, check=True)
        if slowly:
            bench.fence()
    hears(bench, ".", *(name for name in os.listdir(bench.root) if name in "pqst"))
    bench.now += 5
    bench.watcher.tend()
    hears(bench, ".", *(name for name in os.listdir(bench.root) if name in "pqst"))
    assert bench.watcher.healthy()
    assert tree_of(bench)._reader is reader


def test_an_overflow_asks_for_a_rescan_and_loses_no_directory(bench):
    os.mkdir(f"{bench.root}/s/old")
    bench.forget()
    with tree_of(bench)._lock:  # the reader waits
        for number in range(16384 // 3 + 500):
            write(f"{bench.root}/s/f{number}")
        os.rename(f"{bench.root}/s/old", f"{bench.root}/s/moved")
        os.makedirs(f"{bench.root}/s/new/below")
    until(lambda: OVERFLOW in bench.rescan, lambda: bench.follow(0.01))
    assert bench.watcher.overflows >= 1
    hears(bench, "s", "s/moved", "s/new", "s/new/below")
    assert bench.watcher.healthy()


def test_a_dead_reader_is_replaced(bench, monkeypatch):
    dead = tree_of(bench)._reader

    def die() -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(dead, "read_events", die)
    write(f"{bench.root}/s/f")
    until(lambda: not dead.is_alive())
    assert not bench.watcher.healthy()
    bench.watcher.tend()
    assert bench.watcher.healthy()
    assert bench.watcher.take().rescan == {RESTART}
    assert bench.watcher.restarts == 1
    hears(bench, ".", "s")


def test_an_event_that_cannot_be_handled_costs_only_itself(bench, monkeypatch):
    reader = tree_of(bench)._reader
    handle = reader.handle_event
    faults: list[object] = []

    def fail(event):
        if not faults:
            faults.append(event)
            raise ValueError("odd")
        handle(event)

    monkeypatch.setattr(reader, "handle_event", fail)
    write(f"{bench.root}/s/f")
    hears(bench, ".", "s")
    assert faults


def test_the_canary_is_heard(bench):
    tree = tree_of(bench)
    for _ in range(5):
        bench.now += 60
        bench.watcher.tend()
        until(lambda: tree._poked_at is None)
        assert bench.watcher.healthy()
    assert tree_of(bench) is tree


def test_a_canary_that_is_not_heard_restarts(bench, monkeypatch):
    monkeypatch.setattr(tree_of(bench), "_canary_wd", -7)
    bench.watcher.tend()
    assert bench.watcher.healthy()
    bench.now += 60
    assert not bench.watcher.healthy()
    bench.watcher.tend()
    assert bench.watcher.take().rescan == {RESTART}
    bench.watcher.tend()
    until(lambda: tree_of(bench)._poked_at is None)
    hears(bench, ".", "s")


def test_a_canary_that_was_removed_is_set_again(bench):
    bench.watcher.tend()
    shutil.rmtree(f"{bench.root}/.cachesync")
    until(lambda: tree_of(bench)._canary_wd is None)
    bench.watcher.tend()
    os.mkdir(f"{bench.root}/.cachesync")
    bench.watcher.tend()
    assert tree_of(bench)._canary_wd is not None
    assert bench.watcher.healthy()
    assert bench.watcher.restarts == 0


def test_a_root_that_lost_its_watch_is_watched_again(bench):
    tree = tree_of(bench)
    assert tree._root_wd is not None
    inotify_rm_watch(tree._reader._inotify_fd, tree._root_wd)
    until(lambda: not bench.watcher.healthy())
    bench.watcher.tend()
    assert bench.watcher.take().rescan
    hears(bench, ".", "s")


def test_a_reader_that_hangs_is_left_behind_and_cleans_up_after_itself(bench, monkeypatch):
    monkeypatch.setattr("cachesync.watch.watch.CLOSE_TIMEOUT", 0.1)
    before = descriptors(), threading.active_count()
    go, hung = threading.Event(), tree_of(bench)

    def hang(path: str, mask: int) -> None:
        go.wait(DEADLINE)

    monkeypatch.setattr(hung, "_on_directory", hang)
    os.mkdir(f"{bench.root}/s/d")
    bench.watcher.tend()
    bench.now += 60
    bench.watcher.tend()
    assert tree_of(bench) is not hung
    hears(bench, ".", "s", "s/d")
    go.set()
    until(lambda: (descriptors(), threading.active_count()) == before)


def test_a_root_that_is_deleted_and_made_again(bench):
    shutil.rmtree(bench.root)
    until(lambda: not bench.watcher.healthy())
    for _ in range(3):
        bench.watcher.tend()
        assert not bench.watcher.root_ok
        assert bench.watcher.uncovered() == {"."}
    os.makedirs(f"{bench.root}/t")
    bench.watcher.tend()
    assert bench.watcher.root_ok
    assert bench.watcher.take().rescan == {ROOT_REPLACED}
    hears(bench, ".", "t")


def test_a_root_that_is_renamed_away_and_back(bench):
    os.rename(bench.root, f"{bench.out}/root")
    assert not bench.watcher.root_ok
    bench.watcher.tend()
    bench.watcher.take()
    write(f"{bench.out}/root/s/f")  # not ours any more
    os.rename(f"{bench.out}/root", bench.root)
    bench.watcher.tend()
    assert bench.watcher.root_ok
    assert bench.watcher.take().rescan == {ROOT_REPLACED}
    hears(bench, ".", "s")


def test_a_root_that_is_replaced_at_once(bench):
    os.makedirs(f"{bench.out}/other/t")
    os.rename(bench.root, f"{bench.out}/root")
    os.rename(f"{bench.out}/other", bench.root)
    assert not bench.watcher.root_ok
    assert not bench.watcher.healthy()
    bench.watcher.tend()
    assert bench.watcher.take().rescan == {ROOT_REPLACED}
    hears(bench, ".", "t")


def test_a_root_that_is_not_there_yet(tmp_path):
    bench = Bench(str(tmp_path))
    os.rename(bench.root, f"{bench.out}/root")
    bench.watcher.start()
    assert not bench.watcher.root_ok
    assert not bench.watcher.healthy()
    os.rename(f"{bench.out}/root", bench.root)
    bench.watcher.tend()
    assert bench.watcher.take().rescan == {ROOT_REPLACED}
    hears(bench, ".", "s")
    bench.watcher.stop()


def test_start_stop_and_restart_leave_nothing_behind(bench):
    bench.watcher.stop()
    bench.watcher.stop()
    before = descriptors(), threading.active_count()
    for _ in range(50):
        bench.watcher.start()
        bench.watcher.start()
        tree_of(bench).close(5)
        bench.watcher.tend()
        assert bench.watcher.healthy()
        bench.watcher.stop()
    assert (descriptors(), threading.active_count()) == before
    bench.watcher.tend()
    assert not bench.watcher.healthy()
    bench.watcher.start()
    hears(bench, ".", "s")


@pytest.mark.parametrize("what", ["pipe", "thread"])
def test_no_descriptors_left_to_start_with(bench, monkeypatch, what):
    bench.watcher.stop()
    before = descriptors()

    def none_left(*args: object) -> None:
        raise OSError(errno.EMFILE, "too many") if what == "pipe" else RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        if what == "pipe":
            patch.setattr(os, "pipe", none_left)
        else:
            patch.setattr(threading.Thread, "start", none_left)
        bench.watcher.start()
        for _ in range(3):
            bench.watcher.tend()
            assert bench.watcher.uncovered() == {"."}
            assert descriptors() == before
    bench.watcher.tend()
    assert bench.watcher.take().rescan == {RESTART}
    hears(bench, ".", "s")


def test_children_do_not_inherit_the_descriptors(bench):
    shown = subprocess.run(["ls", "-l", "/proc/self/fd"], close_fds=False, check=True, capture_output=True, text=True)
    assert "inotify" not in shown.stdout
    assert isinstance(tree_of(bench)._reader, Reader)


PRELUDE = """
import os, sys
from tests.watching import *
bench = Bench(sys.argv[1])
def raise_limits():
    for name in ("watches", "instances"):
        with open(f"/proc/sys/user/max_inotify_{name}", "w") as limit: limit.write("1000")
def hears(*names):
    for name in names: write(f"{bench.root}/{name}")
    found = bench.fence().paths
    assert set(names) <= bench.known, found  # each by its own hint, or by that of a folder that write() made
"""

WATCH_LIMIT_ON_FOLDERS = """
for number in range(12): os.makedirs(f"{bench.root}/s/{number}/below")
bench.watcher.start()
lost = bench.watcher.uncovered()
covered = set(os.listdir(f"{bench.root}/s")) - {name[2:] for name in lost}
assert bench.watcher.take().rescan == {"watch limit"}
assert lost and all(name.startswith("s/") for name in lost), lost
assert bench.watcher.healthy()
for name in lost: write(f"{bench.root}/{name}/f")
assert not any(name.endswith("f") for name in bench.fence().paths)
for _ in range(3): bench.watcher.tend()
assert bench.watcher.uncovered() == lost and not bench.watcher.take().rescan
os.rename(f"{bench.root}/{min(lost)}", f"{bench.out}/x")
bench.fence()
assert bench.watcher.uncovered() == lost - {min(lost)}
os.makedirs(f"{bench.root}/late")
bench.fence()
assert "late" in bench.watcher.uncovered()
left = bench.watcher.uncovered()
raise_limits()
bench.watcher.tend()
assert not bench.watcher.uncovered()
hints = bench.watcher.take()
assert {name for name, hint in hints.paths.items() if Hint.TREE in hint} == left, hints
hears(*(f"{name}/below/f" for name in left), "late/f")
assert bench.watcher.restarts == 0
"""

WATCH_LIMIT_ON_THE_ROOT = """
bench.watcher.start()
assert bench.watcher.uncovered() == {"."} and bench.watcher.root_ok
bench.watcher.take()
bench.watcher.tend()
assert bench.watcher.uncovered() == {"."} and not bench.watcher.take().rescan
raise_limits()
bench.watcher.tend()
assert not bench.watcher.uncovered()
assert bench.watcher.take().rescan == {"restart"}
hears("f", "s/f")
"""

INSTANCE_LIMIT = WATCH_LIMIT_ON_THE_ROOT.replace("bench.watcher.take()\nbench.watcher.tend()", "bench.watcher.tend()")

MOUNTED_OVER = """
import subprocess
raise_limits()
bench.watcher.start()
subprocess.run(["mount", "-t", "tmpfs", "none", bench.root], check=True)
assert not bench.watcher.root_ok
bench.watcher.tend()
assert bench.watcher.take().rescan == {"root replaced"}
hears("t/f")
subprocess.run(["umount", "-l", bench.root], check=True)
bench.watcher.tend()
assert bench.watcher.take().rescan == {"root replaced"}
hears("s/f")
"""


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ("echo 6 > /proc/sys/user/max_inotify_watches", WATCH_LIMIT_ON_FOLDERS),
        ("echo 0 > /proc/sys/user/max_inotify_watches", WATCH_LIMIT_ON_THE_ROOT),
        ("echo 0 > /proc/sys/user/max_inotify_instances", INSTANCE_LIMIT),
        ("true", MOUNTED_OVER),
    ],
    ids=["folders", "root", "instances", "mount"],
)
def test_limits_of_a_user(tmp_path, limits, code):
    if subprocess.run(["unshare", "-U", "-r", "-m", "true"], check=False, capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    shell = f'{limits}; exec "$0" -c "$1" "$2"'
    command = ["unshare", "-U", "-r", "-m", "sh", "-c", shell, sys.executable, PRELUDE + code, str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr


def test_a_folder_that_may_not_be_read():
    code = """
    import os, sys, tempfile
    from tests.watching import *
    if os.getuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)
    with tempfile.TemporaryDirectory() as base:
        bench = Bench(base)
        write(f"{bench.root}/s/secret/below/f")
        write(f"{bench.root}/s/open/f")
        os.chmod(f"{bench.root}/s/secret", 0)
        bench.watcher.start()
        assert bench.watcher.uncovered() == {"s/secret"}
        write(f"{bench.root}/s/open/g")
        assert set(bench.fence().paths) == {"s/open/g"}
        bench.watcher.tend()
        assert bench.watcher.uncovered() == {"s/secret"} and bench.watcher.restarts == 0
        os.chmod(f"{bench.root}/s/secret", 0o700)
        bench.watcher.tend()
        assert not bench.watcher.uncovered()
        assert Hint.TREE in bench.fence().paths["s/secret"]
        write(f"{bench.root}/s/secret/below/g")
        assert set(bench.fence().paths) == {"s/secret/below/g"}
        bench.watcher.stop()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], check=False, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stderr
