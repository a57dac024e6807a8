"""Who has a root: daemons exclude each other, commands are waited for, and strangers have no say."""

import contextlib
import errno
import fcntl
import os
import stat

import pytest

from cachesync.model.errors import RootLocked, UsageError
from cachesync.root import lock
from cachesync.root.lock import RootLock, check_free

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")


class GaveUp(Exception):
    """Nobody waits any longer."""


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "root"
    (root / ".cachesync").mkdir(parents=True, mode=0o700)
    return root


@pytest.fixture
def elsewhere(tmp_path):
    (tmp_path / "state").mkdir(mode=0o700)
    return tmp_path / "state"


def command(root, state=None, **more):
    return contextlib.closing(Released(RootLock(state or root / ".cachesync", root, **more)))


def daemon(root, state=None, wait=None):
    return command(root, state, wait=wait or give_up)


def give_up(locked):
    raise GaveUp(locked.reason)


class Released:
    def __init__(self, held):
        self.close = held.release


US = f"process {os.getpid()}"


def test_a_daemon_excludes_a_daemon_and_commands(root):
    with daemon(root):
        for other in (daemon, command):
            with pytest.raises(RootLocked, match=f"{US} serves it already"):
                other(root)
        with pytest.raises(RootLocked, match=US):
            check_free(root / ".cachesync", root)
    check_free(root / ".cachesync", root)
    with daemon(root):
        pass


def test_commands_exclude_each_other_and_a_daemon_waits_for_them(root):
    with command(root):
        with pytest.raises(RootLocked, match=f"{US} works on it"):
            command(root)
        with pytest.raises(GaveUp, match=f"{US} works on it"):
            daemon(root)
        check_free(root / ".cachesync", root)
    first, waited = RootLock(root / ".cachesync", root), []

    def wait(locked):
        waited.append(locked.reason)
        with pytest.raises(RootLocked, match="serves it already"):
            daemon(root)
        if len(waited) == 3:
            first.release()

    with daemon(root, wait=wait):
        assert waited == [f"{US} works on it"] * 3


def test_what_a_killed_daemon_wrote_makes_no_command_a_daemon(root):
    (root / ".cachesync/lock").write_text("77 daemon\n")
    (root / ".cachesync/serving").write_text("77 daemon\n")
    folder = os.open(root / ".cachesync", os.O_RDONLY)
    held = lock._lock(folder, "lock", create=False)  # a command that has written nothing yet
    assert held is not None
    with pytest.raises(GaveUp):
        daemon(root)
    os.close(held)
    os.close(folder)
    with daemon(root):
        assert (root / ".cachesync/lock").read_text() == f"{os.getpid()} daemon\n"


def test_state_folders_elsewhere_exclude_each_other(root, elsewhere, tmp_path):
    with daemon(root, elsewhere):
        for state in (None, tmp_path):
            for other in (daemon, command):
                with pytest.raises(RootLocked, match=f"{US} serves it already"):
                    other(root, state)
    with command(root, elsewhere):
        with pytest.raises(RootLocked, match=f"{US} works on it"):
            command(root)
        with pytest.raises(GaveUp):
            daemon(root)
    with daemon(root):
        pass


def test_two_roots_with_one_state_folder_exclude_each_other(root, elsewhere, tmp_path):
    (tmp_path / "other").mkdir()
    with daemon(root, elsewhere), pytest.raises(RootLocked, match=US):
        daemon(tmp_path / "other", elsewhere)


@pytest.mark.parametrize("where", ["inside", "elsewhere"])
def test_who_may_only_read_the_root_holds_nobody_up(root, elsewhere, where):
    stranger = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(stranger, fcntl.LOCK_EX)
    state = root / ".cachesync" if where == "inside" else elsewhere
    with daemon(root, state):
        for folder in {root / ".cachesync", state}:
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    os.close(stranger)


@as_root
def test_a_folder_of_another_user_in_the_root_holds_nobody_up(root, elsewhere, caplog):
    os.chown(root / ".cachesync", 12345, 12345)
    (root / ".cachesync/serving").touch()
    theirs = os.open(root / ".cachesync/serving", os.O_RDWR)
    fcntl.flock(theirs, fcntl.LOCK_EX)
    with daemon(root, elsewhere):
        assert "belongs to another user" in caplog.text
    os.close(theirs)


def test_a_link_in_place_of_our_folder_is_not_followed(root, elsewhere, tmp_path):
    (root / ".cachesync").rmdir()
    (tmp_path / "theirs").mkdir(mode=0o755)
    (root / ".cachesync").symlink_to(tmp_path / "theirs")
    with daemon(root, elsewhere):
        pass
    assert list((tmp_path / "theirs").iterdir()) == []
    assert stat.S_IMODE((tmp_path / "theirs").stat().st_mode) == 0o755


def test_a_root_that_is_only_read_is_not_written_to(tmp_path, elsewhere):
    (tmp_path / "bare").mkdir()
    with command(tmp_path / "bare", elsewhere, writable=False):
        assert list((tmp_path / "bare").iterdir()) == []


def test_a_file_that_was_removed_meanwhile_is_no_lock(root, monkeypatch):
    flock = fcntl.flock
    removed: list[str] = []

    def late(descriptor, how):
        if not removed:
            removed.append("lock")
            os.unlink(root / ".cachesync/lock")
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with command(root), pytest.raises(RootLocked):
        command(root)
    assert removed


def test_a_file_system_without_locks(root, elsewhere, monkeypatch):
    flock = fcntl.flock

    def none_in_the_root(descriptor, how):
        if os.readlink(f"/proc/self/fd/{descriptor}").startswith(f"{root}/"):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", none_in_the_root)
    with daemon(root, elsewhere), pytest.raises(RootLocked):
        daemon(root, elsewhere)
    with pytest.raises(UsageError, match="No locks available"):
        daemon(root)


def test_a_network_file_system_locks_what_is_open_for_writing(root, monkeypatch):
    flock = fcntl.flock

    def as_nfs_does(descriptor, how):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", as_nfs_does)
    with daemon(root), pytest.raises(RootLocked, match="serves it already"):
        daemon(root)


def test_a_full_disk_keeps_nobody_down(root, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with daemon(root):
        monkeypatch.undo()
        with pytest.raises(RootLocked, match="process unknown serves it already"):
            daemon(root)


def test_nothing_is_held_open_for_writing(root, elsewhere):
    """Or the disk of the root could not be made read-only."""
    with daemon(root, elsewhere):
        mine = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
        held = [fd for fd in mine if os.path.lexists(fd) and os.readlink(fd).startswith(f"{root}/")]
        assert len(held) == 2
        assert {fcntl.fcntl(int(os.path.basename(fd)), fcntl.F_GETFL) & os.O_ACCMODE for fd in held} == {os.O_RDONLY}
