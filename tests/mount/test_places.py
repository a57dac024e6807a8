"""Where the root and the mount may lie, and who may mount: an overlay, a disk that is full, a user who is not root."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cachesync import fuse
from tests.mount.conftest import MakeMounted
from tests.mount.mounted import MountedHost, sh
from tests.promises.host import eventually

NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]

pytestmark = [pytest.mark.s3, pytest.mark.timeout(180)]


@contextmanager
def mounted_at(folder: Path, *words: str) -> Iterator[None]:
    """mount(8)."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", *words, folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_root_on_an_overlay(make_mounted: MakeMounted, tmp_path: Path) -> None:
    parts = {name: tmp_path / "layers" / name for name in ("lower", "upper", "work")}
    for part in parts.values():
        part.mkdir(parents=True)
    (parts["lower"] / "s").mkdir()
    (parts["lower"] / "s" / "old").write_bytes(b"of the image")
    options = f"lowerdir={parts['lower']},upperdir={parts['upper']},workdir={parts['work']}"
    host = make_mounted()
    with mounted_at(host.root, "-t", "overlay", "overlay", "-o", options):
        host.mount()
        session = host.mnt / "s"
        sh("echo more >> old; head -c 300000 /dev/urandom > new; mkdir d; mv new d/; cp -a d e; ln old hard", session)
        sh('python3 -c \'import mmap; f = open("d/new", "r+b"); mmap.mmap(f.fileno(), 0)[:3] = b"abc"\'', session)
        before = sh("find . -type f | sort | xargs sha256sum", session)
        assert (session / "old").read_text() == "of the imagemore\n"
        assert host.run("close", "s").code == 0
        # An overlay gives a directory another time of birth when it copies it up: it is taken for another directory,
        # and what was stored of "old" by then for bytes that nobody here saw.
        assert sh("find . -type f | grep -v conflict | sort | xargs sha256sum", session) == before
        host.stored("s")
        objects = host.objects("s")
        kept = {path: data for path, data in objects.items() if path.startswith("old.conflict")}
        assert list(kept.values()) in ([], [b"of the image"])
        assert {path: data for path, data in objects.items() if path not in kept} == host.local("s")
        assert "does not pass a file through" not in host.said()
        host.close()


def test_a_file_that_does_not_fit_on_the_disk_is_an_error_until_there_is_room(make_mounted: MakeMounted) -> None:
    host = make_mounted()
    with mounted_at(host.root, "-t", "tmpfs", "-o", "size=24m", "tmpfs"):
        host.mount()
        (host.mnt / "s").mkdir()
        content = os.urandom(8 << 20)
        (host.mnt / "s" / "big").write_bytes(content)
        assert host.run("close", "s").code == 0
        (host.mnt / "t").mkdir()
        with pytest.raises(OSError, match="No space left"):
            (host.mnt / "t" / "filler").write_bytes(bytes(24 << 20))
        # The journal lies on the same disk: it may be what finds it full.
        with pytest.raises(OSError, match=r"No space left|Input/output error"):
            (host.mnt / "s" / "big").read_bytes()
        (host.mnt / "t" / "filler").unlink()

        def is_whole() -> bool:
            try:
                return (host.mnt / "s" / "big").read_bytes() == content
            except OSError as error:  # the daemon had the filler open, to store it
                if error.errno not in (errno.ENOSPC, errno.EIO):
                    raise
                return False

        eventually(is_whole, 30, "there is room again")
        host.close()


@pytest.fixture
def nobody(make_mounted: MakeMounted) -> Iterator[MountedHost]:
    """A host of a user who is not root, and reads everything as root does, so that our own folders need no change.

    Everybody may open the device, as is usual; where it is not, it is changed for as long as this takes.
    """
    usual = stat.S_IMODE(os.stat("/dev/fuse").st_mode)
    os.chmod("/dev/fuse", 0o666)
    folder = Path(tempfile.mkdtemp(prefix="cachesync-nobody-"))
    os.chmod(folder, 0o755)
    rights = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    host = make_mounted(folder=folder / "host", wrap=[*NOBODY, *rights])
    for path in (folder / "host").rglob("*"):
        os.chown(path, 65534, 65534)
    os.chown(folder / "host", 65534, 65534)
    yield host
    host.close()
    shutil.rmtree(folder)
    os.chmod("/dev/fuse", usual)


def as_nobody(script: str, folder: Path) -> str:
    """What it prints. Root does not get into a mount of somebody else's."""
    command = [*NOBODY, "bash", "-ec", script]
    told = {"HERE": str(folder)}
    done = subprocess.run(command, env=os.environ | told, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_who_is_not_root_mounts_through_fusermount_and_takes_over_a_stale_mount(nobody: MountedHost) -> None:
    nobody.mount()
    found = fuse.mounted(str(nobody.mnt))
    assert found is not None
    assert found.kind == fuse.KIND
    as_nobody('mkdir "$HERE/s"; cd "$HERE/s"; echo alpha > a; cp a b; git init -q .; git add a; sync a', nobody.mnt)
    server = nobody.children()["server"]
    nobody.kill_child("server")
    eventually(lambda: nobody.children().get("server", server) != server, 30, "another server")
    eventually(lambda: as_nobody('cat "$HERE/s/a" || true', nobody.mnt) == "alpha\n", 30, "it is mounted again")
    daemon = nobody.children()["daemon"]
    nobody.kill()  # the supervisor, and with it both: what is left is stale
    eventually(lambda: not Path(f"/proc/{daemon}").exists(), 30, "the daemon has ended, in order")
    eventually(lambda: as_nobody('cat "$HERE/s/a" 2>&1 || true', nobody.mnt).endswith("not connected\n"), 30)
    nobody.mount()
    assert as_nobody('cat "$HERE/s/a" "$HERE/s/b"', nobody.mnt) == "alpha\nalpha\n"
    nobody.stored("s")
    assert nobody.objects("s") == nobody.local("s")
    assert nobody.stop() == 0
    assert fuse.mounted(str(nobody.mnt)) is None


OTHERS = "/etc/fuse.conf"


@pytest.fixture
def others_allowed() -> Iterator[None]:
    """The line is in the file, for as long as this takes."""
    file = Path(OTHERS)
    before = file.read_bytes() if file.exists() else None
    file.write_bytes((before or b"") + b"\nuser_allow_other\n")
    yield
    if before is None:
        file.unlink()
    else:
        file.write_bytes(before)


@pytest.mark.usefixtures("others_allowed")
def test_others_come_into_the_mount_of_who_is_not_root_if_they_are_allowed_to(nobody: MountedHost) -> None:
    nobody.mount("--allow-other")
    as_nobody(
        'umask 022; mkdir "$HERE/s"; echo alpha > "$HERE/s/a"; echo own > "$HERE/s/b"; chmod 600 "$HERE/s/b"',
        nobody.mnt,
    )
    somebody = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]

    def read(name: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([*somebody, "cat", str(nobody.mnt / "s" / name)], capture_output=True, check=False)

    assert read("a").stdout == b"alpha\n"
    refused = read("b")
    assert refused.returncode == 1
    assert b"Permission denied" in refused.stderr
    assert nobody.stop() == 0


def test_others_do_not_come_in_where_the_system_does_not_let_them(nobody: MountedHost) -> None:
    if "\nuser_allow_other" in Path(OTHERS).read_text():
        pytest.skip("this system allows it")
    refused = nobody.run("mount", str(nobody.mnt), "--allow-other")
    assert refused.code == 2
    assert "user_allow_other" in refused.err
