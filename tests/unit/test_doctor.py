"""What the facts mean: every judgement of doctor, without looking at anything."""

from __future__ import annotations

import errno
import stat
from dataclasses import replace
from email.utils import formatdate

import pytest

from cachesync import __version__
from cachesync.model.errors import JournalDamaged, NoSuchBucket, StoreDenied, StorePermanent, StoreUnreachable
from cachesync.model.reports import DaemonStatus, StatusReport
from cachesync.model.values import Capabilities, Device, Leases
from cachesync.ops.doctor import host, root_checks, stored
from cachesync.ops.doctor.finding import Finding, exit_code, failed, ok, problem, warning
from cachesync.ops.doctor.host import CAP_SYS_ADMIN, FIRST_USER_NAMESPACE, Fuse, Inotify, MountFound
from cachesync.ops.doctor.rights import Rights
from cachesync.ops.doctor.root_checks import Folder, Space
from cachesync.ops.doctor.stored import Conditions
from cachesync.store.s3.credentials import Found
from cachesync.store.s3.errors import NotSupported

GIB = 2**30
DIRECTORY = stat.S_IFDIR | 0o700
ROOT = Folder("/srv/s", "/srv/s", mode=DIRECTORY, owner=7, device=1, kind="ext4", allowed=True)
STATE = replace(ROOT, path="/srv/s/.cachesync", real="/srv/s/.cachesync")
MISSING = Folder("/srv/s", "/srv/s", error="", parent_allowed=True)


def says(findings: list[Finding], verdict: str, *words: str) -> None:
    """One finding of this verdict that says all of this; and if something is wrong, also what mends it."""
    (found,) = findings
    assert found.verdict == verdict, found
    assert bool(found.mend) or verdict == "ok", found
    for word in words:
        assert word in f"{found.check} {found.seen} {found.mend}", found


def test_a_finding_is_json_and_a_problem_is_exit_code_1():
    assert ok("a", "b").json() == {"check": "a", "verdict": "ok", "seen": "b", "mend": None}
    assert warning("a", "\udcff", "c").json() == {"check": "a", "verdict": "warning", "seen": "\\xff", "mend": "c"}
    assert exit_code([]) == 0
    assert exit_code([ok("a", "b"), warning("a", "b", "c")]) == 0
    assert exit_code([ok("a", "b"), problem("a", "b", "c")]) == 1
    assert failed("a", StoreDenied("put", "k", "no", "ask")) == problem("a", "no", "ask")


# -- the ground --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "verdict", "word"),
    [
        ({}, "ok", "ext4"),
        ({"kind": None}, "ok", "unknown file system"),
        ({"kind": "nfs4"}, "warning", "network"),
        ({"kind": "fuse.sshfs"}, "warning", "scan_interval"),
        ({"kind": "fuse.cachesync"}, "problem", "mount of cachesync itself"),
        ({"kind": "tmpfs"}, "warning", "memory"),
        ({"error": "Permission denied"}, "problem", "Permission denied"),
        ({"mode": stat.S_IFREG | 0o600}, "problem", "no directory"),
        ({"read_only": True}, "problem", "read-only"),
        ({"allowed": False}, "problem", "may not be read and written"),
        ({"real": "/srv/s/.cachesync/x"}, "problem", "inside the state folder"),
        ({"real": "/srv/s/.cachesync"}, "problem", "inside the state folder"),
    ],
)
def test_root(changes, verdict, word):
    says(root_checks.root(replace(ROOT, **changes), state="/srv/s/.cachesync", known=False), verdict, "root", word)


def test_a_root_that_is_missing():
    says(root_checks.root(MISSING, state="/state", known=False), "warning", "mkdir -p /srv/s")
    says(root_checks.root(MISSING, state="/state", known=True), "problem", "is gone", "mount it again")
    says(
        root_checks.root(replace(MISSING, parent_allowed=False), state="/state", known=False),
        "problem",
        "cannot be made",
    )


def test_space():
    roomy = Space(50 * GIB, 100 * GIB, 500_000, 1_000_000, cached=True)
    says(root_checks.space(roomy), "ok", "53.7 GB free", "500,000 inodes")
    says(root_checks.space(replace(roomy, inodes=0)), "ok", "53.7 GB free of 107.4 GB")
    says(root_checks.space(replace(roomy, free=GIB, cached=False)), "warning", "cache", "1 %")
    says(root_checks.space(replace(roomy, free=2**20, cached=False)), "problem", "1.0 MB free of", "make room")
    says(root_checks.space(replace(roomy, inodes_free=20_000)), "warning", "20,000 inodes")
    says(root_checks.space(replace(roomy, inodes_free=9)), "problem", "9 inodes")
    assert len(root_checks.space(replace(roomy, free=0, inodes_free=0))) == 2


@pytest.mark.parametrize(
    ("changes", "verdict", "word"),
    [
        ({}, "ok", "mode 0700"),
        ({"device": 2}, "ok", "another file system than the root"),
        ({"kind": None}, "ok", "unknown file system"),
        ({"mode": stat.S_IFDIR | 0o755}, "problem", "chmod 700"),
        ({"kind": "nfs"}, "warning", "local disk"),
        ({"owner": 8}, "problem", "belongs to user 8"),
        ({"mode": stat.S_IFLNK | 0o777}, "problem", "a link"),
        ({"mode": stat.S_IFREG | 0o777}, "problem", "no directory"),
        ({"read_only": True}, "problem", "read-only"),
        ({"allowed": False}, "problem", "may not be read and written"),
        ({"error": "Input/output error"}, "problem", "Input/output error"),
    ],
)
def test_state(changes, verdict, word):
    says(root_checks.state(replace(STATE, **changes), root_device=1, user=7), verdict, "state", word)


def test_a_state_folder_that_is_missing_or_wrong_twice():
    says(root_checks.state(MISSING, root_device=None, user=7), "ok", "not there yet")
    says(root_checks.state(replace(MISSING, parent_allowed=False), root_device=1, user=7), "problem", "cannot be made")
    assert "another file system" not in root_checks.state(STATE, root_device=None, user=7)[0].seen
    assert len(root_checks.state(replace(STATE, mode=stat.S_IFDIR, kind="nfs"), root_device=1, user=7)) == 2


def test_journal():
    says(root_checks.journal("/j", there=False, fault=None), "ok", "none yet")
    says(root_checks.journal("/j", there=True, fault=None), "ok", "sound")
    torn = JournalDamaged("read", "/j", "torn")
    says(root_checks.journal("/j", there=True, fault=torn), "problem", "torn", "sets it aside")


def test_capabilities():
    def told(kind, tick=0.0, leases=Leases.HONEST, *, births=True):
        found = Capabilities(Device("id", 1, kind), tick, births=births, leases=leases)
        return {row.check: row for row in root_checks.capabilities(found)}

    fine = told("ext4")
    assert {row.verdict for row in fine.values()} == {"ok"}
    says([fine["time stamps"]], "ok", "every write")
    says([told("ext4", tick=0.02)["time stamps"]], "ok", "20 ms", "6.13")
    says([told("ext4", tick=1.0)["time stamps"]], "warning", "1.0 s", "256 bytes")
    says([told("ext4", births=False)["birth times"]], "warning", "ext4 does not record birth times", "xfs")
    says([told("overlayfs", leases=Leases.LYING)["leases"]], "warning", "overlayfs does not always", "evict --force")
    says([told("nfs", leases=Leases.REFUSED)["leases"]], "warning", "nfs does not tell", "volume")
    says(root_checks.capabilities(None), "ok", "not tried")


def test_the_folder_that_is_the_store():
    folder = replace(ROOT, path="/store", real="/store")
    says(root_checks.store(folder, ROOT, begun=True, known=True), "warning", "root's disk", "s3://")
    says(root_checks.store(replace(folder, device=2), ROOT, begun=False, known=False), "ok", "another disk")
    says(root_checks.store(folder, MISSING, begun=True, known=False), "ok", "another disk")
    says(root_checks.store(folder, ROOT, begun=False, known=True), "problem", "is no store", "mount")
    says(root_checks.store(MISSING, ROOT, begun=False, known=False), "ok", "not there yet")
    says(root_checks.store(MISSING, ROOT, begun=False, known=True), "problem", "is not there", "mount")
    barred = replace(MISSING, parent_allowed=False)
    says(root_checks.store(barred, ROOT, begun=False, known=False), "problem", "cannot be made")
    says(root_checks.store(replace(folder, allowed=False), ROOT, begun=True, known=True), "problem", "set store")


# -- the host ----------------------------------------------------------------------------------------------------------


def test_daemon():
    status = StatusReport("/r", "s3://b", DaemonStatus(7, __version__, 1.0))
    says(host.daemon(status, None), "ok", "process 7")
    says(host.daemon(None, None), "ok", "none serves", "cachesync run")
    says(host.daemon(replace(status, daemon=None), None), "ok", "none serves")
    says(host.daemon(None, StoreUnreachable("ask", "", "it hangs")), "problem", "it hangs")
    says(host.daemon(replace(status, notes=["3 directories cannot be watched"]), None), "warning", "3 directories")
    says(host.daemon(replace(status, daemon=DaemonStatus(7, "0.0.1", 1.0)), None), "warning", "0.0.1", "restart")


def test_watches():
    found = Inotify(100, 10, 50, 2, 50, counted=True)
    says(host.watches(found), "ok", "50 directories", "50 watches", "100")
    says(host.watches(replace(found, directories=1)), "ok", "1 directory,")
    says(host.watches(replace(found, watches=None, instances=None)), "ok", "not told")
    says(host.watches(replace(found, directories=51)), "warning", "max_user_watches=202")
    says(host.watches(replace(found, directories=51, counted=False)), "warning", "more than 51 directories")
    says(host.watches(replace(found, instances_elsewhere=10)), "warning", "max_user_instances=20")
    assert len(host.watches(replace(found, directories=51, instances_elsewhere=10))) == 2


def test_open_files():
    says(host.open_files(None, 32), "ok", "any number")
    says(host.open_files(192, 32), "ok", "192")
    says(host.open_files(191, 32), "problem", "ulimit -n 192")


ABLE = Fuse(0, None, 0, CAP_SYS_ADMIN, FIRST_USER_NAMESPACE, "6.18.1-x", "ext4")


@pytest.mark.parametrize(
    ("changes", "verdict", "word"),
    [
        ({}, "ok", "by the kernel"),
        ({"user": 7, "helper": "/bin/fusermount3"}, "ok", "/bin/fusermount3"),
        ({"user": 7}, "warning", "fuse3"),
        ({"capabilities": 0}, "warning", "--cap-add SYS_ADMIN"),
        ({"device_error": errno.ENOENT}, "warning", "--device /dev/fuse"),
        ({"device_error": errno.ENODEV}, "warning", "modprobe fuse"),
        ({"device_error": errno.EPERM}, "warning", "may not be opened"),
    ],
)
def test_mounting(changes, verdict, word):
    says(host.mounting(replace(ABLE, **changes)), verdict, "mount", word)


@pytest.mark.parametrize(
    ("changes", "verdict", "word"),
    [
        ({}, "ok", "6.18.1-x"),
        ({"namespace": None}, "ok", "CAP_SYS_ADMIN"),
        ({"kind": None}, "ok", "CAP_SYS_ADMIN"),
        ({"kind": "overlay"}, "ok", "stacked"),
        ({"kind": "fuse.sshfs"}, "warning", "fuse.sshfs"),
        ({"kind": "ecryptfs"}, "warning", "ecryptfs"),
        ({"release": "6.9.0"}, "ok", "6.9.0"),
        ({"release": "6.8.12"}, "warning", "6.9 or newer"),
        ({"release": "5.15.0"}, "warning", "6.9 or newer"),
        ({"release": "strange"}, "warning", "6.9 or newer"),
        ({"capabilities": 0}, "warning", "CAP_SYS_ADMIN"),
        ({"namespace": 4026532000}, "warning", "user namespace"),
    ],
)
def test_passthrough(changes, verdict, word):
    says(host.passthrough(replace(ABLE, **changes)), verdict, "passthrough", word)


def test_mounts():
    assert host.mounts([], "/r") == []
    dead, mute = MountFound("/m", "/r", answers=False), MountFound("/m", "/r", answers=None)
    says(host.mounts([MountFound("/m", "/r", answers=True)], "/r"), "ok", "/m shows /r")
    says(host.mounts([dead], "/r"), "problem", "server is gone", "cachesync umount /m")
    says(host.mounts([mute], "/r"), "problem", "does not answer", "umount --lazy /m")
    says(host.mounts([dead], "/other"), "warning", "server is gone", "cachesync umount /m")


def test_polling():
    assert host.polling(None) == []
    assert host.polling(200_000) == []
    says(host.polling(0), "ok", "guest_halt_poll_ns")


# -- the store ---------------------------------------------------------------------------------------------------------

NOW = 1_795_526_656.0


@pytest.mark.parametrize(
    ("found", "verdict", "word"),
    [
        (None, "problem", "AWS_ACCESS_KEY_ID"),
        (Found("env"), "ok", "from the environment"),
        (Found("env", temporary=True), "ok", "when they expire is not told"),
        (Found("iam-role", temporary=True), "ok", "from iam-role"),
        (Found("env", NOW + 7200, temporary=True), "ok", "until 2026-11-24T15:24:16Z"),
        (Found("env", NOW + 600, temporary=True), "warning", "renew"),
        (Found("iam-role", NOW + 600, temporary=True), "ok", "renewed by itself"),
        (Found("iam-role", NOW - 1, temporary=True), "problem", "expired at"),
    ],
)
def test_credentials(found, verdict, word):
    says(stored.credentials(found, NOW), verdict, "credentials", word)


def test_rights():
    says(stored.rights({}, ["s3:PutObject", "s3:GetObject"]), "ok", "s3:PutObject, s3:GetObject")
    denied = StoreDenied("try", "k", "Access Denied")
    says(stored.rights({"s3:PutObject": denied}, []), "problem", "Access Denied", "right s3:PutObject")
    says(stored.rights({"put": denied}, []), "problem", denied.hint)
    says(stored.rights({"s3:PutObject": StorePermanent("try", "k", "odd", "do x")}, []), "problem", "odd", "do x")


def test_rights_are_tried_until_it_is_no_use():
    rights = Rights()

    def refuse() -> int:
        raise denied

    denied = StoreDenied("try", "k", "no")
    assert rights.use("a", lambda: 1) == 1
    assert rights.use("b", refuse) is None
    assert (rights.allowed, rights.refused) == (["a"], {"b": denied})
    for error in (NoSuchBucket("try"), StoreUnreachable("try")):
        denied = error  # type: ignore[assignment]
        with pytest.raises(type(error)):
            rights.use("c", refuse)


def test_conditions():
    says(stored.conditions(Conditions(none_match=True, match=True)), "ok", "kept to")
    says(stored.conditions(Conditions(none_match=False, match=True)), "warning", "ignores If-None-Match:")
    both = stored.conditions(Conditions(none_match=False, match=False))
    says(both, "warning", "If-None-Match and If-Match", "compared before each write")


def test_conditions_that_could_not_be_tried():
    says(stored.unknown_conditions(StoreDenied("try", "k", "no")), "warning", "unknown: denied (no)")
    says(stored.unknown_conditions(NotSupported("try", "k", "no")), "warning", "unknown: not tried (no)")


def test_copies():
    says(stored.copies(None), "ok", "copied in the store")
    says(stored.copies(NotSupported("try", "k", "no")), "warning", "does not copy: no; renamed files are sent")


def test_checksums():
    says(stored.checksums(confirmed=True, wrong_refused=True), "ok", "checked and kept")
    says(stored.checksums(confirmed=False, wrong_refused=True), "warning", "does not tell")
    says(stored.checksums(confirmed=True, wrong_refused=False), "warning", "wrong SHA-256")


def test_versioning():
    says(stored.versioning("Enabled", "m"), "ok", "on")
    for status in (None, "Suspended"):
        says(stored.versioning(status, "mend it so"), "warning", "gone for good", "mend it so")
    says(stored.versioning(None, "", StoreDenied("ask", "", "no")), "warning", "no", "s3:GetBucketVersioning")


@pytest.mark.parametrize(
    ("skew", "verdict", "word"),
    [
        (0, "ok", "that of the store"),
        (30, "ok", "30 s ahead of"),
        (-59, "ok", "59 s behind"),
        (60, "warning", "NTP"),
        (-900, "problem", "900 s behind"),
        (3600, "problem", "15 minutes"),
    ],
)
def test_clock(skew, verdict, word):
    says(stored.clock(formatdate(NOW, usegmt=True), NOW + skew), verdict, "clock", word)


@pytest.mark.parametrize("date", [None, "", "yesterday"])
def test_a_store_that_does_not_tell_its_time(date):
    says(stored.clock(date, NOW), "ok", "does not tell")


def test_a_store_that_cannot_be_asked():
    says(stored.unreachable(StoreUnreachable("list", "", "refused")), "problem", "refused", "nothing else", "endpoint")


def test_a_daemon_that_stores_elsewhere():
    says(stored.another("s3://a", "s3://b", chosen=True), "problem", "s3://a", "s3://b")
    says(stored.another("s3://a", "file:///b", chosen=False), "warning", "s3://a", "--dev-server")
