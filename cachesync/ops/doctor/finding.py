"""What a check says: how it stands, what was seen, and what mends it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from cachesync.model.errors import CacheSyncError, ExitCode
from cachesync.model.keys import printable
from cachesync.model.record import record
from cachesync.model.reports import Json


class Verdict(StrEnum):
    """How a check stands. A warning costs time or a way back, a problem keeps files from being stored."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@record(frozen=True, slots=True)
class Finding:
    """What ``cachesync doctor`` says of one thing. ``mend`` is a sentence or a command; with "ok" it is only a hint."""

    check: str
    verdict: Verdict
    seen: str
    mend: str = ""

    def json(self) -> Json:
        """One item of ``doctor --json``."""
        seen, mend = printable(self.seen), printable(self.mend)
        return {"check": self.check, "verdict": str(self.verdict), "seen": seen, "mend": mend or None}


def ok(check: str, seen: str, mend: str = "") -> Finding:
    """A check that found nothing wrong."""
    return Finding(check, Verdict.OK, seen, mend)


def warning(check: str, seen: str, mend: str) -> Finding:
    """A check that found what is worth a look."""
    return Finding(check, Verdict.WARNING, seen, mend)


def problem(check: str, seen: str, mend: str) -> Finding:
    """A check that found what has to be mended."""
    return Finding(check, Verdict.PROBLEM, seen, mend)


def failed(check: str, error: CacheSyncError) -> Finding:
    """A check that could not be made, and so is a problem itself."""
    return problem(check, error.reason, error.hint)


def exit_code(findings: Sequence[Finding]) -> ExitCode:
    """1 if there is a problem; warnings are allowed."""
    return ExitCode.FAILED if any(row.verdict is Verdict.PROBLEM for row in findings) else ExitCode.DONE
