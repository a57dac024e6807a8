"""``python -m tests.tenants.worker``: the agent who works. It checks every byte that it reads, and says what it did.

It asks for an eviction by a line on stdout, which the operator answers on stdin. SIGTERM ends the work.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

from tests.tenants.agent import Agent, Plan

_MOST = 60


class Worker:
    """A session whose files it knows by heart."""

    def __init__(self, plan: Plan) -> None:
        self.chance = random.Random(plan.seed)
        self.top = Path(plan.mount or plan.root, plan.sessions[0])
        self.plan = plan
        self.files: dict[str, bytes] = {}
        self.done = dict.fromkeys(("writes", "renames", "deletes", "reads", "flushes", "evicts"), 0)
        self.wrong: list[str] = []

    def step(self) -> None:
        """One deed."""
        chance = self.chance
        pick = chance.random()
        if pick < 0.4 or not self.files:
            self.write(f"d{chance.randrange(5)}/f{chance.randrange(_MOST)}")
        elif pick < 0.55:
            self.rename(chance.choice(sorted(self.files)), f"d{chance.randrange(5)}/g{chance.randrange(_MOST)}")
        elif pick < 0.6:
            self.delete(chance.choice(sorted(self.files)))
        elif pick < 0.92:
            self.read(chance.choice(sorted(self.files)))
        elif pick < 0.97:
            self.flush(30.0)
        else:
            self.evict()

    def write(self, path: str) -> None:
        """Write, append, or replace by a rename."""
        place = self.top / path
        place.parent.mkdir(exist_ok=True)
        data = self.chance.randbytes(self.chance.choice((0, 10, 3000, 70_000, 300_000)))
        kind = self.chance.randrange(3)
        if kind == 0 and path in self.files and len(self.files[path]) < 1 << 20:
            with place.open("ab") as file:
                file.write(data)
            data = self.files[path] + data
        elif kind == 1:
            (self.top / "fresh.tmp").write_bytes(data)
            (self.top / "fresh.tmp").rename(place)
        else:
            place.write_bytes(data)
        self.files[path] = data
        self.done["writes"] += 1

    def rename(self, path: str, to: str) -> None:
        """Rename, over another file too."""
        (self.top / to).parent.mkdir(exist_ok=True)
        (self.top / path).rename(self.top / to)
        self.files[to] = self.files.pop(path)
        self.done["renames"] += 1

    def delete(self, path: str) -> None:
        """Remove a file."""
        (self.top / path).unlink()
        del self.files[path]
        self.done["deletes"] += 1

    def read(self, path: str) -> None:
        """Read a file, and compare."""
        found = (self.top / path).read_bytes()
        if found != self.files[path]:
            self.wrong.append(f"{path}: {len(found)} bytes read that are not the {len(self.files[path])} written")
        self.done["reads"] += 1

    def read_all(self) -> None:
        """Every file, and no other."""
        for path in sorted(self.files):
            self.read(path)
        there = {
            os.path.relpath(os.path.join(above, name), self.top)
            for above, _, names in os.walk(self.top)
            for name in names
        }
        if there != self.files.keys():
            self.wrong.append(f"names: {sorted(there ^ self.files.keys())[:10]}")

    def flush(self, timeout: float) -> bool:
        """Flush over the agents' socket; whether it said stored."""
        agent = Agent(self.plan, self.chance, self.top, self.plan.sessions[0], time.monotonic() + timeout + 20)
        told = b""
        end = time.monotonic() + timeout
        while time.monotonic() < end and not told.startswith(b"HTTP/1.1 200"):
            told = agent.ask("POST", f"/v1/sessions/{agent.session}/flush?timeout={timeout}", timeout + 20)
        self.done["flushes"] += 1
        if b'"stored": true' in told or b'"stored":true' in told:
            return True
        self.wrong.append(f"{time.time():.3f}: flush: {told[-300:]!r}")
        return False

    def evict(self) -> None:
        """Flush, have the operator evict the session, and read all of it."""
        self.flush(30.0)
        _say({"evict": self.plan.sessions[0]})
        sys.stdin.readline()
        self.done["evicts"] += 1
        self.read_all()


def _say(told: object) -> None:
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


def main() -> int:
    """Work until SIGTERM; then check all of it, and say what the session contains."""
    worker = Worker(Plan.told())
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    while not stopping.wait(0.002):
        try:
            worker.step()
        except OSError as error:
            worker.wrong.append(f"{time.time():.3f}: {error}")
        if len(worker.wrong) > 50:
            break
    try:
        worker.flush(120.0)
        worker.read_all()
    except OSError as error:
        worker.wrong.append(f"at the end: {error}")
    digests = {path: hashlib.sha256(data).hexdigest() for path, data in worker.files.items()}
    _say({"done": worker.done, "wrong": worker.wrong, "files": digests})
    return 0


if __name__ == "__main__":
    sys.exit(main())
