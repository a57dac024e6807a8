"""A host with its root mounted: the supervisor, the two processes below it, and the directory that programs use."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from pathlib import Path

from cachesync import fuse
from cachesync.api.client import ControlClient
from tests.promises.host import Host, eventually

_libc = ctypes.CDLL(None)
_DETACH = 2


class MountedHost(Host):
    """``mnt`` is the mount's directory; ``daemon`` is the supervisor here, which has two children."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.mnt = self.folder / "mnt"
        self.mnt.mkdir(exist_ok=True)

    def mount(self, *flags: str, wait: bool = True, **settings: str) -> MountedHost:
        """``cachesync mount``, and wait until it says that it is ready."""
        self.serving = ("mount", str(self.mnt), *flags)
        self.start(wait=wait, **settings)
        return self

    def children(self) -> dict[str, int]:
        """The numbers of the daemon's and the server's processes, those that live."""
        assert self.daemon is not None
        found = {}
        listed = Path(f"/proc/{self.daemon.pid}/task/{self.daemon.pid}/children").read_text().split()
        for pid in listed:
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue  # it was just buried
            found["server" if b"cachesync.mount" in words else "daemon"] = int(pid)
        return found

    def kill_child(self, *names: str) -> None:
        """SIGKILL to the daemon, the server or both, at once."""
        children = self.children()
        for name in names:
            os.kill(children[name], signal.SIGKILL)

    def alive(self) -> bool:
        """Whether programs get in."""
        try:
            os.statvfs(self.mnt)
        except OSError:
            return False
        return (found := fuse.mounted(str(self.mnt))) is not None and found.kind == fuse.KIND

    def again(self) -> None:
        """Wait until the mount is there again."""
        client = ControlClient(self.root / ".cachesync" / "control.sock")
        eventually(lambda: len(self.children()) == 2 and self.alive() and client.is_serving(), 30, "the mount is back")

    def in_bucket(self, session: str = "s") -> set[str]:
        """The paths that the bucket has of a session, without our own."""
        start = f"sessions/{session}/"
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=start)
        keys = {item["Key"].removeprefix(start) for page in pages for item in page.get("Contents", ())}
        return {key for key in keys if not key.startswith(".cachesync/")}

    def close(self) -> None:
        if self.daemon is not None:
            for pid in [self.daemon.pid, *self.children().values()]:  # who would start them again goes first
                os.kill(pid, signal.SIGKILL)
        super().close()
        while fuse.mounted(str(self.mnt)) is not None:
            _libc.umount2(os.fsencode(self.mnt), _DETACH)


def sh(script: str, cwd: Path, timeout: float = 60.0) -> str:
    """What a shell script prints; it may not fail."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=os.environ | {"GIT_CONFIG_GLOBAL": "/dev/null", "LC_ALL": "C.UTF-8"} | IDENTITY,
    )
    assert done.returncode == 0, f"{script}\n-> {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


IDENTITY = {
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.com",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.com",
}
