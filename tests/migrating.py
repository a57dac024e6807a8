"""Sources for migrations, and proof that nobody touched them."""

from __future__ import annotations

import os
from pathlib import Path

Snapshot = dict[str, tuple[object, ...]]

TREE = {
    "s1/a.txt": b"alpha",
    "s1/d/e/b.txt": b"beta",
    "s1/d/empty": b"",
    "s1/odd é ?versionId=1 [*]": b"odd",
    "s1/logs/x.jsonl": b'{"a": 1}\n{"b"',
    "s2/big": os.urandom(17 * 1024 * 1024),
    "s2/vim.swp": b"left out",
    "s3/.cachesyncignore": b"tmp/\n",
    "s3/tmp/x": b"left out",
    "s3/y": b"y",
    "no session/x": b"left out",
    "stray": b"left out",
}
FILES = 8
"""How many of them are a session's, and not left out."""

BYTES = sum(len(data) for path, data in TREE.items() if data != b"left out")
SKIPPED = {"s2/vim.swp", "s3/tmp", "no session", "stray"}
PUTS = FILES - 1 + 4 + 3
"""One a file, four for the big one in two parts, one for each manifest."""


def make(source: Path) -> Path:
    """A source of three sessions, with links, empty directories and modes."""
    for path, data in TREE.items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes(data)
    (source / "s1/link").symlink_to("a.txt")
    (source / "s1/dangling").symlink_to("/nowhere")
    (source / "s2/hollow").mkdir()
    (source / "s1/a.txt").chmod(0o640)
    os.utime(source / "s1/a.txt", ns=(1_600_000_000_000_000_001, 1_600_000_000_000_000_001))
    return source


def snapshot(source: Path) -> Snapshot:
    """Everything that a write, or the making and removing of a file, would change; reading changes only atime."""
    found: Snapshot = {}
    for above, folders, names in os.walk(source):
        for place in (Path(above), *(Path(above, name) for name in (*folders, *names))):
            s = place.lstat()
            content = os.readlink(place) if place.is_symlink() else place.read_bytes() if place.is_file() else None
            facts = (s.st_mode, s.st_ino, s.st_nlink, s.st_uid, s.st_gid, s.st_size, s.st_mtime_ns, s.st_ctime_ns)
            found[str(place.relative_to(source))] = (*facts, content)
    return found
