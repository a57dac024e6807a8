"""The read path, measured: ``python -m bench.read_path [--files 2000] [--size 51200] [--big 3] [--big-mib 256]``.

One SeaweedFS has two sessions, of many small files and of few big ones. Each run brings both here in turn: with
``cachesync open``, ``s5cmd cp`` and ``rclone copy`` (those that are on the PATH), each a process of its own and into an
empty folder, and with raw GETs whose bytes are dropped. Then it reads one big object through the reader: without a
cache, filling one, from it, and against one raw GET; and small ones one at a time: by a raw GET, from the cache alone,
and through the reader with root, journal and cache.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.raw import Getter, Signer, get_all
from bench.write_path import CACHESYNC, flush
from cachesync.address import parse
from cachesync.cache import BlockCache
from cachesync.config import load
from cachesync.devserver import DevServer
from cachesync.engine import Engine
from cachesync.model import Version
from cachesync.reader import Reader
from cachesync.stores import open_store

MIB = 1024 * 1024
BUCKET = "bench"
PEERS = {
    "s5cmd": ["s5cmd", "--numworkers", "32", "--log", "error"],
    "rclone": ["rclone", "--config", "/dev/null", "--transfers", "16", "--checkers", "16", "--s3-no-check-bucket"],
}
READS = 200


@dataclass(frozen=True)
class Stage:
    """A server that has the sessions, whose objects have these keys, and the environment that leads to it."""

    server: DevServer
    env: dict[str, str]
    place: Path
    keys: dict[str, list[str]]


def seed(root: Path, session: str, count: int, size: int) -> list[str]:
    """Write random files, 100 to a folder; returns the keys they will have."""
    paths = [f"{session}/{i // 100}/{i}.bin" for i in range(count)]
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        with (root / path).open("wb") as file:
            for start in range(0, size, MIB):
                file.write(os.urandom(min(MIB, size - start)))
    return [f"sessions/{path}" for path in paths]


@contextlib.contextmanager
def stage(**sessions: tuple[int, int]) -> Iterator[Stage]:
    """Start a server and store sessions of ``(files, bytes each)``."""
    with tempfile.TemporaryDirectory(prefix="cachesync-bench-") as name:
        place = Path(name)
        server = DevServer(place / "s3")
        server.start()
        try:
            server.make_bucket(BUCKET)
            inherited = {name: value for name, value in os.environ.items() if name != "AWS_CA_BUNDLE"}  # rclone cannot
            env = inherited | {
                "AWS_ACCESS_KEY_ID": server.key,
                "AWS_SECRET_ACCESS_KEY": server.secret,
                "S3_ENDPOINT": server.endpoint,
                "AWS_REGION": "us-east-1",
                "CACHESYNC_STORE": f"s3://{BUCKET}",
            }
            keys = {}
            for session, (count, size) in sessions.items():
                keys[session] = seed(place / "seed", session, count, size)
                flush(place / "seed", env, session)
            shutil.rmtree(place / "seed")
            yield Stage(server, env, place, keys)
        finally:
            server.stop()


def bring(on: Stage, command: list[str], folder: Path, session: str) -> tuple[float, float]:
    """Run a command that brings a session under ``folder``; returns seconds, and seconds of CPU that it took.

    The folder is gone after that.
    """
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=on.env, check=True, stdout=subprocess.DEVNULL)
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    found = sum(1 for _ in folder.rglob("*.bin"))
    assert found == len(on.keys[session]), f"{command[0]} brought {found} files"  # noqa: S101 -- else no figure counts
    shutil.rmtree(folder)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def bring_session(on: Stage, session: str) -> Iterator[tuple[str, float, float | None]]:
    """Who brought a session, in how many seconds, and seconds of CPU where it was a process of its own."""
    folder, source = on.place / "here", f"{BUCKET}/sessions/{session}"
    yield "raw", get_all(on.server, BUCKET, on.keys[session]), None
    yield "open", *bring(on, [*CACHESYNC, "open", session, "--root", str(folder)], folder, session)
    if shutil.which("s5cmd"):
        command = [*PEERS["s5cmd"], "--endpoint-url", on.server.endpoint, "cp", f"s3://{source}/*", f"{folder}/"]
        yield "s5cmd", *bring(on, command, folder, session)
    if shutil.which("rclone"):
        remote = f":s3,env_auth,provider=SeaweedFS,endpoint='{on.server.endpoint}':{source}"
        yield "rclone", *bring(on, [*PEERS["rclone"], "copy", remote, str(folder)], folder, session)


@contextlib.contextmanager
def engine(on: Stage, session: str) -> Iterator[Engine]:
    """An engine over a root where a session is open, but has none of its bytes."""
    root = on.place / "lazy"
    command = [*CACHESYNC, "open", session, "--lazy", "--root", str(root)]
    subprocess.run(command, env=on.env, check=True, stdout=subprocess.DEVNULL)
    config = load({"root": str(root)}, on.env, Path("/"))
    with contextlib.closing(open_store(config, on.server)) as store, contextlib.closing(Engine(config, store)) as built:
        yield built
    shutil.rmtree(root)


def read(reader: Reader, key: str) -> int:
    """Read an object to its end; returns its size."""
    with reader.read(parse(key.removeprefix("sessions/"))) as reading:
        return sum(len(piece) for piece in reading.chunks())


def seconds(work: Callable[..., int], *of: object) -> float:
    """How long some work takes that returns how many bytes it saw."""
    begun = time.perf_counter()
    assert work(*of)  # noqa: S101 -- else no figure counts
    return time.perf_counter() - begun


def stream(on: Stage) -> Iterator[tuple[str, float]]:
    """One big object, read from its beginning to its end, in seconds."""
    key = on.keys["big"][0]
    with engine(on, "big") as built, contextlib.closing(Getter(on.server)) as getter:
        bare = Reader(built.store, prefix="", cache=None, local=None, revalidate=60, clock=time.time)
        target = Signer(on.server, BUCKET).sign("get_object", key)
        yield "raw", seconds(getter.get, target)
        yield "reader", seconds(read, bare, key)
        yield "filling", seconds(read, built.reader, key)
        yield "cached", seconds(read, built.reader, key)


def one_by_one(on: Stage) -> Iterator[tuple[str, float]]:
    """Small objects, one read after the other: the median in seconds."""
    keys = on.keys["small"][:READS]
    with engine(on, "small") as built, contextlib.closing(Getter(on.server)) as getter:
        signer = Signer(on.server, BUCKET)
        targets = [signer.sign("get_object", key) for key in keys]
        yield "get", statistics.median([seconds(getter.get, target) for target in targets])
        for key in keys:
            read(built.reader, key)
        yield "reader", statistics.median([seconds(read, built.reader, key) for key in keys * 5])
        versions = [(key, built.reader.find(parse(key.removeprefix("sessions/"))).version) for key in keys]
        yield "cache", statistics.median([seconds(take, built.cache, *at) for at in versions * 5])


def take(cache: BlockCache, key: str, version: Version) -> int:
    """Have an object of one block from the cache; returns its size."""
    block = cache.get(key, version, 0)
    return 0 if block is None else len(block.data)


def one_run(on: Stage) -> dict[str, float]:
    """All figures of one run, in seconds."""
    figures: dict[str, float] = {}
    for session in ("small", "big"):
        for who, took, cpu in bring_session(on, session):
            figures[f"{session} {who}"] = took
            if cpu is not None:
                figures[f"cpu {session} {who}"] = cpu
    figures |= {f"stream {who}": took for who, took in stream(on)}
    return figures | {f"read {who}": took for who, took in one_by_one(on)}


def show(runs: list[dict[str, float]], files: int, sizes: dict[str, int]) -> None:
    """Print medians as rates, and what each is of raw GETs and of s5cmd in the same run."""
    medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}

    def ratio(name: str, base: str) -> str:
        if base not in medians:
            return f"{'-':>9}"
        return f"{statistics.median(run[base] / run[name] for run in runs):9.2f}"

    print(f"{'':16}{'s':>9}{'files/s':>9}{'MB/s':>9}   of raw of s5cmd    CPU s")
    for name, took in medians.items():
        what = name.split()[0]
        if what == "cpu":
            continue
        if what == "read":
            print(f"{name:16}{took * 1e6:9.1f} us")
            continue
        files_s = f"{files / took:9.0f}" if what == "small" else f"{'':9}"
        ratios = ratio(name, f"{what} raw") + ratio(name, f"{what} s5cmd")
        cpu = f"{medians[f'cpu {name}']:9.2f}" if f"cpu {name}" in medians else ""
        print(f"{name:16}{took:9.3f}{files_s}{sizes[what] / took / 1e6:9.0f}{ratios}{cpu}")
    for peer in PEERS:
        if f"small {peer}" not in medians:
            print(f"{peer} is not on the PATH: left out")


def main() -> None:
    """Run, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--size", type=int, default=50 * 1024)
    parser.add_argument("--big", type=int, default=3)
    parser.add_argument("--big-mib", type=int, default=256)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    big = options.big_mib * MIB
    with stage(small=(options.files, options.size), big=(options.big, big)) as on:
        runs = [one_run(on) for _ in range(options.runs)]
    sizes = {"small": options.files * options.size, "big": options.big * big, "stream": big}
    show(runs, options.files, sizes)
    print(json.dumps({"options": vars(options), "runs": runs}))


if __name__ == "__main__":
    main()
