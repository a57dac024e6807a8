"""Where one run of a workload happens: an S3 server of its own, buckets, files of random bytes, and who takes part."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import botocore.session
from botocore.config import Config

from bench.link import Link
from bench.machine import MIB, Cost, WentWrong, cpu, forget_peak, peak
from bench.raw import put_all
from bench.table import Row
from bench.target import REGION, Target
from cachesync.model.errors import CacheSyncError
from cachesync.store.devserver import DevServer


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    files: int = 2000
    big_mib: int = 512
    reads: int = 500
    created: tuple[tuple[int, int], ...] = ((500, 50 * 1024), (1000, 4096))
    latencies: int = 200
    tree: int = 2000
    turns: int = 2000
    names: int = 500
    log_mib: int = 50
    appends: int = 50
    entries: int = 1_000_000


_WARM = 64
SMALL = Sizes(40, 12, 20, ((20, 50 * 1024), (40, 4096)), 10, 60, 40, 20, 6, 4, 3000)


@dataclass
class Stage:
    """One run. ``place`` is a temporary folder, ``order`` who takes part, each run beginning with another of them;
    ``against`` is asked with ``has``. With a ``link``, clients reach the server through it."""

    place: Path
    server: DevServer
    sizes: Sizes
    order: Sequence[str]
    link: Link | None = None
    pinned: bool = False
    label: str = ""
    buckets: list[str] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    """Of folders; one row of them for a stage and those that are made of it with ``replace``."""

    def target(self) -> Target:
        """A bucket with nothing in it. The server has made room for it: that takes it up to a second, once a bucket."""
        name = f"bench{len(self.buckets)}"
        self.server.make_bucket(name)
        self.buckets.append(name)
        near = Target(self.server.endpoint, self.server.key, self.server.secret, name)
        keys = [f"warm/{i}" for i in range(_WARM)]
        put_all(near, keys, [b"x"] * _WARM)
        with contextlib.closing(self._client()) as client:
            client.delete_objects(Bucket=name, Delete={"Objects": [{"Key": key} for key in keys]})
        return near if self.link is None else replace(near, endpoint=self.link.endpoint)

    def folder(self, name: str) -> Path:
        """The path of a folder that was not there, and is not yet."""
        return self.place / f"{next(self._numbers)}-{name}"

    def among(self, candidates: Sequence[str]) -> list[str]:
        """Who of the candidates takes part, in this run's order."""
        return [who for who in self.order if who in candidates]

    def objects(self, target: Target, prefix: str = "") -> dict[str, int]:
        """What a bucket holds: sizes by key, without directories and what cachesync keeps for itself. Asked past the
        link."""
        with contextlib.closing(self._client()) as client:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=target.bucket, Prefix=prefix)
            found = {each["Key"]: each["Size"] for page in pages for each in page.get("Contents", ())}
        return {key: size for key, size in found.items() if "/.cachesync/" not in key and not key.endswith("/")}

    def check(self, target: Target, files: int, size: int, prefix: str = "") -> None:
        """Raise WentWrong unless a bucket holds so many objects and bytes below a prefix."""
        found = self.objects(target, prefix)
        if len(found) != files or sum(found.values()) != size:
            raise WentWrong(
                f"{len(found):,} objects of {sum(found.values()):,} B are stored, not {files:,} of {size:,} B"
            )

    def _client(self) -> Any:
        return botocore.session.get_session().create_client(
            "s3",
            endpoint_url=self.server.endpoint,
            region_name=REGION,
            aws_access_key_id=self.server.key,
            aws_secret_access_key=self.server.secret,
            config=Config(s3={"addressing_style": "path"}),
        )

    def measure(self, work: Callable[[], Cost]) -> dict[str, float]:
        """Figures of a client: what it took itself, and what the server took meanwhile."""
        pids = [self.server.pid] if self.server.pid is not None else []
        forget_peak(pids)
        before = cpu(pids)
        cost = work()
        return {
            "s": cost.seconds,
            "client CPU s": cost.cpu,
            "client RSS MiB": cost.rss,
            "server CPU s": cpu(pids) - before,
            "server RSS MiB": peak(pids),
        }

    def attempt(self, work: str, who: str, measured: Callable[[], dict[str, float]]) -> Row:
        """A row of what somebody did, or of what went wrong with it."""
        work = f"{self.label}{work}"
        try:
            return Row(work, who, measured())
        except (WentWrong, OSError, CacheSyncError) as error:
            return Row(work, who, {}, f"failed: {error}")


def fill(folder: Path, files: int, size: int) -> list[str]:
    """Write files of random bytes, 100 to a folder; returns their paths below it."""
    paths = [f"{i // 100:03}/{i}.bin" for i in range(files)]
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        with (folder / path).open("wb") as file:
            for start in range(0, size, MIB):
                file.write(os.urandom(min(MIB, size - start)))
    return paths


@contextlib.contextmanager
def stage(place: Path, sizes: Sizes, order: Sequence[str], *, pinned: bool = False) -> Iterator[Stage]:
    """A fresh server for one run; it and all files are gone afterwards."""
    place.mkdir()
    server = DevServer(place / "s3")
    server.start()
    try:
        yield Stage(place, server, sizes, order, pinned=pinned)
    finally:
        server.stop()
        shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def linked(on: Stage, *, delay: float, mbit: float, label: str) -> Iterator[Stage]:
    """The same stage at the end of a slow link: ``delay`` seconds there and back, ``mbit`` million bits a second."""
    with Link.to(on.server.endpoint, delay=delay, mbit=mbit) as link:
        yield replace(on, link=link, label=label)
