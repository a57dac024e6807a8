"""How the command line says sizes, times, counts and names. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from cachesync.keys import printable

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


def moment(when: float, now: float) -> str:
    """``2026-11-24T13:24:16Z (5.00 s ago)``; both in seconds since the epoch."""
    stamp = datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if when > now:
        return f"{stamp} (in {duration(when - now)})"
    return f"{stamp} ({duration(now - when)} ago)"


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
