"""Looking: the facts that the checks judge. Nothing here decides, and nothing is changed."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import resource
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from cachesync import fuse
from cachesync.model.keys import RESERVED
from cachesync.model.values import Capabilities
from cachesync.ops.doctor.host import Fuse, Inotify, MountFound
from cachesync.ops.doctor.root_checks import Folder, Space
from cachesync.read.cache.disk import has_room
from cachesync.root.capabilities import device_of, measure
from cachesync.sync.run_with_timeout import StillRunning, within

_COUNTING = 10.0
"""Seconds for counting the directories under the root."""

_ANSWER = 2.0
"""Seconds for a mount to answer."""


def folder(path: Path) -> Folder:
    """What stands at a path."""
    real = os.path.realpath(path)
    try:
        found = os.lstat(path)
        target = os.stat(path)
        flags = os.statvfs(path).f_flag
    except FileNotFoundError:
        return Folder(str(path), real, error="", parent_allowed=_may_make(Path(real)))
    except OSError as error:
        return Folder(str(path), real, error=error.strerror)
    return Folder(
        str(path),
        real,
        mode=found.st_mode,
        owner=found.st_uid,
        device=target.st_dev,
        kind=fuse.kind_at(str(path)) if Path("/proc/self/mountinfo").exists() else None,
        allowed=os.access(path, os.R_OK | os.W_OK | os.X_OK),
        read_only=bool(flags & os.ST_RDONLY),
    )


def where_it_leads(path: Path) -> Folder:
    """The same of a path that may be a link to a directory."""
    return replace(folder(Path(os.path.realpath(path))), path=str(path))


def capabilities(folder: Path) -> Capabilities | None:
    """Measure the file system of a folder of ours; None if that fails."""
    try:
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return measure(held, device_of(held))
    except OSError:
        return None
    finally:
        os.close(held)


def _may_make(path: Path) -> bool:
    above = next((parent for parent in path.parents if parent.exists()), Path("/"))
    return above.is_dir() and os.access(above, os.W_OK | os.X_OK)


def space(path: Path) -> Space:
    """What is left where a path lies."""
    found = os.statvfs(path)
    unit = found.f_frsize
    return Space(found.f_bavail * unit, found.f_blocks * unit, found.f_favail, found.f_files, has_room(path, 0))


def inotify(root: Path, daemon: int | None) -> Inotify:
    """Limits, and what is held by this user's programs but for the process ``daemon``."""
    watches, instances = _held(daemon)
    directories, counted = _count_directories(root)
    return Inotify(
        _least("inotify/max_user_watches", "max_inotify_watches"),
        _least("inotify/max_user_instances", "max_inotify_instances"),
        watches,
        instances,
        directories,
        counted,
    )


def _least(limit: str, in_namespace: str) -> int | None:
    told = [number(Path(f"/proc/sys/fs/{limit}")), number(Path(f"/proc/sys/user/{in_namespace}"))]
    return min((value for value in told if value is not None), default=None)


def number(path: Path) -> int | None:
    """The number that a file of the kernel's holds; None if there is no such file, or no number in it."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _held(but_for: int | None) -> tuple[int, int]:
    """Watches and instances of inotify that programs of this user have."""
    watches = instances = 0
    user = os.geteuid()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if process.stat().st_uid != user or process.name == str(but_for):
                continue
            for descriptor in (process / "fd").iterdir():
                if os.readlink(descriptor) == "anon_inode:inotify":
                    instances += 1
                    watches += (process / "fdinfo" / descriptor.name).read_bytes().count(b"inotify wd:")
    return watches, instances


def _count_directories(root: Path) -> tuple[int, bool]:
    deadline = time.monotonic() + _COUNTING
    count = 0
    left = [str(root)]
    while left:
        if time.monotonic() > deadline:
            return count, False
        above = left.pop()
        count += 1
        left += (path for path in _directories(above) if path != f"{root}/{RESERVED}")
    return count, True


def _directories(above: str) -> Iterator[str]:
    with contextlib.suppress(OSError), os.scandir(above) as entries:
        yield from (entry.path for entry in entries if entry.is_dir(follow_symlinks=False))


def open_files(daemon: int | None) -> int | None:
    """How many files the process ``daemon`` may have open, or else this one; None for no limit."""
    if daemon is not None:
        with contextlib.suppress(OSError, ValueError):
            found = re.search(r"^Max open files\s+(\S+)", Path(f"/proc/{daemon}/limits").read_text(), re.MULTILINE)
            if found:
                return None if found[1] == "unlimited" else int(found[1])
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def mounting(kind: str | None) -> Fuse:
    """What this process has for mounting; ``kind`` is of the root's file system."""
    device_error = 0
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        device_error = error.errno or 0
    status = Path("/proc/self/status").read_text()
    capabilities = re.search(r"^CapEff:\s+(\S+)", status, re.MULTILINE)
    namespace = None
    with contextlib.suppress(OSError):
        namespace = os.stat("/proc/self/ns/user").st_ino
    return Fuse(
        device_error,
        shutil.which("fusermount3"),
        os.geteuid(),
        int(capabilities[1], 16) if capabilities else 0,
        namespace,
        platform.release(),
        kind,
    )


def mounts() -> list[MountFound]:
    """The mounts of ours in the kernel's list, each asked whether it answers."""
    ours = [found for found in fuse.mounts() if found.kind == fuse.KIND]
    return [MountFound(found.path, found.source, _answers(found.path)) for found in ours]


def _answers(path: str) -> bool | None:
    try:
        within(_ANSWER, lambda: os.statvfs(path))
    except StillRunning:
        return None
    except OSError:
        return False
    return True


def polling() -> int | None:
    """The kernel's halt polling in nanoseconds, where it is a virtual machine's kernel that has it."""
    return number(Path("/sys/module/haltpoll/parameters/guest_halt_poll_ns"))
