"""C: objects of 50 KiB are read one at a time, first from the store and then again."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import fsspec

from bench.machine import WentWrong, run_for_output
from bench.mounts import place
from bench.peers import CACHESYNC, upload
from bench.raw import Asker, Signer
from bench.stage import Stage, fill
from bench.table import Row
from bench.target import REGION, Target
from cachesync.config import load
from cachesync.daemon.engine import Engine
from cachesync.daemon.store_factory import open_store
from cachesync.model.address import parse

MOUNTS = ("cachesync mount", "rclone mount", "s3fs-fuse")
WHO = ("raw", "cachesync reader", "cachesync cache", "s3fs library", *MOUNTS)
_SIZE = 50 * 1024
_TIMES = 5
"""How often each is read again."""
Read = Callable[[str], int]
"""Reads an object by its path in the session; returns how many bytes it has."""


def run(on: Stage) -> Iterator[Row]:
    """Everybody once, from one bucket."""
    source, target = on.folder("seed"), on.target()
    paths = fill(source / "s", on.sizes.reads, _SIZE)
    upload("cachesync flush", source, target, on.folder("scratch"))
    on.check(target, len(paths), len(paths) * _SIZE, "sessions/s/")
    shutil.rmtree(source)
    for who in on.among(WHO):
        with contextlib.ExitStack() as stack:
            try:
                cold, again = _readers(on, who, target, paths, stack)
            except (WentWrong, OSError) as error:
                yield Row("50 KiB read, cold", who, {}, f"failed: {error}")
                continue
            if cold is not None:
                yield on.attempt("50 KiB read, cold", who, partial(_each, cold, paths))
            if again is not None:
                yield on.attempt("50 KiB read, again", who, partial(_each, again, list(paths) * _TIMES))


def _each(read: Read, paths: Sequence[str]) -> dict[str, float]:
    times = []
    for path in paths:
        begun = time.perf_counter()
        came = read(path)
        times.append((time.perf_counter() - begun) * 1000)
        if came != _SIZE:
            raise WentWrong(f"{came:,} B of {path} came")
    times.sort()
    return {"p50 ms": times[len(times) // 2], "p99 ms": times[int(len(times) * 0.99)]}


def _readers(
    on: Stage, who: str, target: Target, paths: Sequence[str], stack: contextlib.ExitStack
) -> tuple[Read | None, Read | None]:
    """What reads from the store, and what does so again."""
    if who == "raw":
        signer, asker = Signer(target), stack.enter_context(contextlib.closing(Asker(target)))
        signed = {path: signer.sign("get_object", f"sessions/s/{path}") for path in paths}
        return lambda path: asker.get(signed[path]), None
    if who == "s3fs library":
        return _library(on, target)
    if who in MOUNTS:
        here = stack.enter_context(place(who, on, target))
        top = here.folder if who == "cachesync mount" else here.folder.parent / "sessions" / "s"

        def read(path: str) -> int:
            with open(top / path, "rb", buffering=0) as file:
                return len(file.readall())

        return read, read
    engine = stack.enter_context(_engine(on, target))
    if who == "cachesync reader":
        return partial(_through, engine), partial(_through, engine)
    versions = {}
    for path in paths:
        _through(engine, path)
        versions[path] = engine.reader.find(parse(f"s/{path}")).version

    def take(path: str) -> int:
        block = engine.cache.get(f"sessions/s/{path}", versions[path], 0)
        return 0 if block is None else len(block.data)

    return None, take


@contextlib.contextmanager
def _engine(on: Stage, target: Target) -> Iterator[Engine]:
    """An engine over a root where the session is open, but has none of its bytes."""
    root = on.folder("lazy")
    run_for_output([*CACHESYNC, "open", "s", "--lazy", "--root", root], target.env)
    config = load({"root": str(root)}, target.env, Path("/"))
    with (
        mock.patch.dict(os.environ, target.env),  # the SDK takes endpoint and credentials from there
        contextlib.closing(open_store(config)) as store,
        contextlib.closing(Engine(config, store)) as built,
    ):
        yield built


def _through(engine: Engine, path: str) -> int:
    with engine.reader.read(parse(f"s/{path}")) as reading:
        return sum(len(piece) for piece in reading.chunks())


def _library(on: Stage, target: Target) -> tuple[Read, Read]:
    """s3fs as it comes; again, fsspec's filecache over it."""
    options: dict[str, Any] = {
        "key": target.key,
        "secret": target.secret,
        "endpoint_url": target.endpoint,
        "client_kwargs": {"region_name": REGION},
        "skip_instance_cache": True,
    }
    plain = fsspec.filesystem("s3", **options)
    cached = fsspec.filesystem(
        "filecache", target_protocol="s3", target_options=options, cache_storage=str(on.folder("filecache"))
    )

    def again(path: str) -> int:
        with cached.open(f"{target.bucket}/sessions/s/{path}", "rb") as file:
            return len(file.read())

    def cold(path: str) -> int:
        came = len(plain.cat_file(f"{target.bucket}/sessions/s/{path}"))
        again(path)  # fills the cache; that it counts here too, once
        return came

    return cold, again
