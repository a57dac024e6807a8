"""``--write-through``: a program that is told "done" has its bytes in the store, and one that is not gets EIO."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.mount.conftest import MakeMounted
from tests.mount.mounted import MountedHost
from tests.promises.line import Line

pytestmark = [pytest.mark.s3, pytest.mark.timeout(120)]


def through(make: MakeMounted, line: Line, mode: str) -> MountedHost:
    host = make(env={"S3_ENDPOINT": line.endpoint}).mount("--write-through", mode, "--timeout", "3", settle="5s")
    (host.mnt / "s").mkdir()
    return host


def stored(host: MountedHost, path: str) -> bytes | None:
    try:
        return bytes(host.s3.get_object(Bucket=host.bucket, Key=f"sessions/s/{path}")["Body"].read())
    except host.s3.exceptions.NoSuchKey:
        return None


def test_fsync_returns_when_the_bytes_are_stored(make_mounted, line):
    host = through(make_mounted, line, "fsync")
    with (host.mnt / "s" / "a").open("wb") as file:
        for part in (b"one", b"two"):
            file.write(part)
            file.flush()
            os.fsync(file.fileno())
            assert (stored(host, "a") or b"").endswith(part)
        file.write(b"three")
    assert stored(host, "a") == b"onetwo"  # a close waits for nothing
    descriptor = os.open(host.mnt / "s" / "b", os.O_CREAT | os.O_RDWR)
    os.write(descriptor, b"b")
    os.fdatasync(descriptor)
    os.close(descriptor)
    assert stored(host, "b") == b"b"


def test_close_returns_when_the_bytes_are_stored(make_mounted, line):
    host = through(make_mounted, line, "close")
    (host.mnt / "s" / "a").write_bytes(b"alpha")
    assert stored(host, "a") == b"alpha"
    with (host.mnt / "s" / "a").open("ab") as file:
        file.write(b" more")
    assert stored(host, "a") == b"alpha more"
    subprocess.run(["cp", host.mnt / "s" / "a", host.mnt / "s" / "copy"], check=True)
    assert stored(host, "copy") == b"alpha more"
    (host.mnt / "s" / "tmp").write_bytes(b"new")
    os.replace(host.mnt / "s" / "tmp", host.mnt / "s" / "a")
    assert host.run("flush", "s").code == 0
    assert stored(host, "a") == b"new"


def test_many_close_at_once(make_mounted, line):
    host = through(make_mounted, line, "close")
    script = "for n in $(seq 40); do head -c 20000 /dev/urandom > f$n & done; for j in $(jobs -p); do wait $j; done"
    subprocess.run(["bash", "-ec", script], cwd=host.mnt / "s", check=True)
    for number in range(1, 41):
        assert stored(host, f"f{number}") == (host.mnt / "s" / f"f{number}").read_bytes()


@pytest.mark.parametrize("trouble", ["cut", "mute"])
def test_a_store_that_does_not_take_them_is_an_error_in_time(make_mounted, line, trouble):
    host = through(make_mounted, line, "close")
    (host.mnt / "s" / "before").write_bytes(b"x")
    getattr(line, trouble)()
    (host.folder / "source").write_bytes(b"bytes")
    began = time.monotonic()
    done = subprocess.run(
        ["cp", host.folder / "source", host.mnt / "s" / "a"], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "Input/output error" in done.stderr
    assert time.monotonic() - began < 12
    descriptor = os.open(host.mnt / "s" / "b", os.O_CREAT | os.O_WRONLY)
    os.write(descriptor, b"b")
    with pytest.raises(OSError, match="rror") as caught:
        os.fsync(descriptor)
    assert caught.value.errno == errno.EIO
    with pytest.raises(OSError, match="rror") as caught:
        os.close(descriptor)
    assert caught.value.errno == errno.EIO
    line.mend()
    assert host.run("flush", "s").code == 0  # nothing is lost: it stands in the root, and is stored later
    assert (stored(host, "a"), stored(host, "b")) == (b"bytes", b"b")


def test_reading_waits_for_nothing(make_mounted, line):
    host = through(make_mounted, line, "close")
    (host.mnt / "s" / "a").write_bytes(b"alpha")
    line.cut()
    assert Path(host.mnt / "s" / "a").read_bytes() == b"alpha"
