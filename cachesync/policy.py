"""Decisions, as pure functions: what is due, what an error means, whether a delete is believed. No I/O, no clock."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from enum import Enum, auto

from cachesync.errors import (
    FileChanging,
    PreconditionFailed,
    RootHalted,
    StoreCredentials,
    StoreNameTaken,
    StoreTransient,
)
from cachesync.model import Entry, FileStat, Kind, Stored
from cachesync.record import record

MIB = 1024 * 1024
PART_SIZE = 16 * MIB
"""Above this a file goes up in parts of this size, so memory is bounded by the parts in flight."""

SMALLEST_COPY = 5 * MIB
LONGEST_TAIL = 8 * PART_SIZE

MAX_PARTS = 10_000
"""https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html"""

SPACING = 1.0
"""Seconds between two uploads of one path that is rewritten in a burst; and how long a writer of whom nothing is known
must have been quiet."""

FARTHEST = 900.0
"""Seconds beyond the longest that anything is put off."""

LINGERING = 60.0
"""Seconds after which the kernel has written a memory-mapped page back (dirty_expire is 30 s), so that the next store
to it shows in the file's times."""

FINE_TICK = 0.020
"""Seconds: the tick of a file system on a kernel whose clock ticks each 1 to 10 ms. Whoever reads a file waits for it;
for a coarser one nobody waits, and the file is read once more."""

SCAN_SHARE = 0.01
"""Of one processor: what scans may take that nothing calls for."""

LONGEST_PAUSE = 900.0
"""Seconds from one scan to the next, whatever it costs."""

_NAME_TRIES = 8
_TEMPORARY = re.compile(
    r"(.*\.(tmp|temp|part|partial|crdownload|download|swp)|.*~|~\$.*|\.?#.*|tmp[a-z0-9_]{8}|tmp\.[A-Za-z0-9]{6,})",
    re.DOTALL,
)
_BACK_OFF = {"multiplier": 0.2, "max": 30}
_PARKED_BACK_OFF = {"multiplier": 5, "max": 600, "min": 5}


@record(frozen=True, slots=True)
class Pace:
    """The time knobs of SPEC section 5, in seconds."""

    settle: float = 0.010
    max_dirty_age: float = 5.0
    delete_settle: float = 2.0
    delete_guard: int = 100


def until_next_scan(interval: float, cost: float, *, chosen: bool, watched: bool) -> float:
    """Seconds from the beginning of a scan to that of the next one that nothing calls for. ``cost`` is the processor
    time of the last.

    A root so large that a scan each ``interval`` would take more than SCAN_SHARE is scanned less often, if all of it is
    ``watched``: then only what no event tells of waits for the scan. An interval that was ``chosen`` is kept.
    """
    if chosen or not watched:
        return interval
    return max(interval, min(cost / SCAN_SHARE, LONGEST_PAUSE))


class Writer(Enum):
    """Whether some process has a file open for writing."""

    CLOSED = auto()
    OPEN = auto()
    UNKNOWN = auto()


def looks_temporary(path: str) -> bool:
    """Whether a name looks like one that is about to be renamed or deleted."""
    return _TEMPORARY.fullmatch(path.rpartition("/")[2]) is not None


def due_after_change(
    now: float, changed_at: float, dirty_since: float, stored_at: float | None, *, temporary: bool, pace: Pace
) -> float:
    """When a changed file is to be stored: once it has been quiet for ``settle``, but at most once in SPACING.

    A path that never stops changing is due SPACING after its first change all the same, so it cannot starve; and no
    clock that was set back can push the time out of reach.
    """
    due = now + SPACING if temporary else max(now, min(changed_at, now) + pace.settle)
    if stored_at is not None:
        due = max(due, stored_at + SPACING)
    return min(due, now + SPACING, dirty_since + SPACING)


def defer_for_writer(now: float, dirty_since: float, changed_at: float, writer: Writer, *, pace: Pace) -> float | None:
    """When to look again at a file that a writer may still have open, or None to store it now.

    An open file is stored each ``max_dirty_age``; where the kernel cannot tell, a file is taken for closed once it has
    been quiet for SPACING.
    """
    if writer is Writer.CLOSED:
        return None
    if writer is Writer.UNKNOWN and now - changed_at >= SPACING:
        return None
    limit = dirty_since + pace.max_dirty_age
    return None if now >= limit else min(limit, now + SPACING)


def is_unsettled(read_at: float, stat: FileStat, writer: Writer, *, tick: float) -> bool:
    """Whether a file's bytes may have changed after they were read without a trace in its stat: by a writer that has a
    page mapped, since the kernel notes only the first store to it; or, where time stamps are coarse, in the ``tick`` of
    the change before."""
    age = read_at - stat.ctime_ns / 1e9
    if writer is Writer.UNKNOWN and age < LINGERING:
        return True
    return writer is Writer.OPEN or (tick > FINE_TICK and age < tick)


def was_reverted(stat: FileStat, stored: Stored | None, until: float) -> bool:
    """Whether a file whose bytes are not those that the store confirmed may have lost them, with the machine's power or
    by a rollback: nobody has written to it after ``until``, or since it was stored."""
    return stat.mtime_ns / 1e9 <= until or (stored is not None and stat.mtime_ns <= stored.mtime_ns)


class Reading(Enum):
    """What comparing the stat before and after a read says of the bytes."""

    STABLE = auto()
    GREW = auto()
    TORN = auto()


def judge_reading(before: FileStat, after: FileStat) -> Reading:
    """Compare the stat before and after reading (P4). GREW still needs the prefix read again and compared."""
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
    """Bytes a part for a file of ``size`` bytes, or None if it goes up in one piece."""
    if size <= PART_SIZE:
        return None
    smallest = -(-size // MAX_PARTS)
    return max(PART_SIZE, -(-smallest // MIB) * MIB)


def may_be_tail(stored: int, size: int) -> bool:
    """Whether a file of ``size`` bytes that begins with the ``stored`` ones is worth an append: S3 copies no less than
    5 MiB as a part that another follows, and an append that breaks off begins anew, so it is not to be long."""
    return SMALLEST_COPY <= stored < size <= stored + LONGEST_TAIL


def cuts_at_line_end(path: str) -> bool:
    """Whether a file that is still being written is stored only up to its last line end."""
    return path.endswith(".jsonl")


@record(frozen=True, slots=True)
class Verdict:
    """What follows from a failed transfer: when to try again, and whether it is listed as failed until then."""

    due_at: float
    failed: bool


def after_failure(error: Exception, attempts: int, now: float) -> Verdict:
    """Judge the ``attempts``-th failure in a row (from 1).

    Transient errors back off with full jitter from 0.2 s to 30 s; all others are failed, and tried again slowly, from
    5 s to ten minutes. Refused credentials get one more try first, since the chain has been asked again by then; a name
    that is taken gets as many as a deletion of what is in its way may take.
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
    from tenacity import RetryCallState, Retrying, wait_random_exponential  # when something fails: most runs end before

    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = attempts
    return wait_random_exponential(**strategy)(state)


_PUT_OFF = 5
"""Times ``delete_settle`` that deletions which are not carried out may put off those that are."""

_LONGEST_REMOVAL = 300.0
"""Seconds that deletions are put off while a session only shrinks: an ``rm -rf`` of a large tree takes minutes."""


class Belief(Enum):
    """Whether a deletion that was seen is carried out in the store."""

    BELIEVED = auto()
    TOO_SOON = auto()
    HELD = auto()


def last_deletion(seen: float, gone: float, made: float, *, pace: Pace) -> float:
    """Return when a session's last deletion happened, for ``believe_delete``. ``seen`` is the latest tombstone's time,
    ``gone`` when anything in the session was last deleted, ignored files included, ``made`` when anything was last
    created or written. While a session only shrinks, an ``rm -rf`` is running, and its deletions wait. Temporary files
    that are created and deleted all the time delay real deletions by ``_PUT_OFF`` settle times only."""
    put_off = _PUT_OFF * pace.delete_settle
    longest = put_off if made > seen and gone - made < put_off else _LONGEST_REMOVAL
    return max(seen, min(gone, seen + longest))


def believe_delete(
    now: float, last_seen: float, *, tombstones: int, stored: int, flushing: bool, watched: bool, pace: Pace
) -> Belief:
    """Judge a session's tombstones (P8). ``last_seen`` is when its latest one was seen, ``tombstones`` how many
    wait that nobody confirmed, of ``stored`` entries that the store has. A file that is missing may have been moved
    while nobody looked: where nothing is ``watched``, only a flush, which scans for that, believes it is gone."""
    if not flushing and (not watched or abs(now - last_seen) < pace.delete_settle):
        return Belief.TOO_SOON
    if tombstones > pace.delete_guard and tombstones * 2 > stored:
        return Belief.HELD
    return Belief.BELIEVED


def may_be_stored(entry: Entry, opened_at: int) -> bool:
    """Whether the store may have an object for an entry that was never confirmed: a try was made, or the path was known
    to a process before this one (whose last generation was ``opened_at``), which may have died before the answer."""
    return entry.tried_at is not None or entry.born <= opened_at


def is_same_file(old: FileStat, new: FileStat) -> bool:
    """Whether ``new`` may be ``old`` under another name: a rename keeps inode, size and mtime (ctime changes)."""
    return (
        old.kind is Kind.FILE
        and new.kind is Kind.FILE
        and (old.inode, old.size, old.mtime_ns) == (new.inode, new.size, new.mtime_ns)
    )


def may_be_renamed(stat: FileStat) -> bool:
    """Whether the file may have had another name before: a rename changes ctime and leaves the bytes' time alone, so
    one whose bytes were the last thing to change was not renamed since. Where a file system keeps ctime at a rename
    too, its bytes are sent."""
    return stat.ctime_ns != stat.mtime_ns


class Parallelism:
    """How many transfers may run at once: halved on SlowDown, one more after each full round of successes.

    Additive increase, multiplicative decrease, as TCP does (RFC 5681 section 3.1). A store that does not answer at all
    is asked by one transfer at a time, with a growing pause between. Not locked: the uploader owns it.
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
        """The store said something, if only no: an outage is over."""
        if self._outages:
            self.resume()
        self.down_since = None

    def succeeded(self) -> None:
        """A transfer ended well."""
        self.answered()
        self._streak += 1
        if self._streak >= self.limit and self.limit < self.most:
            self.limit += 1
            self._streak = 0

    def slow_down(self) -> None:
        """The store asked for fewer requests."""
        self.answered()
        self.limit = max(1, self.limit // 2)
        self._streak = 0

    def unreachable(self, now: float) -> None:
        """Nobody answered at the store's address."""
        self._outages += 1
        if self.down_since is None:
            self.down_since = now
        self.limit = 1
        self.paused_until = now + min(5.0, 0.2 * 2 ** min(self._outages, 8)) * (0.5 + self._jitter() / 2)

    def resume(self) -> None:
        """Try again at full speed, as if there had been no outage; ``down_since`` waits for an answer."""
        if self._outages:
            self.limit = self.most
        self._outages = 0
        self._streak = 0
        self.paused_until = 0.0
