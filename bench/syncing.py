"""What it costs a flush to sync file data before it confirms: ``python -m bench.syncing [ROUNDS]``.

Stores 2,000 new files of 50 KiB by a flush without a daemon, with no sync, with an fdatasync of each file in its
transfer, and with one syncfs of the root at the end; in turn, each round in another order. The store is a folder, or
with S3_ENDPOINT and CACHESYNC_STORE what they name. Prints medians in seconds and ratios to no sync.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import cachesync.root
import cachesync.sync.transfer
from cachesync.config import load
from cachesync.daemon.engine import Engine
from cachesync.daemon.store_factory import open_store

COUNT, SIZE = 2000, 50 * 1024
WAYS = ("none", "fdatasync", "syncfs")


@contextlib.contextmanager
def _syncing(way: str) -> Iterator[None]:
    take: Callable[..., Any] = cachesync.root.snapshot.take

    def synced(file: Any, **options: Any) -> Any:
        os.fdatasync(file.descriptor)
        return take(file, **options)

    with mock.patch.object(cachesync.sync.transfer, "take", synced if way == "fdatasync" else take):
        yield


def _flush(way: str, number: int, folder: Path) -> float:
    root, session = folder / "root", f"s{number}"
    (root / session).mkdir(parents=True)
    data = os.urandom(SIZE)
    for name in range(COUNT):
        (root / session / f"{name}").write_bytes(data + b"%d" % name)
    flags = {"root": str(root)}
    if "CACHESYNC_STORE" not in os.environ:
        flags["store"] = f"file://{folder}/store"
    config = load(flags, os.environ, Path("/"))
    with (
        contextlib.closing(open_store(config)) as store,
        contextlib.closing(Engine(config, store, watched=False)) as engine,
        _syncing(way),
    ):
        engine.start()
        begun = time.perf_counter()
        stored = engine.service.flush(session, timeout=300).stored
        failed = way == "syncfs" and ctypes.CDLL(None).syncfs(engine.tree.descriptor)
        took = time.perf_counter() - begun
    if failed or not stored:
        raise RuntimeError("it was not stored")
    return took


def main() -> None:
    """Measure in turn."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    took: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds):
        for step in range(len(WAYS)):
            way = WAYS[(number + step) % len(WAYS)]
            folder = Path(tempfile.mkdtemp(prefix="syncing-"))
            try:
                os.sync()
                took[way].append(_flush(way, number * len(WAYS) + step, folder))
            finally:
                shutil.rmtree(folder)
    base = took["none"]
    for way, seconds in took.items():
        ratio = statistics.median(each / of for each, of in zip(seconds, base, strict=True))
        spread = f"({min(seconds):.2f} to {max(seconds):.2f})"
        print(f"{way:10} {statistics.median(seconds):6.2f} s  {ratio:5.2f} of none  {spread}")


if __name__ == "__main__":
    main()
