"""Who may do what in a mount: modes, owners and POSIX ACLs, before and after a session was in the store only."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import stat as st
import struct
import subprocess
from pathlib import Path

import pytest

from tests.mount.conftest import MakeMounted
from tests.mount.mounted import MountedHost
from tests.promises.host import eventually

pytestmark = [pytest.mark.s3, pytest.mark.timeout(180)]

AGENT, OTHER, TEAM = 3000, 3001, 4000
ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"


def as_user(
    host: MountedHost, script: str, uid: int, *groups: int, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a shell script in the mount (or ``cwd``) as another user, whose own group has the user's number."""
    return subprocess.run(
        ["sh", "-euc", script], cwd=cwd or host.mnt, user=uid, group=uid, extra_groups=list(groups),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def may(host: MountedHost, script: str, uid: int, *groups: int, cwd: Path | None = None) -> bool:
    return as_user(host, script, uid, *groups, cwd=cwd).returncode == 0


def belongs(place: Path) -> tuple[int, int, int]:
    found = place.lstat()
    return found.st_uid, found.st_gid, st.S_IMODE(found.st_mode)


def acl(*entries: tuple[int, int, int]) -> bytes:
    """A POSIX ACL as the kernel's extended attribute: tag, permissions, id (acl(5), linux/posix_acl_xattr.h)."""
    return struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, bits, who & 0xFFFFFFFF) for tag, bits, who in entries
    )


OWNER, USER, GROUP, NAMED_GROUP, MASK, REST = 1, 2, 4, 8, 16, 32
AGENT_READS = acl((OWNER, 6, -1), (USER, 4, AGENT), (GROUP, 0, -1), (MASK, 4, -1), (REST, 0, -1))
TEAM_READS = acl((OWNER, 6, -1), (GROUP, 6, -1), (NAMED_GROUP, 4, TEAM), (MASK, 6, -1), (REST, 0, -1))
AGENT_WORKS = acl((OWNER, 7, -1), (USER, 7, AGENT), (GROUP, 5, -1), (MASK, 7, -1), (REST, 0, -1))


@pytest.fixture
def private(mounted: MountedHost) -> MountedHost:
    """A mount with the private session "s" of AGENT: a public file, a private one, and a link."""
    top = mounted.root / "s"
    top.mkdir(mode=0o700)
    os.chown(top, AGENT, AGENT)
    made = as_user(mounted, "umask 022; echo one >a; mkdir d; echo two >d/b; chmod 640 d/b; ln -s a l", AGENT, cwd=top)
    assert made.returncode == 0, made.stderr
    return mounted


def evict(host: MountedHost, session: str = "s") -> None:
    assert host.run("flush", session).code == 0
    done = host.run("evict", session)
    assert done.code == 0, done.out + done.err
    assert not (host.root / session).exists()


def picture(top: Path) -> dict[str, tuple[int, int, int]]:
    return {str(place.relative_to(top)): belongs(place) for place in [top, *sorted(top.rglob("*"))]}


def test_a_private_session_stays_private_while_it_is_evicted(private: MountedHost):
    before = picture(private.root / "s")
    evict(private)
    for script in (
        "ls s",
        "cat s/a",
        "cat s/d/b",
        "stat s/a",
        "stat s/none",
        "readlink -v s/l",
        "touch s/new",
        "ls s/d",
    ):
        told = as_user(private, script, OTHER)
        assert told.returncode, script
        assert "Permission denied" in told.stderr, (script, told.stderr)
    assert picture(private.mnt / "s") == before, "and nothing was brought to see that"
    assert not (private.root / "s").exists()
    assert may(private, "test $(cat s/a) = one; test $(cat s/d/b) = two", AGENT)
    assert picture(private.mnt / "s") == before
    assert private.run("open", "s").code == 0
    assert picture(private.root / "s") == before
    assert not may(private, "ls s", OTHER)
    assert not may(private, "cat s/a", OTHER)


def test_an_agent_of_another_user_writes_its_own_files_after_evict_and_open(private: MountedHost):
    before = picture(private.root / "s")
    evict(private)
    assert may(private, "echo more >>s/a; echo three >s/d/c; echo new >s/e; rm s/l", AGENT)
    evict(private)
    assert private.run("open", "s").code == 0
    after = picture(private.root / "s")
    assert {name: after.get(name) for name in before} == before | {"l": None}
    assert (after["d/c"], after["e"]) == ((AGENT, AGENT, 0o644), (AGENT, AGENT, 0o644))
    assert may(private, "echo more >>a; echo more >>d/c; mkdir d/f", AGENT, cwd=private.root / "s")


def test_an_agent_whose_empty_session_is_evicted_works_on(mounted: MountedHost):
    top = mounted.root / "s"
    top.mkdir(mode=0o700)
    os.chown(top, AGENT, AGENT)
    for script in ("echo one >s/a; rm s/a", "echo two >s/a"):
        assert mounted.run("flush", "s").code == 0
        assert mounted.run("evict", "s").code == 0
        assert may(mounted, script, AGENT)
    assert belongs(top) == (AGENT, AGENT, 0o700)


def test_a_session_whose_directory_was_removed_comes_back_as_private_as_it_was(private: MountedHost):
    assert private.run("flush", "s").code == 0
    before = picture(private.root / "s")
    shutil.rmtree(private.root / "s")
    assert private.run("open", "s").code == 0
    assert picture(private.root / "s") == before


def test_what_is_evicted_and_renamed_keeps_its_owner(private: MountedHost):
    evict(private)
    assert may(private, "mv s/d/b s/moved; mv s/d s/e", AGENT)
    assert belongs(private.mnt / "s/moved") == (AGENT, AGENT, 0o640)
    assert private.run("flush", "s").code == 0
    assert private.run("open", "s").code == 0
    assert belongs(private.root / "s/moved") == (AGENT, AGENT, 0o640)
    assert belongs(private.root / "s/e") == (AGENT, AGENT, 0o755)


def test_an_evicted_file_that_is_emptied_keeps_its_owner(private: MountedHost):
    evict(private)
    assert may(private, ": >s/d/b", AGENT)
    assert belongs(private.root / "s/d/b") == (AGENT, AGENT, 0o640)


def test_another_host_gets_the_mode_and_its_own_owner(private: MountedHost, make_mounted: MakeMounted):
    (private.root / "s").chmod(0o1770)
    assert private.run("close", "s").code == 0
    two = make_mounted("two").mount()
    assert st.S_IMODE((two.mnt / "s").stat().st_mode) == 0o700, "not known yet"
    assert two.run("open", "s", "--lazy").code == 0
    eventually(lambda: belongs(two.mnt / "s") == (0, 0, 0o1770), 10)
    assert not may(two, "ls s", OTHER)
    assert two.run("open", "s").code == 0
    assert belongs(two.root / "s") == (0, 0, 0o1770)


def test_what_another_host_made_belongs_to_whose_directory_it_is_put_into(
    private: MountedHost, make_mounted: MakeMounted
):
    two = make_mounted("two").mount()
    assert private.run("flush", "s").code == 0
    assert two.run("open", "s").code == 0
    (two.root / "s/theirs/deep").mkdir(parents=True)
    (two.root / "s/theirs/deep/f").write_text("theirs")
    (two.root / "s/a").write_text("newer")
    assert two.run("flush", "s").code == 0
    assert private.run("open", "s").code == 0
    for path in ("a", "theirs", "theirs/deep", "theirs/deep/f"):
        assert belongs(private.root / "s" / path)[:2] == (AGENT, AGENT), path
    assert may(private, "echo mine >>s/theirs/deep/f; echo mine >>s/a; echo mine >s/theirs/g", AGENT)
    assert (private.root / "s/a").read_text() == "newermine\n"


@pytest.mark.parametrize(("umask", "mode"), [(None, 0o700), ("027", 0o750)])
def test_a_session_whose_mode_nobody_knows_is_private_unless_the_operator_says_so(
    make_mounted: MakeMounted, umask: str | None, mode: int
):
    host = make_mounted(env={} if umask is None else {"CACHESYNC_UMASK": umask}).mount()
    host.foreign_put("f", b"x", session="s")
    eventually(lambda: "s" in os.listdir(host.mnt), 20)
    assert belongs(host.mnt / "s")[2] == mode
    assert (host.mnt / "s/f").read_bytes() == b"x"
    assert belongs(host.root / "s")[2] == mode
    assert host.run("new", "made").code == 0
    assert belongs(host.root / "made")[2] == mode
    (host.mnt / "asked").mkdir(mode=0o755)
    assert belongs(host.root / "asked")[2] == 0o755, "what a program asks for is what it gets"


def test_a_file_of_which_only_a_listing_is_known_is_as_private_as_it_may_be(make_mounted: MakeMounted):
    host = make_mounted(env={"CACHESYNC_UMASK": "022"})
    for path, mode in (("secret", 0o600), ("public", 0o644)):
        metadata = {"mode": str(st.S_IFREG | mode)}
        host.s3.put_object(Bucket=host.bucket, Key=f"sessions/s/{path}", Body=b"x", Metadata=metadata)
    host.mount()
    eventually(lambda: "s" in os.listdir(host.mnt), 20)
    assert may(host, "ls s", OTHER)
    assert not may(host, "cat s/secret", OTHER)
    assert not may(host, "cat s/public", OTHER)
    for path in ("secret", "public"):
        assert (host.mnt / "s" / path).read_bytes() == b"x"
    eventually(lambda: may(host, "cat s/public", OTHER), 20)
    assert not may(host, "cat s/secret", OTHER)


# -- ACLs --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def shared(mounted: MountedHost) -> MountedHost:
    """A mount with a session in which everybody may look, of root."""
    (mounted.mnt / "s").mkdir(mode=0o755)
    (mounted.mnt / "s/f").write_text("text")
    (mounted.mnt / "s/f").chmod(0o600)
    return mounted


def test_an_acl_gives_and_takes_what_it_says(shared: MountedHost):
    file = shared.mnt / "s/f"
    assert not may(shared, "cat s/f", AGENT)
    os.setxattr(file, ACCESS, AGENT_READS)
    assert may(shared, "cat s/f", AGENT)
    assert not may(shared, "echo more >>s/f", AGENT)
    assert not may(shared, "cat s/f", OTHER)
    os.setxattr(file, ACCESS, TEAM_READS)  # the mask shows as the group's bits: rw
    assert st.S_IMODE(file.stat().st_mode) == 0o660
    assert may(shared, "cat s/f", OTHER, TEAM)
    assert not may(shared, "echo more >>s/f", OTHER, TEAM), "the mask is not the group's right"
    assert os.getxattr(file, ACCESS) == TEAM_READS
    file.chmod(0o600)  # takes the mask away, and with it what the ACL gave
    assert not may(shared, "cat s/f", OTHER, TEAM)
    os.removexattr(file, ACCESS)
    with pytest.raises(OSError, match=os.strerror(errno.ENODATA)):
        os.getxattr(file, ACCESS)


def test_what_is_made_in_a_directory_inherits_its_default_acl(shared: MountedHost):
    folder = shared.mnt / "s/d"
    folder.mkdir(mode=0o755)
    os.setxattr(folder, DEFAULT, AGENT_WORKS)
    before = os.umask(0o077)  # which a default ACL overrules
    try:
        (folder / "f").write_text("x")
        (folder / "e").mkdir()
        (folder / "e/g").write_text("x")
    finally:
        os.umask(before)
    assert may(shared, "echo more >>s/d/f; echo more >>s/d/e/g; echo new >s/d/e/h", AGENT)
    assert not may(shared, "cat s/d/f", OTHER)
    assert os.getxattr(folder / "e", DEFAULT) == AGENT_WORKS
    (shared.root / "s/d/local").write_text("x")  # which asks the file system itself
    assert os.getxattr(folder / "f", ACCESS) == os.getxattr(folder / "local", ACCESS)


def test_acls_hold_while_evicted_and_after(shared: MountedHost):
    folder = shared.mnt / "s/d"
    folder.mkdir(mode=0o700)
    os.setxattr(folder, ACCESS, AGENT_WORKS)
    os.setxattr(folder, DEFAULT, AGENT_WORKS)
    os.setxattr(shared.mnt / "s", DEFAULT, AGENT_WORKS)
    (folder / "plain").mkdir(mode=0o755)
    os.removexattr(folder / "plain", DEFAULT)
    os.setxattr(shared.mnt / "s/f", ACCESS, TEAM_READS)
    places = {"": (DEFAULT,), "f": (ACCESS,), "d": (ACCESS, DEFAULT), "d/plain": (ACCESS,)}
    wanted = {(path, name): os.getxattr(shared.mnt / "s" / path, name) for path in places for name in places[path]}
    evict(shared)
    shown = {(path, name): os.getxattr(shared.mnt / "s" / path, name) for path, name in wanted}
    assert shown == wanted
    assert ACCESS in os.listxattr(shared.mnt / "s/f")
    assert not may(shared, "cat s/f", OTHER)
    assert not may(shared, "echo more >>s/f", OTHER, TEAM)
    assert not (shared.root / "s").exists(), "nothing of it was brought to see that"
    assert may(shared, "cat s/f", OTHER, TEAM)
    assert not may(shared, "echo more >>s/f", OTHER, TEAM)
    assert may(shared, "touch s/d/new", AGENT)
    assert shared.run("open", "s").code == 0
    assert {(path, name): os.getxattr(shared.root / "s" / path, name) for path, name in wanted} == wanted
    with pytest.raises(OSError, match=os.strerror(errno.ENODATA)):
        os.getxattr(shared.root / "s/d/plain", DEFAULT)


def test_who_sets_an_acl_without_being_of_the_group_loses_the_set_group_bit(shared: MountedHost):
    file = shared.root / "s/g"
    file.write_text("x")
    os.chown(file, AGENT, TEAM)
    file.chmod(0o2750)
    value = acl((OWNER, 7, -1), (USER, 5, OTHER), (GROUP, 5, -1), (MASK, 5, -1), (REST, 0, -1))
    assert set_as(shared.mnt, "s/g", value, AGENT, TEAM)
    assert st.S_IMODE(file.stat().st_mode) == 0o2750
    assert set_as(shared.mnt, "s/g", value, AGENT)
    assert st.S_IMODE(file.stat().st_mode) == 0o750


def set_as(top: Path, path: str, value: bytes, uid: int, *groups: int) -> bool:
    """Set the ACL of a path as another user."""
    child = os.fork()
    if not child:
        code = 1
        try:
            os.chdir(top)  # the user cannot come here by the path
            os.setgroups(groups)
            os.setgid(uid)
            os.setuid(uid)
            os.setxattr(path, ACCESS, value)
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# -- another user makes the directory ----------------------------------------------------------------------------------


def keys(host: MountedHost) -> dict[str, bytes]:
    return host.objects("s")


def test_p24_who_makes_the_directory_of_an_evicted_session_gets_nothing_of_it(private: MountedHost):
    """Agents may make names in the root (mode 1777), so a name alone proves nothing."""
    private.root.chmod(0o1777)
    evict(private)
    before = keys(private)
    assert as_user(private, "mkdir s; echo EVIL >s/a", OTHER, cwd=private.root).returncode == 0
    for _ in range(2):
        shown = as_user(private, "ls s; cat s/a; cat s/d/b s/l || true", OTHER)
        assert shown.stdout == "a\nEVIL\n", "what is on the disk, and no more"
        assert not may(private, "rm s/d/b", OTHER)
        assert not may(private, "mv s/d s/e", OTHER)
        flushed = private.run("flush", "s")
        assert flushed.code == 1
        assert f"its directory belongs to user {OTHER}, and the session to user {AGENT}" in flushed.out + flushed.err
    assert private.run("open", "s").code != 0, "nor does the operator give it away"
    assert keys(private) == before
    shutil.rmtree(private.root / "s")
    assert private.run("open", "s").code == 0
    assert (private.root / "s/a").read_bytes() == b"one\n"
    assert belongs(private.root / "s") == (AGENT, AGENT, 0o700)
    assert private.run("flush", "s").code == 0
    assert keys(private) == before


def test_p24_nor_of_a_session_that_only_the_store_knows(private: MountedHost):
    """The manifest says whose it was, to a host that never had it."""
    private.root.chmod(0o1777)
    evict(private)
    before = keys(private)
    private.stop()
    for journal in private.state.glob("journal.db*"):
        journal.unlink()
    private.mount()
    assert as_user(private, "mkdir s; echo EVIL >s/a", OTHER, cwd=private.root).returncode == 0
    flushed = private.run("flush", "s")
    assert flushed.code != 0
    assert f"belongs to user {OTHER}" in flushed.out + flushed.err
    assert "b" not in as_user(private, "ls -R s", OTHER).stdout
    assert keys(private) == before
    os.chown(private.root / "s", AGENT, AGENT)  # the operator says whose it is
    assert private.run("open", "s").code == 0
    assert (private.root / "s/d/b").read_bytes() == b"two\n"


def test_p15_a_mode_that_was_set_without_a_flush_is_the_one_that_comes_back(private: MountedHost):
    top = private.root / "s"
    top.chmod(0o755)
    assert private.run("flush", "s").code == 0
    top.chmod(0o700)

    def known() -> bool:
        with contextlib.closing(sqlite3.connect(f"file:{private.state}/journal.db?mode=ro", uri=True)) as db:
            return bool(db.execute("SELECT mode FROM session WHERE name = 's'").fetchone() == (0o700,))

    eventually(known, 20, "the journal has it")


def test_a_file_that_another_user_made_meanwhile_is_opened_by_its_own_rights(mounted: MountedHost):
    shared = mounted.mnt / "s"
    shared.mkdir()
    shared.chmod(0o777)
    script = "test -e s/f || echo missing; read -r _; echo more >> s/f"
    agent = subprocess.Popen(
        ["sh", "-uc", script], cwd=mounted.mnt, user=1001, group=1001, extra_groups=[],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert agent.stdout is not None
    assert agent.stdout.readline() == b"missing\n"
    (mounted.root / "s" / "f").write_bytes(b"secret")
    (mounted.root / "s" / "f").chmod(0o600)
    agent.communicate(b"\n", timeout=20)
    assert agent.returncode != 0
    assert belongs(mounted.root / "s" / "f") == (0, 0, 0o600)
    assert (mounted.root / "s" / "f").read_bytes() == b"secret"
