"""B: one large file is stored and brought back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bench.loops import loop
from bench.machine import MIB, Cost, WentWrong
from bench.peers import download, upload
from bench.stage import Stage, fill
from bench.table import Row
from bench.target import Target

WHO = ("raw", "cachesync flush", "cachesync open", "s5cmd cp", "rclone copy", "s3fs library", "aws s3 sync")
_KEY = "sessions/s/000/0.bin"


def run(on: Stage) -> Iterator[Row]:
    """Everybody once, up into a bucket of its own, and down from one of them. Raw requests send and get 16 MiB each."""
    folder, size = on.folder("file"), on.sizes.big_mib * MIB
    (path,) = fill(folder / "s", 1, size)
    file = folder / "s" / path
    work = f"{on.sizes.big_mib} MiB"
    full = on.target()
    for who in on.among(WHO):
        if who != "cachesync open":
            yield on.attempt(f"{work} up", who, partial(_up, on, who, folder, size))
    upload("cachesync flush", folder, full, on.folder("scratch"))
    with file.open("rb") as bytes_:
        digest = hashlib.file_digest(bytes_, "sha256").hexdigest()
    file.unlink()
    for who in on.among(WHO):
        if who != "cachesync flush":
            yield on.attempt(f"{work} down", who, partial(_down, on, who, full, size, digest))


def _rate(figures: dict[str, float], size: int) -> dict[str, float]:
    return {"MB/s": size / 1e6 / figures["s"]} | figures


def _up(on: Stage, who: str, folder: Path, size: int) -> dict[str, float]:
    target, file = on.target(), folder / "s" / "000" / "0.bin"

    def work() -> Cost:
        if who in ("raw", "s3fs library"):
            return loop("raw-put-big" if who == "raw" else "s3fs-put-big", target, file, _KEY)
        return upload(who, folder, target, on.folder("scratch"))

    figures = on.measure(work)
    on.check(target, -(-size // (16 * MIB)) if who == "raw" else 1, size, "sessions/s/")
    return _rate(figures, size)


def _down(on: Stage, who: str, target: Target, size: int, digest: str) -> dict[str, float]:
    folder = on.folder("here")

    def work() -> Cost:
        if who == "raw":
            return loop("raw-get-big", target, _KEY, str(size))
        if who == "s3fs library":
            folder.mkdir()
            return loop("s3fs-get-big", target, _KEY, folder / "0.bin")
        return download(who, folder, target, on.folder("scratch"), ["000/0.bin"])

    figures = on.measure(work)
    if who != "raw":
        (came,) = folder.rglob("0.bin")
        with came.open("rb") as bytes_:
            if hashlib.file_digest(bytes_, "sha256").hexdigest() != digest:
                raise WentWrong("other bytes came")
        came.unlink()
    return _rate(figures, size)
