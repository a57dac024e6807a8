"""What the facts of the root, the state folder and the journal mean. Pure."""

from __future__ import annotations

import stat

from cachesync.model.errors import CacheSyncError
from cachesync.model.policy import FINE_TICK
from cachesync.model.record import record
from cachesync.model.values import Capabilities, Leases
from cachesync.ops.doctor.finding import Finding, ok, problem, warning

_NETWORK = frozenset(
    {
        "9p", "afs", "beegfs", "ceph", "cifs", "gfs2", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "ocfs2", "smb3",
        "virtiofs",
    }
)  # fmt: skip
_MEMORY = frozenset({"ramfs", "tmpfs"})
_OURS = "fuse.cachesync"

_LEAST_BYTES = 64 * 2**20
_LEAST_INODES = 1000
_PERCENT = 100
_GB = 1e9
_FEW = 5  # percent


@record(frozen=True, slots=True)
class Folder:
    """What stands at a path: ``error`` says why nothing can be told of it, "" if there is simply nothing.

    ``real`` is the path without links; ``mode`` has the type's bits and is of the path itself, be it a link. ``kind``
    is the type of the file system, None where the kernel's list has it not; ``allowed`` whether we may do in it what
    we have to. ``parent_allowed`` is asked where nothing stands: whether it could be made.
    """

    path: str
    real: str
    error: str | None = None
    mode: int = 0
    owner: int = 0
    device: int = 0
    kind: str | None = None
    allowed: bool = False
    read_only: bool = False
    parent_allowed: bool = False


@record(frozen=True, slots=True)
class Space:
    """What is free, and all there is, in bytes and inodes; no inodes at all where the file system does not count them.

    ``cached`` is whether the cache still takes more.
    """

    free: int
    size: int
    inodes_free: int
    inodes: int
    cached: bool


def root(found: Folder, *, state: str, known: bool) -> list[Finding]:
    """The sessions directory; ``state`` is the state folder without links, ``known`` whether it has a journal."""
    check = "root"
    if found.real == state or found.real.startswith(f"{state}/"):
        cause = f"{found.path} lies inside the state folder {state}, which is emptied now and then"
        return [problem(check, cause, "set root or state so that the root is not inside the state folder")]
    if found.error == "" and known:
        cause = f"{found.path} is gone, and the journal in {state} knows of files in it"
        return [problem(check, cause, "mount it again or set root; the store deletes nothing meanwhile")]
    if found.error == "" and found.parent_allowed:
        return [warning(check, f"{found.path} is not there yet", f"mkdir -p {found.path}; cachesync run makes it too")]
    return [_unusable(check, found) or _root_kind(check, found)]


def _unusable(setting: str, found: Folder) -> Finding | None:
    """Why the folder that a setting names cannot be worked in, if that is so."""
    another = f"set {setting} to another folder"
    if found.error is not None:
        cause = found.error or "it is not there, and cannot be made"
        return problem(setting, f"{found.path}: {cause}", f"let this user reach it, or {another}")
    if not stat.S_ISDIR(found.mode):
        cause = "a link" if stat.S_ISLNK(found.mode) else "no directory"
        return problem(setting, f"{found.path} is {cause}", f"remove it, or {another}")
    if found.read_only:
        return problem(setting, f"{found.path} is on a read-only file system", f"mount it for writing, or {another}")
    if not found.allowed:
        cause = f"{found.path} may not be read and written"
        return problem(setting, cause, f"let this user read, write and enter it, or {another}")
    return None


def _root_kind(check: str, found: Folder) -> Finding:
    kind = found.kind or "unknown file system"
    seen = f"{found.path} ({kind})"
    if kind == _OURS:
        return problem(
            check, f"{seen} is a mount of cachesync itself", "set root to the directory that the mount shows"
        )
    if kind in _NETWORK or kind.startswith("fuse."):
        cause = f"{seen} is a network file system: inotify sees only what this host writes"
        return warning(
            check, cause, "let this host alone write there, or set scan_interval; keep state on a local disk"
        )
    if kind in _MEMORY:
        cause = f"{seen} is memory: what is not stored yet is gone when the machine stops"
        return warning(check, cause, "put the root on a disk")
    return ok(check, f"{seen}, writable")


def space(found: Space) -> list[Finding]:
    """What is left on the root's disk."""
    free = found.free * _PERCENT // max(found.size, 1)
    seen = f"{_room(found.free)} free of {_room(found.size)}"
    findings = []
    if found.free < _LEAST_BYTES:
        findings.append(problem("space", seen, "make room on the root's disk"))
    elif not found.cached:
        cause = f"{seen} ({free} %): too little for the read cache, which keeps nothing now"
        findings.append(warning("space", cause, "make room on the root's disk"))
    if found.inodes:
        left = f"{found.inodes_free:,} inodes free of {found.inodes:,}"
        if found.inodes_free < _LEAST_INODES:
            findings.append(problem("space", left, "remove files, or make a file system with more inodes"))
        elif found.inodes_free * _PERCENT < found.inodes * _FEW:
            findings.append(warning("space", left, "remove files, or make a file system with more inodes"))
        seen += f", {left}"
    return findings or [ok("space", seen)]


def _room(count: int) -> str:
    return f"{count / _GB:,.1f} GB" if count >= _GB else f"{count / 1e6:,.1f} MB"


def state(found: Folder, *, root_device: int | None, user: int) -> list[Finding]:
    """The state folder; ``root_device`` is where the root lies, ``user`` who we are."""
    check = "state"
    if found.error == "" and found.parent_allowed:
        return [ok(check, f"{found.path} is not there yet; cachesync run makes it")]
    if (fault := _unusable(check, found)) is not None:
        return [fault]
    if found.owner != user:
        cause = f"{found.path} belongs to user {found.owner}, and this is user {user}"
        return [problem(check, cause, "run as that user, or remove it if it is not cachesync's")]
    return _state_kind(check, found, root_device)


def _state_kind(check: str, found: Folder, root_device: int | None) -> list[Finding]:
    findings = []
    mode = stat.S_IMODE(found.mode)
    if mode != stat.S_IRWXU:
        cause = f"{found.path} has mode {mode:04o}: others may look into it"
        findings.append(problem(check, cause, f"chmod 700 {found.path}; the next start does it too"))
    if found.kind in _NETWORK:
        cause = f"{found.path} is on a network file system ({found.kind}), where the journal's locks may not hold"
        findings.append(warning(check, cause, "set state to a folder on a local disk"))
    if findings:
        return findings
    elsewhere = root_device is not None and found.device != root_device
    seen = f"{found.path} ({found.kind or 'unknown file system'}), mode 0700"
    return [ok(check, f"{seen}, on another file system than the root" if elsewhere else seen)]


def journal(path: str, *, there: bool, fault: CacheSyncError | None) -> list[Finding]:
    """The journal: ``fault`` is what keeps it from being used, None if it is sound and of this store."""
    if not there:
        return [ok("journal", "there is none yet")]
    if fault is not None:
        return [problem("journal", f"{path}: {fault.reason}", fault.hint)]
    return [ok("journal", f"{path} is sound, and of this store")]


def capabilities(found: Capabilities | None) -> list[Finding]:
    """Report the capabilities of the root's file system; None if they could not be measured."""
    if found is None:
        return [ok("time stamps", "not tried: cachesync has no folder on the root's file system yet")]
    return [_time_stamps(found), _births(found), _leases(found)]


def _time_stamps(found: Capabilities) -> Finding:
    check, tick = "time stamps", found.tick
    if tick > FINE_TICK:
        seen = f"{found.device.kind} stamps have a tick of {tick:.1f} s: files that changed just before an upload are"
        seen += " read twice"
        return warning(check, seen, "put the root on ext4 with inodes of 256 bytes, xfs, btrfs or tmpfs")
    if tick:
        seen = f"two writes within {tick * 1000:.0f} ms may get one time stamp: an upload waits that long after a write"
        return ok(check, seen, "Linux 6.13 or newer with ext4, xfs, btrfs or tmpfs stamps every write differently")
    return ok(check, f"{found.device.kind} stamps every write differently")


def _births(found: Capabilities) -> Finding:
    if found.births:
        return ok("birth times", f"{found.device.kind} records them")
    seen = f"{found.device.kind} does not record birth times: a replaced directory may not be detected"
    return warning("birth times", seen, "put the root on ext4 with inodes of 256 bytes, xfs, btrfs or tmpfs")


def _leases(found: Capabilities) -> Finding:
    if found.leases is Leases.HONEST:
        return ok("leases", f"{found.device.kind} tells whether a program has a file open for writing")
    verb = "does not tell" if found.leases is Leases.REFUSED else "does not always tell"
    seen = f"{found.device.kind} {verb} whether a program has a file open for writing: nothing is evicted or replaced"
    mend = "put the root on ext4, xfs, btrfs or tmpfs, such as a volume of the container; or run evict --force"
    return warning("leases", seen, mend)


def store(found: Folder, root_found: Folder, *, begun: bool, known: bool) -> list[Finding]:
    """The folder that is the store: ``begun`` says that it is one already, ``known`` that the journal is of it."""
    check = "store disk"
    fresh = found.error == "" and found.parent_allowed
    if not fresh and (fault := _unusable("store", found)) is not None:
        return [fault]
    if not begun and known:
        cause = f"{found.path} {'is not there' if fresh else 'is no store'}, and the root's journal says it was"
        return [problem("store", cause, "mount the store's disk there, or correct the store setting")]
    if fresh:
        return [ok(check, f"{found.path} is not there yet; the first use makes it")]
    if root_found.error is None and root_found.device == found.device:
        cause = f"{found.path} is on the root's disk: what takes the one takes the other"
        return [warning(check, cause, "set store to s3://BUCKET/PREFIX, or to a folder on another disk")]
    return [ok(check, f"{found.path} is on another disk than the root")]
