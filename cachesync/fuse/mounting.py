"""Mounting and unmounting: mount(2) as root, fusermount3(1) for everybody else."""

from __future__ import annotations

import array
import contextlib
import errno
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Sequence

from cachesync.fuse import linux
from cachesync.fuse.device import Device
from cachesync.model.errors import UsageError
from cachesync.model.record import record

KIND = "fuse.cachesync"
"""The type that the mount shows itself as."""

_ESCAPED = re.compile(rb"\\([0-7]{3})")
_HELPERS = ("fusermount3", "fusermount")


@record(frozen=True, slots=True)
class Mounted:
    """A mount as /proc/self/mountinfo shows it; ``source`` is what ``mount`` was given, ``number`` tells it from others
    that are mounted at the same time."""

    path: str
    kind: str
    source: str
    number: int


def mount(path: str, *, source: str, read_only: bool, others: bool) -> Device:
    """Mount an empty FUSE file system at a directory. ``source`` is what df shows of it.

    As root every user may come in, and the kernel checks their rights; otherwise only this user, or with ``others`` all
    where /etc/fuse.conf says ``user_allow_other``. Raises UsageError where that cannot be done.
    """
    mode = "ro" if read_only else "rw"
    if os.geteuid() != 0:
        rights = "default_permissions,allow_other" if others else "default_permissions"
        return _ask_helper(path, f"{mode},{rights},fsname={_comma(source)},subtype=cachesync")
    try:
        descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        hint = "the fuse module is not loaded, or the container was not given the device (--device /dev/fuse)"
        raise UsageError("open", "/dev/fuse", error.strerror, hint) from error
    options = f"fd={descriptor},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other"
    flags = linux.MS_NOSUID | linux.MS_NODEV | (1 if read_only else 0)
    try:
        linux.mount(os.fsencode(source), os.fsencode(path), KIND.encode(), flags, options.encode())
    except OSError as error:
        os.close(descriptor)
        hint = "mounting needs CAP_SYS_ADMIN; in a container, --cap-add SYS_ADMIN" if error.errno == errno.EPERM else ""
        raise UsageError("mount", path, error.strerror, hint) from error
    return Device(descriptor)


def _ask_helper(path: str, options: str) -> Device:
    """fusermount3 opens the device, mounts it, and hands it over a socket (libfuse's own way, without libfuse)."""
    helper = next(filter(None, map(shutil.which, _HELPERS)), None)
    if helper is None:
        raise UsageError("mount", path, "you are not root, and there is no fusermount3", "install the fuse3 package")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        environ = {**os.environ, "_FUSE_COMMFD": str(theirs.fileno())}
        done = subprocess.run(
            [helper, "-o", options, "--", path],
            env=environ,
            pass_fds=[theirs.fileno()],
            capture_output=True,
            text=True,
            check=False,
        )
        theirs.close()
        if done.returncode:
            raise UsageError("mount", path, done.stderr.strip().removeprefix(f"{helper}: ") or "fusermount3 failed")
        _, ancillary, _, _ = ours.recvmsg(1, socket.CMSG_LEN(array.array("i").itemsize))
    held = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            held.frombytes(data)
    if not held:
        raise UsageError("mount", path, "fusermount3 handed nothing over")
    os.set_inheritable(held[0], False)
    return Device(held[0])


def unmount(path: str, *, lazy: bool = False) -> None:
    """Unmount. ``lazy`` takes it out of sight now, and away when nobody uses it any more. Raises OSError (EBUSY)."""
    if os.geteuid() == 0:
        linux.umount(os.fsencode(path), linux.MNT_DETACH if lazy else 0)
        return
    helper = next(filter(None, map(shutil.which, _HELPERS)), None)
    if helper is None:
        raise OSError(errno.EPERM, "there is no fusermount3", path)
    command = [helper, "-u", *(["-z"] if lazy else []), "--", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        busy = "busy" in done.stderr.lower()
        raise OSError(errno.EBUSY if busy else errno.EINVAL, done.stderr.strip() or "fusermount3 failed", path)


def unmount_all(path: str, *, lazy: bool = False) -> None:
    """Unmount ours at ``path``, and what servers that died have left below it. Raises OSError (EBUSY)."""
    while (found := mounted(path)) is not None and found.kind == KIND:
        unmount(path, lazy=lazy)
        lazy = True  # nobody answers there any more, whoever stands in it


def mounted(path: str) -> Mounted | None:
    """What is mounted at ``path``, absolute; the uppermost of several. It asks the kernel's list, not the mount: one
    whose server is dead or hangs does not hold this up."""
    return next((found for found in reversed(mounts()) if found.path == path), None)


def mounts() -> list[Mounted]:
    """Everything that is mounted, in the kernel's order, as its list says."""
    found = []
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            before, _, after = line.rstrip(b"\n").partition(b" - ")
            kind, source = after.split(b" ")[:2]
            fields = before.split(b" ")
            found.append(Mounted(_plain(fields[4]), kind.decode(), _plain(source), int(fields[0])))
    return found


def kind_at(path: str) -> str | None:
    """The type of the file system that a directory lies on, as the kernel's list says."""
    found = os.stat(path).st_dev
    device = b"%d:%d" % (os.major(found), os.minor(found))
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            before, _, after = line.partition(b" - ")
            if before.split(b" ")[2] == device:
                return after.split(b" ")[0].decode()
    return None


def _plain(field: bytes) -> str:
    return os.fsdecode(_ESCAPED.sub(lambda match: bytes([int(match[1], 8)]), field))


def _comma(text: str) -> str:
    return text.replace("\\", "\\\\").replace(",", "\\,")


def confine(root: str, *, away_from: str, needed: Sequence[str]) -> bool:
    """Make the root the working directory, in a private view of the mounts in which no symbolic link under it is ever
    followed: whoever puts one into a path behind our back cannot lead us out of the root, with our rights (P16).

    ``away_from`` is our own mount, which this view must not keep alive. Of the others it has those only that the root
    and the paths ``needed`` are on: elsewhere they can be unmounted for good. Needs root; else it is the working
    directory only, and our rights are those of whoever made the link. Returns whether links are not followed.
    """
    os.chdir(root)
    if os.geteuid() != 0:
        return False
    here = os.fsencode(os.getcwd())
    try:
        linux.unshare(linux.CLONE_NEWNS)
        linux.mount(None, b"/", None, linux.MS_REC | linux.MS_SLAVE)
        linux.umount(os.fsencode(away_from), linux.MNT_DETACH)
        _detach_all_but(os.fsdecode(here), [os.path.realpath(path) for path in needed])
        linux.mount(here, here, None, linux.MS_BIND | linux.MS_REC)
        linux.mount(None, here, None, linux.MS_REMOUNT | linux.MS_BIND | linux.MS_NOSYMFOLLOW)
    except OSError:
        return False
    finally:
        os.chdir(here)
    return True


def _detach_all_but(root: str, needed: Sequence[str]) -> None:
    """Detach the mounts that neither lie below the root nor have the root, or something needed, on them."""
    for found in reversed(mounts()):
        if not _is_below(found.path, root) and not any(_is_below(path, found.path) for path in (root, *needed)):
            with contextlib.suppress(OSError):  # hidden by another one, or not ours to detach
                linux.umount(os.fsencode(found.path), linux.MNT_DETACH)


def _is_below(path: str, above: str) -> bool:
    return path == above or path.startswith(above.rstrip("/") + "/")
