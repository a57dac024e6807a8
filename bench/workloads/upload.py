"""A: many small files are stored, and again when none has changed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from bench.peers import upload
from bench.stage import Stage, fill
from bench.table import Row
from bench.target import Target

WHO = (
    "raw", "cachesync flush", "cachesync migrate", "s5cmd cp", "s5cmd sync", "rclone copy", "s3fs library",
    "aws s3 sync",
)  # fmt: skip
AGAIN = ("cachesync flush", "cachesync migrate", "s5cmd sync", "rclone copy", "aws s3 sync")
"""Who looks whether something has changed."""
SIZES = {"50 KiB": 50 * 1024, "4 KiB": 4096}


def run(on: Stage) -> Iterator[Row]:
    """Everybody once, each into a bucket of its own, all with the same files."""
    for name, size in SIZES.items():
        folder, files = on.folder("files"), on.sizes.files
        fill(folder / "s", files, size)
        work = f"{files:,} files of {name} up"
        for who in on.among(WHO):
            yield from _one(on, who, folder, work, files * size)
        shutil.rmtree(folder)


def _one(on: Stage, who: str, folder: Path, work: str, size: int) -> Iterator[Row]:
    target, scratch, files = on.target(), on.folder("scratch"), on.sizes.files

    def first() -> dict[str, float]:
        figures = on.measure(lambda: upload(who, folder, target, scratch))
        on.check(target, files, size, "sessions/s/")
        return {"s": figures["s"], "files a second": files / figures["s"]} | figures

    row = on.attempt(work, who, first)
    yield row
    if who in AGAIN and not row.note:
        yield on.attempt(f"{work}, nothing changed", who, lambda: _again(on, who, folder, target, scratch, size))


def _again(on: Stage, who: str, folder: Path, target: Target, scratch: Path, size: int) -> dict[str, float]:
    figures = on.measure(lambda: upload(who, folder, target, scratch))
    on.check(target, on.sizes.files, size, "sessions/s/")
    return figures
