"""What programs do with files, and how long it takes in one directory or another."""

from __future__ import annotations

import io
import mmap
import os
import random
import shutil
import sqlite3
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from bench.machine import WentWrong, run_for_output

MIB = 1024 * 1024

_IDENTITY = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.com",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.com",
}
_STEPS = {
    "untar": "tar xf '{tar}'",
    "git commit": "git init -q . && git add -A && git commit -qm all",
    "git status x5": "for i in 1 2 3 4 5; do git status --short; done",
    "grep -r": "grep -rc sesquipedalian tree",
    "find": "find . -type f -size +1k",
    "cp -r": "cp -r tree copy",
    "rm -rf": "rm -rf copy",
}
_WORDS = ("session", "file", "store", "object", "upload", "the", "of", "rename", "close", "watch", "journal", "daemon")


def seconds(work: Callable[..., object], *given: object) -> float:
    """How long it takes."""
    begun = time.perf_counter()
    work(*given)
    return time.perf_counter() - begun


def metadata(client: Path, folder: Path, count: int, forget: float) -> dict[str, float]:
    """Microseconds of each operation on names, as the C client says (metadata.c)."""
    folder.mkdir(parents=True)
    _, said = run_for_output([client, folder, str(count), str(forget)], os.environ)
    rows = (line.rpartition(" ") for line in said.splitlines())
    return {name: float(took) for name, _, took in rows}


def sequential(folder: Path, mib: int) -> dict[str, float]:
    """MB/s of one file, in blocks of 1 MiB: written anew, read, and read as memory."""
    folder.mkdir(parents=True)
    path, block = folder / "big", bytearray(os.urandom(MIB))
    try:
        with open(path, "wb", buffering=0) as file:
            took = {"write": seconds(lambda: [file.write(block) for _ in range(mib)])}
            os.fsync(file.fileno())
        with open(path, "rb", buffering=0) as file:
            took["read"] = seconds(lambda: [file.readinto(block) for _ in range(mib)])
        with open(path, "rb", buffering=0) as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages:
            took["mmap"] = seconds(lambda: [pages[at : at + MIB] for at in range(0, mib * MIB, MIB)])
    finally:
        shutil.rmtree(folder)
    return {name: mib * MIB / 1e6 / each for name, each in took.items()}


def create(folder: Path, bodies: Sequence[bytes]) -> list[float]:
    """Write each body to a new file; returns the seconds of each."""
    folder.mkdir(parents=True)
    took = []
    for i, body in enumerate(bodies):
        begun = time.perf_counter()
        with open(folder / f"{i}.bin", "wb", buffering=0) as file:
            file.write(body)
        took.append(time.perf_counter() - begun)
    return took


def make_tar(path: Path, files: int = 4700) -> None:
    """A tree of small texts, as sources are: 3 KiB each in the middle, some of 40."""
    chosen = random.Random(4)  # noqa: S311 -- the same tree each time
    with tarfile.open(path, "w") as tar:
        for i in range(files):
            size = min(int(chosen.lognormvariate(8, 1)), 60_000)
            body = " ".join(chosen.choices(_WORDS, k=size // 6 + 1)).encode()
            told = tarfile.TarInfo(f"tree/d{i % 20}/e{i % 200}/f{i}.txt")
            told.size, told.mtime = len(body), 1_700_000_000
            tar.addfile(told, io.BytesIO(body))


def mixed(folder: Path, tar: Path, turns: int) -> dict[str, float]:
    """Seconds of all that a busy session does, and of each step; ``turns`` are transactions, and turns of an agent."""
    folder.mkdir(parents=True)
    took = {name: seconds(_shell, folder, script.format(tar=tar)) for name, script in _STEPS.items()}
    took["sqlite WAL"] = seconds(_transactions, folder / "base.db", turns)
    took["agent"] = seconds(_agent, folder, turns)
    took["read back"] = seconds(lambda: [path.read_bytes() for path in _files(folder / "tree")])
    return {"s": sum(took.values())} | {f"{name} s": each for name, each in took.items()}


def _shell(folder: Path, script: str) -> None:
    environ = os.environ | _IDENTITY
    done = subprocess.run(["sh", "-c", script], cwd=folder, env=environ, capture_output=True, check=False)
    if done.returncode > 1:  # grep says 1 where it finds nothing
        raise WentWrong(f"{script}: exit code {done.returncode}")


def _transactions(path: Path, turns: int) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as base:
        base.executescript("PRAGMA journal_mode = wal; PRAGMA synchronous = normal; CREATE TABLE t (a INTEGER, b TEXT)")
        for i in range(turns):
            base.execute("INSERT INTO t VALUES (?, ?)", (i, "x" * 100))


def _agent(folder: Path, turns: int) -> None:
    """Replace a state file, and append to a log that is opened for that."""
    for i in range(turns):
        with open(folder / "state.tmp", "wb", buffering=0) as file:
            file.write(b"%d" % i * 100)
        os.rename(folder / "state.tmp", folder / f"state{i % 50}")
        with open(folder / "log", "ab", buffering=0) as file:
            file.write(b"%d done\n" % i)


def _files(folder: Path) -> Iterator[Path]:
    for directory, _, names in os.walk(folder):
        yield from (Path(directory, name) for name in names)
