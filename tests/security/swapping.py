"""Another process that exchanges two names of a folder without a pause: whoever looks twice finds something else."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_LOOP = """
import os, sys
from cachesync.root.rename import exchange
folder, one, other = os.open(sys.argv[1], os.O_RDONLY), sys.argv[2], sys.argv[3]
count = 0
print("ready", flush=True)
os.set_blocking(0, False)
while True:
    for _ in range(50):
        try:
            exchange(folder, one, folder, other)
        except FileNotFoundError:  # the other process has made its way through a name: it makes it again
            continue
        count += 1
    try:
        if os.read(0, 1) == b"":
            break
    except BlockingIOError:
        pass
print(count)
"""


class Swaps:
    """How often the names were exchanged; known at the end."""

    count = 0


@contextlib.contextmanager
def swapping(folder: Path, one: str, other: str) -> Iterator[Swaps]:
    """Exchange two names while the block runs."""
    swaps = Swaps()
    command = [sys.executable, "-c", _LOOP, str(folder), one, other]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield swaps
        finally:
            process.stdin.close()
            swaps.count = int(process.stdout.readline())
