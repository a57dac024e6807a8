"""Decisions as pure functions: when work is due, what follows from an error, whether a deletion is executed.

The functions do no I/O and read no clock.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from enum import Enum, IntEnum, auto

from cachesync.model.errors import (
    FileChanging,
    PreconditionFailed,
    RootHalted,
    SessionTaken,
    StoreCredentials,
    StoreNameTaken,
    StoreTransient,
)
from cachesync.model.record import record
from cachesync.model.values import Entry, FileStat, Kind, Stored

MIB = 1024 * 1024
PART_SIZE = 16 * MIB
"""A larger file is uploaded in parts of this size, so the parts in flight bound the memory."""

SMALL = MIB
"""A file of at most this size is small: a transfer of it costs a request rather than bytes."""

SMALLEST_COPY = 5 * MIB
LONGEST_TAIL = 8 * PART_SIZE

MAX_PARTS = 10_000
LARGEST_PART = 5 * 1024 * MIB
"""https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html"""

SPACING = 1.0
"""Seconds between two uploads of a path that is rewritten in a burst. Also the quiet time after which a file counts as
closed if the kernel cannot report its writers."""

FARTHEST = 900.0
"""Seconds. Longer than every delay: a due time further in the future shows that the clock was set back."""

LINGERING = 60.0
"""Seconds until the kernel has written back a memory-mapped page (dirty_expire is 30 s). The next write to the page
then changes the file's times."""

FINE_TICK = 0.020
"""Seconds. An upload waits for a time stamp tick of at most this length, as on kernels that tick every 1 to 10 ms. If
the file system has a coarser tick, the upload does not wait, and the file is read again later."""

SCAN_SHARE = 0.01
"""The share of one processor that periodic scans may use."""

LONGEST_PAUSE = 900.0
"""The longest interval of periodic scans in seconds, whatever a scan costs."""

_NAME_TRIES = 8
_TEMPORARY = re.compile(
    r"(.*\.(tmp|temp|part|partial|crdownload|download|swp)|.*~|~\$.*|\.?#.*|tmp[a-z0-9_]{8}|tmp\.[A-Za-z0-9]{6,})",
    re.DOTALL,
)
_BACK_OFF = {"multiplier": 0.2, "max": 30}
_PARKED_BACK_OFF = {"multiplier": 5, "max": 600, "min": 5}


@record(frozen=True, slots=True)
class Pace:
    """The settings of SPEC section 5: seconds, and for ``delete_guard`` a number of deletions."""

    settle: float = 0.010
    max_dirty_age: float = 5.0
    delete_settle: float = 2.0
    delete_guard: int = 100


def until_next_scan(interval: float, cost: float, *, chosen: bool, watched: bool) -> float:
    """Return the seconds between the starts of two periodic scans. ``cost`` is the last scan's processor time.

    If scans at ``interval`` would use more than SCAN_SHARE, the interval grows, but only if all of the root is
    ``watched``: only changes without an event then wait longer. An interval that the user has ``chosen`` stays.
    """
    if chosen or not watched:
        return interval
    return max(interval, min(cost / SCAN_SHARE, LONGEST_PAUSE))


class Weight(IntEnum):
    """What a transfer takes: a request, bytes in memory, or many parts."""

    SMALL = 0
    MEDIUM = 1
    LARGE = 2


def weigh(size: int) -> Weight:
    """Return the weight of a transfer of ``size`` bytes (journal.rows has the same in SQL)."""
    return Weight((size > SMALL) + (size > PART_SIZE))


def check_owner(session: str, user: int, owner: int | None, *, own: int) -> None:
    """Raise SessionTaken if a new directory of ``user`` must not have the files of a session of ``owner``.

    A directory of root or of this process's user (``own``) may: the operator made it. None is an unknown owner.
    Without this, whoever makes a directory with the name of an evicted session gets its files.
    """
    if owner is not None and user not in (0, own, owner):
        cause = f"its directory belongs to user {user}, and the session to user {owner}"
        raise SessionTaken("read", session, cause)


class Writer(Enum):
    """Whether some process has a file open for writing."""

    CLOSED = auto()
    OPEN = auto()
    UNKNOWN = auto()


def looks_temporary(path: str) -> bool:
    """Whether the name looks like a temporary file, which will soon be renamed or deleted."""
    return _TEMPORARY.fullmatch(path.rpartition("/")[2]) is not None


def due_after_change(
    now: float, changed_at: float, dirty_since: float, stored_at: float | None, *, temporary: bool, pace: Pace
) -> float:
    """Return when to store a changed file: after ``settle`` without a change, and SPACING after the last upload.

    A ``temporary`` file is due SPACING from now. A file that never stops changing is due SPACING after its first
    change. If the clock was set back, the file is due at most SPACING from now.
    """
    due = now + SPACING if temporary else max(now, min(changed_at, now) + pace.settle)
    if stored_at is not None:
        due = max(due, stored_at + SPACING)
    return min(due, now + SPACING, dirty_since + SPACING)


def defer_for_writer(now: float, dirty_since: float, changed_at: float, writer: Writer, *, pace: Pace) -> float | None:
    """Return when to check again a file that a writer may have open, or None to store it now.

    An open file is stored every ``max_dirty_age`` seconds. If the writer is unknown, a file without a change for
    SPACING counts as closed.
    """
    if writer is Writer.CLOSED:
        return None
    if writer is Writer.UNKNOWN and now - changed_at >= SPACING:
        return None
    limit = dirty_since + pace.max_dirty_age
    return None if now >= limit else min(limit, now + SPACING)


def is_unsettled(read_at: float, stat: FileStat, writer: Writer, *, tick: float) -> bool:
    """Whether a file's bytes may change after they were read without a change of its stat.

    A writer can do that through a mapped page, because only the first write to the page changes the times. With coarse
    time stamps, every writer can do it within the ``tick`` of the previous change.
    """
    age = read_at - stat.ctime_ns / 1e9
    if writer is Writer.UNKNOWN and age < LINGERING:
        return True
    return writer is Writer.OPEN or (tick > FINE_TICK and age < tick)


def was_reverted(stat: FileStat, stored: Stored | None, until: float) -> bool:
    """Whether a power failure or a rollback may explain that a file's bytes differ from its object.

    It may if no program wrote to the file after ``until``, or since it was stored.
    """
    return stat.mtime_ns / 1e9 <= until or (stored is not None and stat.mtime_ns <= stored.mtime_ns)


class Reading(Enum):
    """The result of comparing a file's stat before and after a read."""

    STABLE = auto()
    GREW = auto()
    TORN = auto()


def judge_reading(before: FileStat, after: FileStat) -> Reading:
    """Compare the stat before and after a read (P4). After GREW, the caller must read the prefix again and compare."""
    if (before.inode, before.size, before.mtime_ns, before.ctime_ns) == (
        after.inode,
        after.size,
        after.mtime_ns,
        after.ctime_ns,
    ):
        return Reading.STABLE
    grew = after.inode == before.inode and after.size > before.size
    return Reading.GREW if grew else Reading.TORN


def part_size(size: int) -> int | None:
    """Return the part size for a file of ``size`` bytes, in bytes; None if it is uploaded in one request."""
    if size <= PART_SIZE:
        return None
    smallest = -(-size // MAX_PARTS)
    return max(PART_SIZE, -(-smallest // MIB) * MIB)


def may_be_tail(stored: int, size: int) -> bool:
    """Whether to upload only the new end of a file of ``size`` bytes whose first ``stored`` bytes are stored.

    S3 copies a part only from 5 MiB, unless it is the last. An interrupted append starts again, so it must be short.
    """
    return SMALLEST_COPY <= stored < size <= stored + LONGEST_TAIL


def cuts_at_line_end(path: str) -> bool:
    """Whether an upload of the file ends at its last line end while a writer has it open."""
    return path.endswith(".jsonl")


@record(frozen=True, slots=True)
class Verdict:
    """When to retry a failed transfer, and whether it is reported as failed until then."""

    due_at: float
    failed: bool


def after_failure(error: Exception, attempts: int, now: float) -> Verdict:
    """Judge the ``attempts``-th failure in a row (from 1).

    A changing file or another writer's version is retried within a second. Transient errors and a halted root are
    retried with full jitter, after 0.2 s to 30 s. All other errors count as failed and are retried after 5 s to ten
    minutes. Two of them are first retried soon: refused credentials once, because the credential chain is read again,
    and a name that is taken ``_NAME_TRIES`` times, because the object in its way may be deleted meanwhile.
    """
    if isinstance(error, FileChanging | PreconditionFailed):
        return Verdict(now + min(1.0, 0.05 * 2 ** min(attempts, 10)), failed=False)
    if isinstance(error, StoreTransient | RootHalted):
        return Verdict(now + _wait(_BACK_OFF, attempts), failed=False)
    if isinstance(error, StoreCredentials):
        return Verdict(now + _wait(_BACK_OFF, attempts + 3) * (attempts > 1), failed=attempts > 1)
    if isinstance(error, StoreNameTaken) and attempts <= _NAME_TRIES:
        return Verdict(now + 0.1 * attempts, failed=False)
    return Verdict(now + _wait(_PARKED_BACK_OFF, attempts), failed=True)


def _wait(strategy: Mapping[str, float], attempts: int) -> float:
    from tenacity import RetryCallState, Retrying, wait_random_exponential  # most runs do not need it

    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = attempts
    return wait_random_exponential(**strategy)(state)


_PUT_OFF = 5
"""The longest delay by deletions of temporary files, as a multiple of ``delete_settle``."""

_LONGEST_REMOVAL = 300.0
"""Seconds that deletions wait while a session only shrinks: an ``rm -rf`` of a large tree takes minutes."""


class Belief(Enum):
    """Whether a local deletion is executed in the store now, later, or only after a confirmation (held)."""

    BELIEVED = auto()
    TOO_SOON = auto()
    HELD = auto()


def last_deletion(seen: float, gone: float, made: float, *, pace: Pace) -> float:
    """Return when a session's last deletion happened, for ``believe_delete``.

    ``seen`` is the latest tombstone's time. ``gone`` is when anything in the session was last deleted, ignored files
    included. ``made`` is when anything was last created or written.

    While a session only shrinks, an ``rm -rf`` may be running, and its deletions wait. Temporary files that are created
    and deleted all the time delay other deletions by ``_PUT_OFF`` settle times only.
    """
    put_off = _PUT_OFF * pace.delete_settle
    longest = put_off if made > seen and gone - made < put_off else _LONGEST_REMOVAL
    return max(seen, min(gone, seen + longest))


def believe_delete(
    now: float, last_seen: float, *, tombstones: int, stored: int, flushing: bool, watched: bool, pace: Pace
) -> Belief:
    """Judge a session's tombstones (P8).

    ``last_seen`` is when the last deletion happened. ``tombstones`` is the number of unconfirmed ones, ``stored`` the
    number of entries that the store has. Without a watcher (not ``watched``), a missing file may have been moved. Only
    a flush executes deletions then, because it scans for the new name.
    """
    if not flushing and (not watched or abs(now - last_seen) < pace.delete_settle):
        return Belief.TOO_SOON
    if tombstones > pace.delete_guard and tombstones * 2 > stored:
        return Belief.HELD
    return Belief.BELIEVED


def may_be_stored(entry: Entry, opened_at: int) -> bool:
    """Whether the store may have an object for an entry that was never confirmed.

    It may if an attempt failed, or if an earlier process knew the path (its last generation was ``opened_at``): that
    process may have died before the response.
    """
    return entry.tried_at is not None or entry.born <= opened_at


def is_same_file(old: FileStat, new: FileStat) -> bool:
    """Whether ``new`` may be ``old`` under another name: a rename keeps inode, size and mtime (ctime changes)."""
    return (
        old.kind is Kind.FILE
        and new.kind is Kind.FILE
        and (old.inode, old.size, old.mtime_ns) == (new.inode, new.size, new.mtime_ns)
    )


def may_be_renamed(stat: FileStat) -> bool:
    """Whether the file may have been renamed since it was last written: a rename changes ctime and keeps mtime.

    On a file system where a rename keeps ctime, the result is False, and the caller sends the bytes.
    """
    return stat.ctime_ns != stat.mtime_ns


class Parallelism:
    """The limit of concurrent transfers: halved on SlowDown, one more after each full round of successes.

    This is additive increase, multiplicative decrease, as in TCP (RFC 5681 section 3.1). While the store does not
    respond, one transfer runs at a time, with growing pauses. Not thread-safe: the uploader owns it.
    """

    def __init__(self, most: int, *, jitter: Callable[[], float] = random.random) -> None:
        self.most = most
        self.limit = most
        self.paused_until = 0.0
        self.down_since: float | None = None
        self._streak = 0
        self._outages = 0
        self._jitter = jitter

    def answered(self) -> None:
        """Record a response of the store, with any status: an outage is over."""
        if self._outages:
            self.resume()
        self.down_since = None

    def succeeded(self) -> None:
        """Record a successful transfer."""
        self.answered()
        self._streak += 1
        if self._streak >= self.limit and self.limit < self.most:
            self.limit += 1
            self._streak = 0

    def slow_down(self) -> None:
        """Record that the store asked for fewer requests."""
        self.answered()
        self.limit = max(1, self.limit // 2)
        self._streak = 0

    def unreachable(self, now: float) -> None:
        """Record that the store did not respond."""
        self._outages += 1
        if self.down_since is None:
            self.down_since = now
        self.limit = 1
        self.paused_until = now + min(5.0, 0.2 * 2 ** min(self._outages, 8)) * (0.5 + self._jitter() / 2)

    def resume(self) -> None:
        """Allow all transfers again at once. ``down_since`` stays until the store responds."""
        if self._outages:
            self.limit = self.most
        self._outages = 0
        self._streak = 0
        self.paused_until = 0.0
