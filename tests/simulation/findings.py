"""What an audit found in the code of 2026-11-29 (commit a56d79e), as the shortest schedules that show it. All of them
broke a promise there."""

from __future__ import annotations

from dataclasses import dataclass

from tests.simulation.schedule import Schedule, Step


@dataclass(frozen=True, slots=True)
class Finding:
    """``name`` is the audit's, ``promise`` what the schedule broke, ``sentence`` what went wrong. ``seeds`` are the
    first of 6,000 that broke that code so; a change of ``generate`` makes other schedules of them."""

    name: str
    seeds: tuple[int, ...]
    promise: str
    sentence: str
    steps: tuple[Step, ...]
    guard: int = 100
    watched: bool = True
    disk: str = "plain"

    @property
    def schedule(self) -> Schedule:
        """The schedule that shows it."""
        guard, watched, steps, disk = self.guard, self.watched, self.steps, self.disk
        return Schedule(0, guard=guard, watched=watched, orderly=True, third=False, steps=steps, disk=disk)


FLUSH = Step("flush", 0, (False,))
LATER = (Step("scan"), Step("time", 0, (7.0,)), Step("pump", 0, (2,)))
"""The daemon looks, and does what it takes for right."""

FINDINGS = (
    Finding(
        "core A1",
        (22, 187, 379),
        "P7",
        "a power cut lost the names of new files, and not the journal: their objects were deleted",
        (Step("write", 0, ("a", "1")), FLUSH, Step("power_cut", 0, ("names", 0, True)), *LATER),
    ),
    Finding(
        "core A2",
        (64, 76, 87),
        "P9",
        "a power cut lost the bytes of new files: empty ones replaced what a flush had confirmed",
        (Step("write", 0, ("a", "1")), FLUSH, Step("power_cut", 0, ("empty", 0, True)), FLUSH),
    ),
    Finding(
        "core A1 (root rolled back)",
        (0, 8, 302),
        "P7",
        "the root went back to an older snapshot, and the journal did not: objects of newer files were deleted",
        (Step("keep_root"), Step("write", 0, ("a", "1")), FLUSH, Step("roll_back_root", 0, (False,)), *LATER),
    ),
    Finding(
        "core A1 (state rolled back)",
        (872, 887, 1092),
        "P7",
        "the journal went back to an older snapshot, and the root did not: objects of evicted files were deleted",
        (
            Step("write", 0, ("a", "1")),
            FLUSH,
            Step("keep_state"),
            Step("write", 0, ("b", "2")),
            Step("evict"),
            Step("roll_back_state", 0, (False,)),
            *LATER,
        ),
    ),
    Finding(
        "core A3",
        (11, 18, 29),
        "P3",
        "a power cut left the old bytes under the times of the new ones: clean for ever, and other bytes in the store",
        (
            Step("write", 0, ("a", "ab")),
            FLUSH,
            Step("time", 0, (100.0,)),
            Step("flip", 0, ("a", False)),
            FLUSH,
            Step("power_cut", 0, ("old", 0, True)),
            FLUSH,
        ),
    ),
    Finding(
        "core A4",
        (43, 65, 96),
        "P7",
        "a volume below the session was unmounted: its objects were deleted",
        (
            Step("mkdir", 0, ("d",)),
            Step("mount", 0, ("d",)),
            Step("write", 0, ("d/a", "1")),
            FLUSH,
            Step("unmount", 0, ("d",)),
            *LATER,
        ),
    ),
    Finding(
        "core A4 (over)",
        (186,),
        "P7",
        "a volume was mounted over a directory of the session: what it covers was deleted",
        (Step("write", 0, ("d/a", "1")), FLUSH, Step("mount", 0, ("d",)), *LATER),
    ),
    Finding(
        "core A5",
        (2457,),
        "P7",
        "a session was removed and made again on a disk without birth times: its objects were deleted",
        (
            Step("write", 0, ("a", "1")),
            FLUSH,
            Step("remove_session"),
            Step("make_session"),
            *LATER,
        ),
        disk="birthless",
    ),
    Finding(
        "core A6",
        (103, 108, 279),
        "P8",
        "a stored file got a name that cannot be stored: its old object was deleted",
        (Step("write", 0, ("d/a", "1")), FLUSH, Step("spoil", 0, ("d",)), *LATER),
    ),
    Finding(
        "core A6 (in an outage)",
        (23, 161, 446),
        "P8",
        "a stored file was renamed while the store refused puts: after one try the old object was deleted",
        (
            Step("write", 0, ("d/a", "1")),
            FLUSH,
            Step("rename_folder", 0, ("d", "f")),
            Step("notice", 0, (1.0,)),
            Step("time", 0, (100.0,)),
            Step("fault", 0, (0, "refused")),
            Step("pump", 0, (1,)),
        ),
    ),
    Finding(
        "core A7",
        (61, 63, 148),
        "P8",
        "rm -rf of a session took longer than the settle time, last in what is not stored: its objects were deleted",
        (Step("write", 0, ("a", "1")), FLUSH, Step("slow_remove", 0, (20,))),
    ),
    Finding(
        "core A8",
        (82, 93, 191),
        "P8",
        "one of two names of a file was removed among others: its object was deleted while the removal went on",
        (
            Step("write", 0, ("a", "1")),
            Step("hardlink", 0, ("a", "b")),
            Step("write", 0, ("d/a", "2")),
            FLUSH,
            Step("unlink", 0, ("b",)),
            Step("notice", 0, (1.0,)),
            Step("time", 0, (1.5,)),
            Step("unlink", 0, ("d/a",)),
            Step("notice", 0, (1.0,)),
            Step("time", 0, (1.5,)),
            Step("pump", 0, (1,)),
        ),
    ),
    Finding(
        "core B1",
        (1007, 1391, 1565),
        "P3",
        "a mapped file on a disk whose leases lie: stored once, and later stores to its pages were never seen",
        (
            Step("write", 0, ("a", "1111")),
            Step("map", 0, ("a",)),
            Step("map_write", 0, ("2",)),
            FLUSH,
            Step("map_write", 0, ("3",)),
            FLUSH,
        ),
        disk="overlay",
    ),
    Finding(
        "core B2",
        (4, 220, 482),
        "P3",
        "time stamps of a second: a file that was rewritten in the second of its last change was never stored",
        (Step("write", 0, ("a", "1")), FLUSH, Step("write", 0, ("a", "2")), FLUSH),
        disk="coarse",
    ),
    Finding(
        "core B3",
        (2979, 4233, 5740),
        "P10",
        "leases are refused: a file that a program holds open and has not changed for a minute was evicted",
        (Step("write", 0, ("a", "1")), Step("hold", 0, ("a",)), Step("time", 0, (100.0,)), FLUSH, Step("evict")),
        disk="nfs",
    ),
    Finding(
        "core B4",
        (2618,),
        "P3",
        "the same bytes written again over another writer's: flush called them stored, and the store had the other's",
        (
            Step("write", 0, ("a", "1")),
            FLUSH,
            Step("foreign_put", 0, ("a", "2", True)),
            Step("write", 0, ("a", "1")),
            FLUSH,
        ),
    ),
    Finding(
        "core C1",
        (170, 413, 422),
        "P9",
        "another tool copied an object over this one, metadata and all: taken for ours, and replaced without a word",
        (
            Step("write", 0, ("a", "1")),
            FLUSH,
            Step("write", 0, ("a", "2")),
            FLUSH,
            Step("foreign_copy", 0, ("a", 1, "b")),
            Step("write", 0, ("b", "3")),
            FLUSH,
        ),
    ),
    Finding(
        "core C1 (restored elsewhere)",
        (48, 212, 221),
        "P9",
        "a restore on another host made an older version of ours the newest: it was replaced without a word",
        (
            Step("write", 0, ("a", "1")),
            FLUSH,
            Step("write", 0, ("a", "2")),
            FLUSH,
            Step("remove_session", 1),
            Step("restore", 1, ("a",)),
            Step("write", 0, ("a", "3")),
            FLUSH,
        ),
    ),
    Finding(
        "core C3",
        (219, 247, 263),
        "P11",
        "a session that was closed here went on elsewhere: its old bytes were read here for ever",
        (
            Step("write", 0, ("a", "1")),
            Step("close", 0, (False,)),
            Step("read", 0, ("a",)),
            Step("write", 1, ("a", "2")),
            Step("flush", 1, (False,)),
            Step("time", 0, (100.0,)),
            Step("read", 0, ("a",)),
        ),
    ),
    Finding(
        "exam D1",
        (9, 152, 154),
        "P3",
        "a directory was renamed while its files were flushed: flush called them stored, and they were nowhere",
        (
            Step("write", 0, ("d/a", "1")),
            Step("write", 0, ("d/b", "2")),
            Step("trap", 0, ("request", 1, True), Step("rename_folder", 0, ("d", "f"))),
            FLUSH,
        ),
    ),
    Finding(
        "exam D1 (SIGTERM)",
        (290, 628, 635),
        "P3",
        "a directory was renamed while the daemon stored what was left: it ended as if all of it were stored",
        (
            Step("write", 0, ("d/a", "1")),
            Step("write", 0, ("d/b", "2")),
            Step("trap", 0, ("request", 1, True), Step("rename_folder", 0, ("d", "f"))),
            Step("drain"),
        ),
    ),
    Finding(
        "exam D2",
        (250, 829, 1110),
        "P3",
        "without a daemon a new file moved from a directory that was not listed yet to one that was: seen nowhere",
        (
            Step("write", 0, ("d/b", "1")),
            Step("trap", 0, ("listing", 1, True), Step("rename", 0, ("d/b", "b"))),
            FLUSH,
        ),
        watched=False,
    ),
    Finding(
        "exam D4, use B1",
        (2, 31, 42),
        "P3",
        "the bucket was emptied: flush said stored, and the store had nothing",
        (Step("write", 0, ("a", "1")), FLUSH, Step("reset_store", 0, ("emptied",)), FLUSH),
    ),
    Finding(
        "exam D4 (after a restart)",
        (67, 71, 95),
        "P3",
        "the bucket was emptied while no daemon ran: flush said stored, and the store had nothing",
        (
            Step("write", 0, ("a", "1")),
            FLUSH,
            Step("stop"),
            Step("reset_store", 0, ("another",)),
            FLUSH,
        ),
    ),
    Finding(
        "exam D7",
        (168, 340, 518),
        "P8",
        "moved files that were changed as well counted as deleted ones: flush held their deletion",
        (
            Step("write", 0, ("d/a", "1")),
            Step("write", 0, ("d/b", "2")),
            FLUSH,
            Step("rename_folder", 0, ("d", "f")),
            Step("append", 0, ("f/a", "3")),
            Step("append", 0, ("f/b", "4")),
            FLUSH,
        ),
        guard=1,
    ),
    Finding(
        "exam D9",
        (97, 268, 311),
        "P8",
        "a flush was killed, and what it sent arrived after the file was gone: the object stayed",
        (Step("write", 0, ("a", "1")), Step("straggle"), FLUSH, Step("unlink", 0, ("a",)), FLUSH),
    ),
)
