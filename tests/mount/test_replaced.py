"""Files that lose their name, or get another one's, while programs look at them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cachesync.mount.open_files import WHOLE
from tests.mount.conftest import MakeMounted
from tests.mount.mounted import MountedHost
from tests.mount.test_away import fill
from tests.promises.host import eventually
from tests.promises.line import Line

pytestmark = [pytest.mark.s3, pytest.mark.timeout(180)]

OPENS = 3000

REPLACE = """
import os, sys
name, number = sys.argv[1], 0
while True:
    number += 1
    if sys.argv[2] == "link":
        os.symlink(f"target-{number}", f"{name}.tmp")
    else:
        with open(f"{name}.tmp", "w") as file:
            file.write(f"version {number}")
        if sys.argv[2] == "gone":
            os.unlink(name)
    os.rename(f"{name}.tmp", name)
"""

USE = """
import collections, errno, os, sys
name, seen = sys.argv[1], collections.Counter()
for _ in range(int(sys.argv[3])):
    try:
        if sys.argv[2] == "link":
            assert os.readlink(name).startswith("target-")
        elif sys.argv[2] == "append":
            with open(name, "r+") as file:
                assert file.read().startswith("version ")
                os.fchmod(file.fileno(), 0o600)
        else:
            os.stat(name)
            with open(name) as file:
                assert file.read().startswith("version ")
                assert os.fstat(file.fileno()).st_size
        seen["ok"] += 1
    except OSError as error:
        seen[errno.errorcode[error.errno]] += 1
print(dict(seen))
"""


@pytest.mark.parametrize(("how", "use"), [("put", "read"), ("put", "append"), ("gone", "read"), ("link", "link")])
def test_a_name_that_is_replaced_all_the_time_is_never_stale(mounted: MountedHost, how: str, use: str):
    (mounted.mnt / "s").mkdir()
    name = mounted.mnt / "s" / "f"
    if how == "link":
        name.symlink_to("target-0")
    else:
        name.write_text("version 0")
    with subprocess.Popen([sys.executable, "-c", REPLACE, name, how]) as replacing:
        command = [sys.executable, "-c", USE, str(name), use, str(OPENS)]
        using = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        seen = [eval(user.communicate(timeout=120)[0]) for user in using]
        assert replacing.poll() is None
        replacing.kill()
    allowed = {"ok", "ENOENT"} if how == "gone" else {"ok"}
    assert all(set(one) <= allowed for one in seen), seen


@pytest.fixture
def large(mounted: MountedHost) -> tuple[Path, bytes]:
    """An evicted file that is read where it is."""
    data = os.urandom(1024 * 1024) * (WHOLE // (1024 * 1024) + 40) + b"end"
    fill(mounted, {"large": data, "small": b"small"})
    return mounted.mnt / "s" / "large", data


LEFT = {
    "unlink": {"small"},
    "rename over": {"small", "large"},
    "rename an evicted file over": {"large"},
    "rename away": {"small", "other"},
}


@pytest.mark.parametrize("how", LEFT)
def test_who_reads_a_large_file_in_the_store_reads_on_when_its_name_goes(
    mounted: MountedHost, large: tuple[Path, bytes], how: str
):
    path, data = large
    with path.open("rb") as file:
        assert file.read(100) == data[:100]
        assert not (mounted.root / "s" / "large").exists()
        if how == "unlink":
            path.unlink()
        elif how == "rename over":
            (mounted.mnt / "s" / "new").write_bytes(b"other")
            (mounted.mnt / "s" / "new").rename(path)
        elif how == "rename away":
            path.rename(path.with_name("other"))
        else:
            (mounted.mnt / "s" / "small").rename(path)
        assert mounted.run("flush", "s").code == 0
        eventually(lambda: mounted.in_bucket() == LEFT[how], 20, "the store has what is left")
        assert file.read() == data[100:]
        assert os.fstat(file.fileno()).st_size == len(data)
    assert path.exists() == ("over" in how)
    if path.exists():
        assert path.read_bytes() == (b"small" if "evicted" in how else b"other")


def test_what_is_read_in_the_store_can_be_removed_when_the_store_is_down(make_mounted: MakeMounted, line: Line):
    host = make_mounted(env={"S3_ENDPOINT": line.endpoint}).mount()
    fill(host, {"large": bytes(WHOLE + 1), "small": b"small"})
    with (host.mnt / "s" / "large").open("rb") as file:
        assert file.read(100) == bytes(100)
        line.cut()
        (host.mnt / "s" / "large").unlink()
    assert os.listdir(host.mnt / "s") == ["small"]
    line.mend()
    host.stored("s")
    assert host.in_bucket() == {"small"}
