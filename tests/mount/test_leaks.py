"""What comes to nothing leaves nothing open in the server."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.mount.mounted import MountedHost

pytestmark = [pytest.mark.s3, pytest.mark.timeout(120)]


def test_an_open_that_fails_leaves_nothing_open(mounted: MountedHost) -> None:
    (mounted.mnt / "s").mkdir()
    (mounted.mnt / "s" / "a").write_bytes(b"alpha")
    subprocess.run(["chattr", "+a", mounted.root / "s" / "a"], check=True)
    try:
        held = f"/proc/{mounted.children()['server']}/fd"
        before = len(os.listdir(held))
        for _ in range(20):
            with pytest.raises(PermissionError):
                os.open(mounted.mnt / "s" / "a", os.O_WRONLY | os.O_TRUNC)
        assert len(os.listdir(held)) <= before + 2  # others come and go: those of notices, of a look at the root
        assert (mounted.mnt / "s" / "a").read_bytes() == b"alpha"
    finally:
        subprocess.run(["chattr", "-a", mounted.root / "s" / "a"], check=True)
