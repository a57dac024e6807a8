"""What POSIX promises to programs, on files that stand here and on files that are only in the store."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cachesync.fuse import linux
from tests.mount.mounted import MountedHost
from tests.promises.host import eventually

pytestmark = [pytest.mark.s3, pytest.mark.timeout(120)]
libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(params=["here", "away"])
def folder(request: pytest.FixtureRequest, mounted: MountedHost) -> Path:
    """A session with files ``a`` ("alpha") and ``b`` ("beta"), ``d/c`` ("gamma") and a link ``l`` to ``a``."""
    s = mounted.mnt / "s"
    (s / "d").mkdir(parents=True)
    (s / "a").write_text("alpha")
    (s / "b").write_text("beta")
    (s / "d" / "c").write_text("gamma")
    (s / "l").symlink_to("a")
    if request.param == "away":
        done = mounted.run("close", "s")
        assert done.code == 0, done.out + done.err
        assert not (mounted.root / "s").exists()
    return s


def test_names_and_attributes_are_the_same_wherever_the_files_are(folder):
    assert sorted(os.listdir(folder)) == ["a", "b", "d", "l"]
    assert os.listdir(folder / "d") == ["c"]
    assert (os.stat(folder / "a").st_size, os.stat(folder / "d" / "c").st_size) == (5, 5)
    assert os.readlink(folder / "l") == "a"
    assert (folder / "l").read_text() == "alpha"
    assert stat.S_ISDIR(os.stat(folder / "d").st_mode)
    with pytest.raises(FileNotFoundError):
        os.stat(folder / "nothing")
    with pytest.raises(NotADirectoryError):
        os.stat(folder / "a" / "nothing")


def test_an_open_file_outlives_its_name(folder):
    with (folder / "a").open("r+") as file:
        os.unlink(folder / "a")
        assert not (folder / "a").exists()
        file.seek(0, os.SEEK_END)
        file.write(" more")
        file.seek(0)
        assert file.read() == "alpha more"
        assert os.fstat(file.fileno()).st_nlink == 0
    assert sorted(os.listdir(folder)) == ["b", "d", "l"]


def test_a_file_that_is_renamed_over_lives_on_for_who_has_it_open(folder):
    with (folder / "b").open() as file:
        os.rename(folder / "a", folder / "b")
        assert file.read() == "beta"
    assert (folder / "b").read_text() == "alpha"
    assert not (folder / "a").exists()


def test_a_new_file_replaces_one_by_rename(folder, mounted):
    (folder / "tmp").write_text("new")
    os.replace(folder / "tmp", folder / "a")
    assert (folder / "a").read_text() == "new"
    flushed = mounted.run("flush", "s", "--json").json
    assert flushed["stored"]
    assert flushed["conflicts"] == []
    assert mounted.s3.get_object(Bucket=mounted.bucket, Key="sessions/s/a")["Body"].read() == b"new"


def test_truncating_at_open_replaces_a_file(folder, mounted):
    (folder / "a").write_text("x")
    assert (folder / "a").read_text() == "x"
    flushed = mounted.run("flush", "s", "--json").json
    assert flushed["stored"]
    assert flushed["conflicts"] == []
    assert mounted.s3.get_object(Bucket=mounted.bucket, Key="sessions/s/a")["Body"].read() == b"x"


def test_appending_keeps_what_was_there(folder):
    with (folder / "a").open("a") as one, (folder / "a").open("a") as two:
        one.write(" one")
        one.flush()
        two.write(" two")
    assert (folder / "a").read_text() == "alpha one two"


def test_a_directory_takes_what_is_in_it_along(folder, mounted):
    os.rename(folder / "d", folder / "e")
    assert (folder / "e" / "c").read_text() == "gamma"
    assert sorted(os.listdir(folder)) == ["a", "b", "e", "l"]
    assert mounted.run("flush", "s").code == 0
    assert mounted.in_bucket() >= {"e/c", "a", "b"}
    eventually(lambda: "d/c" not in mounted.in_bucket(), 15, "the old name is gone")


def test_a_file_is_renamed_between_directories(folder, mounted):
    os.rename(folder / "d" / "c", folder / "c2")
    assert (folder / "c2").read_text() == "gamma"
    assert os.listdir(folder / "d") == []
    assert mounted.run("flush", "s").code == 0
    assert (folder / "c2").read_text() == "gamma"


def test_two_names_are_exchanged(folder):
    linux.rename(os.fsencode(folder / "a"), os.fsencode(folder / "b"), linux.RENAME_EXCHANGE)
    assert ((folder / "a").read_text(), (folder / "b").read_text()) == ("beta", "alpha")


def test_rename_can_be_told_not_to_replace(folder):
    with pytest.raises(FileExistsError):
        linux.rename(os.fsencode(folder / "a"), os.fsencode(folder / "b"), linux.RENAME_NOREPLACE)
    linux.rename(os.fsencode(folder / "a"), os.fsencode(folder / "new"), linux.RENAME_NOREPLACE)
    assert ((folder / "new").read_text(), (folder / "b").read_text()) == ("alpha", "beta")


def test_directories_and_files_do_not_replace_each_other(folder):
    two: list[tuple[Callable[..., None], str, str, int]] = [
        (os.rename, "a", "d", errno.EISDIR),
        (os.rename, "d", "a", errno.ENOTDIR),
        (os.link, "a", "b", errno.EEXIST),
    ]
    for call, old, new, number in two:
        with pytest.raises(OSError, match="rrno") as caught:
            call(folder / old, folder / new)
        assert caught.value.errno == number
    one: list[tuple[Callable[..., None], str, int]] = [(os.rmdir, "d", errno.ENOTEMPTY), (os.mkdir, "a", errno.EEXIST)]
    for call, name, number in one:
        with pytest.raises(OSError, match="rrno") as caught:
            call(folder / name)
        assert caught.value.errno == number


def test_removed_is_removed_in_the_store_too(folder, mounted):
    os.unlink(folder / "a")
    os.unlink(folder / "l")
    os.unlink(folder / "d" / "c")
    os.rmdir(folder / "d")
    assert os.listdir(folder) == ["b"]
    assert mounted.run("flush", "s").code == 0
    assert mounted.in_bucket() == {"b"}
    assert os.listdir(folder) == ["b"]


def test_two_names_of_one_file(folder):
    os.link(folder / "a", folder / "d" / "a2")
    assert os.stat(folder / "a").st_nlink == 2
    with (folder / "d" / "a2").open("a") as file:
        file.write("!")
    assert (folder / "a").read_text() == "alpha!"
    os.unlink(folder / "a")
    assert (folder / "d" / "a2").read_text() == "alpha!"


@pytest.mark.parametrize("how", ["removed", "renamed over"])
def test_names_that_are_left_of_a_file_are_one_file(folder, how):
    (folder / "one").write_text("a long text")
    for name in ("two", "three"):
        os.link(folder / "one", folder / name)
    with (folder / "one").open("r+b", buffering=0) as file:
        os.rename(folder / "b", folder / "three") if how == "renamed over" else os.unlink(folder / "three")
        assert os.fstat(file.fileno()).st_nlink == 2  # which the kernel believes for a second
    (folder / "one").write_text("short")
    assert (folder / "two").stat().st_size == 5
    assert (folder / "two").read_text() == "short"
    assert (folder / "one").samefile(folder / "two")


def test_modes_and_times_can_be_set(folder):
    for name in ("a", "d"):
        os.chmod(folder / name, 0o700)
        os.utime(folder / name, ns=(1, 1_234_567_890_123_456_789))
        found = os.stat(folder / name)
        assert (stat.S_IMODE(found.st_mode), found.st_mtime_ns) == (0o700, 1_234_567_890_123_456_789)
    os.utime(folder / "l", ns=(5, 6), follow_symlinks=False)
    assert os.lstat(folder / "l").st_mtime_ns == 6
    assert (folder / "a").read_text() == "alpha"


def test_only_one_time_can_be_set(folder):
    before = os.stat(folder / "a").st_mtime_ns
    subprocess.run(["touch", "-a", "-d", "2001-02-03", folder / "a"], check=True)
    found = os.stat(folder / "a")
    assert found.st_mtime_ns == before
    assert found.st_atime == 981158400


def test_a_file_is_cut_and_grown(folder):
    os.truncate(folder / "a", 3)
    assert (folder / "a").read_text() == "alp"
    os.truncate(folder / "a", 6)
    assert (folder / "a").read_bytes() == b"alp\0\0\0"
    os.truncate(folder / "b", 0)
    assert (folder / "b").read_bytes() == b""


def test_locks_keep_programs_apart(folder):
    with (folder / "a").open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.lockf(file, fcntl.LOCK_EX)
        other = (
            "import fcntl, sys\n"
            "f = open(sys.argv[1], 'r+')\n"
            "for lock in (fcntl.flock, fcntl.lockf):\n"
            "    try: lock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
            "    except BlockingIOError: print('kept out')\n"
        )
        done = subprocess.run([sys.executable, "-c", other, folder / "a"], capture_output=True, text=True, check=True)
    assert done.stdout == "kept out\n" * 2


def test_holes_are_found_and_punched(folder):
    with (folder / "h").open("w+b") as file:
        file.truncate(1 << 20)
        file.seek(1 << 19)
        file.write(b"x" * 4096)
        file.flush()
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 1 << 19
        assert os.lseek(file.fileno(), 1 << 19, os.SEEK_HOLE) == (1 << 19) + 4096
        os.posix_fallocate(file.fileno(), 0, 8192)
        linux.fallocate(file.fileno(), 3, 1 << 19, 4096)  # punch, and keep the size
        assert os.pread(file.fileno(), 4096, 1 << 19) == bytes(4096)
        assert os.fstat(file.fileno()).st_size == 1 << 20
    with (folder / "a").open("rb") as file:
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 0
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 5


def test_ranges_are_copied(folder):
    with (folder / "a").open("rb") as source, (folder / "copied").open("wb") as target:
        assert os.copy_file_range(source.fileno(), target.fileno(), 3, 1) == 3
    assert (folder / "copied").read_text() == "lph"


def test_a_file_without_a_name_gets_one(folder):
    descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o644)
    try:
        os.write(descriptor, b"unnamed")
        assert os.fstat(descriptor).st_nlink == 0
        linux.link_open(descriptor, os.fsencode(folder / "named"))
    finally:
        os.close(descriptor)
    assert (folder / "named").read_text() == "unnamed"


def test_direct_io(folder):
    buffer = bytearray(4096)
    descriptor = os.open(folder / "direct", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
    try:
        import mmap

        aligned = mmap.mmap(-1, 4096)
        aligned.write(b"d" * 4096)
        assert os.pwritev(descriptor, [aligned], 0) == 4096
        assert os.preadv(descriptor, [aligned], 0) == 4096
        buffer[:] = aligned[:]
    finally:
        os.close(descriptor)
    assert bytes(buffer) == (folder / "direct").read_bytes()


def test_extended_attributes_stay_on_this_disk(folder):
    os.setxattr(folder / "a", b"user.colour", b"blue")
    assert os.getxattr(folder / "a", b"user.colour") == b"blue"
    assert os.listxattr(folder / "a") == ["user.colour"]
    os.removexattr(folder / "a", b"user.colour")
    with pytest.raises(OSError, match="No data") as caught:
        os.getxattr(folder / "a", b"user.colour")
    assert caught.value.errno == errno.ENODATA


def test_room_is_the_roots(folder, mounted):
    there, here = os.statvfs(folder), os.statvfs(mounted.root)
    assert (there.f_blocks, there.f_bsize, there.f_namemax) == (here.f_blocks, here.f_bsize, here.f_namemax)
    shown = subprocess.run(["df", "--output=source,target", folder], capture_output=True, text=True, check=True).stdout
    assert str(mounted.root) in shown
    assert str(mounted.mnt) in shown


def test_programs_are_told_of_changes(folder):
    descriptor = libc.inotify_init1(os.O_NONBLOCK)
    try:
        assert libc.inotify_add_watch(descriptor, os.fsencode(folder), 0x100 | 0x8 | 0x40 | 0x80 | 0x200) > 0
        (folder / "new").write_text("x")
        os.rename(folder / "new", folder / "newer")
        os.unlink(folder / "newer")
        seen = []
        while select.select([descriptor], [], [], 0.5)[0]:
            data, at = os.read(descriptor, 65536), 0
            while at < len(data):
                _, mask, _, length = struct.unpack_from("iIII", data, at)
                seen.append((mask, data[at + 16 : at + 16 + length].rstrip(b"\0")))
                at += 16 + length
    finally:
        os.close(descriptor)
    assert seen == [(0x100, b"new"), (0x8, b"new"), (0x40, b"new"), (0x80, b"newer"), (0x200, b"newer")]


def test_other_users_get_what_the_modes_say(folder, mounted):
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "bash", "-c"]
    for part in mounted.mnt.parents:
        if "pytest" in part.name or part.name.startswith(("popen", "test_", "host")):
            os.chmod(part, 0o755)
    os.chmod(folder, 0o777)
    os.chmod(folder / "a", 0o600)
    done = subprocess.run([*nobody, f"cat {folder}/a"], capture_output=True, text=True, check=False)
    assert "Permission denied" in done.stderr
    assert subprocess.run([*nobody, f"cat {folder}/b"], capture_output=True, text=True, check=True).stdout == "beta"
    subprocess.run([*nobody, f"echo hi > {folder}/theirs"], check=True)
    assert os.stat(folder / "theirs").st_uid == 65534
    assert os.stat(mounted.root / "s" / "theirs").st_uid == 65534


def test_our_own_names_are_not_there(folder, mounted):
    assert ".cachesync" not in os.listdir(mounted.mnt)
    assert not (mounted.mnt / ".cachesync").exists()
    for name in (mounted.mnt / ".cachesync", folder / ".cachesync"):
        with pytest.raises(PermissionError):
            os.mkdir(name)
    with pytest.raises(PermissionError):
        os.rename(folder / "a", folder / ".cachesync")


def test_what_the_mount_does_not_pass_on_is_refused(folder):
    """As the documents say (promises.md): programs do without it."""
    (folder / "f").write_bytes(bytes(65536))
    with (folder / "f").open("r+b") as file:
        for mode in (0x08, 0x20):  # FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE
            assert libc.fallocate(file.fileno(), mode, ctypes.c_long(0), ctypes.c_long(4096)) == -1
            assert ctypes.get_errno() == errno.EOPNOTSUPP
        for number in (0x80086601, 0x40086602):  # FS_IOC_GETFLAGS, FS_IOC_SETFLAGS
            with pytest.raises(OSError, match="ioctl") as caught:
                fcntl.ioctl(file, number, bytes(8))
            assert caught.value.errno == errno.ENOTTY
    assert (folder / "f").read_bytes() == bytes(65536)
