"""An entry for tests that are about one or two of its fields: a clean file, stored once."""

from __future__ import annotations

from typing import Any

from cachesync.model.values import Entry, FileStat, Kind, Stored, Version

STAT = FileStat(Kind.FILE, 5, 1_600_000_000_000_000_001, 0, 1, 0o640)
STORED = Stored(Version('"etag"', "id"), 5, "ab" * 32, 1_600_000_000_000_000_001, 0o640, 1_700_000_000.5)


def an_entry(path: str = "a", **changes: Any) -> Entry:
    """What is not given is nothing: None, 0 or False."""
    values: dict[str, Any] = dict.fromkeys(Entry.__slots__)
    values |= dict.fromkeys(("closed", "unsettled", "failed"), False)
    values |= dict.fromkeys(("absent", "created_at", "dirty_since", "due_at", "attempts", "puts"), 0)
    values |= {"session": "s", "path": path, "kind": Kind.FILE, "born": 1, "generation": 1, "synced": 1}
    values |= {"resident": True, "stat": STAT, "stored": STORED}
    return Entry(**values | changes)
