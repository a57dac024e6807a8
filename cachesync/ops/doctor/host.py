"""What the facts of this machine mean: inotify, open files, FUSE and its mounts, and the daemon. Pure."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence

from cachesync import __version__
from cachesync.model.errors import CacheSyncError
from cachesync.model.record import record
from cachesync.model.reports import StatusReport
from cachesync.ops.doctor.finding import Finding, failed, ok, problem, warning

CAP_SYS_ADMIN = 1 << 21
FIRST_USER_NAMESPACE = 0xEFFFFFFD
"""The inode of the first user namespace (PROC_USER_INIT_INO of Linux)."""

_PASSTHROUGH = (6, 9)
_FILES_ALWAYS = 64
_FILES_A_TRANSFER = 4
"""Open at once in one transfer, at most: the directory, the file, its copy on the way in, the connection."""

_POLL = "echo 200000 > /sys/module/haltpoll/parameters/guest_halt_poll_ns"


@record(frozen=True, slots=True)
class Inotify:
    """The limits of inotify for this user, None where they are not told, and what other programs of this user hold.

    ``directories`` are those under the root; ``counted`` is False if there was no time to count all of them.
    """

    watches: int | None
    instances: int | None
    watches_elsewhere: int
    instances_elsewhere: int
    directories: int
    counted: bool


@record(frozen=True, slots=True)
class Fuse:
    """What mounting needs. ``device_error`` is the errno of opening /dev/fuse, 0 if it opened; ``helper`` fusermount3's
    path; ``capabilities`` the effective bits; ``namespace`` the inode of the user namespace, None if it is not told;
    ``release`` the kernel's; ``kind`` the type of the root's file system."""

    device_error: int
    helper: str | None
    user: int
    capabilities: int
    namespace: int | None
    release: str
    kind: str | None


@record(frozen=True, slots=True)
class MountFound:
    """A mount of ours in the kernel's list. ``answers`` is None if it says nothing at all."""

    path: str
    source: str
    answers: bool | None


def daemon(status: StatusReport | None, fault: CacheSyncError | None) -> list[Finding]:
    """Who serves the root, and what it has to say; ``fault`` is why the socket gave no answer."""
    if fault is not None:
        return [failed("daemon", fault)]
    if status is None or status.daemon is None:
        return [ok("daemon", "none serves the root: commands do their work themselves", "cachesync run")]
    served = status.daemon
    seen = f"process {served.pid}, version {served.version}"
    findings = [warning("daemon", note, "what mends it is below, or in the daemon's log") for note in status.notes]
    if served.version != __version__:
        findings.append(warning("daemon", f"{seen}, and this is {__version__}", "restart the daemon"))
    return findings or [ok("daemon", seen)]


def watches(found: Inotify) -> list[Finding]:
    """Whether every directory can be watched. What cannot is scanned instead: that costs time, never files."""
    check = "watches"
    findings = []
    word = "directory" if found.directories == 1 else "directories"
    directories = f"{'' if found.counted else 'more than '}{found.directories:,} {word}"
    needed = found.directories + found.watches_elsewhere
    if found.watches is not None and needed > found.watches:
        cause = (
            f"{directories}, and {found.watches_elsewhere:,} watches of other programs; {found.watches:,} are allowed"
        )
        findings.append(warning(check, cause, f"sysctl fs.inotify.max_user_watches={2 * needed}"))
    if found.instances is not None and found.instances_elsewhere >= found.instances:
        cause = f"other programs of this user hold all {found.instances:,} inotify instances"
        findings.append(warning(check, cause, f"sysctl fs.inotify.max_user_instances={2 * found.instances}"))
    most = "not told" if found.watches is None else f"{found.watches:,}"
    return findings or [ok(check, f"{directories}, {found.watches_elsewhere:,} watches elsewhere; the limit is {most}")]


def open_files(allowed: int | None, transfers: int) -> list[Finding]:
    """Whether so many transfers may have their files open at once; ``allowed`` is None for no limit."""
    needed = _FILES_ALWAYS + _FILES_A_TRANSFER * transfers
    if allowed is not None and allowed < needed:
        cause = f"{allowed:,} open files are allowed, and {transfers} transfers may need {needed:,}"
        return [problem("open files", cause, f"ulimit -n {needed} (LimitNOFILE= of systemd), or lower transfers")]
    limit = "any number is" if allowed is None else f"{allowed:,} are"
    return [ok("open files", f"{limit} allowed, {transfers} transfers need {needed:,}")]


def mounting(found: Fuse) -> list[Finding]:
    """Whether ``cachesync mount`` can work; nothing else needs it."""
    check = "mount"
    admin = bool(found.capabilities & CAP_SYS_ADMIN)
    if found.device_error == errno.ENOENT:
        return [warning(check, "there is no /dev/fuse", "modprobe fuse; for a container, --device /dev/fuse")]
    if found.device_error in (errno.ENODEV, errno.ENXIO):
        return [warning(check, "the kernel has no FUSE", "modprobe fuse")]
    if found.device_error:
        cause = "/dev/fuse may not be opened"
        return [warning(check, cause, "chmod 666 /dev/fuse, or let the container have it: --device /dev/fuse")]
    if found.user and found.helper is None:
        return [warning(check, "this user is not root, and there is no fusermount3", "install the package fuse3")]
    if not found.user and not admin:
        return [warning(check, "root without CAP_SYS_ADMIN cannot mount", "for a container, --cap-add SYS_ADMIN")]
    return [ok(check, "/dev/fuse opens, " + ("mounted by the kernel" if not found.user else f"by {found.helper}"))]


def passthrough(found: Fuse) -> list[Finding]:
    """Whether the kernel may read and write a mount's files by itself. Without it a mount works, only slower."""
    check = "passthrough"
    if _release(found.release) < _PASSTHROUGH:
        return [
            warning(check, f"Linux {found.release} has no FUSE passthrough: a mount is slower", "Linux 6.9 or newer")
        ]
    if not found.capabilities & CAP_SYS_ADMIN:
        cause = "no CAP_SYS_ADMIN: a mount works without passthrough, slower"
        return [warning(check, cause, "run cachesync mount as root, or with AmbientCapabilities=CAP_SYS_ADMIN")]
    if found.namespace not in (None, FIRST_USER_NAMESPACE):
        cause = "in a user namespace of its own the kernel allows no passthrough: a mount works, slower"
        return [warning(check, cause, "run cachesync mount outside of it (not rootless)")]
    if found.kind is not None and (found.kind.startswith("fuse") or found.kind == "ecryptfs"):
        cause = f"the root is on {found.kind}, which files cannot be passed through to: a mount is slower"
        return [warning(check, cause, "put the root on ext4, xfs, btrfs or tmpfs")]
    if found.kind == "overlay":
        cause = f"Linux {found.release}, over overlayfs: nothing can be stacked on top of the mount"
        return [ok(check, cause, "put the root on a volume of its own")]
    return [ok(check, f"Linux {found.release}, CAP_SYS_ADMIN")]


def _release(text: str) -> tuple[int, ...]:
    found = re.match(r"(\d+)\.(\d+)", text)
    return tuple(map(int, found.groups())) if found else ()


def mounts(found: Sequence[MountFound], root: str) -> list[Finding]:
    """Mounts of cachesync: one whose server died answers every program with an error, until somebody takes it away.

    ``root`` is ours, without links; the mounts of others are no problem of ours.
    """
    findings = []
    for mount in found:
        if mount.answers:
            findings.append(ok("mounts", f"{mount.path} shows {mount.source}"))
            continue
        dead = mount.answers is False
        cause = f"{mount.path} shows {mount.source}, but {'its server is gone' if dead else 'it does not answer'}"
        again = f"cachesync umount {mount.path}; or cachesync mount {mount.path} takes it over"
        verdict = problem if mount.source == root else warning
        findings.append(verdict("mounts", cause, again if dead else f"cachesync umount --lazy {mount.path}"))
    return findings


def polling(nanoseconds: int | None) -> list[Finding]:
    """How long an idle processor of this virtual machine waits before it sleeps; None if it is none, or cannot."""
    if nanoseconds == 0:
        cause = "a sleeping processor of this virtual machine takes long to wake, and each call to a mount wakes one"
        return [ok("wake-ups", cause, f"{_POLL} makes a mount several times faster, and costs idle time")]
    return []
