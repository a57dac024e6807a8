"""What ``user.cachesync.state`` says, and what an error is to a program."""

from __future__ import annotations

import errno
import os
import stat as st
from dataclasses import replace

import pytest

from cachesync.journal.evicted_reader import Known
from cachesync.model import errors
from cachesync.model.values import FileStat, Kind
from cachesync.mount.daemon_client import meaning
from cachesync.mount.lookup import state_of
from cachesync.mount.mutations import without_suid
from cachesync.mount.view import hidden_names

SEEN = FileStat(Kind.FILE, 5, 10, 11, 12, 0o644)


KNOWN = Known(SEEN, resident=True, dirty=False, failed=False, gone=False, etag="e", version_id="v")


def known(**changes) -> Known:
    return replace(KNOWN, **changes)


def found(size: int = 5, mtime_ns: int = 10, ctime_ns: int = 11, inode: int = 12) -> os.stat_result:
    times = (0, mtime_ns / 1e9, ctime_ns / 1e9, 0, mtime_ns, ctime_ns)
    return os.stat_result((st.S_IFREG | 0o644, inode, 1, 1, 0, 0, size, 0, 0, 0, *times))


@pytest.mark.parametrize(
    ("disk", "row", "state"),
    [
        (found(), known(), "clean"),
        (found(), known(dirty=True), "dirty"),
        (found(), known(dirty=True, failed=True), "failed"),
        (found(), None, "dirty"),  # nobody has noticed it yet
        (found(size=6), known(), "dirty"),  # nor this change
        (found(mtime_ns=99), known(), "dirty"),
        (found(ctime_ns=99), known(), "dirty"),
        (found(inode=99), known(), "dirty"),
        (found(), known(stat=None), "dirty"),
        (found(), known(resident=False), "dirty"),
        (found(), known(gone=True), "dirty"),
        (found(size=6), known(failed=True), "dirty"),
        (None, known(resident=False), "evicted"),
    ],
)
def test_state(disk, row, state):
    assert state_of(disk, row) == state


def test_inode_numbers_may_use_all_64_bits():
    row = known(stat=FileStat(Kind.FILE, 5, 10, 11, -1, 0o644))  # as SQLite keeps it
    assert state_of(found(inode=2**64 - 1), row) == "clean"


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("ObjectNotFound", errno.ENOENT),
        ("NoSuchSession", errno.ENOENT),
        ("DiskFull", errno.ENOSPC),
        ("UsageError", errno.EINVAL),
        ("Unstorable", errno.EINVAL),
        ("StoreUnreachable", errno.EIO),
        ("StoreDenied", errno.EIO),
        ("DaemonUnavailable", errno.EIO),
        ("IntegrityError", errno.EIO),
    ],
)
def test_an_unreachable_store_is_never_not_found(kind, number):
    assert meaning(getattr(errors, kind)("read", "s/a", "why")) == number


@pytest.mark.parametrize(
    ("mode", "kept"),
    [(0o4755, 0o755), (0o2755, 0o755), (0o2745, 0o2745), (0o6711, 0o711), (0o1777, 0o1777), (0o644, 0o644)],
)
def test_who_writes_takes_the_bits_that_run_it_as_somebody_else(mode, kept):
    assert without_suid(st.S_IFREG | mode) == st.S_IFREG | kept


@pytest.mark.parametrize(
    ("state", "hidden"),
    [("/r/.cachesync", {b".cachesync"}), ("/r/x/y", {b".cachesync", b"x"}), ("/var/state", {b".cachesync"})],
)
def test_our_own_folder_is_not_shown(state, hidden):
    assert hidden_names("/r", state) == hidden
