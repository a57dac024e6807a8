"""Looking at and reading a tree that somebody else is changing at the same time (P4, P16)."""

import contextlib
import ctypes
import errno
import hashlib
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from cachesync.model.errors import FileChanging, FileUnreadable, RootHalted, UsageError
from cachesync.model.policy import PART_SIZE, Writer
from cachesync.model.values import Kind, Skipped
from cachesync.root import openat2
from cachesync.root.capabilities import device_of, measure
from cachesync.root.open_file import OpenFile
from cachesync.root.openat2 import _walk, open_beneath
from cachesync.root.snapshot import take
from cachesync.root.tree import Tree

S = "s"
SECRET = b"the secret"
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks the kernel of Linux")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes its user")


@pytest.fixture(autouse=True)
def no_lease_signal():
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGIO, before)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root" / S).mkdir(parents=True)
    return tmp_path / "root"


@pytest.fixture
def session(root):
    return root / S


@pytest.fixture
def tree(root):
    tree = Tree(root)
    tree.capabilities = measure(tree.descriptor, device_of(tree.descriptor))
    yield tree
    tree.close()


@contextlib.contextmanager
def meanwhile(action):
    """Repeat ``action`` in another thread."""
    stop = threading.Event()
    errors = []

    def loop():
        try:
            while not stop.is_set():
                action()
        except Exception as error:  # noqa: BLE001 - shown below
            errors.append(error)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert not errors


# -- what is there -----------------------------------------------------------------------------------------------------


def test_everything_is_seen_as_what_it_is(tree, session):
    (session / "file").write_bytes(b"12345")
    (session / "file").chmod(0o640)
    (session / "link").symlink_to("/etc/passwd")
    (session / "dir").mkdir()
    os.mkfifo(session / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(session / "sock"))
    listing = tree.listing(S, "")
    assert {name: stat.kind for name, stat in listing.found.items()} == {
        "file": Kind.FILE,
        "link": Kind.LINK,
        "dir": Kind.DIRECTORY,
    }
    assert {(s.path, s.reason) for s in listing.special} == {("pipe", "a pipe"), ("sock", "a socket")}
    assert listing.found["link"].target == "/etc/passwd"
    assert (listing.found["file"].size, listing.found["file"].mode) == (5, 0o640)
    for name, stat in listing.found.items():
        assert tree.lstat(S, name) == stat
    assert tree.lstat(S, "pipe") == Skipped("pipe", "a pipe")


def as_seen(session, name, place=None, **other):
    """What somebody who looked before has kept of a name, but for what is ``other`` now."""
    s = (session / (place or name)).lstat()
    was = {"mode": s.st_mode, "size": s.st_size, "mtime": s.st_mtime_ns, "ctime": s.st_ctime_ns, "inode": s.st_ino}
    return os.fsencode(name), (os.fsencode(name), *(was | other).values())


def test_what_is_as_it_was_is_only_named(tree, session):
    for name in ("same", "grown", "touched", "chmod", "changed", "other", "new"):
        (session / name).write_text(name)
    for name in ("d", "moved", "was a file"):
        (session / name).mkdir()
    (session / "link").symlink_to("d")
    seen = dict(
        [
            as_seen(session, "same"),
            as_seen(session, "grown", size=1),
            as_seen(session, "touched", mtime=1),
            as_seen(session, "chmod", mode=0o100600),
            as_seen(session, "changed", ctime=1),
            as_seen(session, "other", inode=1),
            as_seen(session, "gone", "same"),
            as_seen(session, "d/", size=None, ctime=None),
            as_seen(session, "moved/", inode=1),
            as_seen(session, "was a file", mode=0o100644),
            as_seen(session, "link", mode=None),
        ]
    )
    left, whole = seen.copy(), tree.listing(S, "")
    listing = tree.listing(S, "", left)
    assert (listing.same_files, listing.same_directories) == (["same"], ["d"])
    assert listing.found == {name: stat for name, stat in whole.found.items() if name not in {"same", "d"}}
    assert left == {name: row for name, row in seen.items() if name not in {b"same", b"d/"}}
    assert sorted(listing.files()) == sorted(whole.files())
    assert sorted(listing.directories()) == sorted(whole.directories()) == ["d", "moved", "was a file"]


def test_what_is_not_there_is_none(tree, session):
    (session / "file").touch()
    assert tree.lstat(S, "missing") is None
    assert tree.lstat(S, "missing/x") is None
    assert tree.lstat(S, "file/x") is None
    assert tree.listing(S, "missing/") is None
    assert tree.listing("missing", "") is None
    assert tree.open(S, "missing") is None
    assert tree.open(S, "file/x") is None


@pytest.mark.parametrize("name", ["d", "pipe", "link", "sock"])
def test_p16_only_regular_files_are_opened(tree, session, name):
    (session / "d").mkdir()
    os.mkfifo(session / "pipe")
    (session / "link").symlink_to("/etc/passwd")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(session / "sock"))
    assert tree.open(S, name) is None


def test_p16_a_pipe_is_not_opened_even_for_a_moment(tree, session):
    """Whoever waits at its other end would be let through, and then killed by SIGPIPE."""
    os.mkfifo(session / "pipe")
    writer = subprocess.Popen([sys.executable, "-c", f"open({str(session / 'pipe')!r}, 'w')"])
    time.sleep(0.3)
    assert tree.open(S, "pipe") is None
    time.sleep(0.2)
    waiting = writer.poll() is None
    writer.kill()
    writer.wait()
    assert waiting, "the writer's open(2) returned"


def test_non_utf8_and_odd_names(tree, session):
    names = {os.fsdecode(b"\xff\xfe"), "new\nline", "e\u0301", " ", "-", "%2e%2e"}
    for name in names:
        (session / name).write_text(name.encode("utf-8", "surrogateescape").hex())
    assert tree.listing(S, "").found.keys() == names
    for name in names:
        with tree.open(S, name) as file:
            assert file.read(0, 99).decode() == os.fsencode(name).hex()


def test_paths_longer_than_the_kernel_takes_at_once(tree, session):
    name, depth = "d" * 200, 30
    here = os.open(session, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        here, old = os.open(name, os.O_RDONLY, dir_fd=here), here
        os.close(old)
    os.close(os.open("deep", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.write(descriptor := os.open("deep", os.O_WRONLY, dir_fd=here), b"deep")
    os.close(descriptor)
    os.close(here)
    directory = f"{name}/" * depth
    assert len(directory) > 4096
    assert tree.listing(S, directory).found.keys() == {"deep"}
    assert tree.lstat(S, f"{directory}deep").size == 4
    with tree.open(S, f"{directory}deep") as file:
        assert file.read(0, 9) == b"deep"
    subprocess.run(["rm", "-rf", session / name], check=True)


# -- nothing escapes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opener", [open_beneath, _walk])
@pytest.mark.parametrize("path", ["../secret", "a/../../secret", "/etc/passwd", "link/secret", "a/up/secret"])
def test_p16_no_path_leads_out(tmp_path, opener, path):
    (tmp_path / "secret").write_bytes(SECRET)
    top = tmp_path / "top"
    (top / "a").mkdir(parents=True)
    (top / "link").symlink_to(tmp_path)
    (top / "a" / "up").symlink_to("../..")
    descriptor = os.open(top, os.O_RDONLY)
    try:
        found = opener(descriptor, path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        pass
    else:
        with open(found, "rb") as file:
            assert file.read() != SECRET
            pytest.fail("it was opened")
    finally:
        os.close(descriptor)


def test_p16_a_link_in_a_path_is_not_followed(tree, session, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret").write_bytes(SECRET)
    (session / "d").symlink_to(tmp_path / "elsewhere")
    (tree.root / "t").symlink_to(tmp_path / "elsewhere")
    for name, path in [(S, "d"), ("t", "")]:
        below = f"{path}/" if path else ""
        assert tree.listing(name, below) is None
        assert tree.lstat(name, f"{below}secret") is None
        assert tree.open(name, f"{below}secret") is None
    assert tree.session_directory("t") is None
    assert "t" not in tree.sessions()[0]


def test_p16_a_directory_that_is_swapped_for_a_link_all_the_time_never_leads_out(tree, session, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "name").write_bytes(SECRET)
    (tmp_path / "elsewhere" / "only there").write_bytes(SECRET)
    (session / "d").mkdir()
    (session / "d" / "name").write_bytes(b"ours")
    (session / "link").symlink_to(tmp_path / "elsewhere")
    seen = {"ours": 0, "none": 0}

    def swap():
        os.rename(session / "d", session / "kept")
        os.rename(session / "link", session / "d")
        os.rename(session / "d", session / "link")
        os.rename(session / "kept", session / "d")

    until = time.monotonic() + 3
    with meanwhile(swap):
        while time.monotonic() < until:
            file = tree.open(S, "d/name")
            if file is None:
                seen["none"] += 1
            else:
                with file:
                    assert file.read(0, 99) == b"ours"
                seen["ours"] += 1
            listing = tree.listing(S, "d/")
            assert listing is None or listing.found.keys() <= {"name"}
            stat = tree.lstat(S, "d/name")
            assert stat is None or stat.size == 4
            assert tree.open(S, "d/only there") is None
    assert all(seen.values()), seen


def test_a_link_and_a_file_that_take_turns_never_make_a_listing_fail(tree, session):
    """A listing that fails makes a flush fail."""
    (session / "l").symlink_to("to")
    (session / "f").write_text("text")
    (session / "x").touch()

    def swap():
        os.rename(session / "x", session / "y")
        os.rename(session / "l", session / "x")
        os.rename(session / "x", session / "l")
        os.rename(session / "y", session / "x")
        with contextlib.suppress(OSError):
            os.symlink("to", session / "z")
            os.unlink(session / "z")
            (session / "z").touch()
            os.unlink(session / "z")

    until = time.monotonic() + 3
    with meanwhile(swap):
        while time.monotonic() < until:
            assert "f" in tree.listing(S, "").found
            tree.lstat(S, "x")
            tree.lstat(S, "z")


# -- what cannot be seen -----------------------------------------------------------------------------------------------


UNREADABLE = """
import ctypes, os, sys
from pathlib import Path
from cachesync.model.errors import FileUnreadable
from cachesync.root.tree import Tree
tree = Tree(Path(sys.argv[1]))
os.setgroups([]); os.setgid(65534); os.setuid(65534)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, as for a process that was started like this
codes = []
for ask in (
    lambda: tree.open("s", "private"),
    lambda: tree.listing("s", "closed/"),
    lambda: tree.lstat("s", "closed/a"),
    lambda: tree.open("s", "closed/a"),
    lambda: tree.listing("s", "closed/d/"),
):
    try:
        codes.append(f"answered {ask()}")
    except FileUnreadable as error:
        codes.append(str(error.cause))
print(*codes, sep="\\n")
"""


@as_root
def test_what_may_not_be_read_is_unreadable_and_not_absent(root, session, tmp_path):
    for above in [tmp_path, *tmp_path.parents[:3]]:
        above.chmod(above.stat().st_mode | 0o055)
    root.chmod(0o777)
    session.chmod(0o755)
    (session / "private").write_text("x")
    (session / "private").chmod(0o600)
    (session / "closed" / "d").mkdir(parents=True)
    (session / "closed" / "a").touch()
    (session / "closed").chmod(0o700)
    done = subprocess.run([sys.executable, "-c", UNREADABLE, root], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["Permission denied"] * 5


def test_a_file_that_fails_while_it_is_read_is_unreadable(session):
    directory = os.open(session, os.O_RDONLY)
    file = OpenFile(directory, "x")
    with pytest.raises(FileUnreadable, match="directory"):
        file.read(0, 1)
    file.close()


# -- the root ----------------------------------------------------------------------------------------------------------


def test_a_root_that_is_no_directory_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "missing", tmp_path / "file" / "below"):
        with pytest.raises(UsageError):
            Tree(path)
    with pytest.raises(UsageError):
        Tree(tmp_path / "file" / "below", create=True)
    tree = Tree(tmp_path / "a" / "b", create=True)
    assert tree.sessions() == ([], [])
    tree.close()


@as_root
def test_a_root_that_may_not_be_written_is_refused(root, tmp_path):
    for above in [tmp_path, *tmp_path.parents[:3]]:
        above.chmod(above.stat().st_mode | 0o055)
    script = (
        "import os,sys\nfrom pathlib import Path\n"
        "from cachesync.root.tree import Tree\nfrom cachesync.model.errors import UsageError\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try: Tree(Path(sys.argv[1]))\nexcept UsageError: sys.exit(42)"
    )
    root.chmod(0o755)
    assert subprocess.run([sys.executable, "-c", script, root], check=False).returncode == 42


def test_sessions_and_what_else_is_in_the_root(tree):
    for name in ("good", "Also.good-1_2", "-bad", ".hidden", "b" * 128, "b" * 129, ".cachesync", "sp ace"):
        (tree.root / name).mkdir()
    (tree.root / "file").touch()
    (tree.root / ".cachesyncignore").touch()
    names, others = tree.sessions()
    assert names == sorted([S, "good", "Also.good-1_2", "b" * 128])
    assert {(o.path, o.reason) for o in others} == {
        ("-bad", "not a session name"),
        (".hidden", "not a session name"),
        ("b" * 129, "not a session name"),
        ("sp ace", "not a session name"),
        ("file", "not in a session directory"),
    }


@pytest.mark.parametrize("what", ["gone", "replaced", "file"])
def test_another_root_is_noticed(tree, what):
    kept = tree.root.with_name("kept")
    os.rename(tree.root, kept)
    if what == "replaced":
        (tree.root / S).mkdir(parents=True)
    elif what == "file":
        tree.root.touch()
    for ask in (tree.check, tree.sessions, lambda: tree.session_directory(S), lambda: tree.session_directory("no")):
        with pytest.raises(RootHalted):
            ask()
    subprocess.run(["rm", "-rf", tree.root], check=True)
    os.rename(kept, tree.root)
    tree.check()


@pytest.mark.parametrize("asked", ["stat", "statx"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOTCONN, errno.ESTALE, errno.EACCES])
def test_a_session_that_gives_no_answer_is_neither_absent_nor_the_whole_root(tree, session, monkeypatch, asked, code):
    """A dead mount in the root, say."""
    (tree.root / "other").mkdir()
    stat, birth = os.stat, openat2.birth_ns

    def no_stat(path, **more):
        if path == S and "dir_fd" in more:
            raise OSError(code, os.strerror(code))
        return stat(path, **more)

    def no_birth(directory, name):
        if name == S:
            raise OSError(code, os.strerror(code))
        return birth(directory, name)

    if asked == "stat":
        monkeypatch.setattr(os, "stat", no_stat)
    else:
        monkeypatch.setattr("cachesync.root.tree.birth_ns", no_birth)
    with pytest.raises(FileUnreadable, match=os.strerror(code)):
        tree.session_directory(S)
    assert tree.session_directory("other") is not None
    assert tree.session_directory("none") is None
    assert tree.sessions()[0] == ["other", S]


def test_a_birth_that_cannot_be_told_is_no_error_where_the_kernel_does_not_tell_any(tree, session, monkeypatch):
    def refuse(code):
        def statx(*_):
            ctypes.set_errno(code)
            return -1

        monkeypatch.setattr(openat2._libc, "statx", statx)

    refuse(errno.ENOSYS)
    assert str(tree.session_directory(S)).endswith(":None")
    refuse(errno.ENOTCONN)
    with pytest.raises(FileUnreadable):
        tree.session_directory(S)


def test_two_directories_of_one_name_are_told_apart_even_with_one_inode(tree, session):
    words = set()
    for _ in range(20):
        words.add(tree.session_directory(S))
        session.rmdir()
        assert tree.session_directory(S) is None
        session.mkdir()
    assert len(words) == 20
    word = tree.session_directory(S)
    (session / "a").touch()
    session.chmod(0o700)
    os.utime(session, (1, 1))
    assert tree.session_directory(S) == word


def test_ignore_text(tree, session):
    assert tree.ignore_text(None) == tree.ignore_text(S) == ""
    (tree.root / ".cachesyncignore").write_text("root")
    (tree.root / ".cachesyncignore").chmod(0o644)
    (session / ".cachesyncignore").write_bytes(b"\xff\n")
    assert tree.ignore_text(None) == "root"
    assert tree.ignore_text(S) == os.fsdecode(b"\xff\n")
    (session / ".cachesyncignore").unlink()
    (session / ".cachesyncignore").symlink_to("/etc/passwd")
    assert tree.ignore_text(S) == ""
    (session / ".cachesyncignore").unlink()
    os.mkfifo(session / ".cachesyncignore")
    assert tree.ignore_text(S) == ""
    (session / ".cachesyncignore").unlink()
    (session / ".cachesyncignore").mkdir()
    assert tree.ignore_text(S) == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="takes the place of another user")
def test_the_ignore_file_of_the_root_counts_only_if_no_agent_can_write_it(tree, session, caplog):
    """Who may make sessions in the root can make that file too: it would switch storage off for all."""
    rules = tree.root / ".cachesyncignore"
    rules.write_text("*\n")
    for owner, mode, counts in (
        (0, 0o644, True), (0, 0o664, False), (0, 0o640, True), (0, 0o646, False), (12001, 0o600, False),
    ):  # fmt: skip
        os.chown(rules, owner, 0)
        rules.chmod(mode)
        caplog.clear()
        assert [tree.ignore_text(None) for _ in range(3)] == ["*\n" if counts else ""] * 3
        assert [".cachesyncignore is not used" in line for line in caplog.messages] == [True] * (not counts)
        assert (tree.ignore_doubt() is None) == counts
    os.chown(tree.root, 12001, 0)
    assert tree.ignore_text(None) == "*\n", "it is the root's owner's"
    os.chown(session, 12001, 0)
    (session / ".cachesyncignore").write_text("a\n")
    os.chown(session / ".cachesyncignore", 12002, 0)
    assert tree.ignore_text(S) == "a\n", "a session's own rules are its agents'"


# -- writers -----------------------------------------------------------------------------------------------------------


@linux
def test_a_writer_is_seen_while_it_is_there(tree, session):
    place = session / "a"
    place.write_text("x" * 4096)
    with tree.open(S, "a") as file:
        assert file.writer() is Writer.CLOSED
        for mode in ("r+", "a"):
            with open(place, mode):
                assert file.writer() is Writer.OPEN
            assert file.writer() is Writer.CLOSED
        with open(place):
            assert file.writer() is Writer.CLOSED, "a reader is no writer"
        with open(place, "r+") as writer:
            mapped = mmap.mmap(writer.fileno(), 4096)
        assert file.writer() is Writer.OPEN, "mapped, though its descriptor is closed"
        mapped.close()
        assert file.writer() is Writer.CLOSED


@linux
def test_asking_for_writers_disturbs_none_of_them(tree, session):
    place = session / "a"
    place.write_text("x")
    opened = 0

    def write():
        nonlocal opened
        with open(place, "r+") as writer:
            writer.write("y")
        opened += 1

    asked = 0
    limit = time.monotonic() + 30
    with meanwhile(write), tree.open(S, "a") as file:
        while min(opened, asked) < 1000 and time.monotonic() < limit:
            assert file.writer() in {Writer.OPEN, Writer.CLOSED}
            asked += 1
    assert min(opened, asked) >= 1000


@linux
@as_root
def test_of_a_file_of_somebody_else_nothing_is_known(root, session, tmp_path):
    for above in [tmp_path, *tmp_path.parents[:3]]:
        above.chmod(above.stat().st_mode | 0o055)
    root.chmod(0o777)
    (session / "a").write_text("x")
    script = (
        "import ctypes,os,sys\nfrom pathlib import Path\n"
        "from cachesync.root.capabilities import device_of, measure\nfrom cachesync.root.tree import Tree\n"
        "os.setgid(65534); os.setuid(65534); ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)\n"
        "tree = Tree(Path(sys.argv[1])); tree.capabilities = measure(tree.descriptor, device_of(tree.descriptor))\n"
        "assert tree.capabilities.leases == 'honest'; print(tree.open('s', 'a').writer().name)"
    )
    done = subprocess.run([sys.executable, "-c", script, root], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "UNKNOWN"


# -- reading a moment --------------------------------------------------------------------------------------------------


def snapshot(tree, path, *, at_line_end=False):
    with tree.open(S, path) as file:
        taken = take(file, at_line_end=at_line_end)
        return taken, taken.body.read(0, taken.body.size)


@pytest.mark.parametrize("size", [0, 1, 5000, PART_SIZE])
def test_p04_a_quiet_file_is_what_it_is(tree, session, size):
    data = os.urandom(size)
    (session / "a").write_bytes(data)
    taken, read = snapshot(tree, "a")
    assert read == data
    assert taken.body.sha256 == hashlib.sha256(data).hexdigest()
    assert (taken.body.size, taken.grew, taken.cut, list(taken.body.part_sha256)) == (size, False, False, [])
    assert taken.stat.size == size


def test_p04_a_large_file_has_parts_each_with_its_digest(tree, session):
    data = os.urandom(2 * PART_SIZE + 12345)
    (session / "a").write_bytes(data)
    with tree.open(S, "a") as file:
        taken = take(file, at_line_end=False)
        body = taken.body
        assert body.sha256 == hashlib.sha256(data).hexdigest()
        assert body.part_size == PART_SIZE
        parts = [data[start : start + PART_SIZE] for start in range(0, len(data), PART_SIZE)]
        assert list(body.part_sha256) == [hashlib.sha256(part).hexdigest() for part in parts]
        for number, part in enumerate(parts):
            assert body.read(number * PART_SIZE, len(part)) == part
        with open(session / "a", "r+b") as writer:
            writer.seek(PART_SIZE + 5)
            writer.write(b"changed")
        assert body.read(0, PART_SIZE) == parts[0]
        with pytest.raises(FileChanging):
            body.read(PART_SIZE, PART_SIZE)
        os.truncate(session / "a", 100)
        with pytest.raises(FileChanging):
            body.read(0, PART_SIZE)


def test_a_sparse_file(tree, session):
    os.truncate(os.open(session / "a", os.O_CREAT | os.O_WRONLY), 3 * PART_SIZE)
    with tree.open(S, "a") as file:
        body = take(file, at_line_end=False).body
    assert body.sha256 == hashlib.sha256(bytes(3 * PART_SIZE)).hexdigest()
    assert len(set(body.part_sha256)) == 1


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        (b"", b""),
        (b"one", b""),
        (b"one\n", b"one\n"),
        (b"one\ntwo", b"one\n"),
        (b"\n\n", b"\n\n"),
        (b"one\n" + b"x" * 3_000_000, b"one\n"),
        (b"x" * 3_000_000, b""),
        (b"x" * (1024 * 1024 - 1) + b"\n" + b"y" * 1024 * 1024, b"x" * (1024 * 1024 - 1) + b"\n"),
    ],
    ids=range(8),
)
def test_p04_lines_are_cut_at_their_end(tree, session, data, kept):
    (session / "a.jsonl").write_bytes(data)
    taken, read = snapshot(tree, "a.jsonl", at_line_end=True)
    assert read == kept
    assert taken.cut is (kept != data)
    assert taken.stat.size == len(data)


class Moment(OpenFile):
    """Another descriptor of a file; calls ``action`` the moment it has been read for the first time."""

    def __init__(self, file, action):
        super().__init__(os.dup(file.descriptor), file.path)
        self.action = action

    def read(self, offset, length):
        data = super().read(offset, length)
        if self.action:
            action, self.action = self.action, None
            action()
        return data


@pytest.mark.parametrize("size", [1000, PART_SIZE + 1000], ids=["small", "large"])
def test_p04_a_file_that_only_grew_is_stored_as_it_was(tree, session, size):
    data = os.urandom(size)
    (session / "a").write_bytes(data)

    def grow():
        with open(session / "a", "ab") as writer:
            writer.write(b"more")

    with tree.open(S, "a") as opened, Moment(opened, grow) as file:
        taken = take(file, at_line_end=False)
        assert taken.grew
        assert taken.body.sha256 == hashlib.sha256(data).hexdigest()
        assert taken.stat.size == size


@pytest.mark.parametrize("size", [1000, PART_SIZE + 1000], ids=["small", "large"])
@pytest.mark.parametrize("change", ["rewritten", "rewritten and longer", "shorter", "touched", "replaced"])
def test_p04_a_file_that_changed_otherwise_is_torn_or_whole(tree, session, size, change):
    data = os.urandom(size)
    place = session / "a"
    place.write_bytes(data)
    place.with_name("b").write_bytes(b"other")
    changes = {
        "rewritten": lambda: place.write_bytes(os.urandom(size)),
        "rewritten and longer": lambda: place.write_bytes(os.urandom(size + 10)),
        "shorter": lambda: os.truncate(place, size - 10),
        "touched": lambda: os.utime(place),
        "replaced": lambda: os.replace(place.with_name("b"), place),
    }
    with tree.open(S, "a") as opened, Moment(opened, changes[change]) as file:
        try:
            taken = take(file, at_line_end=False)
            for start in range(0, size, PART_SIZE):  # as it is sent
                taken.body.read(start, min(PART_SIZE, size - start))
        except FileChanging:
            return
        # Only where nothing happened to the bytes that were read: the path has another file now.
        assert change == "replaced"
        assert taken.body.sha256 == hashlib.sha256(data).hexdigest()


def test_p04_no_snapshot_of_a_file_that_is_rewritten_all_the_time_is_torn(tree, session):
    """Each state is one letter, so a mixture shows."""
    place = session / "a"
    place.write_bytes(b"a" * 200_000)
    letters = [letter.encode() * 200_000 for letter in "abcdefgh"]
    state = 0

    def rewrite():
        nonlocal state
        state += 1
        with open(place, "r+b", buffering=0) as writer:
            writer.write(letters[state % 8])
        time.sleep(0.001 * (state % 5))

    outcomes = {"whole": 0, "changing": 0}
    until = time.monotonic() + 4
    with meanwhile(rewrite):
        while time.monotonic() < until:
            try:
                _, read = snapshot(tree, "a")
            except FileChanging:
                outcomes["changing"] += 1
                continue
            assert len(set(read)) == 1, "torn"
            outcomes["whole"] += 1
    assert outcomes["whole"], outcomes


def test_p04_a_log_that_grows_all_the_time_is_whole_lines_from_its_beginning(tree, session):
    place = session / "a.jsonl"
    place.touch()
    line = b'{"line": "%d"}\n'
    number = 0

    def grow():
        nonlocal number
        with open(place, "ab", buffering=0) as writer:
            whole = line % number
            writer.write(whole[:5])
            writer.write(whole[5:])
        number += 1

    took, until = 0, time.monotonic() + 2
    with meanwhile(grow):
        while time.monotonic() < until:
            _, read = snapshot(tree, "a.jsonl", at_line_end=True)
            lines = read.splitlines(keepends=True)
            assert lines == [line % at for at in range(len(lines))]
            took += 1
    assert took > 10


def test_many_list_the_sessions_at_once_and_each_sees_all(root):
    names = sorted([S, *(f"session-{number}" for number in range(300))])
    for name in names:
        (root / name).mkdir(exist_ok=True)
    tree = Tree(root)
    seen: list[bool] = []

    def look():
        seen.extend(tree.sessions()[0] == names for _ in range(100))

    lookers = [threading.Thread(target=look) for _ in range(4)]
    for looker in lookers:
        looker.start()
    for looker in lookers:
        looker.join()
    tree.close()
    assert len(seen) == 400
    assert all(seen)
