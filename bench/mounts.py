"""Where programs write: a plain directory, a root that cachesync watches, its mount, and the mounts of the peers."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.machine import WentWrong, cpu, family, forget_peak, peak, run, running, unmount, until
from bench.peers import CACHESYNC, program, remote
from bench.stage import Stage
from bench.target import Target
from cachesync.api.client import ControlClient
from cachesync.model.errors import CacheSyncError

OURS = ("cachesync root", "cachesync mount")
IGNORED = "cachesync mount, ignored"
"""Our mount on files that are to stay here: what a mount takes where nobody uploads beside."""

PEERS = ("rclone mount", "s3fs-fuse", "juicefs", "juicefs --writeback")
_EXAMPLE = Path("/usr/share/doc/libfuse3-dev/examples/passthrough_ll.c")
_FLUSH_SECONDS = 600.0
_POLL = 0.01


@dataclass
class Place:
    """A directory ``folder`` that a program writes to, and which processes stand behind it. ``wait`` returns when so
    many bytes in all are stored in ``target``; there is neither where nothing is stored."""

    folder: Path
    pids: list[int] = field(default_factory=list)
    target: Target | None = None
    wait: Callable[[int], None] | None = None
    keys: str | None = None
    """What object keys begin with, where each file is an object."""

    @contextlib.contextmanager
    def counted(self, figures: dict[str, float]) -> Iterator[None]:
        """Add what the processes behind it took meanwhile to figures."""
        if not self.pids:
            yield
            return
        forget_peak(self.pids)
        before = cpu(self.pids)
        yield
        figures |= {"client CPU s": cpu(self.pids) - before, "client RSS MiB": peak(self.pids)}


@contextlib.contextmanager
def place(who: str, on: Stage, target: Target | None = None) -> Iterator[Place]:
    """Somebody's directory, ready to be written to; everything is taken down afterwards. Raises WentWrong.

    With a ``target``, it shows what is in there: ours lets a session ``s`` be open of which nothing is here.
    """
    with contextlib.ExitStack() as stack:
        if who == "ext4":
            made = Place(on.folder("ext4") / "s")
        elif who in OURS:
            made = stack.enter_context(_ours(on, target, mounted=who == "cachesync mount"))
        elif who == IGNORED:
            here = stack.enter_context(_ours(on, None, mounted=True))
            here.folder.mkdir()
            (here.folder / ".cachesyncignore").write_text("*\n")
            made = Place(here.folder, here.pids)
        elif who == "libfuse's passthrough":
            made = stack.enter_context(_passthrough(on))
        else:
            made = stack.enter_context(_peer(who, on, target))
        if on.pinned:
            stack.enter_context(_pinned(made.pids))
        yield made


@contextlib.contextmanager
def _pinned(pids: list[int]) -> Iterator[None]:
    """Us and them on one processor: an idle one is slow to wake up, which each request to a mount pays for."""
    everywhere = os.sched_getaffinity(0)

    def pin(processors: set[int]) -> None:
        for pid in (os.getpid(), *family(pids)):
            for task in os.listdir(f"/proc/{pid}/task"):
                with contextlib.suppress(OSError):
                    os.sched_setaffinity(int(task), processors)

    pin({min(everywhere)})
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            pin(everywhere)


@contextlib.contextmanager
def _ours(on: Stage, given: Target | None, *, mounted: bool) -> Iterator[Place]:
    target, root, where = given or on.target(), on.folder("root"), on.folder("mount")
    for made in (root, where):
        made.mkdir()
    if given is not None:
        run([*CACHESYNC, "open", "s", "--lazy", "--root", root], target.env)
    verb = ["mount", where] if mounted else ["run"]
    command: list[str | Path] = [*CACHESYNC, *verb, "--root", root, "--log-level", "warning"]
    client = ControlClient(root / ".cachesync" / "control.sock")
    try:
        with running(command, target.env, on.place / "cachesync.log") as process:
            ready = (lambda: os.path.ismount(where)) if mounted else client.is_serving
            _until_ready(process, ready)
            yield Place(
                (where if mounted else root) / "s",
                [process.pid],
                target,
                lambda _: _flush(client),
                "sessions/s/",
            )
    finally:
        unmount(where)


def _flush(client: ControlClient) -> None:
    """Wait for the barrier."""
    try:
        report = client.flush("s", timeout=_FLUSH_SECONDS, confirm_deletes=True)  # all that is deleted is meant to be
    except CacheSyncError as error:
        raise WentWrong(str(error)) from error
    if not report.stored:
        raise WentWrong(
            f"flush says that not all is stored: {len(report.failed)} failed, {len(report.pending)} pending"
        )


@contextlib.contextmanager
def _peer(who: str, on: Stage, given: Target | None) -> Iterator[Place]:
    target, where, scratch = given or on.target(), on.folder("mount"), on.folder("scratch")
    for made in (where, scratch):
        made.mkdir()
    env = target.env
    keys: str | None = "s/"
    command: list[str | Path]
    if who == "rclone mount":
        command = [
            program("rclone"), "mount", remote(target, ""), where, "--config", "/dev/null", "--cache-dir", scratch,
            "--vfs-cache-mode", "full", "--vfs-write-back", "0s", "--transfers", "32", "--s3-no-check-bucket",
        ]  # fmt: skip
    elif who == "s3fs-fuse":
        options = (
            f"url={target.endpoint},use_path_request_style,endpoint=us-east-1,use_cache={scratch},parallel_count=32"
        )
        command = [program("s3fs"), target.bucket, where, "-f", "-o", options]
    else:
        keys = None  # its objects are pieces of files
        env |= {"ACCESS_KEY": target.key, "SECRET_KEY": target.secret}
        base = f"sqlite3://{scratch / 'meta.db'}"
        bucket = f"{target.endpoint}/{target.bucket}"
        format_ = ["format", base, "bench", "--storage", "s3", "--bucket", bucket, "--trash-days", "0"]
        run([program("juicefs"), *format_], env)
        command = [program("juicefs"), "mount", base, where, "--cache-dir", scratch / "cache", "--no-usage-report"]
        command += ["--writeback"] if who.endswith("--writeback") else []
    try:
        with running(command, env, on.place / "peers.log") as process:
            _until_ready(process, lambda: os.path.ismount(where))
            try:
                yield Place(where / "s", [process.pid], target, lambda size: _seen(on, target, size), keys)
            finally:
                unmount(where)
    finally:
        unmount(where)


def _seen(on: Stage, target: Target, size: int) -> None:
    """Look into the bucket until it has as many bytes."""
    until(lambda: sum(on.objects(target).values()) >= size, f"{size:,} B in the bucket", within=120, every=_POLL)


@contextlib.contextmanager
def _passthrough(on: Stage) -> Iterator[Place]:
    """Libfuse's example in C, one thread, with the options that our mount has: what a FUSE server costs at least."""
    source, where, built = on.folder("source"), on.folder("mount"), on.place / "passthrough_ll"
    if not built.exists() and compiled(_EXAMPLE, built, "fuse3") is None:
        raise WentWrong("needs gcc, pkg-config and libfuse3-dev")
    for made in (source, where):
        made.mkdir()
    options = f"source={source},cache=auto,xattr,allow_other,default_permissions"
    try:
        with running([built, "-f", "-s", "-o", options, where], dict(os.environ), on.place / "peers.log") as process:
            _until_ready(process, lambda: os.path.ismount(where))
            yield Place(where / "s", [process.pid])
    finally:
        unmount(where)


def compiled(source: Path, built: Path, package: str | None = None) -> Path | None:
    """A C program, or None where it cannot be had."""
    if shutil.which("gcc") is None or not source.exists():
        return None
    flags: list[str] = []
    if package is not None:
        if shutil.which("pkg-config") is None:
            return None
        command = ["pkg-config", "--cflags", "--libs", package]
        flags = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    done = subprocess.run(["gcc", "-O2", "-w", "-o", built, source, *flags], check=False, capture_output=True)
    return None if done.returncode else built


def _until_ready(process: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        if process.poll() is not None:
            raise WentWrong(f"it ended with {process.returncode} instead of getting ready")
        if time.monotonic() > deadline:
            raise WentWrong("not ready within 60 s")
        time.sleep(0.02)
