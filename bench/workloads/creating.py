"""D: programs create files under the root, in our mount, and in the mounts of the peers."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench.file_work import create, make_tar, metadata, mixed, sequential
from bench.loops import loop
from bench.machine import WentWrong
from bench.mounts import IGNORED, OURS, PEERS, Place, compiled, place
from bench.raw import Asker, Signer
from bench.stage import Stage, fill
from bench.table import Row

STORED = ("ext4", "raw", *OURS, *PEERS)
WHO = (*STORED, IGNORED, "libfuse's passthrough")
_LATENCY_SIZE = 1000
_KERNEL_FORGETS = 1.1
"""Seconds after which it asks a FUSE server again what it was told."""
_AT_REST = 5.0
"""Seconds after which nobody is busy any more with what was done before."""

_MIB_IN_SEQUENCE = 256
_NAMES = "names, us each"


def run(on: Stage) -> Iterator[Row]:
    """Everybody once, each with all of the work."""
    yield from created(on)
    tar = on.place / "tree.tar"
    make_tar(tar, on.sizes.tree)
    names = compiled(Path(__file__).parent.parent / "metadata.c", on.place / "metadata")
    for who in on.among(WHO):
        if who == "raw":
            continue
        with _taken_down(who, on) as here:
            yield from _visits(on, who, here, tar, names)


@contextlib.contextmanager
def _taken_down(who: str, on: Stage) -> Iterator[Place | str]:
    """Somebody's directory, or why there is none."""
    with contextlib.ExitStack() as stack:
        try:
            here: Place | str = stack.enter_context(place(who, on))
        except (WentWrong, OSError) as error:
            here = f"failed: {error}"
        yield here


def created(on: Stage) -> Iterator[Row]:
    """Files are created, and all are stored."""
    for files, size in on.sizes.created:
        work = f"{files:,} x {size // 1024} KiB"
        for who in on.among(STORED):
            if who == "raw":
                yield on.attempt(f"{work} created and stored", who, partial(_raw, on, files, size))
                continue
            with _taken_down(who, on) as here:
                yield from _created(on, who, here, files, size)


def _raw(on: Stage, files: int, size: int) -> dict[str, float]:
    folder = on.folder("files")
    fill(folder, files, size)
    target = on.target()
    figures = on.measure(lambda: loop("raw-put", target, folder, "sessions/s/"))
    on.check(target, files, files * size)
    return figures


def _created(on: Stage, who: str, here: Place | str, files: int, size: int) -> Iterator[Row]:
    """Two rows: what the program waits for, and what it takes until all is stored."""
    work = f"{on.label}{files:,} x {size // 1024} KiB"
    if isinstance(here, str):
        yield Row(f"{work} created", who, {}, here)
        return
    bodies = [os.urandom(size) for _ in range(files)]
    figures: dict[str, float] = {}
    program: dict[str, float] = {}
    try:
        with here.counted(figures):
            begun = time.perf_counter()
            each = sorted(create(here.folder, bodies))
            program = {"s": sum(each), "p50 ms": _at(each, 0.5), "p99 ms": _at(each, 0.99)}
            if here.wait is not None:
                here.wait(files * size)
            seconds = time.perf_counter() - begun
        yield Row(f"{work} created", who, program)
        if here.target is not None:
            if here.keys is not None:
                on.check(here.target, files, files * size, here.keys)
            yield Row(f"{work} created and stored", who, {"s": seconds} | figures)
    except (WentWrong, OSError) as error:
        yield Row(f"{work} created and stored", who, {}, f"failed: {error}")


def _at(times: list[float], share: float) -> float:
    """Milliseconds at a share of sorted seconds."""
    return times[min(len(times) - 1, int(len(times) * share))] * 1000


def _visits(on: Stage, who: str, here: Place | str, tar: Path, names: Path | None) -> Iterator[Row]:
    """What programs do in one directory after the other."""
    if isinstance(here, str):
        yield Row(_NAMES, who, {}, here)
        return
    top = here.folder
    forget = 0.0 if who in ("ext4", "cachesync root") else _KERNEL_FORGETS
    works: dict[str, Callable[[], dict[str, float]]] = {}
    if names is not None:
        works[_NAMES] = partial(_names, names, top / "names", on.sizes.names, forget)
    works["one file in sequence"] = partial(_sequence, top / "sequence", min(_MIB_IN_SEQUENCE, on.sizes.big_mib))
    if who not in (IGNORED, "libfuse's passthrough"):
        works["trees: tar, git, grep, cp, SQLite"] = partial(_trees, here, top / "trees", tar, on.sizes.turns)
        if who != "ext4" and here.keys is not None:
            works["close to stored, 1 KB, one at a time"] = partial(_latencies, on, here)
    for work, measured in works.items():
        yield on.attempt(work, who, measured)


def _names(client: Path, folder: Path, count: int, forget: float) -> dict[str, float]:
    took = metadata(client, folder, count, forget)
    return {"us": sum(took.values()) / len(took)} | {f"{name} us": each for name, each in took.items()}


def _sequence(folder: Path, mib: int) -> dict[str, float]:
    return {f"{name} MB/s": rate for name, rate in sequential(folder, mib).items()}


def _trees(here: Place, folder: Path, tar: Path, turns: int) -> dict[str, float]:
    """All that a busy session does; what was written before is stored by then, if anybody stores it."""
    if here.wait is not None:
        here.wait(0)
    return mixed(folder, tar, turns)


def _latencies(on: Stage, here: Place) -> dict[str, float]:
    """How long after a close an object is there, by asking for it all the time."""
    assert here.target is not None  # noqa: S101 -- or nobody asks
    signer = Signer(here.target)
    times = []
    folder = here.folder / "close"
    folder.mkdir(parents=True)
    time.sleep(_AT_REST)
    with contextlib.closing(Asker(here.target)) as asker:
        for i in range(on.sizes.latencies):
            signed = signer.sign("head_object", f"{here.keys}close/{i}.txt")
            with open(folder / f"{i}.txt", "wb", buffering=0) as file:
                file.write(os.urandom(_LATENCY_SIZE))
                begun = time.perf_counter()
            deadline = begun + 30
            while not asker.holds(signed, _LATENCY_SIZE):
                if time.perf_counter() > deadline:
                    raise WentWrong(f"{i}.txt was not stored within 30 s")
                time.sleep(0.0003)
            times.append(time.perf_counter() - begun)
            time.sleep(0.02)  # the next one finds everybody at rest
    times.sort()
    return {"p50 ms": _at(times, 0.5), "p99 ms": _at(times, 0.99)}
