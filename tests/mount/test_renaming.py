"""Names that are renamed and removed, on the disk, in the store, and in both: at the end mount and bucket have the
same; and nodes, whose files go and come behind them."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cachesync.api.client import ControlClient
from cachesync.fuse import linux
from tests.mount.mounted import MountedHost
from tests.promises.host import eventually

pytestmark = [pytest.mark.s3, pytest.mark.timeout(120)]


def evict(host: MountedHost, files: dict[str, str]) -> Path:
    """A session of which only the store has the files; returns its directory in the mount."""
    for path, text in files.items():
        (host.mnt / "s" / path).parent.mkdir(parents=True, exist_ok=True)
        (host.mnt / "s" / path).write_text(text)
    done = host.run("close", "s")
    assert done.code == 0, done.out + done.err
    return host.mnt / "s"


def tree(top: Path) -> dict[str, str]:
    return {str(path.relative_to(top)): path.read_text() for path in top.rglob("*") if path.is_file()}


def remove_and_rename(s: Path) -> None:
    (s / "b").unlink()
    (s / "a").rename(s / "b")


def rename_over(s: Path) -> None:
    (s / "a").rename(s / "b")


def write_remove_and_rename(s: Path) -> None:
    (s / "b").write_text("made here")
    (s / "b").unlink()
    (s / "a").rename(s / "b")


def swap(s: Path) -> None:
    (s / "a").rename(s / "c")
    (s / "b").rename(s / "a")
    (s / "c").rename(s / "b")


def exchange(s: Path) -> None:
    linux.rename(os.fsencode(s / "a"), os.fsencode(s / "b"), linux.RENAME_EXCHANGE)


def rename_mixed(s: Path) -> None:
    assert (s / "d" / "x").read_text() == "X"  # it stands here now, its neighbours do not
    (s / "d" / "new").write_text("N")
    (s / "d").rename(s / "f")


def rename_mixed_over(s: Path) -> None:
    assert (s / "d" / "x").read_text() == "X"
    (s / "f").mkdir()
    (s / "d").rename(s / "f")


def rename_over_emptied(s: Path) -> None:
    with pytest.raises(OSError, match="not empty"):
        (s / "d").rename(s / "e")
    (s / "e" / "q").unlink()
    (s / "d").rename(s / "e")


def remove_tree_and_rename(s: Path) -> None:
    shutil.rmtree(s / "e")
    (s / "d").rename(s / "e")


def replace_and_rename_above(s: Path) -> None:
    (s / "d" / "new").write_text("N")
    (s / "d" / "new").rename(s / "d" / "x")
    (s / "d").rename(s / "f")  # nobody has noticed yet that "x" stands there


def there_and_back(s: Path) -> None:
    (s / "d").rename(s / "f")
    (s / "f").rename(s / "d")


FILES = {"a": "A", "b": "B", "d/x": "X", "d/y/z": "Z", "e/q": "Q"}


@pytest.mark.parametrize(
    ("work", "changed"),
    [
        (remove_and_rename, {"a": None, "b": "A"}),
        (rename_over, {"a": None, "b": "A"}),
        (write_remove_and_rename, {"a": None, "b": "A"}),
        (swap, {"a": "B", "b": "A"}),
        (exchange, {"a": "B", "b": "A"}),
        (rename_mixed, {"d/x": None, "d/y/z": None, "f/x": "X", "f/y/z": "Z", "f/new": "N"}),
        (rename_mixed_over, {"d/x": None, "d/y/z": None, "f/x": "X", "f/y/z": "Z"}),
        (rename_over_emptied, {"d/x": None, "d/y/z": None, "e/q": None, "e/x": "X", "e/y/z": "Z"}),
        (remove_tree_and_rename, {"d/x": None, "d/y/z": None, "e/q": None, "e/x": "X", "e/y/z": "Z"}),
        (replace_and_rename_above, {"d/x": None, "d/y/z": None, "f/x": "N", "f/y/z": "Z"}),
        (there_and_back, {}),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_is_only_in_the_store_is_renamed(
    mounted: MountedHost, work: Callable[[Path], None], changed: dict[str, str | None]
) -> None:
    s = evict(mounted, FILES)
    work(s)
    expected = {path: text for path, text in (FILES | changed).items() if text is not None}
    assert tree(s) == expected
    assert mounted.stored("s")["conflicts"] == []
    assert {path: data.decode() for path, data in mounted.objects("s").items()} == expected
    assert mounted.run("verify", "s").code == 0
    assert tree(s) == expected


def test_a_link_takes_the_name_of_a_file_that_was_just_removed(mounted):
    (mounted.mnt / "s").mkdir()
    (mounted.mnt / "s" / "l").symlink_to("b")
    s = evict(mounted, {"a": "A", "b": "B"})
    (s / "a").unlink()
    (s / "l").rename(s / "a")
    assert os.readlink(s / "a") == "b"
    assert sorted(os.listdir(s)) == ["a", "b"]
    mounted.stored("s")
    assert mounted.keys("s") == {"b"}
    assert os.readlink(s / "a") == "b"


def test_a_second_name_is_not_what_takes_the_place_of_the_first(mounted):
    s = mounted.mnt / "s"
    s.mkdir()
    (s / "a").write_text("old")
    os.link(s / "a", s / "b")
    time.sleep(1.1)  # the kernel asks for both anew
    os.stat(s / "b")
    os.stat(s / "a")
    os.unlink(s / "a")
    (s / "a").write_text("new")
    assert (s / "b").read_text() == "old"
    assert (s / "a").read_text() == "new"


def test_a_file_that_was_dropped_while_a_program_reads_it_gets_a_second_name(mounted):
    s = mounted.mnt / "s"
    s.mkdir()
    (s / "a").write_text("A")
    mounted.stored("s")
    lifecycle = ControlClient(mounted.root / ".cachesync" / "control.sock").lifecycle
    with (s / "a").open() as reader:
        eventually(lambda: lifecycle.evict("s").evicted or not os.stat(s / "a"), 10, "it is dropped")
        os.link(s / "a", s / "b")  # at once: the kernel asks what "a" is only when a second has passed
        assert reader.read() == "A"
        assert os.fstat(reader.fileno()).st_nlink == 1
    assert (s / "a").read_text() == (s / "b").read_text() == "A"


def test_who_stands_in_a_directory_that_was_dropped_stays_in_it(mounted):
    for attempt in range(20):  # other programs may get the numbers that are free
        if (made := stood_and_made(mounted, f"s{attempt}")) is not None:
            assert made == {f"s{attempt}/made", f"s{attempt}/d/made"}
            return
    raise AssertionError("others always got the numbers that were free")


def stood_and_made(mounted, session) -> set[str] | None:
    """Stand in a session and its directory while they are dropped, and make something there when others have their
    inode numbers; returns what was made, None if none of ours got those."""
    s = mounted.mnt / session
    (s / "d").mkdir(parents=True)
    (s / "d" / "f").write_text("F")
    inodes = {os.stat(mounted.root / session / name).st_ino for name in ("", "d")}
    here = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (s, s / "d")]
    try:
        assert mounted.run("close", session).code == 0
        for number in range(50):
            other = f"other-{session}-{number}"
            (mounted.mnt / other).mkdir()
            inodes.discard(os.stat(mounted.root / other).st_ino)
        if inodes:
            return None
        for folder in here:
            os.close(os.open("made", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    finally:
        for folder in here:
            os.close(folder)
    return {str(path.relative_to(mounted.root)) for path in mounted.root.glob("*/**/made")}


def test_cp_copies_what_has_to_be_brought_first(mounted):
    s = evict(mounted, {"a": "A" * 1_000_000})
    done = subprocess.run(["cp", "-a", s / "a", mounted.folder / "copy"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (mounted.folder / "copy").read_text() == "A" * 1_000_000


def test_a_signal_does_not_interrupt_who_waits(mounted):
    """A timer's, say: on a disk no program is told EINTR by open or rename."""
    evict(mounted, {f"d/{number}": "x" * 100_000 for number in range(40)})
    script = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGALRM, lambda *_: None)\n"
        "signal.siginterrupt(signal.SIGALRM, True)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)\n"
        "os.rename('d', 'e')\n"
        "for name in os.listdir('e'):\n"
        "    os.rename('e/' + name, 'f' + name)\n"
        "    assert len(open('f' + name).read()) == 100_000\n"
        "signal.setitimer(signal.ITIMER_REAL, 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=mounted.mnt / "s", capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_a_file_of_another_session_takes_its_name_along(mounted):
    s = evict(mounted, {"a": "A", "d/b": "B"})
    (mounted.mnt / "t").mkdir()
    (s / "a").rename(mounted.mnt / "t" / "a")
    (s / "d").rename(mounted.mnt / "t" / "d")
    assert tree(mounted.mnt / "t") == {"a": "A", "d/b": "B"}
    mounted.stored("t")
    mounted.stored("s")
    assert (mounted.keys("t"), mounted.keys("s")) == ({"a", "d/b"}, set())
    with pytest.raises(OSError, match="rrno") as caught:
        (mounted.mnt / "t").rename(mounted.mnt / "t" / "inside")
    assert caught.value.errno == errno.EINVAL


def test_a_killed_program_does_not_wait(mounted):
    """A harmless signal first: the kernel tells of one only."""
    evict(mounted, {"a": "A"})
    os.kill(mounted.children()["daemon"], signal.SIGSTOP)
    try:
        script = "import signal; signal.signal(signal.SIGALRM, lambda *_: None); print(flush=True); open('a').read()"
        command = [sys.executable, "-c", script]
        waiting = subprocess.Popen(command, cwd=mounted.mnt / "s", stdout=subprocess.PIPE)
        assert waiting.stdout is not None
        with waiting.stdout as told:
            told.readline()
        time.sleep(0.5)
        waiting.send_signal(signal.SIGALRM)
        time.sleep(0.5)
        assert waiting.poll() is None
        waiting.kill()
        assert waiting.wait(5) == -signal.SIGKILL
    finally:
        os.kill(mounted.children()["daemon"], signal.SIGCONT)
    assert eventually((mounted.mnt / "s" / "a").read_text, 30) == "A"


def test_an_open_file_outlives_its_directory(mounted):
    folder = mounted.mnt / "s" / "d"
    folder.mkdir(parents=True)
    with (folder / "a").open("w+") as file:
        file.write("alpha")
        file.flush()
        os.unlink(folder / "a")
        os.rmdir(folder)
        os.ftruncate(file.fileno(), 3)
        os.fchmod(file.fileno(), 0o600)
        file.seek(0)
        assert file.read() == "alp"
