"""Names that lead out of a session, or try to; and what must not have changed afterwards."""

from __future__ import annotations

import os
from pathlib import Path

LEADING_OUT = [
    "..", "../s2/a", "../../outside/secret", "x/../../s2/a", "x/../../../outside/secret", "/etc/passwd", "//etc/passwd",
    "x//y", "./a", "x/.", "x/./y", "x/..", "../.cachesync/journal.db", "/", "x/../..", "\0", "x\0y", "../\0",
]  # fmt: skip
"""None of these is a path in normal form: each has to be refused."""

RESERVED = [".cachesync/manifest.json", ".cachesync/x"]

STAYING = [
    "..\\..\\outside\\secret", "%2e%2e%2foutside%2fsecret", "..%2fs2%2fa", "%2e%2e/%2e%2e/outside/secret",
    "\udcc0\udcae\udcc0\udcae\udcc0\udcafoutside", "\ud800x", "...", "~root", "$HOME", "-rf", "a\nb",
    "x" * 300, ("x" * 200 + "/") * 6 + "y", "x" * 5000, "\u2025/s2/a", "\uff0e\uff0e/s2/a", "C:\\x", "file:",
    "a?versionId=1#x",
]  # fmt: skip
"""These are names, however odd, of files inside (the fourth and sixth are overlong or no UTF-8): they are stored there,
or refused as too long or not UTF-8."""


def around(top: Path, *inside: str) -> dict[str, bytes | str | None]:
    """Everything under ``top`` by path, with what is in it, but for what lies in the places ``inside``."""
    found: dict[str, bytes | str | None] = {}
    for above, folders, names in os.walk(top):
        here = os.path.relpath(above, top)
        folders[:] = [name for name in folders if os.path.normpath(f"{here}/{name}") not in inside]
        for name in (*folders, *names):
            path = os.path.normpath(f"{here}/{name}")
            if path in inside:
                continue
            place = top / path
            if place.is_symlink():
                found[path] = os.readlink(place)
            else:
                found[path] = place.read_bytes() if place.is_file() else None
    return found
