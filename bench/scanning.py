"""A journal with a great many entries: ``python -m bench.scanning``, with root, state and store from the environment.

Scans every session until each file has its entry, then again with nothing changed, and prints what both took as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import time
from pathlib import Path

from cachesync.config import load
from cachesync.daemon.engine import Engine
from cachesync.daemon.store_factory import open_store


def main() -> None:
    """Scan twice."""
    told: dict[str, float] = {}
    config = load({}, os.environ, Path("/"))
    with contextlib.closing(open_store(config)) as store, contextlib.closing(Engine(config, store)) as engine:
        sessions = sorted(entry.name for entry in os.scandir(config.root) if not entry.name.startswith("."))
        for name in ("first", "idle"):
            before, begun = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
            results = [engine.scanner.scan(session) for session in sessions]
            after = resource.getrusage(resource.RUSAGE_SELF)
            told |= {
                name: time.perf_counter() - begun,
                f"{name} cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
                f"{name} files": sum(result.changed for result in results),
                f"{name} marks": sum(result.marked for result in results),
            }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
