"""What an audit found in the code of 2026-11-29 (commit a56d79e), as the shortest schedules that show it. All of them
broke a promise there."""

from __future__ import annotations

from dataclasses import dataclass

from tests.simulation.schedule import Schedule, Step


@dataclass(frozen=True, slots=True)
class Finding:
    """``name`` is the audit's, ``promise`` what the schedule broke, ``sentence`` what went wrong."""

    name: str
    promise: str
    sentence: str
    steps: tuple[Step, ...]
    guard: int = 100
    watched: bool = True

    @property
    def schedule(self) -> Schedule:
        """The schedule that shows it."""
        return Schedule(0, guard=self.guard, watched=self.watched, orderly=True, third=False, steps=self.steps)


FLUSH = Step("flush", 0, (False,))
LATER = (Step("scan"), Step("time", 0, (7.0,)), Step("pump", 0, (2,)))
"""The daemon looks, and does what it takes for right."""

FINDINGS = (
    Finding(
        "core A1",
        "P7",
        "a power cut lost the names of new files, and not the journal: their objects were deleted",
        (Step("write", 0, ("a", "1")), FLUSH, Step("power_cut", 0, ("names", 0, True)), *LATER),
    ),
    Finding(
        "core A2",
        "P9",
        "a power cut lost the bytes of new files: empty ones replaced what a flush had confirmed",
        (Step("write", 0, ("a", "1")), FLUSH, Step("power_cut", 0, ("empty", 0, True)), FLUSH),
    ),
    Finding(
        "core A4",
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
        "P7",
        "a volume was mounted over a directory of the session: what it covers was deleted",
        (Step("write", 0, ("d/a", "1")), FLUSH, Step("mount", 0, ("d",)), *LATER),
    ),
    Finding(
        "core B4",
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
        "exam D1",
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
        "P3",
        "without a daemon a new file moved from a directory that was not listed yet to one that was: seen nowhere",
        (
            Step("write", 0, ("d/b", "1")),
            Step("trap", 0, ("listing", 1, True), Step("rename", 0, ("d/b", "b"))),
            FLUSH,
        ),
        watched=False,
    ),
)
