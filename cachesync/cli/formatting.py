"""How the command line says sizes, times, counts and names. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cachesync.model.keys import printable

if TYPE_CHECKING:
    from cachesync.model.reports import Failure, Pending
    from cachesync.model.values import Skipped

SHOWN = 20
"""Lines of a list before "and N more"."""

_NEXT_UNIT = 999.95  # more would be rounded to 1000.0
_FINE = 10.0  # seconds below which the fractions are of interest


def size(count: float) -> str:
    """``3.4 MB``: decimal units, as disks and S3 bills count."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < _NEXT_UNIT or unit == "TB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("the last unit takes all")


def duration(seconds: float) -> str:
    """``0.21 s``, ``42 s``, ``3 min 5 s``, ``2 h 1 min``, ``3 d 4 h``."""
    if seconds < _FINE:
        return f"{seconds:.2f} s"
    whole = round(seconds)
    for unit, length, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= length:
            rest = whole % length // part
            return f"{whole // length} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def short_size(count: float) -> str:
    """``3.4MB``: for a column."""
    return size(count).replace(" ", "")


def short_duration(seconds: float) -> str:
    """``42s``, ``3m``, ``2h``, ``3d``: for a column."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f}{unit}"
    return f"{seconds:.0f}s"


def stamp(when: float | None) -> str:
    """``2026-11-24T13:24:16Z``; "-" for None and for what no calendar has: a file's time may be anything."""
    try:
        return "-" if when is None else datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return "-"


def moment(when: float, now: float) -> str:
    """``2026-11-24T13:24:16Z (5.00 s ago)``; both in seconds since the epoch."""
    if when > now:
        return f"{stamp(when)} (in {duration(when - now)})"
    return f"{stamp(when)} ({duration(now - when)} ago)"


def count(number: int, one: str, many: str = "") -> str:
    """``1 file``, ``12 files``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def one_line(text: str) -> str:
    """``text`` fit for a terminal: a file name can hold line ends and escape sequences, and must not act by them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in printable_text(text))


def printable_text(text: str) -> str:
    """``printable``, for text that may also hold surrogates which never were bytes."""
    try:
        return printable(text)
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()


def listed(lines: Iterable[str], total: int, indent: str = "  ") -> Iterator[str]:
    """The first of ``lines``, and how many more there are."""
    for number, line in enumerate(lines):
        if number == SHOWN:
            yield f"{indent}and {total - SHOWN:,} more"
            return
        yield indent + line


def failures(failed: Sequence[Failure]) -> Iterator[str]:
    """What failed, a path a line."""
    return listed((f"failed   {one_line(f'{row.path}: {row.error}')}" for row in failed), len(failed))


def reasons(word: str, rows: Sequence[Pending] | Sequence[Skipped]) -> Iterator[str]:
    """What is pending, skipped or kept, a path a line."""
    return listed((f"{word:8} {one_line(f'{row.path}: {row.reason}')}" for row in rows), len(rows))
