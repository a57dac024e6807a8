"""F: a root with a great many entries is scanned, scanned again with nothing changed, and a session of it flushed."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bench.machine import Cost, WentWrong, run_for_output
from bench.machine import run as run_program
from bench.peers import CACHESYNC
from bench.stage import Stage
from bench.table import Row
from cachesync.model.policy import until_next_scan

WHO = ("find", "cachesync")
_SESSION = 1000
"""Files of one session."""
_DIRECTORY = 100
_SCAN_INTERVAL = 60.0
"""Seconds from one scan of a daemon to the next, by default, if it is cheap enough."""


def run(on: Stage) -> Iterator[Row]:
    """`find` asks for the same of each file as a scan: its type, size and times."""
    root, target = on.folder("root"), on.target()
    count = _plant(root, on.sizes.entries)
    env = target.env | {"CACHESYNC_ROOT": str(root), "CACHESYNC_STATE": str(on.folder("state"))}
    work = f"{count:,} files: "
    find: list[str | Path] = ["find", root, "-printf", r"%y %s %T@ %C@ %i\n"]
    run_program(find, env)  # the kernel knows the names from here on, for all
    for name in ("first", "idle"):
        yield on.attempt(f"{work}{name} scan", "find", lambda: on.measure(lambda: run_program(find, env)))
    told: dict[str, float] = {}

    def scan(name: str) -> dict[str, float]:
        if not told:
            cost, output = run_for_output([sys.executable, "-m", "bench.scanning"], env)
            told.update(json.loads(output.splitlines()[-1]) | {"peak": cost.rss})
        if told["first files"] != count or told["idle marks"]:
            raise WentWrong(f"marked: {told['first files']:,.0f} files of {count:,}, then {told['idle marks']:,.0f}")
        pause = until_next_scan(_SCAN_INTERVAL, told["idle cpu"], chosen=False, watched=True)
        idle = {"CPU %": told["idle cpu"] / pause * 100} if name == "idle" else {}
        return {"s": told[name], "client CPU s": told[f"{name} cpu"], "client RSS MiB": told["peak"]} | idle

    for name in ("first", "idle"):
        yield on.attempt(f"{work}{name} scan", "cachesync", partial(scan, name))

    def flush() -> dict[str, float]:
        figures = on.measure(lambda: _flush(env))
        on.check(target, min(_SESSION, count), 0, "sessions/s0/")
        return figures

    yield on.attempt(f"{work}flush of a session of {min(_SESSION, count):,}", "cachesync", flush)
    shutil.rmtree(root)


def _flush(env: dict[str, str]) -> Cost:
    return run_program([*CACHESYNC, "flush", "s0"], env)


def _plant(root: Path, entries: int) -> int:
    """Make so many empty files; returns how many."""
    for i in range(entries):
        session, rest = divmod(i, _SESSION)
        folder = root / f"s{session}" / f"d{rest // _DIRECTORY}"
        if rest % _DIRECTORY == 0:
            folder.mkdir(parents=True)
        (folder / f"{rest}.txt").touch()
    return entries
