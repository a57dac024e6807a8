"""What happens on disk, and what the watcher says of it."""

import ctypes
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from unittest import mock

import pytest
from watchdog.observers.inotify_c import CallbackId, Mask
from watchdog.observers.inotify_c import InotifyConstants as In

from cachesync.watch.hints import TOO_MANY, Hint, Hints, Pending
from cachesync.watch.portable import Tree as PortableTree
from cachesync.watch.reader import Reader
from cachesync.watch.watch import Watcher
from tests.watching import WRITTEN, Bench, write

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="these are inotify's events")

CHANGED, GONE, TREE, ATTRIBUTES = Hint.CHANGED, Hint.GONE, Hint.TREE, Hint.ATTRIBUTES


@pytest.fixture
def bench(tmp_path) -> Iterator[Bench]:
    bench = Bench(str(tmp_path))
    bench.watcher.start()
    yield bench
    bench.watcher.stop()


def save_by_rename(root: str, out: str) -> None:
    write(f"{root}/s/f.tmp")
    os.replace(f"{root}/s/f.tmp", f"{root}/s/f")


def save_like_vim(root: str, out: str) -> None:
    os.rename(f"{root}/s/old", f"{root}/s/old~")
    write(f"{root}/s/old")
    os.unlink(f"{root}/s/old~")


def move_in(root: str, out: str) -> None:
    write(f"{out}/f")
    os.rename(f"{out}/f", f"{root}/s/f")


def move_tree_in(root: str, out: str) -> None:
    write(f"{out}/d/e/f")
    os.rename(f"{out}/d", f"{root}/s/d")


def open_and_close(root: str, out: str) -> None:
    os.close(os.open(f"{root}/s/old", os.O_RDWR))


def write_again_after_close(root: str, out: str) -> None:
    write(f"{root}/s/f")
    os.truncate(f"{root}/s/f", 1)


ROWS: list[tuple[Callable[[str, str], object], dict[str, Hint]]] = [
    (lambda root, out: write(f"{root}/s/f"), {"s/f": WRITTEN}),
    (save_by_rename, {"s/f.tmp": GONE, "s/f": WRITTEN}),
    (save_like_vim, {"s/old": GONE | WRITTEN, "s/old~": GONE}),
    (move_in, {"s/f": WRITTEN}),
    (lambda root, out: os.rename(f"{root}/s/old", f"{out}/f"), {"s/old": GONE}),
    (lambda root, out: os.rename(f"{root}/s/old", f"{root}/s/new"), {"s/old": GONE, "s/new": WRITTEN}),
    (lambda root, out: os.unlink(f"{root}/s/old"), {"s/old": GONE}),
    (lambda root, out: os.truncate(f"{root}/s/old", 0), {"s/old": CHANGED}),
    (write_again_after_close, {"s/f": CHANGED}),
    (open_and_close, {"s/old": WRITTEN}),
    (lambda root, out: os.link(f"{root}/s/old", f"{root}/s/f"), {"s/f": CHANGED}),
    (lambda root, out: os.symlink("/", f"{root}/s/f"), {"s/f": CHANGED}),
    (lambda root, out: os.mkfifo(f"{root}/s/f"), {"s/f": CHANGED}),
    (lambda root, out: os.chmod(f"{root}/s/old", 0o600), {"s/old": ATTRIBUTES}),
    (lambda root, out: os.utime(f"{root}/s/dir"), {"s/dir": ATTRIBUTES}),
    (lambda root, out: os.mkdir(f"{root}/s2"), {"s2": TREE}),
    (lambda root, out: os.rmdir(f"{root}/s/dir"), {"s/dir": GONE | TREE}),
    (lambda root, out: os.rename(f"{root}/s/dir", f"{root}/d"), {"s/dir": GONE | TREE, "d": TREE}),
    (lambda root, out: os.rename(f"{root}/s/dir", f"{out}/d"), {"s/dir": GONE | TREE}),
    (move_tree_in, {"s/d": TREE}),
    (lambda root, out: write(os.fsdecode(f"{root}/s/".encode() + b"\xff\n?*[a]")), {"s/\udcff\n?*[a]": WRITTEN}),
]


@pytest.mark.parametrize("row", range(len(ROWS)))
def test_each_change_has_its_hints(bench, row):
    act, expected = ROWS[row]
    os.mkdir(f"{bench.root}/s/dir")
    write(f"{bench.root}/s/old")
    bench.forget()
    act(bench.root, bench.out)
    assert bench.fence().paths == expected


def test_a_nameless_file_is_hinted_under_its_name(bench):
    fd = os.open(f"{bench.root}/s", os.O_TMPFILE | os.O_WRONLY)
    os.link(f"/proc/self/fd/{fd}", f"{bench.root}/s/f", src_dir_fd=fd, follow_symlinks=True)
    os.close(fd)
    assert CHANGED in bench.fence().paths["s/f"]


def test_a_file_held_open_is_changed_until_the_writer_closes_it(bench):
    with open(f"{bench.root}/s/f", "wb", buffering=0) as file:
        file.write(b"a")
        assert bench.fence().paths == {"s/f": CHANGED}
        file.write(b"b")
        assert bench.fence().paths == {"s/f": CHANGED}
        os.utime(file.fileno())
    assert bench.fence().paths == {"s/f": WRITTEN | ATTRIBUTES}


def test_times_set_after_the_close_leave_it_closed(bench):
    write(f"{bench.root}/s/f")
    os.utime(f"{bench.root}/s/f", (1, 1))
    assert bench.fence().paths == {"s/f": WRITTEN | ATTRIBUTES}


def test_reading_is_not_a_change(bench):
    write(f"{bench.root}/s/d/f")
    bench.forget()
    for _ in range(3):
        with open(f"{bench.root}/s/d/f", "rb") as file:
            file.read()
        list(os.walk(bench.root))
    assert bench.fence().paths == {}


def test_our_own_folder_is_not_watched(bench):
    own = f"{bench.root}/.cachesync"
    before = bench.watcher.events
    for number in range(50):
        write(f"{own}/journal.db")
        write(f"{own}/tmp/{number}/x")
    os.chmod(own, 0o700)
    os.rename(f"{own}/tmp/7/x", f"{bench.root}/s/hydrated")
    assert bench.fence().paths == {"s/hydrated": WRITTEN}
    assert bench.watcher.events - before < 6  # the fence's and the last one: the kernel did not even report the rest


def test_a_session_moved_into_our_folder_is_watched_no_more(bench):
    os.rename(f"{bench.root}/s", f"{bench.root}/.cachesync/s")
    assert bench.fence().paths == {"s": GONE | TREE}
    write(f"{bench.root}/.cachesync/s/f")
    assert bench.fence().paths == {}


def kernel_watches(bench: Bench) -> int:
    with open(f"/proc/self/fdinfo/{bench.watcher._tree._reader._inotify_fd}") as info:  # type: ignore[union-attr]
        return info.read().count("inotify wd:")


def test_a_directory_moved_out_is_let_go(bench):
    os.mkdir(f"{bench.root}/s/d")
    bench.forget()
    os.rename(f"{bench.root}/s", f"{bench.out}/s")
    write(f"{bench.out}/s/d/f")
    assert bench.fence().paths == {"s": GONE | TREE}
    assert kernel_watches(bench) == 4
    bench.now += 5
    bench.watcher.tend()
    assert kernel_watches(bench) == 2  # the root and the canary
    os.rename(f"{bench.out}/s", f"{bench.root}/t")  # and heard again when it comes back
    bench.forget()
    write(f"{bench.root}/t/d/f")
    assert bench.fence().paths == {"t/d/f": WRITTEN}


def test_a_renamed_tree_is_followed_with_all_below_it(bench):
    os.makedirs(f"{bench.root}/s/a/b/c")
    bench.forget()
    for old, new in (("s/a", "s/x"), ("s", "t"), ("t/x/b", "b"), ("b/c", "t/c")):
        os.rename(f"{bench.root}/{old}", f"{bench.root}/{new}")
    bench.forget()
    for name in ("t/f", "t/x/f", "b/f", "t/c/f"):
        write(f"{bench.root}/{name}")
    assert bench.fence().paths == dict.fromkeys(("t/f", "t/x/f", "b/f", "t/c/f"), WRITTEN)


def test_two_directories_that_change_places_are_both_followed(bench):
    os.makedirs(f"{bench.root}/s/a/in-a")
    os.makedirs(f"{bench.root}/s/b/in-b")
    bench.forget()
    exchange = ctypes.CDLL(None, use_errno=True).renameat2
    if exchange(-100, f"{bench.root}/s/a".encode(), -100, f"{bench.root}/s/b".encode(), 2) != 0:
        pytest.skip(os.strerror(ctypes.get_errno()))
    assert bench.fence().paths == {"s/a": GONE | TREE, "s/b": GONE | TREE}
    bench.now += 5
    bench.watcher.tend()
    write(f"{bench.root}/s/a/in-b/f")
    write(f"{bench.root}/s/b/in-a/f")
    assert bench.fence().paths == {"s/a/in-b/f": WRITTEN, "s/b/in-a/f": WRITTEN}


def test_a_directory_renamed_onto_an_empty_one(bench):
    os.mkdir(f"{bench.root}/s/p")
    os.mkdir(f"{bench.root}/s/q")
    bench.forget()
    os.rename(f"{bench.root}/s/q", f"{bench.root}/s/p")
    bench.forget()
    write(f"{bench.root}/s/p/f")
    assert bench.fence().paths == {"s/p/f": WRITTEN}


def test_a_move_out_does_not_hold_up_what_comes_after_it(bench):
    delays = []
    for number in range(3):
        write(f"{bench.root}/s/f{number}")
        bench.forget()
        os.rename(f"{bench.root}/s/f{number}", f"{bench.out}/f{number}")
        began = time.monotonic()
        bench.fence()
        delays.append(time.monotonic() - began)
    assert min(delays) < 0.3


WRITERS = {
    "python": """
import os
for i in range(500):
    os.makedirs(f"{i}/a/b")
    open(f"{i}/a/b/f", "w").close()
""",
    "shell": """
import subprocess
subprocess.run(["sh", "-c", "for i in $(seq 0 499); do mkdir -p $i/a/b; : >$i/a/b/f; done"])
""",
    "copy": """
import os, shutil
for i in range(500):
    os.makedirs(f"../../out/{i}/a/b")
    open(f"../../out/{i}/a/b/f", "w").close()
shutil.copytree("../../out", ".", dirs_exist_ok=True)
""",
}


@pytest.mark.parametrize("writer", WRITERS)
def test_no_file_in_a_brand_new_directory_is_missed(bench, writer):
    with subprocess.Popen([sys.executable, "-c", WRITERS[writer]], cwd=f"{bench.root}/s") as child:
        while child.poll() is None:
            bench.follow(0.01)
    bench.fence()
    assert bench.known == bench.on_disk()
    assert sum(name.endswith("/f") for name in bench.known) == 500


def test_names_below_a_root_that_is_a_link(tmp_path):
    os.mkdir(tmp_path / "real")
    os.symlink("real", tmp_path / "link")
    bench = Bench(str(tmp_path), root=str(tmp_path / "link"))
    bench.watcher.start()
    try:
        write(f"{bench.root}/f")
        assert bench.fence().paths == {"f": WRITTEN}
    finally:
        bench.watcher.stop()


def test_too_many_paths_become_a_rescan():
    woken = []
    pending = Pending(lambda: woken.append(1), limit=10)
    for number in range(15):
        pending.add(f"s/{number}", CHANGED)
    assert pending.take() == Hints({}, frozenset({TOO_MANY}))
    pending.add("a", CHANGED)
    assert pending.take() == Hints({"a": CHANGED}, frozenset())
    assert not pending.take()
    assert len(woken) == 2


def test_too_many_paths_cost_no_other_session_its_hints():
    pending = Pending(lambda: None, limit=10)
    pending.add("other/f", GONE)
    for number in range(15):
        pending.add(f"flood/{number}", CHANGED)
    pending.add("other/g", CHANGED)
    assert pending.take() == Hints({"other/f": GONE, "other/g": CHANGED}, frozenset({TOO_MANY}))


def test_hints_of_sessions_that_are_not_taken_wait_and_are_coalesced():
    pending = Pending(lambda: None, limit=3)
    pending.add("s/f", WRITTEN.value)
    pending.add("t/f", CHANGED)
    assert pending.take({"s", "u"}) == Hints({"t/f": CHANGED}, frozenset())
    pending.add("s/f", CHANGED, Hint.CLOSED.value)
    pending.add("s/g", CHANGED)
    pending.add("t/g", CHANGED)
    assert pending.take({"t"}) == Hints({"s/f": CHANGED, "s/g": CHANGED}, frozenset())
    assert pending.take() == Hints({"t/g": CHANGED}, frozenset())


def test_a_listener_that_fails_is_told_again(tmp_path):
    def fail() -> None:
        raise RuntimeError("not now")

    os.mkdir(tmp_path / "root")
    watcher = Watcher(str(tmp_path / "root"), canary=str(tmp_path / "canary"), on_hints=fail)
    watcher.start()
    try:
        for name in "ab":
            write(str(tmp_path / "root" / name))
            deadline = time.monotonic() + 10
            while name not in watcher.take().paths:
                assert time.monotonic() < deadline
        assert watcher.healthy()
    finally:
        watcher.stop()


def test_the_portable_tree_gives_the_same_hints(tmp_path):
    bench = Bench(str(tmp_path))
    tree = PortableTree(
        bench.root, canary="", exclude=frozenset({".cachesync"}), pending=bench.watcher._pending, clock=time.monotonic
    )
    try:
        assert tree.alive
        write(f"{bench.root}/.cachesync/x")
        write(f"{bench.root}/s/f")
        os.rename(f"{bench.root}/s/f", f"{bench.root}/s/g")
        os.mkdir(f"{bench.root}/s/d")
        os.rename(f"{bench.root}/s/d", f"{bench.root}/s/e")
        paths = bench.fence().paths
        assert {name: paths[name] for name in ("s/f", "s/g")} == {"s/f": GONE, "s/g": WRITTEN}
        assert TREE in paths["s/e"]
        assert GONE in paths["s/d"]
        assert not any(name.startswith(".cachesync") for name in paths)
    finally:
        assert tree.close(5)
    shutil.rmtree(bench.root)


def test_p24_what_only_repeats_is_told_once_a_read(tmp_path):
    """Programs may change the mode of two files by the thousand: no other session's events wait for each."""
    for name in "ab":
        (tmp_path / name).write_bytes(b"")
    reader = Reader()
    mask, nobody = Mask(In.IN_ATTRIB | In.IN_CREATE | In.IN_DELETE), mock.Mock()
    reader.add_callback(os.fsencode(tmp_path), mask, nobody, CallbackId(1))
    try:
        for number in range(300):
            (tmp_path / "a").chmod(0o600 + number % 2)
            (tmp_path / "b").chmod(0o600 + number % 2)
        (tmp_path / "a").unlink()
        (tmp_path / "a").write_bytes(b"")
        (tmp_path / "a").chmod(0o640)
        told = [(event.name, event.mask) for event in reader.read_events()]
    finally:
        reader._release()
    changed, gone, made = In.IN_ATTRIB, In.IN_DELETE, In.IN_CREATE
    assert told == [(b"a", changed), (b"b", changed), (b"a", gone), (b"a", made), (b"a", changed)]
