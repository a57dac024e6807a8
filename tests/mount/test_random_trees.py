"""Several programs that make, rename and remove in directories of their own, while their session is flushed, evicted,
closed and opened: at the end the mount, the root and the bucket have what the programs made."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.mount import treeworker
from tests.mount.conftest import MakeMounted
from tests.mount.mounted import MountedHost

SECONDS = float(os.environ.get("CACHESYNC_TREE_SECONDS", "6"))
"""How long the programs work."""
pytestmark = [pytest.mark.s3, pytest.mark.timeout(120 + 3 * SECONDS)]
WORKERS = 3
WEATHER = {
    "calm": (),
    "flushed": ("flush --timeout 3",),
    "evicted": ("evict", "flush --timeout 3", "close --timeout 3"),
    "hydrated": ("evict", "open"),
}


def work(host: MountedHost, seed: int, kind: str, seconds: float) -> dict[str, list[str]]:
    """Let programs work; returns what they say they made, by path in the session."""
    (host.mnt / "s").mkdir()
    (host.mnt / "s" / "kept").write_text("so that the session is not empty")
    host.stored("s")
    script = Path(treeworker.__file__)
    with contextlib.ExitStack() as ended:
        programs = []
        for number in range(WORKERS):
            command: list[str | Path] = [
                sys.executable,
                script,
                host.mnt / "s" / f"w{number}",
                str(seed + number),
                str(seconds),
            ]
            pipe = subprocess.PIPE
            program = ended.enter_context(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True))
            ended.callback(program.kill)
            programs.append(program)
        make_weather(host, kind, programs)
        model = {"kept": ["file", "so that the session is not empty"]}
        for number, program in enumerate(programs):
            out, complaint = program.communicate()
            assert program.returncode == 0, complaint
            model[f"w{number}"] = ["dir"]
            model |= {f"w{number}/{path}": what for path, what in json.loads(out).items()}
        return model


def make_weather(host: MountedHost, kind: str, programs: Sequence[subprocess.Popen[str]]) -> None:
    """Run commands until the programs have ended."""
    number = 0
    while any(program.poll() is None for program in programs):
        if WEATHER[kind]:
            command = WEATHER[kind][number % len(WEATHER[kind])].split()
            done = host.run(*command, "s")
            assert done.code in (0, 1, 4), done.out + done.err
            number += 1
        time.sleep(0.05)


def same(top: Path, model: dict[str, list[str]]) -> None:
    found = treeworker.others(treeworker.tree(str(top)), model)
    assert not found, found


def check(host: MountedHost, model: dict[str, list[str]]) -> None:
    """Mount, bucket and root have the same."""
    assert host.stored("s")["conflicts"] == []
    files = {path: what[1].encode() for path, what in model.items() if what[0] == "file"}
    stored = host.objects("s")
    found = {path: (stored.get(path), files.get(path)) for path in stored.keys() | files.keys()}
    assert {path: two for path, two in found.items() if two[0] != two[1]} == {}
    verified = host.run("verify", "s")
    assert verified.code == 0, verified.out + verified.err
    same(host.mnt / "s", model)
    assert host.run("close", "s").code == 0
    same(host.mnt / "s", model)
    assert host.run("open", "s").code == 0
    same(host.root / "s", model)


@pytest.mark.parametrize("seed", [1, None])
@pytest.mark.parametrize("kind", WEATHER)
def test_random_trees_are_what_their_programs_made(make_mounted: MakeMounted, kind: str, seed: int | None) -> None:
    seed = secrets.randbits(32) if seed is None else seed
    print(f"seed {seed}")  # noqa: T201 -- pytest shows it when the test fails
    host = make_mounted().mount(delete_guard="100000")
    check(host, work(host, seed, kind, SECONDS))
