"""P9: two hosts work in one session at once, through a store that fails, and nobody's bytes are lost.

Random programs from a seed write, append, replace, rename and delete the same few names on both hosts; sometimes one
of them opens the session and so sees what the other wrote, sometimes a daemon is killed. What counts as lost: bytes
that a program wrote, that no program replaced or deleted where it had them before it, and that the bucket has neither
under their name nor under one that keeps them.

CACHESYNC_TWO_WRITERS_SEEDS (2): how many seeds, from CACHESYNC_TWO_WRITERS_FIRST (1) on.
CACHESYNC_TWO_WRITERS_ROUNDS (12): bursts of changes on each host, for each seed.
CACHESYNC_TWO_WRITERS_FAULTS (0.08): the share of requests that are spoiled.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from cachesync.model.errors import CacheSyncError
from cachesync.model.reports import FlushReport
from tests.faults.conftest import Recorder
from tests.faults.harness import Bench, Bucket, Zygote, digest
from tests.faults.proxy import Chance, Proxy

SEEDS = int(os.environ.get("CACHESYNC_TWO_WRITERS_SEEDS", "2"))
FIRST = int(os.environ.get("CACHESYNC_TWO_WRITERS_FIRST", "1"))
ROUNDS = int(os.environ.get("CACHESYNC_TWO_WRITERS_ROUNDS", "12"))
SHARE = float(os.environ.get("CACHESYNC_TWO_WRITERS_FAULTS", "0.08"))

S = "s"
NAMES = ("a", "b.txt", "d/c", "d/e/f.bin", "x.tmp", "log.jsonl", "é ü")
LARGE = "d/large.bin"
"""Goes up in parts."""

_KEPT = re.compile(r"\.conflict-\d{8}T\d{6}Z-[A-Za-z0-9]+")


def named(path: str) -> str:
    """The name whose bytes a path holds or keeps."""
    return _KEPT.sub("", path)


class Ledger:
    """What must be in the bucket: digest to the name under which it was written last, and by whom."""

    def __init__(self) -> None:
        self.owed: dict[str, tuple[str, str]] = {}
        self.written = 0
        self.given_up: set[str] = set()

    def wrote(self, who: str, name: str, data: bytes) -> None:
        self.owed[digest(data)] = name, who
        self.written += 1

    def let_go(self, data: bytes, *, renamed: bool = False) -> None:
        """A program replaced or deleted these bytes where it had them, or gave them another name. The same bytes are
        one version: should the other host have moved them away and back, nothing tells theirs from these."""
        self.owed.pop(digest(data), None)
        if not renamed:
            self.given_up.add(digest(data))

    def lost(self, bucket: Bucket) -> list[str]:
        """What the bucket lacks."""
        stored: dict[str, set[str]] = {}
        for path, sha256 in bucket.digests(bucket.session(S)).items():
            stored.setdefault(sha256, set()).add(named(path))
        return [
            f"{name}: bytes {sha256[:8]} of {who} are only under {stored.get(sha256, 'no name')}"
            for sha256, (name, who) in self.owed.items()
            if sha256 not in self.given_up and name not in stored.get(sha256, ())
        ]


class Program:
    """Works in one host's copy of the session, without a pause."""

    def __init__(self, who: str, bench: Bench, ledger: Ledger, chance: random.Random) -> None:
        self.who = who
        self.bench = bench
        self.ledger = ledger
        self.chance = chance
        self.top = bench.root / S
        self.top.mkdir(parents=True)
        self.count: Counter[str] = Counter()

    def work(self, steps: int) -> None:
        for _ in range(steps):
            kinds = [self.write, self.write, self.replace, self.append, self.rename, self.delete, self.delete]
            kind = self.chance.choice(kinds)
            kind()
            self.count[kind.__name__] += 1
        if self.chance.random() < 0.04:
            self._write(LARGE, self.chance.randbytes(17 * 1024 * 1024), "wb")

    def write(self) -> None:
        self._write(self.chance.choice(NAMES), self._bytes(), "wb")

    def append(self) -> None:
        name = self.chance.choice(NAMES)
        more = self._bytes()
        old = self._read(name) or b""
        self._write(name, more, "ab", old + more)

    def replace(self) -> None:
        name, data = self.chance.choice(NAMES), self._bytes()
        beside = self.bench.base / "beside"
        beside.write_bytes(data)
        self._let_go(name)
        (self.top / name).parent.mkdir(parents=True, exist_ok=True)
        beside.rename(self.top / name)
        self.ledger.wrote(self.who, name, data)

    def rename(self) -> None:
        old, new = self.chance.sample(NAMES, 2)
        data = self._read(old)
        if data is None:
            return
        self.ledger.let_go(data, renamed=True)
        self._let_go(new)
        (self.top / new).parent.mkdir(parents=True, exist_ok=True)
        (self.top / old).rename(self.top / new)
        self.ledger.wrote(self.who, new, data)

    def delete(self) -> None:
        name = self.chance.choice(NAMES)
        if self._let_go(name):
            (self.top / name).unlink()

    def _write(self, name: str, data: bytes, mode: str, whole: bytes | None = None) -> None:
        self._let_go(name)
        target = self.top / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, mode) as file:
            file.write(data)
        self.ledger.wrote(self.who, name, data if whole is None else whole)

    def _let_go(self, name: str) -> bool:
        data = self._read(name)
        if data is not None:
            self.ledger.let_go(data)
        return data is not None

    def _read(self, name: str) -> bytes | None:
        with contextlib.suppress(FileNotFoundError):
            return (self.top / name).read_bytes()
        return None

    def _bytes(self) -> bytes:
        """Bytes that nobody else writes, ever."""
        return self.chance.randbytes(self.chance.choice([16, 500, 9000])) + b"%s\n" % self.who.encode()


@pytest.fixture(scope="module")
def second() -> Iterator[Zygote]:
    """A zygote forks one daemon at a time."""
    zygote = Zygote()
    yield zygote
    zygote.close()


@pytest.fixture
def pair(
    tmp_path: Path, zygote: Zygote, second: Zygote, objects: Bucket, proxy: Proxy
) -> Iterator[tuple[Bench, Bench]]:
    with contextlib.ExitStack() as stack:
        hosts = []
        for name, factory in (("one", zygote), ("two", second)):
            (tmp_path / name).mkdir()
            bench = Bench(
                tmp_path / name, factory, objects, endpoint=proxy.endpoint,
                transfer_timeout="3s", drain_timeout="1s", delete_guard=100_000,
            )  # fmt: skip
            stack.callback(bench.close)
            hosts.append(bench)
        yield hosts[0], hosts[1]


def tried(bench: Bench, timeout: float) -> FlushReport | None:
    """A flush that may fail, as the store does."""
    with contextlib.suppress(CacheSyncError):
        return bench.flush(S, timeout)
    return None


@pytest.mark.timeout(60 + 15 * ROUNDS)
@pytest.mark.parametrize("seed", range(FIRST, FIRST + SEEDS))
def test_p09_two_writers_lose_nothing(
    pair: tuple[Bench, Bench], proxy: Proxy, objects: Bucket, seed: int, record_property: Recorder
) -> None:
    chance = random.Random(seed)
    ledger = Ledger()
    programs = [Program(bench.base.name, bench, ledger, chance) for bench in pair]
    for bench in pair:
        bench.start()
    proxy.chance = Chance(seed, SHARE)
    checks = opened = 0
    for number in range(ROUNDS):
        for program in chance.sample(programs, 2):
            program.work(chance.randrange(1, 12))
        what = chance.random()
        if what < 0.25:
            host = chance.choice(pair)
            host.kill()
            host.start()
        elif what < 0.7:
            host = chance.choice(pair)
            if tried(host, 5) is not None:
                with contextlib.suppress(CacheSyncError):
                    host.client.lifecycle.open(S, timeout=5)
                    opened += 1
        reports = [tried(bench, 5) for bench in pair] if chance.random() < 0.5 else [None]
        if all(report is not None and report.stored for report in reports):
            checks += 1
            assert ledger.lost(objects) == [], (seed, number, [bench.tail() for bench in pair])
    hits = proxy.chance.hits
    proxy.clear()
    for bench in (*pair, pair[0]):
        report = bench.flush(S, 30)
        assert report.stored, (seed, report, bench.tail())
    assert ledger.lost(objects) == [], (seed, [bench.tail() for bench in pair])
    record_property("kills", sum(bench.kills for bench in pair))
    record_property("faults", hits)
    record_property("writes", ledger.written)
    record_property("changes", dict(programs[0].count + programs[1].count))
    record_property("opens and checks", (opened, checks + 1))
