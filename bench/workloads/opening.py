"""G: a session of many small files is brought to a machine that has none of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial

from bench.machine import WentWrong
from bench.peers import download, upload
from bench.stage import Stage, fill
from bench.table import Row
from bench.target import Target

WHO = ("raw", "cachesync open", "s5cmd cp", "rclone copy", "s3fs library", "aws s3 sync")
_SIZE = 50 * 1024


def run(on: Stage) -> Iterator[Row]:
    """Everybody once, from one bucket that a flush has filled. Raw requests drop what they get."""
    source, target = on.folder("seed"), on.target()
    paths = fill(source / "s", on.sizes.files, _SIZE)
    upload("cachesync flush", source, target, on.folder("scratch"))
    on.check(target, len(paths), len(paths) * _SIZE, "sessions/s/")
    shutil.rmtree(source)
    for who in on.among(WHO):
        yield on.attempt(f"{len(paths):,} files of 50 KiB down", who, partial(_one, on, who, target, paths))


def _one(on: Stage, who: str, target: Target, paths: list[str]) -> dict[str, float]:
    folder = on.folder("here")
    figures = on.measure(lambda: download(who, folder, target, on.folder("scratch"), paths))
    if who != "raw":
        came = [path.stat().st_size for path in folder.rglob("*.bin")]
        if came != [_SIZE] * len(paths):
            raise WentWrong(f"{len(came):,} files came, or not whole")
        shutil.rmtree(folder)
    return {"s": figures["s"], "files a second": len(paths) / figures["s"]} | figures
