"""E: a log grows by a line at a time, and each line is stored. What is sent for each byte that was appended?"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from bench.link import Link
from bench.machine import MIB, WentWrong
from bench.mounts import OURS, PEERS, place
from bench.peers import upload
from bench.stage import Stage
from bench.table import Row
from bench.target import Target

COPIERS = ("s5cmd sync", "rclone copy", "aws s3 sync")
"""Who sends what differs when they are told to."""
WHO = (*OURS, *COPIERS, *(who for who in PEERS if who != "juicefs --writeback"))
_LINE = 2048


def run(on: Stage) -> Iterator[Row]:
    """Everybody once. Bytes are counted on the way to the server, heads of requests among them."""
    work = f"{on.sizes.appends} appends of 2 KiB to a log of {on.sizes.log_mib} MiB"
    for who in on.among(WHO):
        with Link.to(on.server.endpoint) as link:
            yield on.attempt(work, who, partial(_grow, replace(on, link=link), link, who))


def _grow(on: Stage, link: Link, who: str) -> dict[str, float]:
    with contextlib.ExitStack() as stack:
        folder, store, target, whole = _where(on, who, stack)
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "log.jsonl"
        size = 0
        with open(log, "wb", buffering=0) as file:
            for _ in range(on.sizes.log_mib * MIB // (32 * _LINE)):
                size += file.write(b"".join(_line() for _ in range(32)))
        store(size)
        sent, begun = link.sent(), time.perf_counter()
        for _ in range(on.sizes.appends):
            with open(log, "ab", buffering=0) as file:
                size += file.write(_line())
            store(size)
        seconds, appended = time.perf_counter() - begun, on.sizes.appends * _LINE
        sent = link.sent() - sent
        if whole and list(on.objects(target).values()) != [size]:
            raise WentWrong(f"the bucket holds {on.objects(target)}, not one object of {size:,} B")
    return {"B sent per B appended": sent / appended, "ms an append": seconds / on.sizes.appends * 1000}


def _where(on: Stage, who: str, stack: contextlib.ExitStack) -> tuple[Path, Callable[[int], None], Target, bool]:
    """The log's folder; what returns when so many bytes are stored; where; and whether the log is one object there."""
    if who in COPIERS:
        root, target, scratch = on.folder("root"), on.target(), on.folder("scratch")
        stack.callback(shutil.rmtree, root, ignore_errors=True)
        return root / "s", lambda _: _copy(who, root, target, scratch), target, True
    here = stack.enter_context(place(who, on))
    assert here.wait is not None and here.target is not None  # noqa: S101, PT018 -- of all who are asked
    return here.folder, here.wait, here.target, here.keys is not None


def _copy(who: str, root: Path, target: Target, scratch: Path) -> None:
    upload(who, root, target, scratch)


def _line() -> bytes:
    """One line of JSON that does not compress."""
    return b'{"out": "%s"}\n' % os.urandom((_LINE - 12) // 2).hex().encode()
