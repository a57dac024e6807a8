"""A session is flushed, dropped, closed and opened while the daemon, a command without one, the S3 server, or both
daemon and server are killed: each file is whole, here or in the store, at every instant (P6, P10, P15)."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from cachesync.model.errors import CacheSyncError
from tests.faults.harness import Bench, Bucket, Zygote, digest, until
from tests.servers import SeaweedServer

KILLS = int(os.environ.get("CACHESYNC_VERB_KILLS", "24"))
"""Over all victims."""

VERBS = ("flush", "evict", "open", "close", "evict", "open --lazy")
S = "s"


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    """A server of this module's own."""
    server = SeaweedServer(tmp_path_factory.mktemp("mortal"))
    server.start()
    server.make_bucket("mortal")
    yield server
    server.kill()


@pytest.fixture
def bench(mortal: SeaweedServer, tmp_path: Path, zygote: Zygote) -> Iterator[Bench]:
    bucket = Bucket(mortal, "mortal", tmp_path.name)
    bench = Bench(tmp_path, zygote, bucket, transfer_timeout="3s", drain_timeout="1s")
    yield bench
    bench.close()
    bucket.close()


class Program:
    """Knows what its session holds. It changes only what it sees."""

    def __init__(self, bench: Bench, chance: random.Random) -> None:
        self.bench = bench
        self.top = bench.root / S
        self.chance = chance
        self.files: dict[str, str] = {}
        self.made = 0

    def work(self, steps: int) -> None:
        """Make, change, rename and remove."""
        for _ in range(steps):
            seen = sorted(path for path in self.files if (self.top / path).exists())
            kind = self.chance.choice(["make", "make", "change", "rename", "remove"])
            if kind == "make" or not seen:
                self.made += 1
                self._write(f"{self.chance.choice(['', 'd/', 'd/e/'])}f{self.made}")
            elif kind == "change":
                self._write(self.chance.choice(seen))
            elif kind == "rename":
                self.made += 1
                old, new = self.chance.choice(seen), f"r{self.made}"
                os.rename(self.top / old, self.top / new)
                self.files[new] = self.files.pop(old)
            elif len(seen) > 20:
                path = self.chance.choice(seen)
                (self.top / path).unlink()
                del self.files[path]

    def _write(self, path: str) -> None:
        data = self.chance.randbytes(self.chance.choice([0, 10, 5_000, 200_000]))
        self.bench.write(S, path, data)
        self.files[path] = digest(data)

    def missing(self) -> list[str]:
        """Files that are whole neither here nor, if they are not here, in the store."""
        stored, local = stored_now(self.bench), self.bench.local(S)
        return [path for path, want in self.files.items() if local.get(path, stored.get(path)) != want]


def stored_now(bench: Bench) -> dict[str, str]:
    """What the bucket has. A server that has just started answers 500 until it knows its volumes."""
    found: dict[str, str] = {}

    def look() -> bool:
        with contextlib.suppress(ClientError):
            found.update(bench.bucket.digests(bench.bucket.session(S)))
            return True
        return False

    until(look, "the server reads what it has stored", within=15, pause=0.1)
    return found


def ask(bench: Bench, verb: str) -> None:
    """One verb of the daemon, whatever comes of it."""
    life = bench.client.lifecycle
    with contextlib.suppress(CacheSyncError):
        if verb == "flush":
            bench.flush(S, 5)
        elif verb == "evict":
            life.evict(S)
        elif verb == "close":
            life.close(S, timeout=5)
        else:
            life.open(S, lazy=verb.endswith("--lazy"))


def kill_daemon(bench: Bench, verb: str, chance: random.Random) -> None:
    asking = threading.Thread(target=ask, args=(bench, verb))
    asking.start()
    asking.join(chance.uniform(0, 0.25))
    bench.kill()
    asking.join(30)
    assert not asking.is_alive()


def kill_server(bench: Bench, verb: str, chance: random.Random) -> None:
    asking = threading.Thread(target=ask, args=(bench, verb))
    asking.start()
    asking.join(chance.uniform(0, 0.25))
    bench.bucket.server.kill()
    asking.join(30)
    assert not asking.is_alive(), f"{verb} hangs without a server"
    bench.bucket.server.start()


def kill_both(bench: Bench, verb: str, chance: random.Random) -> None:
    asking = threading.Thread(target=ask, args=(bench, verb))
    asking.start()
    asking.join(chance.uniform(0, 0.25))
    bench.bucket.server.kill()
    bench.kill()
    asking.join(30)
    bench.bucket.server.start()


def kill_command(bench: Bench, verb: str, chance: random.Random) -> None:
    """A command that does it all itself, because there is no daemon."""
    assert bench.stop() in (0, 4)
    name, *options = verb.split()
    with bench.popen(name, S, *options) as command:
        with contextlib.suppress(Exception):
            command.wait(chance.uniform(0.2, 1.2))
        command.send_signal(signal.SIGKILL)
        command.communicate()


VICTIMS = {"daemon": kill_daemon, "server": kill_server, "both": kill_both, "command": kill_command}


@pytest.mark.timeout(60 + 5 * KILLS)
@pytest.mark.parametrize("victim", VICTIMS)
def test_p06_whatever_dies_each_file_is_here_or_in_the_store(bench: Bench, victim: str) -> None:
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"seed {seed}")  # noqa: T201 -- pytest shows it when the test fails
    chance = random.Random(seed)
    program = Program(bench, chance)
    bench.start()
    program.work(40)
    for number in range(KILLS // len(VICTIMS)):
        if bench.pid is None:
            bench.start()
        bench.flush(S, 20)
        program.work(chance.choice((0, 3, 10)))
        verb = VERBS[number % len(VERBS)]
        VICTIMS[victim](bench, verb, chance)
        assert program.missing() == [], f"after {verb}: {bench.tail()}"
    if bench.pid is None:
        bench.start()
    assert bench.client.lifecycle.open(S).exit_code == 0, bench.tail()
    report = bench.flush(S)
    assert (report.stored, report.conflicts) == (True, []), bench.tail()
    assert bench.local(S) == program.files
    assert bench.differences(S) == [], bench.tail()
